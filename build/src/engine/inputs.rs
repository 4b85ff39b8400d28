//! What a build reads: its Dockerfile and its contexts, fetched where they are elsewhere.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use layerfs::error::{Context as _, Error, Kind, Result};
use layerfs::store::{Store, TempDir};

use crate::dockerfile;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::remote::{Git, Remote};
use crate::fetch::{Arrived, Fetcher, read_context};
use crate::files::Tree;
use crate::ignore::Ignore;
use crate::options::{BuildOptions, ContextFiles, DockerfileSource};
use crate::progress::{End, Progress, Stream};
use crate::schedule::Context;

/// Largest Dockerfile that is read, in bytes.
const DOCKERFILE_MAX: u64 = 16 << 20;

/// The inputs as folders and bytes of this machine.
pub(super) struct Inputs {
    context: Option<PathBuf>,
    dockerfile: DockerfileSource,
    named: Vec<(String, PathBuf)>,
    /// Holds what was fetched and unpacked.
    _held: Vec<TempDir>,
}

impl Inputs {
    /// Fetches what is elsewhere.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn fetch(
        store: &Store,
        fetcher: &Fetcher<'_>,
        options: &BuildOptions,
        progress: &Progress,
    ) -> Result<Self> {
        let mut inputs = Self {
            context: options.context.clone(),
            dockerfile: options.dockerfile.clone(),
            named: Vec::new(),
            _held: Vec::new(),
        };
        if let Some(remote) = &options.remote_context {
            // `.git` is no part of a context unless it is asked for.
            let keep = options.graph.build_args.iter().rev().find(|(name, _)| name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
            let keep = keep.is_some_and(|(_, value)| matches!(value.as_str(), "1" | "true"));
            let fetched = inputs.remote(store, fetcher, remote, keep, "the context", progress)?;
            match fetched {
                Found::Folder(folder) => inputs.context = Some(folder),
                Found::File(path) => {
                    inputs.dockerfile = DockerfileSource::Bytes(read(&path)?);
                    inputs.context = None;
                }
            }
            if let (DockerfileSource::File(path), Some(folder)) = (&inputs.dockerfile, &inputs.context) {
                inputs.dockerfile = DockerfileSource::File(folder.join(path));
            }
        }
        for (name, files) in &options.contexts {
            let folder = match files {
                ContextFiles::Folder(folder) => folder.clone(),
                ContextFiles::Remote(remote) => {
                    match inputs.remote(store, fetcher, remote, false, &format!("the context `{name}`"), progress)? {
                        Found::Folder(folder) => folder,
                        // A file alone is a context that has nothing else.
                        Found::File(path) => path.parent().unwrap_or(&path).to_owned(),
                    }
                }
            };
            inputs.named.push((name.clone(), folder));
        }
        Ok(inputs)
    }

    fn remote(
        &mut self,
        store: &Store,
        fetcher: &Fetcher<'_>,
        remote: &Remote,
        keep_git_dir: bool,
        what: &str,
        progress: &Progress,
    ) -> Result<Found> {
        let remote = match remote {
            Remote::Git(git) => {
                Remote::Git(Git { keep_git_dir: git.keep_git_dir.or(Some(keep_git_dir)), ..git.clone() })
            }
            file => file.clone(),
        };
        let id = progress.start(&format!("[internal] fetch {what}"));
        let log = |text: &str| progress.log(id, Stream::Out, text.as_bytes());
        let mut found = || -> Result<Found> {
            let fetched = fetcher.get(&remote, None, &log)?;
            let path = fetched.real();
            if path.is_dir() {
                return Ok(Found::Folder(path));
            }
            if matches!(remote, Remote::Git(_)) {
                let path = path.display();
                return Err(Error::new(Kind::NotFound, format!("{what} is no folder of the repository: `{path}`")));
            }
            let dir = store.new_temp_dir()?;
            let folder = dir.path().join("context");
            let file = File::open(&path).at("open", &path)?;
            match read_context(store, file, &folder)? {
                Arrived::Dockerfile(_) => Ok(Found::File(path)),
                Arrived::Context => {
                    self._held.push(dir);
                    Ok(Found::Folder(folder))
                }
            }
        };
        let found = found();
        progress.end(id, &found.as_ref().map_or_else(|error| End::Failed(error.to_string()), |_| End::Done));
        found
    }

    /// The Dockerfile, and where it lies if it is a file.
    pub(super) fn dockerfile(&self) -> Result<(Dockerfile, Option<PathBuf>)> {
        let (bytes, name, path) = match &self.dockerfile {
            DockerfileSource::Bytes(bytes) => (bytes.clone(), "Dockerfile".to_owned(), None),
            DockerfileSource::File(path) => (read(path)?, path.display().to_string(), Some(path.clone())),
            DockerfileSource::Default => {
                let Some(context) = self.context.as_deref() else {
                    return Err(Error::new(Kind::Usage, "this build has neither a context nor a Dockerfile")
                        .hint("name a folder, such as `build .`, or a file with -f"));
                };
                if !context.is_dir() {
                    return Err(Error::new(
                        Kind::NotFound,
                        format!("the context `{}` is not a folder", context.display()),
                    )
                    .hint("name the folder that COPY takes files from, such as `build .`"));
                }
                let candidates = ["Dockerfile", "Containerfile"].map(|name| context.join(name));
                let found = candidates.iter().find(|path| path.is_file()).ok_or_else(|| {
                    Error::new(Kind::NotFound, format!("`{}` has no Dockerfile", context.display()))
                        .hint("name the file with -f if it is called otherwise")
                })?;
                let name = found.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                (read(found)?, name, Some(found.clone()))
            }
        };
        let parsed = dockerfile::parse(&bytes, &name).map_err(Error::from)?;
        Ok((parsed, path))
    }

    /// What stays out of the build's context; nothing where there is none.
    pub(super) fn ignored(&self, options: &BuildOptions, dockerfile: Option<&Path>) -> Result<Ignore> {
        match &self.context {
            Some(root) => ignore_file(root, options.ignore_file.as_deref(), dockerfile),
            None => Ok(Ignore::default()),
        }
    }

    /// The contexts, opened.
    pub(super) fn contexts(
        &self,
        store: &Store,
        options: &BuildOptions,
        dockerfile: Option<&Path>,
    ) -> Result<HashMap<Option<String>, Context>> {
        let mut contexts = HashMap::new();
        let open = |label: String, root: &Path, dockerfile: Option<&Path>| -> Result<Context> {
            let root = fs::canonicalize(root).at("open the context", root)?;
            if !root.is_dir() {
                return Err(Error::new(Kind::Usage, format!("the context `{}` is not a folder", root.display())));
            }
            let ignore = ignore_file(&root, options.ignore_file.as_deref(), dockerfile)?;
            Ok(Context::new(Tree::new(label, root, ignore), &store.cache_dir()))
        };
        if let Some(root) = &self.context {
            contexts.insert(None, open("the build context".to_owned(), root, dockerfile)?);
        }
        for (name, root) in &self.named {
            contexts.insert(Some(name.clone()), open(format!("the build context `{name}`"), root, None)?);
        }
        Ok(contexts)
    }
}

/// What a remote context is.
enum Found {
    Folder(PathBuf),
    File(PathBuf),
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path).at("open", path)?.len();
    if size > DOCKERFILE_MAX {
        return Err(Error::new(Kind::Limit, format!("`{}` has {size} bytes; no Dockerfile has", path.display())));
    }
    fs::read(path).at("read", path)
}

/// What stays out of a context: the file of the command line, else the one named after the Dockerfile, else the
/// context's own.
fn ignore_file(root: &Path, named: Option<&Path>, dockerfile: Option<&Path>) -> Result<Ignore> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let own = [".containerignore", ".dockerignore"].map(|name| root.join(name));
    let candidates = named.map(Path::to_owned).into_iter().chain(beside).chain(own);
    for path in candidates {
        match fs::read(&path) {
            Ok(bytes) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                return Ignore::parse(&bytes, &name).map_err(Error::from);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && Some(path.as_path()) != named => {}
            Err(error) => return Err(error).at("read", &path),
        }
    }
    Ok(Ignore::default())
}
