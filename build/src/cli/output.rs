//! The value of `--output`.

use std::path::PathBuf;

use copy::Recompress;
use layerfs::archive::Compression;
use layerfs::error::{Error, Kind, Result};

use super::values;
use crate::output::{Destination, Output};

/// Reads `type=…,dest=…`, or a folder, or `-` for a tar archive on standard output.
pub(super) fn parse(text: &str) -> Result<Output> {
    if text == "-" {
        return Ok(Output::Tar { destination: Destination::Stdout });
    }
    if !text.contains('=') {
        return Ok(Output::Local { folder: PathBuf::from(text) });
    }
    let fields = values::fields("--output", text)?;
    let get = |key: &str| fields.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let kind = get("type").ok_or_else(|| invalid(text, "has no type").hint(TYPES))?;
    let known: &[&str] = match kind {
        "image" | "registry" => &[
            "type",
            "name",
            "push",
            "compression",
            "compression-level",
            "force-compression",
            "rewrite-timestamp",
            "store",
            "unpack",
            "oci-mediatypes",
        ],
        "oci" => &[
            "type",
            "dest",
            "tar",
            "name",
            "compression",
            "compression-level",
            "force-compression",
            "rewrite-timestamp",
            "oci-mediatypes",
        ],
        "docker" => &["type", "dest", "name"],
        "tar" | "local" => &["type", "dest"],
        "cacheonly" => &["type"],
        other => return Err(invalid(text, &format!("has the unknown type `{other}`")).hint(TYPES)),
    };
    if let Some((key, _)) = fields.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        return Err(Error::new(Kind::Usage, format!("--output type={kind}: the key `{key}` is not built yet")));
    }
    if get("oci-mediatypes") == Some("false") {
        return Err(Error::new(Kind::Usage, "--output: oci-mediatypes=false is not built yet"));
    }
    let mut compression = compression(get("compression"), get("compression-level"))?;
    if let (true, Some(Recompress::Plain(form))) =
        (values::boolean("force-compression", get("force-compression"))?, compression)
    {
        compression = Some(Recompress::All(form));
    }
    let destination = |what: &str| match get("dest") {
        Some("-") => Ok(Destination::Stdout),
        Some(path) => Ok(Destination::Path(PathBuf::from(path))),
        None => Err(invalid(text, &format!("does not say where: add dest={what}"))),
    };
    Ok(match kind {
        "image" | "registry" => {
            let names = get("name").map_or("", |names| names).split(',').filter(|name| !name.is_empty());
            let names = names.map(values::tag).collect::<Result<_>>()?;
            Output::Image { names, push: kind == "registry" || values::boolean("push", get("push"))?, compression }
        }
        "oci" => {
            let folder = get("tar") == Some("false");
            Output::Oci { destination: destination(if folder { "FOLDER" } else { "FILE" })?, folder, compression }
        }
        "docker" => Output::Docker { destination: destination("FILE")? },
        "tar" => Output::Tar { destination: destination("FILE")? },
        "local" => match destination("FOLDER")? {
            Destination::Path(folder) => Output::Local { folder },
            Destination::Stdout => return Err(invalid(text, "cannot write a folder to standard output")),
        },
        _ => Output::CacheOnly,
    })
}

const TYPES: &str = "there are image, registry, oci, docker, tar, local and cacheonly";

fn invalid(text: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("--output {text} {why}"))
}

/// `compression=` and `compression-level=`.
pub(super) fn compression(name: Option<&str>, level: Option<&str>) -> Result<Option<Recompress>> {
    let number = |default: u8| -> Result<u8> {
        let bad = |text: &str| Error::new(Kind::Usage, format!("--output: compression-level={text} is not a number"));
        level.map_or(Ok(default), |text| text.parse().map_err(|_| bad(text)))
    };
    Ok(match name {
        None => None,
        Some("gzip") if level.is_none() => Some(Recompress::Plain(Compression::GZIP)),
        Some("gzip") => Some(Recompress::Plain(Compression::Gzip { level: number(3)? })),
        Some("zstd") => Some(Recompress::Plain(Compression::Zstd { level: number(3)? })),
        Some("uncompressed") => Some(Recompress::Never),
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--output: compression={other} is not built yet"))
                .hint("there are gzip, zstd and uncompressed"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_the_result() {
        let path = |text: &str| Destination::Path(PathBuf::from(text));
        for (text, expected) in [
            ("out", Output::Local { folder: PathBuf::from("out") }),
            ("-", Output::Tar { destination: Destination::Stdout }),
            ("type=oci,dest=x.tar", Output::Oci { destination: path("x.tar"), folder: false, compression: None }),
            ("type=oci,tar=false,dest=x", Output::Oci { destination: path("x"), folder: true, compression: None }),
            ("type=docker,dest=-", Output::Docker { destination: Destination::Stdout }),
            ("type=cacheonly", Output::CacheOnly),
        ] {
            assert_eq!(parse(text).expect(text), expected);
        }
        let Output::Image { names, push: true, .. } = parse("type=image,\"name=a/b,c\",push=true").expect("valid")
        else {
            panic!("an image to push");
        };
        assert_eq!(names.len(), 2);
        for (text, expected) in [
            ("dest=x", "--output dest=x has no type"),
            ("type=oci", "--output type=oci does not say where: add dest=FILE"),
            ("type=floppy,dest=a", "--output type=floppy,dest=a has the unknown type `floppy`"),
            ("type=local,dest=a,mode=copy", "--output type=local: the key `mode` is not built yet"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        }
    }
}
