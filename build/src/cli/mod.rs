//! The command line: words to [`BuildOptions`]. It accepts what `docker build` and `buildah build` accept; a flag that
//! is theirs and not built yet is an error that names it, never ignored.

mod bake;
mod cache;
mod cache_verbs;
mod flags;
mod output;
mod refused;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;
use layerfs::error::{Context, Error, Kind, Result};
use layerfs::oci::Platform;

use crate::dockerfile::ast::Network;
use crate::dockerfile::remote::Remote;
use crate::graph;
use crate::options::{
    Annotation, BuildOptions, Call, DockerfileSource, Form, Isolation, NoCache, Pull, Secret, default_jobs,
};
use crate::output::{Output, Packing, Push};
use crate::progress::Style;
pub use bake::{BakeCommand, Tell};
pub use cache_verbs::CacheCommand;
use flags::Flags;

/// What the command line depends on besides its words.
pub struct Surroundings<'a> {
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Columns of the terminal that messages go to; `None` where they go elsewhere.
    pub columns: Option<usize>,
    /// Reads a file, such as a secret's.
    pub read: &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Build.
    Build(Box<Invocation>),
    /// Build the targets of a file.
    Bake(Box<BakeCommand>),
    /// Tell of the cache, or let go of it.
    Cache(CacheCommand),
    /// Print this and end well.
    Print(String),
}

/// A build as the command line says it.
#[derive(Debug)]
pub struct Invocation {
    /// Everything but what has to be fetched first.
    pub options: BuildOptions,
    /// Where the context comes from.
    pub context: ContextArgument,
    /// The Dockerfile comes from standard input.
    pub dockerfile_from_stdin: bool,
    /// The store's folder, where one was named.
    pub store: Option<PathBuf>,
}

/// The argument `PATH | -`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextArgument {
    /// A folder.
    Folder(PathBuf),
    /// A git repository, or an address on the web: an archive of a context, or a Dockerfile alone.
    Remote(Remote),
    /// Standard input: an archive of a context, or a Dockerfile alone.
    Stdin,
}

/// Words that are verbs of this program. `bake`, `build` and `cache` are there; the others are held for what is to come.
const VERBS: [&str; 23] = [
    "add",
    "bake",
    "build",
    "cache",
    "commit",
    "config",
    "containers",
    "copy",
    "from",
    "images",
    "inspect",
    "mount",
    "pull",
    "push",
    "rename",
    "rm",
    "rmi",
    "run",
    "tag",
    "umount",
    "unmount",
    "unshare",
    "version",
];

/// Understands `words`, the program's name first.
///
/// # Errors
/// `Kind::Usage` for anything the flags do not allow, `Kind::NotFound` for a secret that is not there.
pub fn parse(words: &[OsString], surroundings: &Surroundings<'_>) -> Result<Command> {
    if words.get(1).is_some_and(|word| word == "cache") {
        return cache_verbs::parse(&words[2..]);
    }
    if words.get(1).is_some_and(|word| word == "bake") {
        return bake::parse(&words[2..], surroundings);
    }
    let words = without_verb(words)?;
    refused::check(&words)?;
    let flags = match Flags::try_parse_from(&words) {
        Ok(flags) => flags,
        Err(error) if !error.use_stderr() => return Ok(Command::Print(error.to_string())),
        Err(error) => {
            let text = error.to_string();
            return Err(Error::new(Kind::Usage, text.trim_start_matches("error: ").trim_end().to_owned()));
        }
    };
    convert(flags, surroundings).map(|invocation| Command::Build(Box::new(invocation)))
}

fn without_verb(words: &[OsString]) -> Result<Vec<OsString>> {
    let mut words = words.to_vec();
    match words.get(1).and_then(|word| word.to_str()) {
        Some("build" | "bud") => drop(words.remove(1)),
        Some(verb) if VERBS.contains(&verb) => {
            return Err(Error::new(Kind::Usage, format!("`build {verb}` is not built yet"))
                .hint(format!("to build the folder `{verb}`, say `build build {verb}`")));
        }
        _ => {}
    }
    Ok(words)
}

