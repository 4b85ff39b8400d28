//! The value of `--output`.

use std::path::PathBuf;

use copy::{Format, Recompress};
use layerfs::archive::Compression;
use layerfs::error::{Error, Kind, Result};

use super::values;
use crate::options::{Annotation, Level};
use crate::output::{Destination, Output, Packing, Push};

/// Reads `type=…,dest=…`, or a folder, or `-` for a tar archive on standard output. The second value is what it says
/// of the times of files, which are the same for all outputs.
pub(super) fn parse(text: &str) -> Result<(Output, Option<bool>)> {
    if text == "-" {
        return Ok((Output::Tar { destination: Destination::Stdout }, None));
    }
    if !text.contains('=') {
        return Ok((Output::Local { folder: PathBuf::from(text) }, None));
    }
    let fields = values::fields("--output", text)?;
    let get = |key: &str| fields.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let flag = |key: &str| values::boolean(&format!("--output: {key}"), get(key));
    let kind = get("type").ok_or_else(|| invalid(text, "has no type").hint(TYPES))?;
    let known = keys(kind).ok_or_else(|| invalid(text, &format!("has the unknown type `{kind}`")).hint(TYPES))?;
    let is_known =
        |key: &str| known.contains(&key) || (known.contains(&"annotation.") && key.starts_with("annotation"));
    if let Some((key, _)) = fields.iter().find(|(key, _)| !is_known(key)) {
        return Err(Error::new(Kind::Usage, format!("--output type={kind}: the key `{key}` is not built yet")));
    }
    let mut packing =
        Packing { compression: compression(get("compression"), get("compression-level"))?, ..Packing::default() };
    if get("oci-mediatypes").is_some() && !flag("oci-mediatypes")? {
        packing.format = Some(Format::Docker);
    }
    if flag("force-compression")? {
        packing.compression = match packing.compression {
            None => Some(Recompress::All(Compression::GZIP)),
            Some(Recompress::Plain(form)) => Some(Recompress::All(form)),
            // All layers, those of the base image too, as they are when they are unpacked.
            Some(_) => Some(Recompress::All(Compression::None)),
        };
    }
    for (key, value) in fields.iter().filter(|(key, _)| key.starts_with("annotation")) {
        packing.annotations.push(annotation(key, value)?);
    }
    let destination = |what: &str| match get("dest") {
        Some("-") => Ok(Destination::Stdout),
        Some(path) => Ok(Destination::Path(PathBuf::from(path))),
        None => Err(invalid(text, &format!("does not say where: add dest={what}"))),
    };
    let output = match kind {
        "image" | "registry" => {
            let names = get("name").map_or("", |names| names).split(',').filter(|name| !name.is_empty());
            let names = names.map(values::tag).collect::<Result<_>>()?;
            let push = match (flag("push-by-digest")?, kind == "registry" || flag("push")?) {
                (true, _) => Push::ByDigest,
                (false, true) => Push::Named,
                (false, false) => Push::No,
            };
            Output::Image { names, push, canonical: flag("name-canonical")?, packing }
        }
        "oci" => {
            let folder = get("tar").is_some() && !flag("tar")?;
            Output::Oci { destination: destination(if folder { "FOLDER" } else { "FILE" })?, folder, packing }
        }
        "docker" => Output::Docker { destination: destination("FILE")? },
        "tar" => Output::Tar { destination: destination("FILE")? },
        "local" => match destination("FOLDER")? {
            Destination::Path(folder) => Output::Local { folder },
            Destination::Stdout => return Err(invalid(text, "cannot write a folder to standard output")),
        },
        _ => Output::CacheOnly,
    };
    let rewrite = get("rewrite-timestamp").map(|_| flag("rewrite-timestamp")).transpose()?;
    Ok((output, rewrite))
}

/// The keys of a type; `None` for what is no type. `annotation.` stands for all that begin so.
fn keys(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "image" | "registry" => &[
            "annotation.",
            "compression",
            "compression-level",
            "force-compression",
            "name",
            "name-canonical",
            "oci-mediatypes",
            "push",
            "push-by-digest",
            "rewrite-timestamp",
            "store",
            "type",
            "unpack",
        ],
        "oci" => &[
            "annotation.",
            "compression",
            "compression-level",
            "dest",
            "force-compression",
            "name",
            "oci-mediatypes",
            "rewrite-timestamp",
            "tar",
            "type",
        ],
        "docker" => &["dest", "name", "rewrite-timestamp", "type"],
        "tar" | "local" => &["dest", "type"],
        "cacheonly" => &["type"],
        _ => return None,
    })
}

/// `annotation.KEY`, `annotation-index.KEY`, `annotation-manifest-descriptor.KEY`.
fn annotation(key: &str, value: &str) -> Result<Annotation> {
    let (level, name) = key.split_once('.').unwrap_or((key, ""));
    let level = match level {
        "annotation" | "annotation-manifest" => Level::Manifest,
        "annotation-index" => Level::Index,
        "annotation-manifest-descriptor" => Level::ManifestDescriptor,
        other => {
            return Err(Error::new(Kind::Usage, format!("--output: the key `{other}.…` is not built yet"))
                .hint("annotations go to manifest, index and manifest-descriptor, of all platforms"));
        }
    };
    match name.is_empty() {
        true => Err(Error::new(Kind::Usage, format!("--output: `{key}` names no annotation"))),
        false => Ok(Annotation { level, key: name.to_owned(), value: value.to_owned() }),
    }
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
            (
                "type=oci,dest=x.tar",
                Output::Oci { destination: path("x.tar"), folder: false, packing: Packing::default() },
            ),
            (
                "type=oci,tar=false,dest=x",
                Output::Oci { destination: path("x"), folder: true, packing: Packing::default() },
            ),
            ("type=docker,dest=-", Output::Docker { destination: Destination::Stdout }),
            ("type=cacheonly", Output::CacheOnly),
        ] {
            assert_eq!(parse(text).expect(text), (expected, None));
        }
        let image = |text: &str| match parse(text).expect(text).0 {
            Output::Image { names, push, canonical, packing } => (names.len(), push, canonical, packing),
            other => panic!("{other:?}"),
        };
        assert_eq!(image("type=image,\"name=a/b,c\",push=true"), (2, Push::Named, false, Packing::default()));
        assert_eq!(image("type=image,push-by-digest=true,name-canonical").1, Push::ByDigest);
        let packing = image("type=image,oci-mediatypes=false,force-compression=true,annotation.A.b=c").3;
        assert_eq!(
            (packing.format, packing.compression),
            (Some(Format::Docker), Some(Recompress::All(Compression::GZIP)))
        );
        assert_eq!(packing.annotations, [Annotation { level: Level::Manifest, key: "A.b".into(), value: "c".into() }]);
        assert_eq!(parse("type=oci,dest=x,rewrite-timestamp=false").expect("valid").1, Some(false));
        for (text, expected) in [
            ("dest=x", "--output dest=x has no type"),
            ("type=oci", "--output type=oci does not say where: add dest=FILE"),
            ("type=floppy,dest=a", "--output type=floppy,dest=a has the unknown type `floppy`"),
            (
                "type=oci,dest=a,annotation[linux/amd64].x=y",
                "--output: the key `annotation[linux/amd64].…` is not built yet",
            ),
            ("type=local,dest=a,mode=copy", "--output type=local: the key `mode` is not built yet"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        }
    }
}
