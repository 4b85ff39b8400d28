//! Lists that registries give out in pages: tags, repositories, referrers.

use std::collections::HashSet;

use layerfs::digest::Digest;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::{Descriptor, Index, media_type};
use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::Scope;
use super::client::{Call, Host, read_body};
use super::manifests;

/// How many names are asked for at once; ECR refuses more.
const PAGE: usize = 1000;
/// Largest page, in bytes.
const PAGE_MAX: usize = 8 << 20;
/// More pages than any list has.
const PAGES_MAX: usize = 10_000;

/// All tags of a repository, in the registry's order.
pub(super) async fn tags(host: &Host, path: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        tags: Option<Vec<String>>,
    }
    let name = format!("{}/{path}", host.name());
    let mut url = host.url(&format!("/v2/{path}/tags/list")).await?;
    url.query_pairs_mut().append_pair("n", &PAGE.to_string());
    let pages = Pages { url, scope: Scope::pull(path), action: format!("list the tags of `{name}`") };
    let mut tags = Vec::new();
    pages
        .read(host, |bytes| {
            let page: Page =
                serde_json::from_slice(bytes).context(|| format!("list of tags of `{name}` is malformed"))?;
            tags.extend(page.tags.unwrap_or_default());
            Ok(())
        })
        .await?;
    Ok(unique(tags))
}

/// All repositories of a registry that tells.
pub(super) async fn catalog(host: &Host) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        repositories: Option<Vec<String>>,
    }
    let name = host.name().to_owned();
    let mut url = host.url("/v2/_catalog").await?;
    url.query_pairs_mut().append_pair("n", &PAGE.to_string());
    let pages = Pages { url, scope: Scope::catalog(), action: format!("list the repositories of `{name}`") };
    let mut repositories = Vec::new();
    pages
        .read(host, |bytes| {
            let page: Page =
                serde_json::from_slice(bytes).context(|| format!("list of repositories of `{name}` is malformed"))?;
            repositories.extend(page.repositories.unwrap_or_default());
            Ok(())
        })
        .await?;
    Ok(unique(repositories))
}

/// What refers to a manifest, and whether the registry keeps that list itself. Where it does not, the list is an index
/// under a tag that is made of the digest (distribution-spec "Unavailable Referrers API").
pub(super) async fn referrers(host: &Host, path: &str, subject: Digest) -> Result<(Vec<Descriptor>, bool)> {
    let url = host.url(&format!("/v2/{path}/referrers/{subject}")).await?;
    let action = format!("list what refers to `{}/{path}@{subject}`", host.name());
    let pages = Pages { url, scope: Scope::pull(path), action };
    let mut found = Vec::new();
    let listed = pages
        .read(host, |bytes| {
            let index: Index = serde_json::from_slice(bytes).context(|| "list of referrers is malformed")?;
            found.extend(index.manifests);
            Ok(())
        })
        .await;
    match listed {
        Ok(()) => Ok((found, true)),
        // GHCR sends clients to a web page, and others answer what they answer to an address they do not know.
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unsupported | Kind::Invalid | Kind::Denied) => {
            Ok((fallback(host, path, subject).await?, false))
        }
        Err(error) => Err(error),
    }
}

/// The list of referrers under the tag made of a digest; empty where there is none.
async fn fallback(host: &Host, path: &str, subject: Digest) -> Result<Vec<Descriptor>> {
    match manifests::get(host, path, &fallback_tag(subject)).await {
        Ok((descriptor, bytes)) if media_type::is_index(&descriptor.media_type) => {
            let index: Index = serde_json::from_slice(&bytes).context(|| "list of referrers is malformed")?;
            Ok(index.manifests)
        }
        Ok(_) => Ok(Vec::new()),
        Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The tag under which a registry without a list of its own has it: algorithm and digits, cut to a tag's length.
pub(crate) fn fallback_tag(subject: Digest) -> String {
    let hex = subject.hex();
    format!("{}-{}", subject.algorithm().name(), &hex[..hex.len().min(64)])
}

struct Pages {
    url: Url,
    scope: Scope,
    action: String,
}

impl Pages {
    async fn read(self, host: &Host, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Self { mut url, scope, action } = self;
        let mut seen = HashSet::new();
        // A registry that links its pages in a circle would keep us forever.
        while seen.insert(url.clone()) {
            if seen.len() > PAGES_MAX {
                return Err(Error::new(
                    Kind::Limit,
                    format!("{action}: registry `{}` gives more than {PAGES_MAX} pages", host.name()),
                ));
            }
            let call = Call::new(Method::GET, url.clone(), scope.clone(), action.clone())
                .header(ACCEPT, &format!("application/json, {}", media_type::OCI_INDEX));
            let reply = host.send(&call).await?;
            if reply.status() != StatusCode::OK {
                return Err(host.failure(&call, reply).await);
            }
            if is_a_page_for_people(&reply) {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{action}: registry `{}` answers with a page for people", host.name()),
                ));
            }
            let next = next_page(&url, &reply);
            let bytes = read_body(reply, PAGE_MAX).await.context(|| action.clone())?;
            take(&bytes)?;
            match next {
                Some(next) if next.origin() == url.origin() => url = next,
                _ => break,
            }
        }
        Ok(())
    }
}

fn is_a_page_for_people(reply: &Response) -> bool {
    let stated = reply.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    stated.starts_with("text/html")
}

/// The address in `Link: <…>; rel="next"` (RFC 8288).
fn next_page(asked: &Url, reply: &Response) -> Option<Url> {
    let text = reply.headers().get(LINK)?.to_str().ok()?;
    let target = text.strip_prefix('<')?.split('>').next()?;
    asked.join(target).ok()
}

fn unique(mut names: Vec<String>) -> Vec<String> {
    let mut known = HashSet::new();
    names.retain(|name| known.insert(name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_makes_a_tag() {
        let digest = Digest::of(b"");
        assert_eq!(fallback_tag(digest), format!("sha256-{}", digest.hex()));
        let mut long = layerfs::digest::Hasher::new(layerfs::digest::Algorithm::Sha512);
        long.update(b"");
        assert_eq!(fallback_tag(long.finish()).len(), "sha512-".len() + 64);
    }
}
