//! From files and a command line to the targets that are to be built.

use std::collections::BTreeMap;

use layerfs::error::{Error, Kind, Result};
use serde_json::{Map, Value as Json};

use super::entries;
use super::files::{BakeFile, Form};
use super::module::{Listed, Module};
use super::resolve::{Definitions, Resolved};
use super::target::Target;
use super::{compose, interpolate, json, syntax};

/// What the command line asks of the files.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Targets, groups and patterns; `default` where there is none.
    pub targets: Vec<String>,
    /// `--set`.
    pub sets: Vec<String>,
    /// `--var`.
    pub variables: BTreeMap<String, String>,
    /// Variables that files can use and not change.
    pub builtins: BTreeMap<String, String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The text of a `.env` file, for compose files.
    pub dotenv: String,
    /// Where the files are, when they are not here: contexts are there too.
    pub base: Option<String>,
}

/// What the files define, and what of it is to be built.
#[derive(Debug)]
pub struct Plan {
    definitions: Definitions,
    variables: Vec<Listed>,
    pub(super) resolved: Resolved,
}

impl Plan {
    /// Understands the files.
    ///
    /// # Errors
    /// A file is wrong (told with its place), or what is asked for is not in them.
    pub fn read(files: &[BakeFile], asked: &Asked) -> Result<Self> {
        let (definitions, variables) = define(files, asked)?;
        let default = ["default".to_owned()];
        let names = if asked.targets.is_empty() { &default[..] } else { &asked.targets };
        let env = |name: &str| asked.environment.get(name).cloned();
        let mut resolved = definitions.resolve(names, &asked.sets, &env)?;
        for target in resolved.targets.values_mut() {
            place(target, asked.base.as_deref())?;
            // As with a build alone, unless the target says otherwise.
            if let Some(epoch) = env("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
                target.args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
            }
        }
        Ok(Self { definitions, variables, resolved })
    }

    /// All that the files define, where nothing is to be built of it.
    ///
    /// # Errors
    /// A file is wrong.
    pub fn read_definitions(files: &[BakeFile], asked: &Asked) -> Result<Self> {
        let (definitions, variables) = define(files, asked)?;
        Ok(Self { definitions, variables, resolved: Resolved::default() })
    }

    /// `--print`.
    pub fn print(&self) -> String {
        self.resolved.print()
    }

    /// `--list=targets`.
    pub fn list_targets(&self, as_json: bool) -> String {
        let of_groups = self.definitions.groups.iter().map(|group| {
            let mut names = group.targets.clone();
            names.sort();
            let names = names.join(", ");
            let description = match group.description.as_str() {
                "" => names,
                text => format!("{text} ({names})"),
            };
            (group.name.clone(), description, true)
        });
        let of_targets =
            self.definitions.targets.iter().map(|target| (target.name.clone(), target.description.clone(), false));
        // A name with a line before it is nobody else's business.
        let mut all: Vec<(String, String, bool)> =
            of_targets.chain(of_groups).filter(|(name, ..)| !name.starts_with('_')).collect();
        all.sort();
        if as_json {
            let list: Vec<Json> = all.iter().map(|(name, text, group)| listed_target(name, text, *group)).collect();
            return format!("{:#}\n", Json::Array(list));
        }
        let rows: Vec<[&str; 2]> = all.iter().map(|(name, text, _)| [name.as_str(), text.as_str()]).collect();
        table(["TARGET", "DESCRIPTION"], &rows)
    }

    /// `--list=variables`.
    pub fn list_variables(&self, as_json: bool) -> String {
        if as_json {
            let list: Vec<Json> = self.variables.iter().map(listed_variable).collect();
            return format!("{:#}\n", Json::Array(list));
        }
        let row = |one: &'_ Listed| {
            let value = one.value.clone().unwrap_or_else(|| "<null>".to_owned());
            [one.name.clone(), one.kind.clone(), value, one.description.clone()]
        };
        let rows: Vec<[String; 4]> = self.variables.iter().map(row).collect();
        table(["VARIABLE", "TYPE", "VALUE", "DESCRIPTION"].map(str::to_owned), &rows)
    }
}

fn listed_target(name: &str, description: &str, group: bool) -> Json {
    let mut out = Map::from_iter([("name".to_owned(), Json::from(name))]);
    if !description.is_empty() {
        out.insert("description".to_owned(), description.into());
    }
    if group {
        out.insert("group".to_owned(), true.into());
    }
    Json::Object(out)
}

