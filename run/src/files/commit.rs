//! `commit`: an image made of a container's image and its changes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use layerfs::archive::{DiffOptions, diff};
use layerfs::digest::{DiffId, Digest};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::layer::MergedView;
use layerfs::oci::{Descriptor, ImageConfig, Manifest, media_type};
use layerfs::reference::Reference;
use serde_json::{Map, Value};

use super::changes::mount_points;
use crate::prepare::{self, Caller};
use crate::state::Container;
use crate::{options, time};

/// What the new image is told beside what the container says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommitOptions {
    /// Its name; without one it is known by its id alone.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// Why, for its history.
    pub message: Option<String>,
    /// Instructions of a Dockerfile.
    pub changes: Vec<Instruction>,
}

/// A setting of an image as a Dockerfile words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `CMD` or `ENTRYPOINT`, by the name that the setting has.
    Words(&'static str, Vec<String>),
    /// `USER`, `WORKDIR` or `STOPSIGNAL`.
    Text(&'static str, String),
    /// `ENV NAME=VALUE`
    Variable(String, String),
    /// `LABEL NAME=VALUE`
    Label(String, String),
    /// `EXPOSE` or `VOLUME`: keys of an object.
    Key(&'static str, String),
    /// `ONBUILD`
    OnBuild(String),
}

impl Instruction {
    /// Reads one.
    ///
    /// # Errors
    /// It is none of those that set something.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let rest = rest.trim().to_owned();
        let invalid = |why: &str| Error::new(Kind::Usage, format!("`{text}`: {why}"));
        if rest.is_empty() {
            return Err(invalid("an instruction needs a value"));
        }
        let pair = || {
            let (name, value) =
                rest.split_once('=').or_else(|| rest.split_once(' ')).ok_or_else(|| invalid("no NAME=VALUE"))?;
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            Ok::<_, Error>((name.to_owned(), value.to_owned()))
        };
        let words = || match rest.starts_with('[') {
            true => serde_json::from_str(&rest).map_err(|_| invalid("not a JSON list of words")),
            false => Ok(["/bin/sh", "-c", &rest].map(str::to_owned).to_vec()),
        };
        Ok(match word.to_ascii_uppercase().as_str() {
            "CMD" => Self::Words("Cmd", words()?),
            "ENTRYPOINT" => Self::Words("Entrypoint", words()?),
            "USER" => Self::Text("User", rest),
            "WORKDIR" => Self::Text("WorkingDir", rest),
            "STOPSIGNAL" => Self::Text("StopSignal", rest),
            "ENV" => pair().map(|(name, value)| Self::Variable(name, value))?,
            "LABEL" => pair().map(|(name, value)| Self::Label(name, value))?,
            "EXPOSE" if rest.contains('/') => Self::Key("ExposedPorts", rest),
            "EXPOSE" => Self::Key("ExposedPorts", format!("{rest}/tcp")),
            "VOLUME" => Self::Key("Volumes", rest),
            "ONBUILD" => Self::OnBuild(rest),
            _ => {
                let all = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR are";
                return Err(invalid("not an instruction that can be given here").hint(all));
            }
        })
    }

    fn apply(&self, config: &mut ImageConfig) {
        match self {
            Self::Words(key, words) => config.set_strings(key, Some(words)),
            Self::Text(key, text) => config.set_text(key, text),
            Self::Variable(name, value) => set_variable(config, name, value),
            Self::Label(name, value) => drop(inner(config, "Labels").insert(name.clone(), value.clone().into())),
            Self::Key(key, name) => drop(inner(config, key).insert(name.clone(), Map::new().into())),
            Self::OnBuild(text) => {
                let mut all = config.strings("OnBuild").unwrap_or_default();
                all.push(text.clone());
                config.set_strings("OnBuild", Some(&all));
            }
        }
    }
}

/// An object among an image's settings.
fn inner<'a>(config: &'a mut ImageConfig, key: &str) -> &'a mut Map<String, Value> {
    let slot = config.settings_mut().entry(key.to_owned()).or_insert_with(|| Map::new().into());
    if !slot.is_object() {
        *slot = Map::new().into();
    }
    slot.as_object_mut().expect("it was just made one")
}

fn set_variable(config: &mut ImageConfig, name: &str, value: &str) {
    let mut all = config.strings("Env").unwrap_or_default();
    all.retain(|line| line.split('=').next() != Some(name));
    all.push(format!("{name}={value}"));
    config.set_strings("Env", Some(&all));
}

