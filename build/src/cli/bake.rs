//! `build bake`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Platform;

use super::{Command, Surroundings, values};
use crate::bake::{Asked, Definition, definition};

/// A bake as the command line says it.
#[derive(Debug)]
pub struct BakeCommand {
    /// The files that were named.
    pub files: Vec<String>,
    /// Where the files are, when they are not here.
    pub definition: Option<Definition>,
    /// What is asked of them.
    pub asked: Asked,
    /// Told in place of building.
    pub tell: Option<Tell>,
    /// Flags of every target's build.
    pub words: Vec<String>,
    /// `--call` wants all of its answers as one JSON document.
    pub json: bool,
    /// Receives what is known of every result, as JSON.
    pub metadata_file: Option<PathBuf>,
}

/// What is told in place of building.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// The targets, complete.
    Print,
    /// The names of targets; as JSON.
    Targets(bool),
    /// The variables; as JSON.
    Variables(bool),
}

/// Builds the targets of a bake file, all in one
#[derive(Debug, Parser)]
#[command(
    name = "build bake",
    max_term_width = 110,
    override_usage = "build bake [OPTIONS] [URL] [TARGET...]",
    after_help = "Without -f these are read, each over the ones before: compose.yaml, compose.yml, docker-compose.yml, \
                  docker-compose.yaml, docker-bake.json, docker-bake.hcl, docker-bake.override.json, \
                  docker-bake.override.hcl. URL is a git repository or archive that has them."
)]
struct Words {
    /// Targets, groups, or patterns of their names [default: default]
    targets: Vec<String>,
    /// A bake file: HCL, JSON or compose; `-` for standard input; cwd://FILE for one that is here
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// Set something of targets: TARGET.KEY=VALUE, TARGET.KEY+=VALUE, with patterns for TARGET
    #[arg(long, value_name = "TARGET.KEY=VALUE")]
    set: Vec<String>,
    /// Set a variable of the files
    #[arg(long, value_name = "NAME=VALUE")]
    var: Vec<String>,
    /// Print the targets, complete, as JSON, and build nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    print: Option<String>,
    /// List targets or variables; type=targets,format=json for programs
    #[arg(long, value_name = "WHAT")]
    list: Option<String>,
    #[arg(long, hide = true)]
    list_targets: bool,
    #[arg(long, hide = true)]
    list_variables: bool,
    /// Push images: *.push=true
    #[arg(long)]
    push: bool,
    /// Keep images in the store: *.load=true
    #[arg(long)]
    load: bool,
    /// Run every step, whatever was built before
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_cache: Option<String>,
    /// Always ask the registry for base images
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pull: Option<String>,
    /// Write what is known of the results to a file, as JSON by target
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How progress is shown: auto, plain, tty, quiet or rawjson
    #[arg(long, value_name = "STYLE")]
    progress: Option<String>,
    /// Tell of the Dockerfiles instead of building: check, outline or targets, with ,format=json
    #[arg(long, value_name = "WHAT")]
    call: Option<String>,
    /// The same as --call=check
    #[arg(long)]
    check: bool,
    /// What steps may do beyond the usual: network.host, security.insecure
    #[arg(long, value_name = "WHAT")]
    allow: Vec<String>,
    /// Most steps at the same time, of all targets together
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Attestations of what is in the images
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Attestations of how the images came about
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// How RUN steps are kept apart from the machine [default: auto]
    #[arg(long, value_name = "auto|namespaces|chroot")]
    isolation: Option<String>,
    /// Who unites layers [default: auto]
    #[arg(long, value_name = "auto|overlay|fuse")]
    mount_backend: Option<String>,
    /// Write a picture of what ran when to a file, as HTML
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// The credential file for registries
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// User and password for registries
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
    /// Whether registries have to prove who they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// The store's folder
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    #[arg(long, hide = true)]
    policy: Vec<String>,
}