fn listed_variable(one: &Listed) -> Json {
    let mut out = Map::from_iter([("name".to_owned(), Json::from(one.name.as_str()))]);
    for (key, text) in
        [("description", Some(&one.description)), ("type", Some(&one.kind)), ("value", one.value.as_ref())]
    {
        if let Some(text) = text.filter(|text| key == "value" || !text.is_empty()) {
            out.insert(key.to_owned(), text.as_str().into());
        }
    }
    Json::Object(out)
}

/// Columns as wide as what is in them.
fn table<const N: usize, T: AsRef<str>>(head: [T; N], rows: &[[T; N]]) -> String {
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].as_ref().chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[T; N]| {
        let cell = |(text, width): (&T, &usize)| format!("{:width$}   ", text.as_ref());
        format!("{}\n", row.iter().zip(&widths).map(cell).collect::<String>().trim_end())
    };
    all().map(line).collect()
}

/// All definitions of the files: compose files first, as buildx has it.
fn define(files: &[BakeFile], asked: &Asked) -> Result<(Definitions, Vec<Listed>)> {
    if files.is_empty() {
        return Err(Error::new(Kind::NotFound, "there is no bake file here")
            .hint(format!("one of {} is looked for, or what -f names", super::default_names().join(", "))));
    }
    let mut environment = interpolate::dotenv(&asked.dotenv);
    environment.extend(asked.environment.clone());
    environment.extend(asked.variables.clone());
    let mut parsed: Vec<syntax::File> = Vec::new();
    let mut merged: Option<(String, Map<String, Json>)> = None;
    for file in files {
        match file.form() {
            Form::Hcl => parsed.push(syntax::parse(&file.text, &file.name)?),
            Form::Json => parsed.push(json::parse(&file.text, &file.name)?),
            Form::Compose => {
                let document = compose::document(&file.text, &file.name, &environment)?;
                match &mut merged {
                    Some((_, base)) => compose::merge(base, document),
                    None => merged = Some((file.name.clone(), document)),
                }
            }
        }
    }
    let mut definitions = Definitions::default();
    if let Some((name, document)) = merged {
        let (groups, targets) = compose::targets(&document, &name, &environment)?;
        definitions.add(groups, targets);
    }
    let lookup = |name: &str| {
        let closed = asked.environment.get("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP");
        let open = closed.is_none_or(|closed| matches!(closed.as_str(), "" | "0" | "false"));
        let outside = || asked.environment.get(name).filter(|_| open);
        asked.variables.get(name).or_else(outside).cloned()
    };
    let module = Module::new(&parsed, &asked.builtins, &lookup);
    let variables = module.variables()?;
    let (groups, targets) = module.blocks()?;
    for group in groups {
        match definitions.groups.iter_mut().find(|known| known.name == group.name) {
            // A group of the files after is that group, and not more of it.
            Some(known) => *known = group,
            None => definitions.groups.push(group),
        }
    }
    definitions.add(Vec::new(), targets);
    Ok((definitions, variables))
}

/// Where the context and the Dockerfile are: of files from elsewhere, there too, but for `cwd://`.
fn place(target: &mut Target, base: Option<&str>) -> Result<()> {
    for what in [&target.context, &target.dockerfile] {
        if what.as_deref() == Some("-") {
            return Err(Error::new(Kind::Usage, format!("target `{}` cannot read standard input", target.name))
                .hint("name a folder, or give the Dockerfile with dockerfile-inline"));
        }
    }
    let elsewhere = |place: &str| -> Result<String> {
        if let Some(here) = place.strip_prefix("cwd://") {
            return Ok(clean(here));
        }
        if place.contains("://") || place.starts_with("target:") || place.starts_with("git@") {
            return Ok(place.to_owned());
        }
        match (base, clean(place).as_str()) {
            (Some(base), ".") => Ok(base.to_owned()),
            (Some(base), folder) => below(base, folder),
            (None, path) => Ok(path.to_owned()),
        }
    };
    if let Some(context) = &target.context {
        target.context = Some(elsewhere(context)?);
    }
    for place in target.contexts.values_mut().filter(|place| base.is_some() || place.starts_with("cwd://")) {
        *place = elsewhere(place)?;
    }
    Ok(())
}

/// A folder of a git repository.
fn below(url: &str, folder: &str) -> Result<String> {
    let (repository, rest) = url.split_once('#').unwrap_or((url, ""));
    if !repository.trim_end_matches('/').ends_with(".git") && !repository.starts_with("git") {
        return Err(Error::new(
            Kind::Unsupported,
            format!("`{folder}` is a folder of `{url}`, which is no repository"),
        ));
    }
    let (reference, subdir) = rest.split_once(':').unwrap_or((rest, ""));
    let folder = clean(&format!("{subdir}/{folder}"));
    Ok(format!("{repository}#{reference}:{}", folder.trim_start_matches('/')))
}

