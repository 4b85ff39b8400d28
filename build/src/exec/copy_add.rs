//! `COPY`, `ADD` and `WORKDIR`: from files to a layer, without a mount.
//!
//! The layer is written as an archive straight from the sources, read once, hashed while it is written. Nothing is laid
//! down in a stage's folders here; whoever mounts the layer first unpacks it, and if nobody does, nobody pays. Of the
//! layers below only what [`Placement`] says is looked at.

mod archive;
mod output;

use std::io::Write as _;
use std::path::Path;

use layerfs::archive::TarWriter;
use layerfs::digest::DiffId;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::MergedView;
use layerfs::store::Store;

use super::placement::{Found, Placement};
use crate::cache::Layer;
use crate::files::{Content, Part, Selection, Tree};
use crate::graph::{Chmod, Copy, Unpack};
use output::{Output, Style};

/// The time a layer is made at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Now, in seconds since 1970.
    pub(crate) now: i64,
    /// `SOURCE_DATE_EPOCH`: when everything was made.
    pub(crate) epoch: Option<i64>,
    /// No file's time is later than this; the epoch, unless `rewrite-timestamp=false` leaves files their own.
    pub(crate) clamp: Option<i64>,
}

impl Clock {
    fn limit(&self, seconds: i64) -> i64 {
        self.clamp.map_or(seconds, |clamp| seconds.min(clamp))
    }

    /// The time of what is made now.
    fn stamp(&self) -> i64 {
        self.epoch.map_or(self.now, |epoch| epoch.min(self.now))
    }

    /// When a step was done, as the history has it.
    pub(crate) fn created(&self) -> i64 {
        self.epoch.unwrap_or_else(crate::time::now)
    }

    /// What of it changes what a step yields.
    pub(crate) fn describe(&self) -> String {
        match (self.epoch, self.clamp) {
            (None, _) => String::new(),
            (Some(epoch), Some(_)) => epoch.to_string(),
            (Some(epoch), None) => format!("{epoch} files-keep-theirs"),
        }
    }
}

/// A copy with everything it needs looked up.
pub(crate) struct Prepared<'a> {
    /// What was asked for.
    pub(crate) copy: &'a Copy,
    /// Whose files.
    pub(crate) tree: &'a Tree,
    /// Which of them.
    pub(crate) selection: &'a Selection,
    /// Where to.
    pub(crate) placement: &'a Placement,
    /// `--chown`, looked up.
    pub(crate) owner: Option<(u32, u32)>,
}

/// Writes the layer of a copy as a blob. `None` where it changes nothing.
///
/// # Errors
/// A source cannot be read or does not fit what is in its place, or the store cannot be written.
pub(crate) fn write_copy(
    store: &Store,
    prepared: &Prepared<'_>,
    view: &MergedView,
    clock: Clock,
) -> Result<Option<Layer>> {
    let output = assemble(prepared, clock)?;
    if output.is_empty() {
        return Ok(None);
    }
    output.check_conflicts(view, prepared.copy.link)?;
    write(store, &output, view).map(Some)
}

/// Writes the layer of the folder `placement` leads to; `None` where it is there already.
///
/// # Errors
/// There is something else in its place, or the store cannot be written.
pub(crate) fn write_folder(
    store: &Store,
    placement: &Placement,
    owner: (u32, u32),
    clock: Clock,
) -> Result<Option<Layer>> {
    match placement.found {
        Found::Folder if placement.folders.iter().all(|(_, folder)| folder.is_some()) => return Ok(None),
        Found::File => {
            let path = String::from_utf8_lossy(&placement.path).into_owned();
            return Err(Error::new(Kind::Invalid, format!("`/{path}` is a file, and cannot be the working directory")));
        }
        _ => {}
    }
    let style = Style { owner: Some(owner), chmod: None, clock };
    let mut output = Output::new(placement, style);
    output.folder(&placement.path);
    write(store, &output, &MergedView::new(&[])).map(Some)
}

/// Decides what goes where.
fn assemble<'a>(prepared: &Prepared<'a>, clock: Clock) -> Result<Output<'a>> {
    let Prepared { copy, tree, selection, placement, owner } = *prepared;
    let archive = |part: &Part| match &part.content {
        Content::File(entry) if unpacks(copy.unpack, part) => {
            archive::detect(&crate::files::real(part.tree(tree), entry))
        }
        _ => Ok(None),
    };
    let archives = selection.parts.iter().map(archive).collect::<Result<Vec<_>>>()?;
    // Archives keep their modes, and so do the folders that are made for them.
    let chmod = copy.chmod.as_ref().filter(|_| archives.iter().any(Option::is_none));
    let mut output = Output::new(placement, Style { owner, chmod, clock });
    let destination = &copy.destination;
    let mut is_folder = placement.found == Found::Folder;
    let asked_for_folder = destination.ends_with('/') || copy.parents;
    let several = selection.parts.len() > 1;
    for (number, (part, archive)) in selection.parts.iter().zip(archives).enumerate() {
        let single = !matches!(part.content, Content::Folder(_)) && archive.is_none();
        if !single || asked_for_folder || is_folder {
            if placement.found == Found::File {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("the destination `{destination}` is a file, not a folder"),
                ));
            }
            match archive {
                Some(_) => output.plain_folder(&placement.path),
                None => output.folder(&placement.path),
            }
            if let (Some(modified), Found::Nothing) = (part.modified, placement.found) {
                output.date(&placement.path, modified);
            }
            is_folder = true;
        } else if several {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "{} has several sources, and the destination `{destination}` is not a folder",
                    copy.instruction
                ),
            )
            .hint(format!("end it with a slash: {destination}/")));
        }
        let path = match is_folder && single {
            true => below(&placement.path, &part.name),
            false => placement.path.clone(),
        };
        let tree = part.tree(tree);
        match (&part.content, archive) {
            (Content::File(entry), Some(form)) => output.archive(path, output::Source::new(tree, entry, number), form),
            (Content::File(entry), None) => output.disk(path, tree, entry, number)?,
            (Content::Inline(bytes), _) => output.inline(path, bytes)?,
            (Content::Folder(entries), _) => {
                for entry in entries {
                    output.disk(below(&path, &entry.path), tree, entry, number)?;
                }
            }
        }
    }
    Ok(output)
}

fn unpacks(unpack: Unpack, part: &Part) -> bool {
    match unpack {
        Unpack::Never => false,
        Unpack::Local => part.fetched.is_none(),
        Unpack::Always => true,
    }
}

fn write(store: &Store, output: &Output<'_>, view: &MergedView) -> Result<Layer> {
    let blob = std::io::BufWriter::with_capacity(1 << 20, store.blob_writer(None)?);
    let mut tar = TarWriter::new(blob);
    output.write(&mut tar, view)?;
    let mut blob =
        tar.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error).context(|| "write the layer")?;
    blob.flush().context(|| "write the layer")?;
    let (digest, size) = blob.commit()?;
    Ok(Layer { diff_id: DiffId(digest), size })
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// A path of an archive for a lookup.
fn path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

impl Style<'_> {
    /// The mode of folders that are made on the way: an octal `--chmod` counts for them too.
    fn folder_mode(&self) -> u32 {
        match self.chmod {
            Some(Chmod::Octal(mode)) => *mode,
            _ => 0o755,
        }
    }
}

#[cfg(test)]
mod tests;
