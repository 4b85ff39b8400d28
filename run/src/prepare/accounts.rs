//! A user whom the image does not know gets a line in its `/etc/passwd` and `/etc/group`, as with podman: programs that
//! ask for the name of whom they run as are not to fail.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Result};
use layerfs::layer::MergedView;
use layerfs::mount::Upper;

use super::{Layers, copy_up, set_like};
use crate::spec::user::{FILE_MAX, User, entries};

/// Names of a user and their group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    user: String,
    group: String,
}

impl Names {
    /// Those of somebody on this machine; the numbers where there are none.
    pub(super) fn of_host((uid, gid): (u32, u32)) -> Self {
        let find = |path: &str, id: u32| {
            let text = fs::read(path).unwrap_or_default();
            entries(&text).find(|(_, known)| *known == id).map_or_else(|| id.to_string(), |(name, _)| name.to_owned())
        };
        Self { user: find("/etc/passwd", uid), group: find("/etc/group", gid) }
    }
}

/// What is to be added to the two files; empty where nothing is. Pure.
fn lines(user: &User, names: Option<&Names>, files: (&[u8], &[u8]), home: &str) -> (String, String) {
    let (passwd, group) = files;
    let (uid, gid) = (user.uid, user.gid);
    let missing = |file: &[u8], id: u32| id != 0 && !entries(file).any(|(_, known)| known == id);
    let free = |file: &[u8], name: &str| !entries(file).any(|(known, _)| known == name);
    let named = |file: &[u8], name: Option<&String>, id: u32| {
        name.filter(|name| free(file, name)).cloned().unwrap_or_else(|| id.to_string())
    };
    let name = named(passwd, names.map(|names| &names.user), uid);
    let about = if names.is_some() { name.as_str() } else { "container user" };
    let mut added = (String::new(), String::new());
    if missing(passwd, uid) {
        added.0 = format!("{name}:*:{uid}:{gid}:{about}:{home}:/bin/sh\n");
    }
    if missing(group, gid) {
        added.1 = format!("{}:x:{gid}:{name}\n", named(group, names.map(|names| &names.group), gid));
    }
    added
}

/// What is missing for a user, whose home is then `home`: the two files with the lines added.
pub(super) fn complete(
    view: &MergedView,
    user: &mut User,
    names: Option<&Names>,
    home: &str,
) -> Vec<(&'static Path, Vec<u8>)> {
    let read = |path: &str| view.read(path, FILE_MAX).map(Option::unwrap_or_default);
    let (Ok(passwd), Ok(group)) = (read("/etc/passwd"), read("/etc/group")) else { return Vec::new() };
    let (in_passwd, in_group) = lines(user, names, (&passwd, &group), home);
    if !in_passwd.is_empty() {
        home.clone_into(&mut user.home);
    }
    let files = [("/etc/passwd", passwd, in_passwd), ("/etc/group", group, in_group)];
    let changed = files.into_iter().filter(|(_, _, added)| !added.is_empty());
    changed
        .map(|(path, mut content, added)| {
            if !content.is_empty() && !content.ends_with(b"\n") {
                content.push(b'\n');
            }
            content.extend_from_slice(added.as_bytes());
            (Path::new(path), content)
        })
        .collect()
}

/// Writes a file of the image anew, in the new upper layer of a container.
pub(super) fn write(view: &MergedView, upper: &Upper, layers: &Layers, path: &Path, content: &[u8]) -> Result<()> {
    let (place, mode, owner) = match view.resolve(path)? {
        Some(entry) => {
            let owner = layers.owner(entry.metadata.uid(), entry.metadata.gid())?;
            (entry.path, entry.metadata.mode() & 0o7777, owner)
        }
        // Without the folder there is nobody who would look.
        None => match view.resolve("/etc")? {
            Some(folder) if folder.metadata.is_dir() => {
                (folder.path.join(path.file_name().unwrap_or_default()), 0o644, layers.root())
            }
            _ => return Ok(()),
        },
    };
    let parent = Path::new("/").join(place.parent().map(Path::to_owned).unwrap_or_else(PathBuf::new));
    copy_up(view, &upper.dir, layers, &parent)?;
    let file = upper.dir.join(&place);
    fs::write(&file, content).at("write", &file)?;
    set_like(&file, mode, owner.0, owner.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_unknown_is_added() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n";
        let group = b"root:x:0:\nweb:x:33:\n";
        let check = |ids: (u32, u32), names: Option<(&str, &str)>, expected: (&str, &str)| {
            let user = User { uid: ids.0, gid: ids.1, ..User::default() };
            let names = names.map(|(user, group)| Names { user: user.to_owned(), group: group.to_owned() });
            let (one, two) = lines(&user, names.as_ref(), (passwd, group), "/w");
            assert_eq!((one.as_str(), two.as_str()), expected, "{ids:?}");
        };
        check((0, 0), None, ("", ""));
        check((33, 33), Some(("me", "us")), ("", ""));
        check((7, 0), None, ("7:*:7:0:container user:/w:/bin/sh\n", ""));
        check((7, 8), Some(("me", "us")), ("me:*:7:8:me:/w:/bin/sh\n", "us:x:8:me\n"));
        check((7, 8), Some(("web", "web")), ("7:*:7:8:7:/w:/bin/sh\n", "8:x:8:7\n"));
    }
}