/// Understands the words after `build bake`.
pub(super) fn parse(words: &[OsString], surroundings: &Surroundings<'_>) -> Result<Command> {
    let words = [OsString::from("build bake")].into_iter().chain(words.iter().cloned());
    let flags = match Words::try_parse_from(words) {
        Ok(flags) => flags,
        Err(error) if !error.use_stderr() => return Ok(Command::Print(error.to_string())),
        Err(error) => {
            let text = error.to_string();
            return Err(Error::new(Kind::Usage, text.trim_start_matches("error: ").trim_end().to_owned()));
        }
    };
    if !flags.policy.is_empty() {
        return Err(Error::new(Kind::Usage, "--policy is not built yet"));
    }
    let env = |name: &str| (surroundings.env)(name).and_then(|value| value.into_string().ok());
    let files = match (flags.file.is_empty(), env("BUILDX_BAKE_FILE")) {
        (true, Some(list)) => {
            let mark = env("BUILDX_BAKE_PATH_SEPARATOR").filter(|mark| !mark.is_empty()).unwrap_or(":".to_owned());
            list.split(&mark).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        _ => flags.file.clone(),
    };
    let mut targets = flags.targets.clone();
    let mut address = || -> Result<Option<Definition>> {
        let found = targets.first().map_or(Ok(None), |word| definition(word))?;
        if found.is_some() {
            targets.remove(0);
        }
        Ok(found)
    };
    // A second address is what the files know as the context of the command.
    let (definition, context) = (address()?, address()?);
    let builtins = BTreeMap::from([
        ("BAKE_CMD_CONTEXT".to_owned(), context.map_or("cwd://".to_owned(), |context| context.url)),
        ("BAKE_LOCAL_PLATFORM".to_owned(), Platform::host().to_string()),
    ]);
    let variables = flags.var.iter().map(|word| variable(word)).collect::<Result<_>>()?;
    let tell = tell(&flags)?;
    let json = flags.call.as_deref().is_some_and(|call| call.ends_with(",format=json"));
    Ok(Command::Bake(Box::new(BakeCommand {
        files,
        asked: Asked {
            targets,
            sets: sets(&flags)?,
            variables,
            builtins,
            base: definition.as_ref().map(|definition| definition.url.clone()),
            ..Asked::default()
        },
        definition,
        tell,
        words: common(&flags),
        json,
        metadata_file: flags.metadata_file,
    })))
}

fn variable(word: &str) -> Result<(String, String)> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::new(Kind::Usage, format!("--var `{word}` is not NAME=VALUE"))),
    }
}

fn tell(flags: &Words) -> Result<Option<Tell>> {
    let print = values::boolean("--print", flags.print.as_deref())?;
    let list = match (&flags.list, flags.list_targets, flags.list_variables) {
        (Some(list), ..) => Some(list.as_str()),
        (None, true, _) => Some("targets"),
        (None, false, true) => Some("variables"),
        (None, false, false) => None,
    };
    let Some(list) = list else { return Ok(print.then_some(Tell::Print)) };
    if print {
        return Err(Error::new(Kind::Usage, "--print and --list are one too many"));
    }
    let fields = values::fields("--list", list)?;
    let get = |key: &str| fields.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let what = get("type").unwrap_or(if fields.len() == 1 { fields[0].0.as_str() } else { "" });
    let json = match get("format") {
        None | Some("table" | "") => false,
        Some("json") => true,
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--list: the format `{other}` is not known"))
                .hint("there are table and json"));
        }
    };
    match what {
        "targets" => Ok(Some(Tell::Targets(json))),
        "variables" => Ok(Some(Tell::Variables(json))),
        other => {
            Err(Error::new(Kind::Usage, format!("--list {other} is not known")).hint("there are targets and variables"))
        }
    }
}

/// Flags that are short for `--set`.
fn sets(flags: &Words) -> Result<Vec<String>> {
    let mut sets = flags.set.clone();
    if flags.push {
        sets.push("*.push=true".to_owned());
    }
    if flags.load {
        sets.push("*.load=true".to_owned());
    }
    let call = flags.call.clone().or(flags.check.then(|| "check".to_owned()));
    if let Some(call) = call.filter(|call| call != "build") {
        sets.push(format!("*.call={call}"));
    }
    for (key, value) in [("no-cache", &flags.no_cache), ("pull", &flags.pull)] {
        if let Some(value) = value {
            sets.push(format!("*.{key}={}", values::boolean(&format!("--{key}"), Some(value))?));
        }
    }
    for (kind, value) in [("sbom", &flags.sbom), ("provenance", &flags.provenance)] {
        sets.extend(value.as_deref().map(|value| format!("*.attest={}", crate::bake::attestation(kind, value))));
    }
    Ok(sets)
}

/// What goes to every target's build as it is.
fn common(flags: &Words) -> Vec<String> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let named = [
        ("progress", flags.progress.clone()),
        ("jobs", flags.jobs.map(|jobs| jobs.to_string())),
        ("isolation", flags.isolation.clone()),
        ("mount-backend", flags.mount_backend.clone()),
        ("timeline", path(&flags.timeline)),
        ("authfile", path(&flags.authfile)),
        ("creds", flags.creds.clone()),
        ("tls-verify", flags.tls_verify.map(|verify| verify.to_string())),
        ("store", path(&flags.store)),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
    // Files may be read and written where the caller may: there is no daemon that could do more.
    let allowed = flags.allow.iter().filter(|what| !what.starts_with("fs") && !what.starts_with("buildx."));
    named.chain(allowed.map(|what| format!("--allow={what}"))).collect()
}
