//! `docker://`: a repository of a registry.

use std::sync::{Mutex, PoisonError};

use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::{Descriptor, media_type};
use layerfs::reference::Reference;

use super::{Opener, Sent, Sink, Source};
use crate::companions::note_referrer;
use crate::exchange::Claim;
use crate::registries::Endpoint;
use crate::registry::{Access, Network, Repository};
use crate::stream::{Chunks, read_all};
use crate::transfer::Shared;

/// An image in a registry, or in the first of its mirrors that has it.
pub(crate) struct RegistrySource {
    repository: Repository,
    locator: String,
    /// The root, where it was read already to find out which mirror serves.
    root: Mutex<Option<(Descriptor, Vec<u8>)>>,
}

impl RegistrySource {
    /// Asks the endpoints in their order for the image. A mirror that fails, for whatever reason, is passed over;
    /// what the last endpoint says counts.
    pub(crate) fn open(network: &Network, endpoints: &[Endpoint], note: &dyn Fn(String)) -> Result<Self> {
        let Some((last, mirrors)) = endpoints.split_last() else {
            return Err(Error::new(Kind::Invalid, "no endpoint to read from"));
        };
        let at = |endpoint: &Endpoint| {
            let name = &endpoint.name;
            let repository = network.repository(name.host(), name.path(), endpoint.insecure)?;
            Ok::<_, Error>(Self { repository, locator: name.locator(), root: Mutex::default() })
        };
        for mirror in mirrors {
            let source = at(mirror)?;
            match source.repository.manifest(&source.locator) {
                Ok(root) => return Ok(Self { root: Mutex::new(Some(root)), ..source }),
                Err(error) => note(format!("mirror `{}` passed over: {}", mirror.name, error.chain())),
            }
        }
        at(last)
    }

    /// What the name stands for now, without its bytes.
    pub(crate) fn head(&self) -> Result<Option<Descriptor>> {
        self.repository.head(&self.locator, Access::Pull)
    }

    /// The repository itself.
    pub(crate) fn repository_handle(&self) -> &Repository {
        &self.repository
    }

    /// Another document of the same repository.
    pub(crate) fn at(&self, document: &Descriptor) -> Self {
        let (repository, locator) = (self.repository.clone(), document.digest.to_string());
        Self { repository, locator, root: Mutex::default() }
    }

    /// What another tag of the same repository leads to.
    pub(crate) fn tagged(&self, tag: &str) -> Self {
        Self { repository: self.repository.clone(), locator: tag.to_owned(), root: Mutex::default() }
    }

    /// All tags of the repository.
    pub(crate) fn tags(&self) -> Result<Vec<String>> {
        self.repository.tags()
    }
}

impl Source for RegistrySource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        match &*root {
            Some(root) => Ok(root.clone()),
            None => Ok(root.insert(self.repository.manifest(&self.locator)?).clone()),
        }
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if media_type::is_config(&descriptor.media_type) {
            return read_all(&mut self.repository.open_blob(descriptor), descriptor.size);
        }
        self.repository.manifest(&descriptor.digest.to_string()).map(|(_, bytes)| bytes)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Chunks>> {
        Ok(self.repository.open_blob(blob))
    }

    fn open_at(&self, blob: &Descriptor, at: u64) -> Result<Box<dyn Chunks>> {
        Ok(self.repository.open_blob_at(blob, at))
    }

    fn repository(&self) -> Option<(&str, &str)> {
        Some((self.repository.host(), self.repository.path()))
    }

    fn registry(&self) -> Option<&Repository> {
        Some(&self.repository)
    }
}

/// A place for an image in a registry.
pub(crate) struct RegistrySink<'a> {
    repository: Repository,
    tags: Vec<String>,
    digest: Option<Digest>,
    shared: Option<&'a Shared<'a>>,
}

/// A blob up to this size is sent without asking whether it is there: the question costs as much.
const UNASKED_MAX: u64 = 64 << 10;