/// Makes the image and gives its id. The caller's store must be pinned.
///
/// # Errors
/// The container's image is gone, the container holds what no layer can, or the store cannot be written.
pub fn commit(caller: &Caller, container: &Container, options: &CommitOptions) -> Result<Digest> {
    let store = &caller.store;
    let image = prepare::image_of(caller, container)?;
    let lowers = prepare::unpacked_for(caller, container, &image)?;
    let upper = container.dir.join("upper");
    let view = MergedView::new(&lowers.dirs);
    let diff_options = DiffOptions {
        without: stubs(container, &view)?,
        owners: container.record.ids.clone(),
        ..DiffOptions::default()
    };
    let blob = BufWriter::with_capacity(1 << 20, store.blob_writer(None)?);
    let (blob, written) = diff(&upper, blob, &diff_options)?;
    let blob = blob.into_inner().map_err(io::IntoInnerError::into_error).context(|| "write the layer")?;
    let mut layers = image.manifest.layers.clone();
    let mut layer = None;
    if written.entries > 0 {
        let (digest, size) = blob.commit()?;
        layers.push(Descriptor::new(media_type::OCI_LAYER, digest, size));
        layer = Some(DiffId(digest));
    }
    let mut config = image.config.clone();
    describe(&mut config, container, options, layer);
    let (descriptor, bytes) = config.to_blob();
    store.put_blob(&bytes)?;
    for layer in &mut layers {
        let oci = match layer.media_type.as_str() {
            media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
            media_type::DOCKER_LAYER => media_type::OCI_LAYER,
            _ => continue,
        };
        oci.clone_into(&mut layer.media_type);
    }
    let id = descriptor.digest;
    let manifest = Manifest::new(descriptor, layers).to_bytes();
    store.put_blob(&manifest)?;
    // What has no name would be gone with the next collection.
    let name = match &options.name {
        Some(name) => name.clone(),
        None => format!("localhost/commit:{}", &id.hex()[..12]).parse()?,
    };
    store.tag(&name, &Descriptor::of(media_type::OCI_MANIFEST, &manifest))?;
    store.publish_index()?;
    Ok(id)
}

/// The container's own settings, the user's changes, and a line of history.
fn describe(config: &mut ImageConfig, container: &Container, options: &CommitOptions, layer: Option<DiffId>) {
    let process = &container.record.options.process;
    if let Some(entrypoint) = &process.entrypoint {
        config.set_strings("Entrypoint", Some(entrypoint));
        config.set_strings("Cmd", None);
    }
    if !process.command.is_empty() {
        config.set_strings("Cmd", Some(&process.command));
    }
    for (name, value) in &process.environment {
        set_variable(config, name, value);
    }
    for (key, text) in [("WorkingDir", &process.workdir), ("User", &process.user)] {
        if let Some(text) = text {
            config.set_text(key, text);
        }
    }
    if let Some(signal) = container.record.options.stop.signal {
        config.set_text("StopSignal", &options::signal_name(signal));
    }
    for (name, value) in &container.record.options.labels {
        inner(config, "Labels").insert(name.clone(), value.clone().into());
    }
    options.changes.iter().for_each(|change| change.apply(config));
    let now = time::format(time::now());
    let document = config.document_mut();
    document.insert("created".to_owned(), now.clone().into());
    let mut history = Map::new();
    history.insert("created".to_owned(), now.into());
    history.insert("created_by".to_owned(), container.command().join(" ").into());
    for (key, value) in [("author", &options.author), ("comment", &options.message)] {
        if let Some(value) = value {
            history.insert(key.to_owned(), value.clone().into());
        }
    }
    if let Some(author) = &options.author {
        document.insert("author".to_owned(), author.clone().into());
    }
    config.push_layer(layer, history);
}

/// Empty files and folders that were made for something to be mounted on, and that the image does not have.
fn stubs(container: &Container, view: &MergedView) -> Result<BTreeSet<Vec<u8>>> {
    let upper = container.dir.join("upper");
    let mut found = BTreeSet::new();
    for path in mount_points(container) {
        let place = upper.join(&path);
        let Ok(metadata) = fs::symlink_metadata(&place) else { continue };
        let is_empty = match metadata.is_dir() {
            true => fs::read_dir(&place).at("read", &place)?.next().is_none(),
            false => metadata.is_file() && metadata.len() == 0,
        };
        if is_empty && view.lookup(Path::new("/").join(&path))?.is_none() {
            found.insert(path.as_os_str().as_bytes().to_vec());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Instruction>) {
        assert_eq!(Instruction::parse(text).ok(), expected, "{text}");
    }

    #[test]
    fn instructions_set_what_they_say() {
        let words = |key, words: &[&str]| Some(Instruction::Words(key, words.iter().map(|&w| w.to_owned()).collect()));
        check("CMD [\"a\", \"b c\"]", words("Cmd", &["a", "b c"]));
        check("entrypoint echo hi", words("Entrypoint", &["/bin/sh", "-c", "echo hi"]));
        check("ENV A=b c", Some(Instruction::Variable("A".into(), "b c".into())));
        check("LABEL a=\"b c\"", Some(Instruction::Label("a".into(), "b c".into())));
        check("EXPOSE 80", Some(Instruction::Key("ExposedPorts", "80/tcp".into())));
        check("USER me", Some(Instruction::Text("User", "me".into())));
        for wrong in ["RUN true", "CMD", "ENV A", "CMD [", ""] {
            check(wrong, None);
        }
    }
}
