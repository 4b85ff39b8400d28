//! A union in memory: what it shows by the rules of overlayfs, and what every change does to it by those of POSIX. Layers
//! and changes are drawn from a run of numbers; the mounted union does what the model does, error by error, and what
//! is left in the upper folder means, by the model's own merging, what was seen.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::{Kind, Layers, Numbers, Union, may_mount};

const NOENT: i32 = 2;
const PERM: i32 = 1;
const EXIST: i32 = 17;
const XDEV: i32 = 18;
const NOTDIR: i32 = 20;
const ISDIR: i32 = 21;
const INVAL: i32 = 22;
const NOTEMPTY: i32 = 39;

/// Symlinks lead there, where nothing is.
const NOWHERE: &str = "/no/such/place";
const COMPONENTS: [&str; 3] = ["a", "b", "c"];

type Names<T> = BTreeMap<String, T>;

/// What a layer has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layered {
    File(String, u32),
    Symlink,
    /// Files of the layer that are gone in the layers above say so by one of both forms.
    Whiteout(Form),
    Folder(Opacity, u32, Names<Layered>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Device,
    Attribute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opacity {
    Transparent,
    Opaque,
    /// Whiteouts in it are files with an attribute.
    Attributes,
}

/// What the union has under a name.
#[derive(Clone, Debug)]
enum Seen {
    /// A file or a symlink: its number in [`Model::files`].
    File(usize),
    /// A folder; of lower layers too, or of the upper one alone.
    Folder { mode: u32, lower: bool, names: Names<Seen> },
}

#[derive(Clone, Debug)]
struct File {
    /// None for a symlink.
    content: Option<String>,
    mode: u32,
}

#[derive(Debug, Default)]
struct Model {
    names: Names<Seen>,
    files: Vec<File>,
}

/// Draws the content of a layer's folder.
fn draw(numbers: &mut Numbers, layer: usize, depth: usize, opacity: Opacity) -> Names<Layered> {
    let mut names = Names::new();
    for name in COMPONENTS {
        let mode = 0o700 + numbers.below(64) as u32;
        let thing = match numbers.below(20) {
            0..4 => Layered::File(format!("{layer}{name}{}", numbers.below(100)), mode),
            4 => Layered::Symlink,
            5..7 if layer > 0 && opacity == Opacity::Transparent => Layered::Whiteout(Form::Device),
            5..7 if layer > 0 && opacity == Opacity::Attributes => Layered::Whiteout(Form::Attribute),
            7..14 if depth < 3 => {
                let opacity = match numbers.below(8) {
                    0 if layer > 0 => Opacity::Opaque,
                    1 if layer > 0 => Opacity::Attributes,
                    _ => Opacity::Transparent,
                };
                Layered::Folder(opacity, mode, draw(numbers, layer, depth + 1, opacity))
            }
            _ => continue,
        };
        names.insert(name.to_owned(), thing);
    }
    names
}

/// Lays a layer down.
fn lay(folder: &Path, names: &Names<Layered>) {
    for (name, thing) in names {
        let path = folder.join(name);
        match thing {
            Layered::File(content, mode) => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Layered::Symlink => symlink(NOWHERE, &path).unwrap(),
            Layered::Whiteout(Form::Device) => {
                let kind = rustix::fs::FileType::CharacterDevice;
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::empty(), 0).unwrap();
            }
            Layered::Whiteout(Form::Attribute) => {
                fs::write(&path, "").unwrap();
                set(&path, "user.overlay.whiteout", "y");
            }
            Layered::Folder(opacity, mode, names) => {
                fs::create_dir(&path).unwrap();
                lay(&path, names);
                match opacity {
                    Opacity::Transparent => {}
                    Opacity::Opaque => set(&path, "user.overlay.opaque", "y"),
                    Opacity::Attributes => set(&path, "user.overlay.opaque", "x"),
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}

fn set(path: &Path, key: &str, value: &str) {
    rustix::fs::lsetxattr(path, key, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
}

/// Reads a layer as it lies on disk.
fn read(folder: &Path) -> Names<Layered> {
    let mut names = Names::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (kind, mode) = (metadata.file_type(), metadata.mode() & 0o7777);
        let value = |key: &str| {
            let mut value = [0; 8];
            rustix::fs::lgetxattr(&path, key, &mut value[..]).ok().map(|length| value[..length].to_vec())
        };
        let thing = if kind.is_dir() {
            let opacity = match value("user.overlay.opaque").as_deref() {
                Some(b"y") => Opacity::Opaque,
                Some(b"x") => Opacity::Attributes,
                _ => Opacity::Transparent,
            };
            Layered::Folder(opacity, mode, read(&path))
        } else if kind.is_symlink() {
            Layered::Symlink
        } else if kind.is_char_device() {
            Layered::Whiteout(Form::Device)
        } else if value("user.overlay.whiteout").is_some() {
            Layered::Whiteout(Form::Attribute)
        } else {
            Layered::File(fs::read_to_string(&path).unwrap(), mode)
        };
        names.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), thing);
    }
    names
}

impl Model {
    /// Merges layers, topmost first; the first of them is the upper one where `upper` says so.
    fn merge(layers: &[&Names<Layered>], upper: bool) -> Self {
        let mut model = Model::default();
        let layers: Vec<_> = layers.iter().enumerate().map(|(place, names)| (!(upper && place == 0), *names)).collect();
        model.names = model.united(&layers);
        model
    }

    fn united(&mut self, layers: &[(bool, &Names<Layered>)]) -> Names<Seen> {
        let all: std::collections::BTreeSet<&String> = layers.iter().flat_map(|(_, names)| names.keys()).collect();
        let mut united = Names::new();
        for name in all {
            let mut folders: Vec<(bool, &Names<Layered>)> = Vec::new();
            let mut mode_of_top = 0;
            for (lower, names) in layers {
                match names.get(name) {
                    None => {}
                    Some(Layered::Folder(opacity, mode, below)) => {
                        if folders.is_empty() {
                            mode_of_top = *mode;
                        }
                        folders.push((*lower, below));
                        if *opacity == Opacity::Opaque {
                            break;
                        }
                    }
                    Some(Layered::File(content, mode)) => {
                        if folders.is_empty() {
                            let file = File { content: Some(content.clone()), mode: *mode };
                            united.insert(name.clone(), self.new_file(file));
                        }
                        break;
                    }
                    Some(Layered::Symlink) => {
                        if folders.is_empty() {
                            united.insert(name.clone(), self.new_file(File { content: None, mode: 0 }));
                        }
                        break;
                    }
                    Some(Layered::Whiteout(_)) => break,
                }
            }
            if !folders.is_empty() {
                let lower = folders.iter().any(|(lower, _)| *lower);
                let names = self.united(&folders);
                united.insert(name.clone(), Seen::Folder { mode: mode_of_top, lower, names });
            }
        }
        united
    }

    fn new_file(&mut self, file: File) -> Seen {
        self.files.push(file);
        Seen::File(self.files.len() - 1)
    }

    /// The folder that a path lies in, and the path's last name.
    fn parent<'a, 'b>(
        names: &'a mut Names<Seen>,
        files: &[File],
        path: &'b str,
    ) -> Result<(&'a mut Names<Seen>, &'b str), i32> {
        match path.split_once('/') {
            None => Ok((names, path)),
            Some((first, rest)) => match names.get_mut(first) {
                None => Err(NOENT),
                Some(Seen::Folder { names, .. }) => Self::parent(names, files, rest),
                // A symlink leads nowhere.
                Some(Seen::File(file)) if files[*file].content.is_none() => Err(NOENT),
                Some(Seen::File(_)) => Err(NOTDIR),
            },
        }
    }

    fn at(&mut self, path: &str) -> Result<(&mut Names<Seen>, String), i32> {
        let (names, name) = Self::parent(&mut self.names, &self.files, path)?;
        Ok((names, name.to_owned()))
    }

    /// The file that is to be opened.
    fn opened(&mut self, path: &str) -> Result<Option<usize>, i32> {
        let (names, name) = self.at(path)?;
        match names.get(&name) {
            None => Ok(None),
            Some(Seen::Folder { .. }) => Err(ISDIR),
            Some(Seen::File(file)) => {
                let file = *file;
                if self.files[file].content.is_none() { Err(NOENT) } else { Ok(Some(file)) }
            }
        }
    }

    fn change(&mut self, change: &Change<'_>) -> Result<(), i32> {
        match *change {
            Change::Write(path, text) => match self.opened(path)? {
                Some(file) => self.files[file].content = Some(text.to_owned()),
                None => {
                    let file = self.new_file(File { content: Some(text.to_owned()), mode: 0o666 });
                    let (names, name) = self.at(path)?;
                    names.insert(name, file);
                }
            },
            Change::Append(path, text) => {
                let file = self.opened(path)?.ok_or(NOENT)?;
                self.files[file].content.get_or_insert_default().push_str(text);
            }
            Change::Cut(path) => {
                let file = self.opened(path)?.ok_or(NOENT)?;
                self.files[file].content.get_or_insert_default().truncate(1);
            }
            Change::Mode(path, mode) => {
                let (names, name) = self.at(path)?;
                match names.get_mut(&name).ok_or(NOENT)? {
                    Seen::Folder { mode: old, .. } => *old = mode,
                    Seen::File(file) => {
                        let file = *file;
                        self.files[file].content.as_ref().ok_or(NOENT)?;
                        self.files[file].mode = mode;
                    }
                }
            }
            Change::Unlink(path) => {
                let (names, name) = self.at(path)?;
                match names.get(&name).ok_or(NOENT)? {
                    Seen::Folder { .. } => return Err(ISDIR),
                    Seen::File(_) => drop(names.remove(&name)),
                }
            }
            Change::Rmdir(path) => {
                let (names, name) = self.at(path)?;
                match names.get(&name).ok_or(NOENT)? {
                    Seen::File(_) => return Err(NOTDIR),
                    Seen::Folder { names, .. } if !names.is_empty() => return Err(NOTEMPTY),
                    Seen::Folder { .. } => drop(names.remove(&name)),
                }
            }
            Change::Mkdir(path) => self.add(path, Seen::Folder { mode: 0o777, lower: false, names: Names::new() })?,
            Change::Symlink(path) => {
                let link = self.new_file(File { content: None, mode: 0 });
                self.add(path, link)?;
            }
            Change::Link(from, to) => {
                let (names, name) = self.at(from)?;
                let thing = names.get(&name).ok_or(NOENT)?.clone();
                let (names, name) = self.at(to)?;
                if names.contains_key(&name) {
                    return Err(EXIST);
                }
                if matches!(thing, Seen::Folder { .. }) {
                    return Err(PERM);
                }
                names.insert(name, thing);
            }
            Change::Rename(from, to) => self.rename(from, to)?,
        }
        Ok(())
    }

    fn add(&mut self, path: &str, thing: Seen) -> Result<(), i32> {
        let (names, name) = self.at(path)?;
        if names.contains_key(&name) {
            return Err(EXIST);
        }
        names.insert(name, thing);
        Ok(())
    }

    /// In the kernel's order of refusals; a folder that lower layers have a part in is `EXDEV`.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), i32> {
        self.at(from)?;
        self.at(to)?;
        let (names, name) = self.at(from)?;
        let thing = names.get(&name).ok_or(NOENT)?.clone();
        if to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(INVAL);
        }
        if from.strip_prefix(to).is_some_and(|rest| rest.starts_with('/')) {
            return Err(NOTEMPTY);
        }
        let (names, new) = self.at(to)?;
        match (&thing, names.get(&new)) {
            (Seen::File(one), Some(Seen::File(other))) if one == other => return Ok(()),
            (Seen::Folder { .. }, Some(Seen::Folder { .. })) if from == to => return Ok(()),
            (Seen::Folder { .. }, Some(Seen::File(_))) => return Err(NOTDIR),
            (Seen::File(_), Some(Seen::Folder { .. })) => return Err(ISDIR),
            (Seen::Folder { lower: true, .. }, _) => return Err(XDEV),
            (_, Some(Seen::Folder { names, .. })) if !names.is_empty() => return Err(NOTEMPTY),
            _ => {}
        }
        names.insert(new, thing);
        let (names, name) = self.at(from)?;
        names.remove(&name);
        Ok(())
    }

    /// Each path with what is to be seen there.
    fn listed(&self) -> BTreeMap<String, String> {
        fn count(names: &Names<Seen>, counts: &mut BTreeMap<usize, usize>) {
            for thing in names.values() {
                match thing {
                    Seen::File(file) => *counts.entry(*file).or_default() += 1,
                    Seen::Folder { names, .. } => count(names, counts),
                }
            }
        }
        fn list(
            model: &Model,
            prefix: &str,
            names: &Names<Seen>,
            counts: &BTreeMap<usize, usize>,
            found: &mut BTreeMap<String, String>,
        ) {
            for (name, thing) in names {
                let path = format!("{prefix}/{name}");
                let what = match thing {
                    Seen::File(file) => match &model.files[*file] {
                        File { content: Some(content), mode } => format!("file {mode:o} {} {content}", counts[file]),
                        File { content: None, .. } => "symlink".to_owned(),
                    },
                    Seen::Folder { mode, names, .. } => {
                        list(model, &path, names, counts, found);
                        format!("folder {mode:o}")
                    }
                };
                found.insert(path, what);
            }
        }
        let (mut counts, mut found) = (BTreeMap::new(), BTreeMap::new());
        count(&self.names, &mut counts);
        list(self, "", &self.names, &counts, &mut found);
        found
    }
}

