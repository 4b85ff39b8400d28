//! Manifests and tags.

use bytes::Bytes;
use layerfs::digest::{Digest, Hasher};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{DOCUMENT_MAX, Descriptor, media_type};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};

use super::auth::Scope;
use super::client::{COMPLETION, Call, Host, read_body};
use crate::stream::DAMAGED;

const DIGEST_HEADER: &str = "docker-content-digest";

/// All kinds of documents we understand, and schema 1, so that a registry that has nothing else says so.
fn accept() -> String {
    use media_type::*;
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, "*/*;q=0.1"].join(", ")
}

/// A manifest's exact bytes and their descriptor. `locator` is a tag or a digest; the bytes of the latter are checked.
pub(super) async fn get(host: &Host, path: &str, locator: &str) -> Result<(Descriptor, Vec<u8>)> {
    let (call, name) = call(host, Method::GET, path, locator, Scope::pull(path)).await?;
    let call = call.header(ACCEPT, &accept());
    let reply = host.send(&call).await?;
    if reply.status() != StatusCode::OK {
        return Err(missing_hint(host.failure(&call, reply).await, &name));
    }
    let (stated, announced) = (stated_type(&reply), announced(&reply));
    let limit = usize::try_from(DOCUMENT_MAX).unwrap_or(usize::MAX);
    let bytes = read_body(reply, limit).await.context(|| call.action.clone())?;
    let asked = locator.parse::<Digest>().ok();
    let digest = match asked.or(announced) {
        Some(expected) => {
            let mut hasher = Hasher::new(expected.algorithm());
            hasher.update(&bytes);
            let found = hasher.finish();
            if found != expected {
                let whose = if asked.is_some() { "was asked for" } else { "the registry announces" };
                let wrong = format!("{}: its bytes have the digest `{found}`, but `{expected}` {whose}", call.action);
                return Err(Error::new(Kind::Corrupt, wrong).hint(DAMAGED));
            }
            found
        }
        None => Digest::of(&bytes),
    };
    let media_type = stated.or_else(|| own_type(&bytes)).unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
    Ok((Descriptor::new(media_type, digest, bytes.len() as u64), bytes))
}

/// What a name points to, without its bytes; `None` where the name does not exist or the registry's answer does not
/// say enough, in which case [`get`] does.
pub(super) async fn head(host: &Host, path: &str, locator: &str, scope: Scope) -> Result<Option<Descriptor>> {
    let (mut call, name) = call(host, Method::HEAD, path, locator, scope).await?;
    call.action = format!("look for `{name}`");
    let call = call.header(ACCEPT, &accept());
    let reply = host.send(&call).await?;
    match reply.status() {
        StatusCode::OK => {
            let size = reply.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            let facts = announced(&reply).zip(stated_type(&reply)).zip(size);
            Ok(facts.map(|((digest, media_type), size)| Descriptor::new(media_type, digest, size)))
        }
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// What a registry says of its limits in answer to a question that costs nothing: headers whose names have
/// `ratelimit` in them.
pub(super) async fn limits(host: &Host, path: &str, locator: &str) -> Result<Vec<(String, String)>> {
    let (mut call, name) = call(host, Method::HEAD, path, locator, Scope::pull(path)).await?;
    call.action = format!("ask for the limits of `{name}`");
    let call = call.header(ACCEPT, &accept());
    let reply = host.send(&call).await?;
    let about_limits = |name: &str| name.contains("ratelimit");
    let found: Vec<(String, String)> = reply
        .headers()
        .iter()
        .filter(|(name, _)| about_limits(name.as_str()))
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    match reply.status() {
        StatusCode::OK | StatusCode::TOO_MANY_REQUESTS => Ok(found),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// Removes a manifest by its digest, or a tag by its name. `false` where the registry does not remove such things.
pub(super) async fn delete(host: &Host, path: &str, locator: &str) -> Result<bool> {
    let url = host.url(&format!("/v2/{path}/manifests/{locator}")).await?;
    let action = format!("delete `{}`", name(host, path, locator));
    let call = Call::new(Method::DELETE, url, Scope::delete(path), action);
    let reply = host.send(&call).await?;
    match reply.status() {
        StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(true),
        // distribution answers 400 or 405 to a tag, others 405 or 501.
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(false),
        _ => Err(host.failure(&call, reply).await),
    }
}

/// Writes a manifest under a tag or its digest, and checks that the registry understood the same digest. The answer
/// says whether the registry took note of the manifest's subject by itself.
pub(super) async fn put(host: &Host, path: &str, locator: &str, document: &Descriptor, bytes: Bytes) -> Result<bool> {
    let url = host.url(&format!("/v2/{path}/manifests/{locator}")).await?;
    let name = name(host, path, locator);
    let mut call = Call::new(Method::PUT, url, Scope::push(path), format!("push `{name}`"));
    call = call.header(CONTENT_TYPE, &document.media_type);
    call.body = bytes;
    call.patience = COMPLETION;
    let reply = host.send(&call).await?;
    if !matches!(reply.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
        return Err(host.failure(&call, reply).await);
    }
    let noted = reply.headers().contains_key("oci-subject");
    match announced(&reply) {
        Some(stored) if stored.algorithm() == document.digest.algorithm() && stored != document.digest => {
            let wrong =
                format!("push `{name}`: registry `{}` stored `{stored}` instead of `{}`", host.name(), document.digest);
            Err(Error::new(Kind::Corrupt, wrong).hint("the registry changes what it stores; try another one"))
        }
        _ => Ok(noted),
    }
}

async fn call(host: &Host, method: Method, path: &str, locator: &str, scope: Scope) -> Result<(Call, String)> {
    let url = host.url(&format!("/v2/{path}/manifests/{locator}")).await?;
    let name = name(host, path, locator);
    Ok((Call::new(method, url, scope, format!("pull `{name}`")), name))
}

fn name(host: &Host, path: &str, locator: &str) -> String {
    let separator = if locator.contains(':') { '@' } else { ':' };
    format!("{}/{path}{separator}{locator}", host.name())
}

fn missing_hint(error: Error, name: &str) -> Error {
    match error.kind() {
        Kind::NotFound => {
            let repository = name.split('@').next().unwrap_or(name);
            let repository =
                repository.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(repository, |(path, _)| path);
            error.hint(format!("`copy list-tags {repository}` shows what there is"))
        }
        _ => error,
    }
}

/// The digest a registry says the document has. Only ever compared, never believed.
fn announced(reply: &Response) -> Option<Digest> {
    reply.headers().get(DIGEST_HEADER)?.to_str().ok()?.parse().ok()
}

/// The media type out of `Content-Type`, unless it is one that says nothing.
fn stated_type(reply: &Response) -> Option<String> {
    let text = reply.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = text.split(';').next().unwrap_or_default().trim();
    let vague = ["", "application/json", "application/octet-stream", "text/plain"].contains(&media_type);
    (!vague).then(|| media_type.to_owned())
}

fn own_type(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let own = value.get("mediaType").and_then(|media_type| media_type.as_str()).map(str::to_owned);
    own.or_else(|| value.get("manifests").map(|_| media_type::OCI_INDEX.to_owned()))
}
