//! Where below a container's own cgroup a further process of it is to be.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use layerfs::error::{Error, Kind, Result};

/// One place in every hierarchy, and others in those of some controllers. The default is the container's own cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    everywhere: PathBuf,
    of: BTreeMap<String, PathBuf>,
}

impl Below {
    /// Reads `[CONTROLLER,…:]PATH`, each as often as one likes.
    ///
    /// # Errors
    /// [`Kind::Usage`]: a path leads elsewhere.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut below = Self::default();
        for word in words {
            let (controllers, path) = word.split_once(':').map_or(("", word.as_str()), |(names, path)| (names, path));
            let relative = Path::new(path.trim_start_matches('/'));
            if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
                let sentence = format!("`--cgroup {word}`: {path} is not a sub cgroup path");
                return Err(Error::new(Kind::Usage, sentence).hint("it is counted from the container's own cgroup"));
            }
            match controllers {
                "" => relative.clone_into(&mut below.everywhere),
                names => below.of.extend(names.split(',').map(|name| (name.to_owned(), relative.to_owned()))),
            }
        }
        Ok(below)
    }

    /// Whether it is the container's own cgroup.
    pub(super) fn is_own(&self) -> bool {
        *self == Self::default()
    }

    /// The place in all hierarchies that are not named.
    pub(super) fn everywhere(&self) -> &Path {
        &self.everywhere
    }

    /// The folders of v1 to join, for controllers and the folder each of them has the container in.
    ///
    /// # Errors
    /// [`Kind::Usage`]: a controller is named that is not there.
    pub(super) fn folders(&self, own: &BTreeMap<String, PathBuf>) -> Result<Vec<PathBuf>> {
        if let Some(unknown) = self.of.keys().find(|name| !own.contains_key(*name)) {
            return Err(Error::new(Kind::Usage, format!("`--cgroup`: unknown controller `{unknown}`")));
        }
        // Controllers may share a hierarchy; the one that is named decides.
        let mut chosen: BTreeMap<&Path, &Path> = BTreeMap::new();
        for (name, folder) in own {
            let named = self.of.get(name).map(PathBuf::as_path);
            let place = chosen.entry(folder).or_insert(&self.everywhere);
            *place = named.unwrap_or(place);
        }
        Ok(chosen.into_iter().map(|(folder, below)| folder.join(below)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Below> {
        Below::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_named_controller_goes_its_own_way() {
        let own = ["cpu", "cpuacct", "memory"].map(|name| (name.to_owned(), PathBuf::from(&name[..3])));
        let own = BTreeMap::from(own);
        let check = |words: &[&str], expected: &[&str]| {
            let folders = parse(words).expect("below").folders(&own).expect("known");
            assert_eq!(folders, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{words:?}");
        };
        check(&[], &["cpu", "mem"]);
        check(&["/a/b"], &["cpu/a/b", "mem/a/b"]);
        check(&["cpuacct:/a"], &["cpu/a", "mem"]);
        check(&["a", "memory:b"], &["cpu/a", "mem/b"]);
        assert!(parse(&["pids:a"]).expect("below").folders(&own).is_err());
    }

    #[test]
    fn cgroups_below_are_below() {
        for wrong in ["..", "../x", "cpu:a/../b"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
        assert!(parse(&["/"]).expect("the container's own").is_own());
    }
}