fn convert(flags: Flags, surroundings: &Surroundings<'_>) -> Result<Invocation> {
    let env = |name: &str| (surroundings.env)(name).and_then(|value| value.into_string().ok());
    let context = context(&flags)?;
    let platforms = values::platforms(&platform_words(&flags), env("DOCKER_DEFAULT_PLATFORM"))?;
    let platform = platforms[0].clone();
    let mut build_args = match values::boolean("--http-proxy", flags.http_proxy.as_deref().or(Some("true")))? {
        true => values::proxies(&env),
        false => Vec::new(),
    };
    for path in &flags.build_arg_file {
        let text = (surroundings.read)(path).at("read", path)?;
        for line in String::from_utf8_lossy(&text).lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                build_args.extend(values::variable(line, &env)?);
            }
        }
    }
    for word in &flags.build_arg {
        build_args.extend(values::variable(word, &env)?);
    }
    let epoch =
        match (&flags.source_date_epoch, values::last(&build_args, "SOURCE_DATE_EPOCH"), env("SOURCE_DATE_EPOCH")) {
            (Some(seconds), _, _) => Some(*seconds),
            (None, Some(text), _) => Some(crate::engine::parse_epoch(&text)?),
            (None, None, Some(text)) if !text.is_empty() => Some(crate::engine::parse_epoch(&text)?),
            _ => None,
        };
    let named = flags.build_context.iter().map(|word| values::build_context(word)).collect::<Result<Vec<_>>>()?;
    let graph = graph::Options {
        build_args,
        target: flags.target.clone().filter(|target| !target.is_empty()),
        platform: platform.clone(),
        build_platform: Platform::host(),
        contexts: named.iter().map(|(name, kind)| (name.clone(), kind.for_graph())).collect(),
        labels: flags.label.iter().map(|word| values::pair("label", word)).collect::<Result<_>>()?,
        network: network(flags.network.as_deref())?,
        hosts: flags.add_host.iter().map(|word| values::host(word)).collect::<Result<_>>()?,
        allow_insecure: values::allowed(&flags.allow)?,
        titled: false,
        called: String::new(),
        env: image_variables(&flags, &env)?,
        unset: flags.unsetenv.clone(),
    };
    let outputs = flags.output.iter().map(|word| output::parse(word)).collect::<Result<Vec<_>>>()?;
    let rewrite = flags.rewrite_timestamp.as_deref();
    let rewrite = rewrite.map(|text| values::boolean("--rewrite-timestamp", Some(text))).transpose()?;
    let rewrite_timestamp = outputs.iter().find_map(|(_, rewrite)| *rewrite).or(rewrite);
    let mut outputs: Vec<Output> = outputs.into_iter().map(|(output, _)| output).collect();
    if flags.push && !outputs.iter().any(|output| matches!(output, Output::Image { .. })) {
        outputs.push(Output::Image {
            names: Vec::new(),
            push: Push::Named,
            canonical: false,
            packing: Packing::default(),
        });
    }
    // An image that is named is wanted in the store, wherever else it goes.
    if flags.load || (!outputs.is_empty() && !flags.tag.is_empty() && !stays_out(&outputs)) {
        outputs.insert(0, Output::store());
    }
    let read = |path: &Path| (surroundings.read)(path);
    let secrets: Vec<Secret> =
        flags.secret.iter().map(|word| values::secret(word, &env, &read)).collect::<Result<_>>()?;
    let mut registry = copy::Options { authfile: flags.authfile.clone(), ..copy::Options::default() };
    registry.source.tls_verify = flags.tls_verify;
    registry.destination.tls_verify = flags.tls_verify;
    if let Some(text) = &flags.creds {
        let credential = copy::credentials::Credential::parse(text)?;
        registry.source.credential = Some(credential.clone());
        registry.destination.credential = Some(credential);
    }
    for side in [&mut registry.source, &mut registry.destination] {
        side.cert_dir.clone_from(&flags.cert_dir);
    }
    registry.retries = flags.retry.unwrap_or(registry.retries);
    registry.format = match flags.format.as_deref() {
        None | Some("oci") => None,
        Some("docker") => Some(copy::Format::Docker),
        Some(other) => {
            return Err(
                Error::new(Kind::Usage, format!("--format {other} is not known")).hint("there are oci and docker")
            );
        }
    };
    let (sbom, provenance) = values::attestations(&flags)?;
    if sbom || provenance.is_some() {
        let told = |output: &Output| match output {
            Output::Image { push, .. } => *push != Push::No,
            Output::Local { .. } => true,
            _ => false,
        };
        if !outputs.iter().any(told) {
            return Err(Error::new(Kind::Usage, "an SBOM or provenance refers to an image in a registry")
                .hint("add --push, or -o FOLDER to have it as a file"));
        }
    }
    let call = match (&flags.call, flags.check) {
        (Some(text), _) => values::call(text)?,
        (None, true) => Some(Call::Check(Form::Text)),
        (None, false) => None,
    };
    let (dockerfile, dockerfile_from_stdin) = dockerfile(&flags, &context)?;
    let options = BuildOptions {
        dockerfile,
        ignore_file: flags.ignorefile.clone(),
        graph,
        contexts: named.into_iter().filter_map(|(name, kind)| kind.files().map(|files| (name, files))).collect(),
        platforms,
        call,
        squash: values::boolean("--squash", flags.squash.as_deref())?,
        omit_history: values::boolean("--omit-history", flags.omit_history.as_deref())?,
        no_cache: no_cache(&flags),
        cache_from: flags.cache_from.iter().map(|word| cache::from(word)).collect::<Result<_>>()?,
        cache_to: flags.cache_to.iter().map(|word| cache::to(word)).collect::<Result<_>>()?,
        pull: pull(&flags)?,
        tags: flags.tag.iter().chain(&flags.manifest).map(|word| values::tag(word)).collect::<Result<_>>()?,
        annotations: annotations(&flags)?,
        outputs,
        push: false,
        secrets,
        agents: flags.ssh.iter().map(|word| values::agent(word, &env)).collect::<Result<_>>()?,
        jobs: flags.jobs.filter(|jobs| *jobs > 0).unwrap_or_else(default_jobs),
        iidfile: flags.iidfile.clone(),
        timeline: flags.timeline.clone(),
        metadata_file: flags.metadata_file.clone(),
        progress: style(&flags, surroundings)?,
        epoch,
        rewrite_timestamp,
        explain: flags.explain,
        verify: flags.verify,
        sbom,
        provenance,
        registry,
        steps: values::steps(&flags)?,
        isolation: isolation(flags.isolation.as_deref())?,
        backend: flags.mount_backend.as_deref().map(run::options::mount_backend).transpose()?.unwrap_or_default(),
        ..BuildOptions::new(PathBuf::new(), platform)
    };
    Ok(Invocation {
        options,
        context,
        dockerfile_from_stdin,
        store: flags.store.clone().or_else(|| (surroundings.env)("LAYERFS_STORE").map(PathBuf::from)),
    })
}