/// The same of a folder on disk.
fn listed(union: &Union, kind: Kind) -> BTreeMap<String, String> {
    fn list(folder: &Path, prefix: &str, kind: Kind, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            let metadata = match fs::symlink_metadata(entry.path()) {
                // The kernel lists the whiteouts of a folder that it has not merged with another.
                Err(error) if kind == Kind::Kernel && error.kind() == io::ErrorKind::NotFound => continue,
                other => other.unwrap(),
            };
            let mode = metadata.mode() & 0o7777;
            let what = if metadata.is_dir() {
                list(&entry.path(), &path, kind, found);
                format!("folder {mode:o}")
            } else if metadata.is_symlink() {
                "symlink".to_owned()
            } else {
                format!("file {mode:o} {} {}", metadata.nlink(), fs::read_to_string(entry.path()).unwrap())
            };
            found.insert(path, what);
        }
    }
    let mut found = BTreeMap::new();
    list(&union.root().join("."), "", kind, &mut found);
    found
}

#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Write(&'a str, &'a str),
    Append(&'a str, &'a str),
    Cut(&'a str),
    Mode(&'a str, u32),
    Unlink(&'a str),
    Rmdir(&'a str),
    Mkdir(&'a str),
    Symlink(&'a str),
    Link(&'a str, &'a str),
    Rename(&'a str, &'a str),
}

/// The same change of a folder on disk.
fn change(root: &Path, change: &Change<'_>) -> Result<(), i32> {
    let at = |path: &str| root.join(path);
    let done: io::Result<()> = match *change {
        Change::Write(path, text) => fs::write(at(path), text),
        Change::Append(path, text) => {
            let file = fs::OpenOptions::new().append(true).custom_flags(0).open(at(path));
            file.and_then(|mut file| file.write_all(text.as_bytes()))
        }
        Change::Cut(path) => fs::OpenOptions::new().write(true).open(at(path)).and_then(|file| {
            let length = file.metadata()?.len();
            file.set_len(length.min(1))
        }),
        Change::Mode(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(mode)),
        Change::Unlink(path) => fs::remove_file(at(path)),
        Change::Rmdir(path) => fs::remove_dir(at(path)),
        Change::Mkdir(path) => fs::create_dir(at(path)),
        Change::Symlink(path) => symlink(NOWHERE, at(path)),
        Change::Link(from, to) => fs::hard_link(at(from), at(to)),
        Change::Rename(from, to) => fs::rename(at(from), at(to)),
    };
    done.map_err(|error| error.raw_os_error().unwrap())
}

fn path(numbers: &mut Numbers) -> String {
    let depth = 1 + numbers.below(3);
    let names: Vec<_> = (0..depth).map(|_| COMPONENTS[numbers.below(3)]).collect();
    names.join("/")
}

/// One history of a union of three layers that were drawn.
fn history(seed: u64, kind: Kind) {
    let mut numbers = Numbers(seed);
    let layers = Layers::new();
    let drawn: Vec<_> = (0..3).map(|layer| draw(&mut numbers, layer, 1, Opacity::Transparent)).collect();
    for (layer, names) in drawn.iter().enumerate() {
        lay(&layers.path(&layer.to_string()), names);
    }
    let lowers: Vec<_> = drawn.iter().rev().collect();
    let mut model = Model::merge(&lowers, false);
    let mut union = layers.mount(kind);
    assert_eq!(listed(&union, kind), model.listed(), "seed {seed}, {kind:?}: as it was mounted");
    for step in 0..80 {
        if numbers.below(30) == 0 {
            drop(union);
            union = layers.mount(kind);
        }
        let (one, other) = (path(&mut numbers), path(&mut numbers));
        let (mode, text) = (0o700 + numbers.below(64) as u32, format!("{}.", numbers.below(1000)));
        let next = match numbers.below(12) {
            0 => Change::Write(&one, &text),
            1 => Change::Append(&one, &text),
            2 => Change::Cut(&one),
            3 => Change::Mode(&one, mode),
            4 | 5 => Change::Unlink(&one),
            6 => Change::Rmdir(&one),
            7 => Change::Mkdir(&one),
            8 => Change::Symlink(&one),
            9 => Change::Link(&one, &other),
            _ => Change::Rename(&one, &other),
        };
        let expected = model.change(&next);
        assert_eq!(change(&union.root(), &next), expected, "seed {seed}, {kind:?}, step {step}: {next:?}");
    }
    assert_eq!(listed(&union, kind), model.listed(), "seed {seed}, {kind:?}: in the end");
    drop(union);
    let upper = read(&layers.path("upper"));
    for (layer, names) in drawn.iter().enumerate() {
        assert_eq!(read(&layers.path(&layer.to_string())), *names, "seed {seed}, {kind:?}: layer {layer} has changed");
    }
    let mut all = vec![&upper];
    all.extend(lowers);
    // Names of one file are not to be told from files of one content here; the mounted union told them apart above.
    let without_counts = |model: &Model| -> BTreeMap<String, String> {
        let strip = |what: &String| match what.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["file", mode, _, content] => format!("file {mode} {content}"),
            _ => what.clone(),
        };
        model.listed().iter().map(|(path, what)| (path.clone(), strip(what))).collect()
    };
    let left = Model::merge(&all, true);
    assert_eq!(without_counts(&left), without_counts(&model), "seed {seed}, {kind:?}: what is left on disk");
}

#[test]
fn a_union_does_what_its_model_in_memory_does() {
    if !may_mount() {
        return;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let rounds = if std::env::var_os("LAYERFS_SOAK").is_some() { 2000 } else { 30 };
    for seed in 0..rounds {
        for kind in [Kind::Kernel, Kind::Served, Kind::Backed] {
            history(seed, kind);
        }
    }
}