/// A path without what leads nowhere.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if path.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    match (path.starts_with('/'), parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

impl Target {
    /// The command line of a build of this target alone, without the program's name; what no flag can say is not in it.
    ///
    /// # Errors
    /// The target asks for something that is not built yet.
    pub(super) fn command_line(&self) -> Result<Vec<String>> {
        let mut words = vec!["build".to_owned()];
        let mut flag = |name: &str, value: &str| words.push(format!("--{name}={value}"));
        let context = self.context.as_deref().unwrap_or(".");
        let dockerfile = self.dockerfile.as_deref().unwrap_or("Dockerfile");
        let remote = context.contains("://") || context.starts_with("git@");
        if self.dockerfile_inline.is_none() {
            let path = match dockerfile.strip_prefix("cwd://") {
                Some(here) => clean(here),
                None if remote || dockerfile.starts_with('/') => dockerfile.to_owned(),
                None => clean(&format!("{context}/{dockerfile}")),
            };
            flag("file", &path);
        }
        self.args.iter().for_each(|(name, value)| flag("build-arg", &format!("{name}={value}")));
        self.labels.iter().for_each(|(name, value)| flag("label", &format!("{name}={value}")));
        self.tags.iter().flatten().filter(|tag| !tag.is_empty()).for_each(|tag| flag("tag", tag));
        self.annotations.iter().for_each(|text| flag("annotation", text));
        self.cache_from.iter().for_each(|entry| flag("cache-from", &entries::flag(entry)));
        self.cache_to.iter().flatten().for_each(|entry| flag("cache-to", &entries::flag(entry)));
        self.target.iter().for_each(|stage| flag("target", stage));
        self.platforms.iter().flatten().for_each(|platform| flag("platform", platform));
        self.no_cache_filter.iter().for_each(|stage| flag("no-cache-filter", stage));
        self.network.iter().for_each(|network| flag("network", network));
        self.shm_size.iter().for_each(|size| flag("shm-size", size));
        self.ulimits.iter().for_each(|limit| flag("ulimit", limit));
        self.extra_hosts.iter().for_each(|(name, address)| flag("add-host", &format!("{name}={address}")));
        self.entitlements.iter().filter(|one| one.contains('.')).for_each(|one| flag("allow", one));
        self.call.iter().for_each(|call| flag("call", call));
        for (name, value) in &self.resources {
            flag(&name.replace('_', "-"), value);
        }
        for entry in &self.attest {
            let disabled = entry.get("disabled").is_some_and(|value| matches!(value.as_str(), "true" | "1" | "t"));
            let kind = entry.get("type").map_or("attest", String::as_str);
            flag(kind, if disabled { "false" } else { "true" });
        }
        for entry in self.outputs.iter().flatten() {
            match (entry.get("type").map(String::as_str), entry.contains_key("dest")) {
                // Docker's own store is ours.
                (Some("docker"), false) => words.push("--load".to_owned()),
                _ => words.push(format!("--output={}", entries::flag(entry))),
            }
        }
        for secret in &self.secrets {
            let fields = [("id", &secret.id), ("src", &secret.src), ("env", &secret.env)];
            let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
            let said = said.map(|(key, value)| (key.to_owned(), value.clone())).collect();
            words.push(format!("--secret={}", entries::flag(&said)));
        }
        for agent in &self.ssh {
            let paths = agent.paths.join(",");
            let equals = if paths.is_empty() { "" } else { "=" };
            words.push(format!("--ssh={}{equals}{paths}", agent.id));
        }
        if self.no_cache == Some(true) {
            words.push("--no-cache".to_owned());
        }
        if self.pull == Some(true) {
            words.push("--pull".to_owned());
        }
        for (name, place) in self.contexts.iter().filter(|(_, place)| !place.starts_with("target:")) {
            words.push(format!("--build-context={name}={}", place.trim_start_matches("cwd://")));
        }
        words.extend(["--".to_owned(), context.to_owned()]);
        Ok(words)
    }

    /// The targets whose images are contexts of this one: name of the context, name of the target.
    pub(super) fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        self.contexts.iter().filter_map(|(name, place)| Some((name.as_str(), place.strip_prefix("target:")?)))
    }
}
