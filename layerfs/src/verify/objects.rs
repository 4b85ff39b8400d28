//! Looking at names, blobs, layers and shims.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::repair::Cure;
use super::{Check, Object, Outcome};
use crate::digest::{ChainId, DiffId, Digest, Hasher};
use crate::error::{Kind, Result};
use crate::layer::check::{self, Damage};
use crate::oci::{Descriptor, media_type};
use crate::progress::Event;
use crate::store::{Role, format};

/// What reading a blob showed.
enum Blob {
    Sound(u64),
    Damaged(String),
}

/// What comparing a layer with a blob of it showed.
enum Comparison {
    Equal,
    Differs(Damage),
    /// There is no sound blob.
    Impossible,
}

impl Check<'_> {
    /// Files in `refs/`, `index.json` and `oci-layout`. While others are at work, `index.json` may be behind.
    pub(super) fn names(&mut self, alone: bool) -> Result<()> {
        for (file, parsed) in self.store.ref_files()? {
            let name = format::unescape(&file).unwrap_or_else(|_| file.clone());
            match parsed {
                Ok(_) => self.report.names += 1,
                Err(error) if self.wanted(&name) => {
                    let outcome = self.mend_name(&file, &name)?;
                    self.found(Object::Name(name), error.chain(), BTreeSet::new(), outcome);
                }
                Err(_) => {}
            }
        }
        let layout = self.store.read_layout_marker();
        if layout.as_deref() != Some(format::OCI_LAYOUT.as_bytes()) {
            let outcome = self.cure(|store| store.write_layout_marker(), "written again")?;
            self.found(
                Object::File("oci-layout".to_owned()),
                "is not what the format asks for",
                BTreeSet::new(),
                outcome,
            );
        }
        let mended = self.report.findings.iter().all(|finding| matches!(finding.outcome, Outcome::Repaired(_)));
        if alone && mended && !self.store.index_is_current()? {
            let outcome = self.cure(|store| store.publish_index(), "written again from the names")?;
            self.found(
                Object::File("index.json".to_owned()),
                "does not say what the names say",
                BTreeSet::new(),
                outcome,
            );
        }
        Ok(())
    }

    fn wanted(&self, name: &str) -> bool {
        self.options.names.is_empty() || self.options.names.iter().any(|wanted| wanted.to_string() == name)
    }

    /// Who needs what.
    pub(super) fn needs(&mut self) -> Result<()> {
        for (file, parsed) in self.store.ref_files()? {
            let name = format::unescape(&file).unwrap_or(file);
            let Ok(descriptor) = parsed else { continue };
            if self.wanted(&name) {
                self.needs.images.push((name, self.store.contents(&descriptor)?));
            }
        }
        for container in self.store.container_roots()? {
            if container.running {
                self.needs.running.extend(container.roots.chains.iter().flatten());
            }
            // Where images were named, containers are theirs to name.
            if self.options.names.is_empty() {
                let name = format!("container {}", container.id.get(..12).unwrap_or(&container.id));
                for root in &container.roots.images {
                    self.needs.images.push((name.clone(), self.store.contents(root)?));
                }
            }
        }
        for (at, (_, contents)) in self.needs.images.iter().enumerate() {
            for part in contents.parts.iter().filter(|part| !part.optional || self.store.has_blob(&part.digest)) {
                self.needs.blobs.entry(part.digest).or_default().insert(at);
            }
            for chain in &contents.chains {
                for (place, diff_id) in chain.diff_ids.iter().enumerate() {
                    let (users, blobs) = self.needs.layers.entry(*diff_id).or_default();
                    users.insert(at);
                    // A layer made here lies as its own tar; a fetched one as what it was fetched as.
                    for digest in chain.blobs.get(place).into_iter().chain([&diff_id.0]) {
                        let size = self.store.blob_size(digest);
                        if let Some(size) = size.filter(|_| blobs.iter().all(|blob| blob.digest != *digest)) {
                            blobs.push(Descriptor::new(media_type::OCI_LAYER, *digest, size));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Every blob's digest, and whether those that are needed are there.
    pub(super) fn blobs(&mut self) -> Result<()> {
        let mut here: Vec<(Digest, u64)> = Vec::new();
        for (digest, path, bytes) in self.store.blobs()? {
            let Some(digest) = digest else {
                let name = path.strip_prefix(self.store.root()).unwrap_or(&path).display().to_string();
                let outcome = self.cure(|store| store.discard(&path), "removed")?;
                self.found(Object::File(name), "lies among the blobs and is none", BTreeSet::new(), outcome);
                continue;
            };
            if self.options.names.is_empty() || self.needs.blobs.contains_key(&digest) {
                here.push((digest, bytes));
            }
        }
        // The largest first, so that no thread is left with one at the end.
        here.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        self.report.blobs = here.len() as u64;
        self.report.bytes = here.iter().map(|(_, bytes)| bytes).sum();
        self.begin(0, "blobs", self.report.bytes);
        let results = on_every_processor(&here, |(digest, _)| self.read_blob(digest));
        self.end(0);
        let mut damaged = Vec::new();
        for ((digest, _), result) in here.iter().zip(results) {
            match result? {
                Blob::Sound(bytes) => drop(self.needs.sound.insert(*digest, bytes)),
                Blob::Damaged(problem) => damaged.push((*digest, problem)),
            }
        }
        let present: HashSet<Digest> = here.into_iter().map(|(digest, _)| digest).collect();
        let missing = self.needs.blobs.keys().filter(|digest| !present.contains(*digest));
        damaged.extend(missing.map(|digest| (*digest, "is missing".to_owned())));
        for (digest, problem) in damaged {
            let users = self.users(self.needs.blobs.get(&digest));
            let outcome = self.mend_blob(digest, &users)?;
            self.found(Object::Blob(digest), problem, users, outcome);
        }
        self.stated_sizes();
        Ok(())
    }

    fn read_blob(&self, digest: &Digest) -> Result<Blob> {
        let mut file = self.store.open_blob(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let (mut piece, mut bytes) = (vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    bytes += read as u64;
                    self.progress.event(&Event::Advance { id: 0, bytes: read as u64 });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A disk that cannot give it back has lost it.
                Err(error) => return Ok(Blob::Damaged(format!("cannot be read: {error}"))),
            }
        }
        match hasher.finish() {
            found if found == *digest => Ok(Blob::Sound(bytes)),
            found => Ok(Blob::Damaged(format!("has {bytes} bytes with the digest {found}"))),
        }
    }

    /// A sound blob of another size than a document states is the document's fault, and so the image's for good.
    fn stated_sizes(&mut self) {
        let mut told = Vec::new();
        for (name, contents) in &self.needs.images {
            for part in &contents.parts {
                let sound = self.needs.sound.get(&part.digest);
                if let Some(bytes) = sound.filter(|bytes| **bytes != part.size) {
                    told.push((part.digest, part.size, *bytes, part.role, name.clone()));
                }
            }
        }
        for (digest, stated, bytes, role, name) in told {
            let what = if role == Role::Layer { "layer" } else { "document" };
            let problem = format!("has {bytes} bytes, and the image states {stated} for this {what}");
            let outcome = match self.options.repair {
                true => Outcome::Remains("the image was made wrong; remove it".to_owned()),
                false => Outcome::Found,
            };
            self.found(Object::Blob(digest), problem, BTreeSet::from([name]), outcome);
        }
    }

    /// Every unpacked layer that an image or container needs, compared with a blob of it.
    pub(super) fn layers(&mut self) -> Result<()> {
        let mut here = Vec::new();
        for diff_id in self.needs.layers.keys() {
            if self.store.has_layer(*diff_id)? || self.store.has_layer_folder(*diff_id)? {
                let bytes = self.store.layer_bytes(*diff_id).unwrap_or_default();
                here.push((bytes.unwrap_or_default(), *diff_id));
            }
        }
        here.sort_by_key(|(bytes, diff_id)| (std::cmp::Reverse(*bytes), *diff_id));
        self.report.layers = here.len() as u64;
        self.report.foreign_layers = self.store.foreign_layers()?;
        self.begin(1, "unpacked layers", here.iter().map(|(bytes, _)| bytes).sum());
        let results = on_every_processor(&here, |(bytes, diff_id)| {
            let result = self.compare(*diff_id);
            self.progress.event(&Event::Advance { id: 1, bytes: *bytes });
            result
        });
        self.end(1);
        for ((_, diff_id), result) in here.into_iter().zip(results) {
            let users = self.users(self.needs.layers.get(&diff_id).map(|(users, _)| users));
            match result {
                Ok(Comparison::Equal) => {}
                // Its blob is what is damaged, and told as such.
                Ok(Comparison::Impossible) => self.report.uncompared_layers += 1,
                Ok(Comparison::Differs(damage)) => {
                    let problem = damage.differences.join("; ");
                    let outcome = self.mend_layer(diff_id, damage)?;
                    self.found(Object::Layer(diff_id), problem, users, outcome);
                }
                // The blob is sound, so it is the image that was made wrong.
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid | Kind::Limit) => {
                    let outcome = self.cannot_mend("the image was made wrong; remove it");
                    self.found(Object::Layer(diff_id), error.chain(), users, outcome);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn compare(&self, diff_id: DiffId) -> Result<Comparison> {
        let blobs = self.needs.layers.get(&diff_id).map(|(_, blobs)| blobs.as_slice()).unwrap_or_default();
        let sound = |blob: &&Descriptor| {
            self.needs.sound.contains_key(&blob.digest) || matches!(self.read_blob(&blob.digest), Ok(Blob::Sound(_)))
        };
        match blobs.iter().find(sound) {
            Some(blob) => {
                let damage = check::check_layer(self.store, blob, diff_id)?;
                Ok(damage.map_or(Comparison::Equal, Comparison::Differs))
            }
            None if check::packs_to_itself(self.store, diff_id)? => Ok(Comparison::Equal),
            None => Ok(Comparison::Impossible),
        }
    }

    /// Every shim of every chain that is unpacked and whose layers are sound.
    pub(super) fn shims(&mut self) -> Result<()> {
        let unsound: HashSet<DiffId> = self.report.findings.iter().filter_map(unsound_layer).collect();
        let chains: Vec<(usize, Vec<DiffId>)> = self
            .needs
            .images
            .iter()
            .enumerate()
            .flat_map(|(at, (_, contents))| contents.chains.iter().map(move |chain| (at, chain.diff_ids.clone())))
            .collect();
        let mut seen = HashSet::new();
        for (at, chain) in chains {
            let mut below: Option<ChainId> = None;
            for (depth, diff_id) in chain.iter().enumerate() {
                let chain_id = ChainId::on(below, *diff_id);
                below = Some(chain_id);
                if !seen.insert(chain_id) {
                    continue;
                }
                if chain[..=depth].iter().any(|diff_id| unsound.contains(diff_id)) || !self.store.has_layer(*diff_id)? {
                    break;
                }
                let Some(lowers) = check::stack(self.store, &chain[..depth])? else { break };
                let Some(damage) = check::check_shim(self.store, &lowers, chain_id, *diff_id)? else { continue };
                let users = self.users(Some(&BTreeSet::from([at])));
                let problem = damage.differences.join("; ");
                let outcome = self.mend_layer(*diff_id, damage)?;
                self.found(Object::Shim(chain_id), problem, users, outcome);
            }
        }
        Ok(())
    }
}

fn unsound_layer(finding: &super::Finding) -> Option<DiffId> {
    match (&finding.object, &finding.outcome) {
        (_, Outcome::Repaired(_)) => None,
        (Object::Layer(diff_id), _) => Some(*diff_id),
        _ => None,
    }
}

/// `each` for all items on as many threads as there are processors, in their order, results in that order too.
fn on_every_processor<T: Sync, U: Send>(items: &[T], each: impl Fn(&T) -> Result<U> + Sync) -> Vec<Result<U>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<U>>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = each(item);
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.into_iter().map(|result| result.expect("every item was taken by a worker")).collect()
}
