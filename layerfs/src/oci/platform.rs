//! Platforms: operating system, architecture, variant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Kind};

/// What an image runs on (image-spec, `image-index.md`), with the names of Go's `GOOS` and `GOARCH`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Version of the operating system, used by Windows images.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Platform {
    /// A platform from its three words, normalised as [`Platform::from_str`] does.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = normalise(architecture, variant);
        Self { architecture, os: os.to_ascii_lowercase(), os_version: None, variant, other: Map::new() }
    }

    /// The platform this program was compiled for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// How well an image for `self` serves a machine of platform `wanted`: `None` for not at all, else the larger the
    /// better. A variant below the wanted one runs too (arm v7 runs v6), one above it does not.
    pub fn serves(&self, wanted: &Platform) -> Option<u32> {
        let (architecture, variant) = normalise(&self.architecture, self.variant.as_deref());
        if self.os != wanted.os || architecture != wanted.architecture {
            return None;
        }
        let level = |variant: Option<&str>| match (variant, architecture.as_str()) {
            (Some(variant), _) => variant.trim_start_matches('v').parse().ok(),
            (None, "arm") => Some(7),
            (None, "arm64") => Some(8),
            (None, _) => Some(1),
        };
        match (level(variant.as_deref()), level(wanted.variant.as_deref())) {
            (Some(ours), Some(theirs)) if ours <= theirs => Some(ours),
            (None, _) | (_, None) if variant == wanted.variant => Some(0),
            _ => None,
        }
    }
}

/// The spellings people and kernels use, after containerd's `platforms` package.
fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.filter(|v| !v.is_empty()).map(|v| match v.starts_with('v') {
        true => v.to_ascii_lowercase(),
        false => format!("v{}", v.to_ascii_lowercase()),
    });
    let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
        ("i386", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", Some("v8") | None) => ("arm64", None),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None) => ("arm", Some("v7")),
        ("powerpc64le", variant) => ("ppc64le", variant),
        ("riscv64gc", variant) => ("riscv64", variant),
        (other, variant) => (other, variant),
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

impl FromStr for Platform {
    type Err = Error;

    /// `OS/ARCH[/VARIANT]`, or one word that is an operating system or an architecture.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(Kind::Invalid, format!("`{}` is not a platform", text.escape_debug()))
                .hint("the form is OS/ARCH[/VARIANT], such as linux/arm64")
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let words: Vec<&str> = text.split('/').collect();
        if words.iter().any(|w| w.is_empty() || !w.bytes().all(word)) {
            return Err(invalid());
        }
        match words[..] {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => Ok(Self { os: os.to_owned(), ..Self::host() }),
            [architecture] => Ok(Self::new("linux", architecture, None)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (input, expected) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(input.parse::<Platform>().expect("valid").to_string(), expected, "{input}");
        }
        for invalid in ["", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(invalid.parse::<Platform>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_lower_variant_serves_a_higher_machine() {
        let of = |text: &str| text.parse::<Platform>().expect("valid");
        assert!(of("linux/arm/v6").serves(&of("linux/arm/v7")).is_some());
        assert!(of("linux/arm/v7").serves(&of("linux/arm/v6")).is_none());
        assert!(of("linux/amd64/v3").serves(&of("linux/amd64")).is_none());
        assert!(of("linux/amd64").serves(&of("linux/amd64/v3")).is_some());
        assert!(of("windows/amd64").serves(&of("linux/amd64")).is_none());
    }
}
