//! `COPY` and `ADD` as steps: what their keys are made of, and what they take from where.

use std::sync::Arc;

use layerfs::error::Result;
use layerfs::layer::MergedView;

use super::stage::{Ended, Worker};
use super::{Context, Stack};
use crate::cache::{Key, KeyBuilder, Layer};
use crate::dockerfile::remote::Remote;
use crate::exec::copy_add::{self, Prepared};
use crate::exec::identity;
use crate::exec::placement::{self, Found, Placement};
use crate::files::{self, Owners, Request, Selection, Tree};
use crate::graph::{Copy, Fetch, Origin, Source};
use crate::progress::Stream;

/// Whether a name that is copied into a folder is there already; where the names are not known, it may be.
fn meets_others(view: &MergedView, placement: &Placement, selected: Option<&Selection>) -> Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let Some(selected) = selected else { return Ok(true) };
    let there = view.read_dir(std::ffi::OsStr::from_bytes(&placement.path))?.unwrap_or_default();
    Ok(there.iter().any(|name| selected.has_name(name.as_bytes())))
}

/// A copy out of a context, looked up: what it yields depends on this alone.
pub(super) struct Looked {
    pub(super) key: KeyBuilder,
    pub(super) placement: Placement,
    owner: Option<(u32, u32)>,
    selection: Selection,
    view: MergedView,
    /// What is in the stage may stand in its way.
    pub(super) meets: bool,
}

impl Looked {
    /// Looks a copy up. `key` is where its key begins.
    pub(super) fn new(key: KeyBuilder, context: &Context, copy: &Copy, view: MergedView) -> Result<Self> {
        let request = Request { sources: &copy.sources, parents: copy.parents, exclude: &copy.exclude, fetched: &[] };
        let selection = files::select(&context.tree, &request)?;
        let placement = placement::resolve(&view, &copy.destination, !copy.link)?;
        let owner = copy.chown.as_deref().map(|chown| identity::owner(&view, chown)).transpose()?;
        // Who owns a developer's files is no part of an image.
        let owners = Owners { kept: false, chmod: copy.chmod.as_ref() };
        let digest = files::digest(&context.tree, &selection, owners, Some(&context.stats))?;
        let key = key.with("files", digest.to_string());
        let key = placement.describe(describe(key, copy, owner, &[]));
        let meets = placement.found == Found::Folder && meets_others(&view, &placement, Some(&selection))?;
        Ok(Self { key, placement, owner, selection, view, meets })
    }

    /// Writes its layer.
    pub(super) fn write(
        &self,
        store: &layerfs::store::Store,
        context: &Context,
        copy: &Copy,
        clock: copy_add::Clock,
    ) -> Result<Option<Layer>> {
        let Self { placement, owner, selection, view, .. } = self;
        let prepared = Prepared { copy, tree: &context.tree, selection, placement, owner: *owner };
        copy_add::write_copy(store, &prepared, view, clock)
    }
}

fn describe(
    key: KeyBuilder,
    copy: &Copy,
    owner: Option<(u32, u32)>,
    fetched: &[(String, files::Remote)],
) -> KeyBuilder {
    key.with("owner", format!("{owner:?}"))
        .with("mode", format!("{:?}", copy.chmod))
        .with("unpack", format!("{:?}", copy.unpack))
        .with_all("fetched", fetched.iter().map(|(identity, _)| identity))
        .with("folder", format!("{}", copy.destination.ends_with('/') || copy.parents))
}

/// Whether a copy takes files of a context and nothing else.
pub(super) fn is_of_context(copy: &Copy) -> bool {
    matches!(copy.origin, Origin::Context | Origin::Named(_))
        && copy.sources.iter().any(|source| matches!(source, Source::Path(_)))
        && !copy.sources.iter().any(|source| matches!(source, Source::Remote(_)))
}