/// Whether the command line says where the image goes, and it is not the store.
fn stays_out(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Image { .. } | Output::CacheOnly))
        || outputs.iter().all(|output| !matches!(output, Output::Tar { .. } | Output::Local { .. }))
}

fn context(flags: &Flags) -> Result<ContextArgument> {
    match &flags.context {
        None => Ok(ContextArgument::Folder(PathBuf::from("."))),
        Some(path) if path.as_os_str() == "-" => Ok(ContextArgument::Stdin),
        Some(path) => {
            let remote = if path.exists() { None } else { values::remote(&path.to_string_lossy())? };
            Ok(remote.map_or_else(|| ContextArgument::Folder(path.clone()), ContextArgument::Remote))
        }
    }
}

/// A Dockerfile that is not where the command line says is looked for in the context, as buildah does.
fn dockerfile(flags: &Flags, context: &ContextArgument) -> Result<(DockerfileSource, bool)> {
    match &flags.file {
        None => Ok((DockerfileSource::Default, false)),
        Some(path) if path.as_os_str() == "-" => match context {
            ContextArgument::Stdin => {
                Err(Error::new(Kind::Usage, "standard input cannot be both the context and the Dockerfile"))
            }
            _ => Ok((DockerfileSource::Default, true)),
        },
        Some(path) => {
            let in_context = match context {
                ContextArgument::Folder(folder) => Some(folder.join(path)),
                _ => None,
            };
            let found = match in_context {
                Some(other) if !path.exists() && other.exists() => other,
                _ => path.clone(),
            };
            Ok((DockerfileSource::File(found), false))
        }
    }
}

