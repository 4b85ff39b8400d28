//! Where images come from and go to: transports with skopeo's syntax.
//!
//! ```
//! use copy::Location;
//! assert_eq!("debian:12".parse::<Location>()?.to_string(), "docker://docker.io/library/debian:12");
//! assert_eq!("oci:/tmp/layout:v1".parse::<Location>()?.to_string(), "oci:/tmp/layout:v1");
//! # Ok::<(), layerfs::error::Error>(())
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use layerfs::error::{Error, Kind};
use layerfs::reference::Reference;

/// The transports containers' tools have and this program lacks.
const FOREIGN: [&str; 4] = ["ostree", "sif", "tarball", "atomic"];

/// A parsed image location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `docker://NAME`, or a bare name: a repository of a registry.
    Registry(Reference),
    /// `oci:PATH[:NAME]` or `oci:PATH[@INDEX]`: an OCI image layout in a folder.
    Layout(Place),
    /// `oci-archive:PATH[:NAME]`: an OCI image layout in a tar file.
    LayoutArchive(Place),
    /// `docker-archive:PATH[:NAME]` or `docker-archive:PATH[:@INDEX]`: what `docker save` writes.
    DockerArchive(Place),
    /// `dir:PATH`: skopeo's flat folder of one image.
    Directory(PathBuf),
    /// `store:NAME`, or `store:ID`: our own store.
    Store(String),
    /// `docker-daemon:NAME:TAG`, or `docker-daemon:ID`: the images of a docker daemon.
    DockerDaemon(String),
    /// `containers-storage:[DRIVER@ROOT+RUNROOT]NAME`: what podman, buildah and CRI-O keep.
    ContainersStorage(String),
}

/// A file or folder and which of its images is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file or folder.
    pub path: PathBuf,
    /// Which image.
    pub image: Selector,
}

/// Which image of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The only one.
    Only,
    /// The one of this name.
    Named(String),
    /// The one at this position, from 0.
    At(usize),
}

impl Location {
    /// The transport's name, without the colon.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Registry(_) => "docker",
            Self::Layout(_) => "oci",
            Self::LayoutArchive(_) => "oci-archive",
            Self::DockerArchive(_) => "docker-archive",
            Self::Directory(_) => "dir",
            Self::Store(_) => "store",
            Self::DockerDaemon(_) => "docker-daemon",
            Self::ContainersStorage(_) => "containers-storage",
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = |transport: &str| text.strip_prefix(transport).and_then(|rest| rest.strip_prefix(':'));
        if let Some(rest) = named("docker") {
            // `docker:5000/x` would be a host named docker; skopeo's form has two slashes.
            if let Some(name) = rest.strip_prefix("//") {
                return Ok(Self::Registry(name.parse::<Reference>()?.or_latest()));
            }
        }
        if let Some(rest) = named("oci") {
            return place(text, rest, '@').map(Self::Layout);
        }
        if let Some(rest) = named("oci-archive") {
            return place(text, rest, '@').map(Self::LayoutArchive);
        }
        if let Some(rest) = named("docker-archive") {
            return docker_place(text, rest).map(Self::DockerArchive);
        }
        if let Some(rest) = named("dir") {
            return match rest {
                "" => Err(no_path(text)),
                path => Ok(Self::Directory(path.into())),
            };
        }
        if let Some(rest) = named("store") {
            return match rest {
                "" => Err(Error::new(Kind::Usage, format!("`{text}` names no image")).hint("the form is store:NAME")),
                name => Ok(Self::Store(name.to_owned())),
            };
        }
        for (transport, make) in [
            ("docker-daemon", Self::DockerDaemon as fn(String) -> Self),
            ("containers-storage", Self::ContainersStorage),
        ] {
            match named(transport) {
                Some("") => {
                    return Err(Error::new(Kind::Usage, format!("`{text}` names no image"))
                        .hint(format!("the form is {transport}:NAME")));
                }
                Some(name) => return Ok(make(name.to_owned())),
                None => {}
            }
        }
        if let Some(transport) = FOREIGN.into_iter().find(|transport| named(transport).is_some()) {
            return Err(Error::new(Kind::Usage, format!("transport `{transport}:` is not one of ours"))
                .hint("docker://, oci:, oci-archive:, docker-archive:, dir:, store:, docker-daemon: and containers-storage: are"));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(Error::new(Kind::Usage, format!("`{text}` is an address, not an image name"))
                .hint("leave the scheme out: HOST[:PORT]/PATH[:TAG]"));
        }
        Ok(Self::Registry(text.parse::<Reference>()?.or_latest()))
    }
}

