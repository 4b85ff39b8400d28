//! A file on the web. Its bytes are a blob of the store, and what the server said of it is kept beside the cache, so that
//! the next build only asks whether it changed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use copy::Validators;
use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::store::Store;
use serde::{Deserialize, Serialize};

use super::{Fetched, Settings};
use crate::dockerfile::remote::file_name;

/// The file `cache/web/URL.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    url: String,
    digest: Digest,
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Record {
    fn validators(&self) -> Validators {
        Validators { etag: self.etag.clone(), last_modified: self.last_modified.clone() }
    }
}

/// Fetches the file; its name is the end of the address, its mode 0600 and its time what the server says, or 1970.
pub(super) fn fetch(
    store: &Store,
    settings: &Settings,
    url: &str,
    checksum: Option<&str>,
    log: &dyn Fn(&str),
) -> Result<Fetched> {
    let wanted = checksum.map(parse_checksum).transpose()?;
    let folder = store.cache_dir().join("web");
    let path = folder.join(format!("{}.json", Digest::of(url.as_bytes()).hex()));
    let kept: Option<Record> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let kept = kept.filter(|record| record.url == url && store.has_blob(&record.digest));
    let record = match kept {
        // What has the digest that is asked for cannot have changed.
        Some(record) if wanted == Some(record.digest) => record,
        kept => {
            let record = ask(store, settings, url, kept, log)?;
            fs::create_dir_all(&folder).at("create", &folder)?;
            let new = folder.join(format!(".{}-{:?}", std::process::id(), std::thread::current().id()));
            let bytes = serde_json::to_vec(&record).unwrap_or_default();
            fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)).at("write", &path)?;
            record
        }
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != record.digest) {
        return Err(Error::new(Kind::Invalid, format!("`{url}` has digest {}, not {wanted}", record.digest))
            .hint("what is there changed, or --checksum is not of this file"));
    }
    let dir = store.new_temp_dir()?;
    let name = file_name(url);
    lay_down(store, &record, &dir.path().join(&name))?;
    Ok(Fetched { dir, path: name, identity: format!("{} {:?}", record.digest, record.last_modified) })
}

/// `sha256:HEX`; other algorithms cannot be the name of a blob.
fn parse_checksum(text: &str) -> Result<Digest> {
    text.parse().map_err(|_| {
        Error::new(Kind::Invalid, format!("--checksum `{text}` is not a digest"))
            .hint("the form is sha256: and 64 hexadecimal digits")
    })
}

fn ask(store: &Store, settings: &Settings, url: &str, kept: Option<Record>, log: &dyn Fn(&str)) -> Result<Record> {
    let known = kept.as_ref().map(Record::validators).unwrap_or_default();
    let mut blob = BufWriter::with_capacity(1 << 20, store.blob_writer(None)?);
    let answer = copy::fetch(url, &known, settings.verify, settings.retries, &mut blob)?;
    match (answer, kept) {
        (copy::Fetched::Unchanged, Some(record)) => Ok(record),
        (copy::Fetched::Unchanged, None) => {
            Err(Error::new(Kind::Invalid, format!("fetch `{url}`: the server says that nothing changed, unasked")))
        }
        (copy::Fetched::Whole { validators, .. }, _) => {
            blob.flush().context(|| format!("write what `{url}` sends"))?;
            let blob = blob.into_inner().map_err(std::io::IntoInnerError::into_error).context(|| "write a blob")?;
            let (digest, size) = blob.commit()?;
            log(&format!("fetched {url}: {size} bytes, {digest}\n"));
            let Validators { etag, last_modified } = validators;
            Ok(Record { url: url.to_owned(), digest, etag, last_modified })
        }
    }
}

fn lay_down(store: &Store, record: &Record, path: &Path) -> Result<()> {
    let mut blob = store.open_blob(&record.digest)?;
    let mut file = File::create(path).at("create", path)?;
    std::io::copy(&mut blob, &mut file).at("write", path)?;
    let seconds = record.validators().modified().and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).at("date", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).at("change the mode of", path)
}