/// `--platform`, or what older flags say of it.
fn platform_words(flags: &Flags) -> Vec<String> {
    if flags.os.is_none() && flags.arch.is_none() && flags.variant.is_none() {
        return flags.platform.clone();
    }
    let host = Platform::host();
    let os = flags.os.clone().unwrap_or(host.os);
    let arch = flags.arch.clone().unwrap_or(host.architecture);
    let variant = flags.variant.iter().map(|variant| format!("/{variant}")).collect::<String>();
    vec![format!("{os}/{arch}{variant}")]
}

/// `--env`: without a value, the caller's.
fn image_variables(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for word in &flags.env {
        match word.split_once('=') {
            Some(("", _)) | None if word.is_empty() || word.starts_with('=') => {
                return Err(
                    Error::new(Kind::Usage, format!("--env `{word}` has no name")).hint("the form is NAME=VALUE")
                );
            }
            Some((name, value)) => variables.push((name.to_owned(), value.to_owned())),
            None => variables.extend(env(word).map(|value| (word.clone(), value))),
        }
    }
    Ok(variables)
}

fn annotations(flags: &Flags) -> Result<Vec<Annotation>> {
    let lists = flags.annotation.iter().map(|word| values::annotation(word)).collect::<Result<Vec<_>>>()?;
    Ok(lists.into_iter().flatten().collect())
}

fn network(text: Option<&str>) -> Result<Network> {
    match text.unwrap_or("default") {
        "default" | "private" | "pasta" | "slirp4netns" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => Err(Error::new(Kind::Usage, format!("--network {other} is not built yet"))
            .hint("there are default, none and host")),
    }
}

/// Buildah's words and docker's are taken too.
fn isolation(text: Option<&str>) -> Result<Isolation> {
    match text.unwrap_or("auto") {
        "" | "auto" | "default" => Ok(Isolation::Auto),
        "namespaces" | "oci" | "rootless" => Ok(Isolation::Namespaces),
        "chroot" => Ok(Isolation::Chroot),
        other => Err(Error::new(Kind::Usage, format!("--isolation {other} is not known"))
            .hint("there are auto, namespaces and chroot")),
    }
}

fn no_cache(flags: &Flags) -> NoCache {
    match (flags.no_cache, flags.no_cache_filter.is_empty()) {
        (true, _) => NoCache::Everything,
        (false, false) => NoCache::Stages(flags.no_cache_filter.clone()),
        (false, true) => NoCache::Nothing,
    }
}

fn pull(flags: &Flags) -> Result<Pull> {
    match flags.pull.as_deref() {
        None | Some("false" | "missing" | "ifmissing") => Ok(Pull::Missing),
        Some("" | "true" | "always" | "newer" | "ifnewer") => Ok(Pull::Always),
        Some("never") => Ok(Pull::Never),
        Some(other) => Err(Error::new(Kind::Usage, format!("--pull={other} is not known"))
            .hint("there are always, missing, newer and never")),
    }
}

fn style(flags: &Flags, surroundings: &Surroundings<'_>) -> Result<Style> {
    let terminal = surroundings.columns;
    if flags.quiet {
        return Ok(Style::Quiet);
    }
    let chosen = flags.progress.clone();
    let chosen = chosen.or_else(|| (surroundings.env)("BUILDKIT_PROGRESS").and_then(|value| value.into_string().ok()));
    match (chosen.as_deref().unwrap_or("auto"), terminal) {
        ("auto", None) | ("plain", _) => Ok(Style::Plain),
        ("auto" | "tty", Some(columns)) => Ok(Style::Tty(columns)),
        ("tty", None) => Err(Error::new(Kind::Usage, "--progress=tty needs a terminal on standard error")),
        ("rawjson", _) => Ok(Style::RawJson),
        ("quiet" | "none", _) => Ok(Style::Quiet),
        (other, _) => Err(Error::new(Kind::Usage, format!("--progress={other} is not known"))
            .hint("there are auto, plain, tty, quiet and rawjson")),
    }
}

/// The name this program was started under, for messages: `build` unless a link says otherwise.
pub fn program_name(word: Option<&OsStr>) -> String {
    let name = word.map(|word| Path::new(word).file_name().unwrap_or_default().to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty() && name != "layerfs-build").unwrap_or_else(|| "build".to_owned())
}

#[cfg(test)]
mod tests;