/// `PATH[:NAME]` or `PATH<mark>INDEX`. As in containers' tools the path ends at its first colon.
fn place(text: &str, rest: &str, mark: char) -> Result<Place, Error> {
    let (path, image) = match rest.split_once(':') {
        Some((path, "")) => (path, Selector::Only),
        Some((path, name)) => (path, Selector::Named(name.to_owned())),
        None => match rest.rsplit_once(mark) {
            Some((path, index)) if !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) => {
                (path, at(text, index)?)
            }
            _ => (rest, Selector::Only),
        },
    };
    match path {
        "" => Err(no_path(text)),
        path => Ok(Place { path: path.into(), image }),
    }
}

/// `PATH[:NAME]` or `PATH:@INDEX`; the name is an image name.
fn docker_place(text: &str, rest: &str) -> Result<Place, Error> {
    let mut place = place(text, rest, '\0')?;
    if let Selector::Named(name) = &place.image {
        place.image = match name.strip_prefix('@') {
            Some(index) => at(text, index)?,
            None => Selector::Named(name.parse::<Reference>()?.or_latest().to_string()),
        };
    }
    Ok(place)
}

fn at(text: &str, index: &str) -> Result<Selector, Error> {
    let invalid = |_| Error::new(Kind::Usage, format!("`{text}`: `{index}` is not a position from 0"));
    index.parse().map(Selector::At).map_err(invalid)
}

fn no_path(text: &str) -> Error {
    Error::new(Kind::Usage, format!("`{text}` names no path"))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.image {
            Selector::Only => Ok(()),
            Selector::Named(name) => write!(f, ":{name}"),
            Selector::At(index) => write!(f, "@{index}"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => write!(f, "docker://{name}"),
            Self::Layout(place) | Self::LayoutArchive(place) => write!(f, "{}:{place}", self.transport()),
            Self::DockerArchive(Place { path, image: Selector::At(index) }) => {
                write!(f, "docker-archive:{}:@{index}", path.display())
            }
            Self::DockerArchive(place) => write!(f, "docker-archive:{place}"),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Store(name) => write!(f, "store:{name}"),
            Self::DockerDaemon(name) | Self::ContainersStorage(name) => write!(f, "{}:{name}", self.transport()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Result<&str, Kind>) {
        let parsed = input.parse::<Location>().map(|location| location.to_string());
        assert_eq!(parsed.as_deref().map_err(|error| error.kind()), expected, "{input}");
    }

    #[test]
    fn locations_follow_skopeo() {
        check("debian", Ok("docker://docker.io/library/debian:latest"));
        check(
            "docker://debian@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            Ok(
                "docker://docker.io/library/debian@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
        );
        check("localhost:5000/a/b:c", Ok("docker://localhost:5000/a/b:c"));
        check("docker:5000/x", Ok("docker://docker:5000/x:latest"));
        check("oci:/a/b", Ok("oci:/a/b"));
        check("oci:/a/b:", Ok("oci:/a/b"));
        check("oci:b:name:with:colons", Ok("oci:b:name:with:colons"));
        check("oci:b@2", Ok("oci:b@2"));
        check("oci:user@host", Ok("oci:user@host"));
        check("oci-archive:x.tar:v1", Ok("oci-archive:x.tar:v1"));
        check("docker-archive:x.tar", Ok("docker-archive:x.tar"));
        check("docker-archive:x.tar:app:1", Ok("docker-archive:x.tar:docker.io/library/app:1"));
        check("docker-archive:x.tar:app", Ok("docker-archive:x.tar:docker.io/library/app:latest"));
        check("docker-archive:x.tar:@1", Ok("docker-archive:x.tar:@1"));
        check("dir:/tmp/x", Ok("dir:/tmp/x"));
        check("store:localhost/app", Ok("store:localhost/app"));
        check("docker-daemon:app:1", Ok("docker-daemon:app:1"));
        check("containers-storage:[overlay@/r+/x]app", Ok("containers-storage:[overlay@/r+/x]app"));
    }

    #[test]
    fn what_is_no_location_says_why() {
        for usage in [
            "oci:",
            "oci::x",
            "dir:",
            "store:",
            "docker-daemon:",
            "containers-storage:",
            "ostree:x",
            "https://r.io/x",
            "docker-archive:x:@y",
        ] {
            check(usage, Err(Kind::Usage));
        }
        for invalid in ["", "docker://", "docker://A", "docker-archive:x:UPPER"] {
            check(invalid, Err(Kind::Invalid));
        }
    }
}
