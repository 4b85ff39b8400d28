//! Named volumes: folders that outlive containers, one each below the store's `volumes/`.
//!
//! ```text
//! volumes/<name>/volume.json   what is known of it
//!                _data/        what containers see
//! ```
//!
//! A volume appears whole, by a rename. Who uses it is derived from the containers' records and never stored.

use std::fs;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::options::MountRequest;
use crate::state::{Container, Containers, check_name, now};

/// What is known of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Labels, in the order given.
    pub labels: Vec<(String, String)>,
}

/// All volumes of a store.
#[derive(Clone, Debug)]
pub struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    /// Those of the store in `root`.
    pub fn below(root: &Path) -> Self {
        Self { dir: root.join("volumes") }
    }

    /// Where a volume's files lie.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// There is one of this name, or it is no name.
    pub fn create(&self, name: &str, labels: Vec<(String, String)>) -> Result<Volume> {
        check_name(name)?;
        fs::create_dir_all(&self.dir).at("create", &self.dir)?;
        // A name that none can have, for nobody begins one with a dot.
        let born = self.dir.join(format!(".{name}.{}", std::process::id()));
        drop(fs::remove_dir_all(&born));
        fs::create_dir_all(born.join("_data")).at("create", &born)?;
        let volume = Volume { name: name.to_owned(), created: now(), labels };
        let text = serde_json::to_vec(&volume).context(|| "write JSON")?;
        let record = born.join("volume.json");
        fs::write(&record, text).at("write", &record)?;
        match fs::rename(&born, self.dir.join(name)) {
            Ok(()) => Ok(volume),
            Err(error) => {
                drop(fs::remove_dir_all(&born));
                match self.find(name) {
                    Ok(_) => Err(Error::new(Kind::Conflict, format!("volume `{name}` exists already"))),
                    Err(_) => Err(error).at("create volume", self.dir.join(name)),
                }
            }
        }
    }

    /// The volume of this name, made where there is none.
    ///
    /// # Errors
    /// Those of [`Volumes::create`] but that it exists.
    pub fn ensure(&self, name: &str) -> Result<Volume> {
        match self.find(name) {
            Err(error) if error.kind() == Kind::NotFound => match self.create(name, Vec::new()) {
                Err(error) if error.kind() == Kind::Conflict => self.find(name),
                made => made,
            },
            found => found,
        }
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// There is none, or its record is damaged.
    pub fn find(&self, name: &str) -> Result<Volume> {
        let missing = || {
            Error::new(Kind::NotFound, format!("no volume `{}`", name.escape_debug()))
                .hint("`run volume ls` lists them")
        };
        check_name(name).map_err(|_| missing())?;
        let path = self.dir.join(name).join("volume.json");
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing()),
            read => serde_json::from_slice(&read.at("read", &path)?).at("read", &path),
        }
    }

    /// Every volume, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at("read", &self.dir)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.at("read", &self.dir)?.file_name();
            match name.to_str().map(|name| self.find(name)) {
                Some(Ok(volume)) => all.push(volume),
                // Half-made, or going.
                Some(Err(error)) if error.kind() != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a volume with all that is in it. It is gone from view at once.
    ///
    /// # Errors
    /// There is none, or something in it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.find(name)?;
        let (place, gone) = (self.dir.join(name), self.dir.join(format!(".{name}.{}", std::process::id())));
        fs::rename(&place, &gone).at("remove", &place)?;
        fs::remove_dir_all(&gone).at("remove", &gone)
    }

    /// The containers that have a volume, running or not.
    ///
    /// # Errors
    /// The containers cannot be read.
    pub fn users(&self, name: &str, containers: &Containers) -> Result<Vec<Container>> {
        let uses = |request: &MountRequest| matches!(request, MountRequest::Volume { name: used, .. } if used == name);
        let all = containers.list()?.into_iter();
        Ok(all.filter(|one| !one.is_leftover() && one.record.options.storage.mounts.iter().any(uses)).collect())
    }
}

/// Removes the volumes that were made for a container alone, once it is gone itself. What another has taken over by
/// `--volumes-from` stays with that.
///
/// # Errors
/// Something in them cannot be removed.
pub fn remove_anonymous(container: &Container) -> Result<()> {
    if container.record.anonymous.is_empty() {
        return Ok(());
    }
    let volumes = Volumes::below(container.store_root());
    let containers = Containers::below(container.store_root());
    for name in &container.record.anonymous {
        let others = volumes.users(name, &containers)?;
        if others.iter().any(|other| other.record.id != container.record.id) {
            continue;
        }
        match volumes.remove(name) {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The volumes of another container, `NAME[:ro|rw|z]`, that do not lie where something lies already.
///
/// # Errors
/// There is no such container, or the words behind it are none.
pub fn taken_over(text: &str, containers: &Containers, taken: &[MountRequest]) -> Result<Vec<MountRequest>> {
    let (name, words) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = words.split(',').filter(|word| !word.is_empty()).collect();
    if let Some(wrong) = words.iter().find(|word| !["ro", "rw", "z"].contains(word)) {
        return Err(Error::new(Kind::Usage, format!("--volumes-from {text}: `{wrong}` is none of ro, rw and z")));
    }
    let mut all = containers.find(name)?.record.options.storage.mounts;
    all.retain(|request| request.is_shared() && !taken.iter().any(|own| own.destination() == request.destination()));
    for request in &mut all {
        if let MountRequest::Bind { options, .. } | MountRequest::Volume { options, .. } = request {
            let access = words.iter().filter(|word| **word != "z");
            for word in access {
                options.retain(|own| own != "ro" && own != "rw");
                options.push((*word).to_owned());
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_come_and_go_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let volumes = Volumes::below(dir.path());
        assert_eq!(volumes.list().expect("readable"), []);
        let made = volumes.create("b", vec![("a".to_owned(), "1".to_owned())]).expect("new");
        assert_eq!(volumes.create("b", Vec::new()).expect_err("taken").kind(), Kind::Conflict);
        assert_eq!(volumes.ensure("b").expect("there"), made);
        volumes.ensure("a").expect("new");
        let names: Vec<_> = volumes.list().expect("readable").into_iter().map(|volume| volume.name).collect();
        assert_eq!(names, ["a", "b"]);
        for wrong in ["", ".b", "a/b", "..", "-x"] {
            assert_eq!(volumes.create(wrong, Vec::new()).expect_err(wrong).kind(), Kind::Usage, "{wrong}");
            assert_eq!(volumes.find(wrong).expect_err(wrong).kind(), Kind::NotFound, "{wrong}");
        }
        fs::write(volumes.data("b").join("file"), "x").expect("a file");
        volumes.remove("b").expect("there");
        assert_eq!(volumes.remove("b").expect_err("gone").kind(), Kind::NotFound);
        assert_eq!(fs::read_dir(dir.path().join("volumes")).expect("readable").count(), 1);
    }
}
