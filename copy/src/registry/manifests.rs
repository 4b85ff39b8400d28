//! Manifests and tags.

use std::collections::HashSet;

use bytes::Bytes;
use layerfs::digest::{Digest, Hasher};
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{DOCUMENT_MAX, Descriptor, media_type};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::Scope;
use super::client::{COMPLETION, Call, Host, read_body};
use crate::stream::DAMAGED;

const DIGEST_HEADER: &str = "docker-content-digest";
/// How many tags are asked for at once; ECR refuses more.
const TAGS_PAGE: usize = 1000;
/// Largest page of tags, in bytes.
const TAGS_MAX: usize = 8 << 20;

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

/// Writes a manifest under a tag or its digest, and checks that the registry understood the same digest.
pub(super) async fn put(host: &Host, path: &str, locator: &str, document: &Descriptor, bytes: Bytes) -> Result<()> {
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
    match announced(&reply) {
        Some(stored) if stored.algorithm() == document.digest.algorithm() && stored != document.digest => {
            let wrong =
                format!("push `{name}`: registry `{}` stored `{stored}` instead of `{}`", host.name(), document.digest);
            Err(Error::new(Kind::Corrupt, wrong).hint("the registry changes what it stores; try another one"))
        }
        _ => Ok(()),
    }
}

/// All tags of a repository, in the registry's order.
pub(super) async fn tags(host: &Host, path: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        tags: Option<Vec<String>>,
    }
    let name = format!("{}/{path}", host.name());
    let mut url = host.url(&format!("/v2/{path}/tags/list")).await?;
    url.query_pairs_mut().append_pair("n", &TAGS_PAGE.to_string());
    let (mut tags, mut seen) = (Vec::new(), HashSet::new());
    // A registry that links its pages in a circle would keep us forever.
    while seen.insert(url.clone()) {
        let call = Call::new(Method::GET, url.clone(), Scope::pull(path), format!("list the tags of `{name}`"));
        let reply = host.send(&call).await?;
        if reply.status() != StatusCode::OK {
            return Err(host.failure(&call, reply).await);
        }
        let next = next_page(&url, &reply);
        let bytes = read_body(reply, TAGS_MAX).await.context(|| call.action.clone())?;
        let page: Page = serde_json::from_slice(&bytes).context(|| format!("list of tags of `{name}` is malformed"))?;
        tags.extend(page.tags.unwrap_or_default());
        match next {
            Some(next) if next.origin() == url.origin() => url = next,
            _ => break,
        }
    }
    let mut known = HashSet::new();
    tags.retain(|tag| known.insert(tag.clone()));
    Ok(tags)
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

/// The address in `Link: <…>; rel="next"` (RFC 8288).
fn next_page(asked: &Url, reply: &Response) -> Option<Url> {
    let text = reply.headers().get(LINK)?.to_str().ok()?;
    let target = text.strip_prefix('<')?.split('>').next()?;
    asked.join(target).ok()
}