impl<'a> RegistrySink<'a> {
    /// The place `endpoint` names, and more tags of the same repository.
    pub(crate) fn new(network: &Network, endpoint: &Endpoint, additional: &[Reference]) -> Result<Self> {
        let name = &endpoint.name;
        let repository = network.repository(name.host(), name.path(), endpoint.insecure)?;
        let mut tags: Vec<String> = name.tag().map(str::to_owned).into_iter().collect();
        for other in additional {
            if other.repository() != name.repository() {
                return Err(Error::new(
                    Kind::Usage,
                    format!("additional tag `{other}` is in another repository than `{name}`"),
                ));
            }
            tags.extend(other.tag().map(str::to_owned));
        }
        Ok(Self { repository, tags, digest: name.digest(), shared: None })
    }

    /// The same as one of many that are written together.
    pub(crate) fn among_many(self, shared: &'a Shared<'a>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// Writes a document, and notes what it refers to where the registry does not.
    fn put(&self, locator: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        match self.repository.put_manifest(locator, descriptor, bytes)? {
            true => Ok(()),
            false => note_referrer(&self.repository, descriptor, bytes),
        }
    }
}

impl Sink for RegistrySink<'_> {
    fn is_current(&self, root: &Descriptor) -> Result<bool> {
        if self.shared.is_some_and(|shared| shared.stale) {
            return Ok(false);
        }
        let mut locators = self.tags.clone();
        if locators.is_empty() {
            locators.push(root.digest.to_string());
        }
        for locator in locators {
            let found = match self.repository.head(&locator, Access::Push) {
                Ok(found) => found,
                // Several registries answer so for a repository that the first push makes.
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::Unauthorized | Kind::Denied | Kind::Invalid | Kind::Unsupported
                    ) =>
                {
                    None
                }
                Err(error) => return Err(error),
            };
            if found.is_none_or(|found| found.digest != root.digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn existing(&self, blobs: &[Descriptor]) -> Result<Vec<bool>> {
        match self.shared {
            None => self.repository.existing(blobs),
            // Many images have the same blobs: whoever comes to one first asks for it.
            Some(shared) => {
                let (host, path) = (self.repository.host(), self.repository.path());
                Ok(blobs.iter().map(|blob| shared.exchange.has(host, path, blob.digest)).collect())
            }
        }
    }

    fn put_blob(&self, blob: &Descriptor, from: Option<&str>, open: Opener<'_>) -> Result<Sent> {
        let Some(shared) = self.shared else { return self.repository.put_blob(blob, from, open) };
        let (host, path) = (self.repository.host(), self.repository.path());
        match shared.exchange.claim(host, path, blob.digest) {
            Claim::There => Ok(Sent::Present),
            Claim::Mount(elsewhere) => {
                let sent = self.repository.put_blob(blob, Some(&elsewhere), open)?;
                shared.exchange.add(host, path, blob.digest);
                Ok(sent)
            }
            Claim::Bring(duty) => {
                let asked = blob.size > UNASKED_MAX && from.is_none();
                let sent = match asked && self.repository.existing(std::slice::from_ref(blob))? == [true] {
                    true => Sent::Present,
                    false => self.repository.put_blob(blob, from, open)?,
                };
                duty.done(path);
                Ok(sent)
            }
        }
    }

    fn put_document(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.put(&descriptor.digest.to_string(), descriptor, bytes)
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        if let Some(wanted) = self.digest.filter(|wanted| *wanted != root.digest) {
            let sentence =
                format!("the destination is to have the digest `{wanted}`, but the image has `{}`", root.digest);
            return Err(Error::new(Kind::Usage, sentence).hint("name the destination by a tag"));
        }
        if self.tags.is_empty() {
            return self.put_document(root, bytes);
        }
        self.tags.iter().try_for_each(|tag| self.put(tag, root, bytes))
    }

    fn repository(&self) -> Option<(&str, &str)> {
        Some((self.repository.host(), self.repository.path()))
    }
}