impl Worker<'_> {
    pub(super) fn copy(&self, copy: &Copy) -> Result<Ended> {
        if is_of_context(copy) {
            return self.copy_of_context(copy);
        }
        let engine = self.engine;
        let fetched = self.fetch(copy)?;
        let remotes: Vec<files::Remote> = fetched.iter().map(|(_, remote)| remote.clone()).collect();
        let request =
            Request { sources: &copy.sources, parents: copy.parents, exclude: &copy.exclude, fetched: &remotes };
        let owners = Owners { kept: copy.chown.is_none(), chmod: copy.chmod.as_ref() };
        let view = self.below.view(engine.store)?;
        let placement = placement::resolve(&view, &copy.destination, !copy.link)?;
        let owner = copy.chown.as_deref().map(|chown| identity::owner(&view, chown)).transpose()?;
        let needs_files = !self.step.action.origins().is_empty();
        let context = match &copy.origin {
            Origin::Context | Origin::Named(_) if needs_files => Some(self.origins.context(&copy.origin)?),
            _ => None,
        };
        let selected = match context {
            Some(context) => Some(files::select(&context.tree, &request)?),
            None => None,
        };
        let stack = match needs_files && context.is_none() {
            true => self.origins.stack(&copy.origin)?.unwrap_or_default(),
            false => Stack::default(),
        };
        let open = || -> Result<(Tree, Selection)> {
            let tree = self.origins.mount(&copy.origin, &stack)?;
            let selection = files::select(&tree, &request)?;
            Ok((tree, selection))
        };
        let mut mounted: Option<(Tree, Selection)> = None;
        let digest = match (context, &selected) {
            (Some(context), Some(selection)) => {
                let owners = Owners { kept: false, ..owners };
                files::digest(&context.tree, selection, owners, Some(&context.stats))?
            }
            _ => {
                // The files of layers never change, so what was digested once is known.
                let known = Self::tree_key(&stack, copy, &request);
                match engine.records.tree_digest(&known).filter(|_| remotes.is_empty()) {
                    Some(digest) => digest,
                    None if !remotes.is_empty() => {
                        let (tree, selection) = open()?;
                        let digest = files::digest(&tree, &selection, Owners { kept: false, ..owners }, None)?;
                        mounted = Some((tree, selection));
                        digest
                    }
                    None => {
                        let (tree, selection) = open()?;
                        let digest = files::digest(&tree, &selection, owners, None)?;
                        engine.records.keep_tree_digest(&known, &digest)?;
                        mounted = Some((tree, selection));
                        digest
                    }
                }
            }
        };
        let key = self.key("copy/1").with("files", digest.to_string());
        let mut key = placement.describe(describe(key, copy, owner, &fetched));
        if placement.found == Found::Folder && meets_others(&view, &placement, selected.as_ref())? {
            // What is in the folder may stand in the way of what is copied into it.
            key = key.on(self.below.chain()?);
        }
        self.once(key, |_| {
            let (tree, selection) = match (context, &selected) {
                (Some(context), Some(selection)) => (&context.tree, selection),
                _ => {
                    if mounted.is_none() {
                        mounted = Some(open()?);
                    }
                    let (tree, selection) = mounted.as_ref().expect("it was just mounted");
                    (tree, selection)
                }
            };
            let prepared = Prepared { copy, tree, selection, placement: &placement, owner };
            copy_add::write_copy(engine.store, &prepared, &view, engine.clock)
        })
    }

    fn copy_of_context(&self, copy: &Copy) -> Result<Ended> {
        let engine = self.engine;
        let context = self.origins.context(&copy.origin)?;
        let looked = Looked::new(self.key("copy/1"), context, copy, self.below.view(engine.store)?)?;
        let key = match looked.meets {
            // What is in the folder may stand in the way of what is copied into it.
            true => looked.key.clone().on(self.below.chain()?),
            false => looked.key.clone(),
        };
        self.once(key, |key| match self.beside.take(self.number, key, &looked.placement) {
            Some(layer) => Ok(layer),
            None => looked.write(engine.store, context, copy, engine.clock),
        })
    }

    /// Fetches the sources that are elsewhere; what identifies each, and its files.
    fn fetch(&self, copy: &Copy) -> Result<Vec<(String, files::Remote)>> {
        let log = |text: &str| self.engine.progress.log(self.id, Stream::Out, text.as_bytes());
        let one = |fetch: &Fetch| -> Result<(String, files::Remote)> {
            let fetched = self.engine.fetcher.get(&fetch.remote, fetch.checksum.as_deref(), &log)?;
            let (tree, path) = fetched.tree(&fetch.written);
            // A file's time is part of what is copied. A commit says what its files are; what git keeps beside them
            // (`--keep-git-dir`) is not the same twice.
            let (identity, known) = match &fetch.remote {
                Remote::File(_) => (fetched.identity.clone(), false),
                Remote::Git(git) => (format!("{} {git:?} {:?}", fetched.identity, copy.exclude), true),
            };
            let path = path.to_owned();
            Ok((identity, files::Remote { tree: Arc::new(tree), path, known }))
        };
        let remote = |source: &_| match source {
            Source::Remote(fetch) => Some(one(fetch)),
            _ => None,
        };
        copy.sources.iter().filter_map(remote).collect()
    }

    fn tree_key(stack: &Stack, copy: &Copy, request: &Request<'_>) -> Key {
        KeyBuilder::new("tree/1")
            .on(stack.chain())
            .with_all("source", request.sources.iter().map(|source| format!("{source:?}")))
            .with_all("exclude", request.exclude)
            .with("parents", format!("{}", request.parents))
            .with("owned", format!("{}", copy.chown.is_none()))
            .with("mode", format!("{:?}", copy.chmod))
            .finish()
    }
}
