//! Owners by name: `--chown` and the owner of a `WORKDIR`, looked up in the stage's own files.

use layerfs::error::{Error, Kind, Result};
use layerfs::layer::MergedView;

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const FILE_MAX: u64 = 8 << 20;

/// The ids that `text` (`USER[:GROUP]`) names in the stage. A number is an id; alone it is the group's too. A user's
/// name alone brings the user's own group (docker's rules for `--chown`). `root` needs no entry: a stage from scratch has
/// no files to look it up in.
///
/// # Errors
/// A name is not in the stage's `/etc/passwd` or `/etc/group`.
pub(crate) fn owner(view: &MergedView, text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').map_or((text, ""), |(user, group)| (user, group));
    let (uid, own_group) = match id(user) {
        _ if user.is_empty() => (0, 0),
        Some(uid) => (uid, uid),
        None => {
            let fields = find(view, "/etc/passwd", user)?.unwrap_or_default();
            let number = |at: usize| fields.get(at).and_then(|field| id(field));
            let found = number(2).zip(number(3)).or((user == "root").then_some((0, 0)));
            found.ok_or_else(|| missing("user", user, "/etc/passwd"))?
        }
    };
    let gid = match id(group) {
        _ if group.is_empty() => own_group,
        Some(gid) => gid,
        None => {
            let fields = find(view, "/etc/group", group)?;
            let gid = fields.and_then(|fields| id(fields.get(2)?)).or((group == "root").then_some(0));
            gid.ok_or_else(|| missing("group", group, "/etc/group"))?
        }
    };
    Ok((uid, gid))
}

fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id < u32::MAX)
}

fn missing(what: &str, name: &str, file: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} `{name}` is not in the stage's {file}"))
        .hint("add it in a RUN step before this one, or write the number")
}

fn find(view: &MergedView, path: &str, name: &str) -> Result<Option<Vec<String>>> {
    let Some(bytes) = view.read(path, FILE_MAX)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    Ok(line.map(|line| line.split(':').map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_follow_docker() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("etc")).expect("a folder");
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:7:8::/:\n").expect("written");
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nstaff:x:50:\n").expect("written");
        let view = MergedView::new(&[dir.path().to_owned()]);
        for (text, expected) in [
            ("app", (7, 8)),
            ("app:staff", (7, 50)),
            ("12", (12, 12)),
            ("12:staff", (12, 50)),
            ("12:34", (12, 34)),
            (":staff", (0, 50)),
            ("0", (0, 0)),
        ] {
            assert_eq!(owner(&view, text).expect(text), expected, "{text}");
        }
        let error = owner(&view, "nobody").expect_err("not there");
        assert_eq!(error.to_string(), "user `nobody` is not in the stage's /etc/passwd");
        assert!(owner(&view, "app:none").is_err());
        let nothing = MergedView::new(&[]);
        assert_eq!(owner(&nothing, "root:root").expect("root is known everywhere"), (0, 0));
        assert!(owner(&nothing, "app").is_err());
    }
}
