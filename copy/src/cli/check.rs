//! `copy check`: whether the store is what it says it is.

use layerfs::error::{Error, Kind, Result};
use layerfs::reference::Reference;
use layerfs::verify::{self, Finding, Options, Outcome, Report};
use serde_json::{Value, json};

use super::progress::{Reporter, note, size};
use super::{Global, print, print_json};

/// The arguments of `copy check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// Only what these images need [default: the whole store]
    names: Vec<String>,
    /// Make again what can be made, and remove damaged blobs so that a pull brings them again
    #[arg(long, short)]
    repair: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

impl CheckArguments {
    /// Looks, repairs where asked to, and fails while damage remains.
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (store, _) = global.open_store()?;
        let names = self.names.iter().map(|text| name(&store, text)).collect::<Result<_>>()?;
        let reporter = Reporter::new(global.quiet || self.json, None)?;
        let report = verify::check(&store, &Options { names, repair: self.repair }, &reporter)?;
        reporter.finish();
        if self.json {
            print_json(&document(&report))?;
        } else {
            print(&lines(&report))?;
            if !global.quiet {
                note(&summary(&report));
            }
        }
        if !report.is_damaged() {
            return Ok(());
        }
        let remaining = report.findings.iter().filter(|finding| !is_repaired(finding)).count();
        let error = Error::new(Kind::Corrupt, format!("the store has {remaining} damaged {}", objects(remaining)));
        Err(match self.repair {
            true => error,
            false => error.hint("`copy check --repair` makes again what can be made"),
        })
    }
}

/// A name whose file may be what is damaged, so that only its form can be asked for.
fn name(store: &layerfs::store::Store, text: &str) -> Result<Reference> {
    match store.find(text) {
        Ok(found) => found.name.map_or_else(|| text.parse::<Reference>().map(Reference::or_latest), Ok),
        Err(error) if error.kind() == Kind::NotFound => Err(error),
        Err(_) => Ok(text.parse::<Reference>()?.or_latest()),
    }
}

fn objects(count: usize) -> &'static str {
    if count == 1 { "object" } else { "objects" }
}

fn is_repaired(finding: &Finding) -> bool {
    matches!(finding.outcome, Outcome::Repaired(_))
}

/// One line per damaged object: what it is, what is wrong, who needs it, what was done.
fn lines(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{}: {}", finding.object, finding.problem));
        if !finding.needed_by.is_empty() {
            let names: Vec<&str> = finding.needed_by.iter().map(String::as_str).collect();
            text.push_str(&format!(" (needed by {})", names.join(", ")));
        }
        match &finding.outcome {
            Outcome::Found => {}
            Outcome::Repaired(how) => text.push_str(&format!(" -> repaired: {how}")),
            Outcome::Remains(why) => text.push_str(&format!(" -> not repaired: {why}")),
        }
        text.push('\n');
    }
    text
}

fn summary(report: &Report) -> String {
    let repaired = report.findings.iter().filter(|finding| is_repaired(finding)).count();
    let mut text = format!(
        "{} names, {} blobs ({}), {} unpacked layers: {} damaged, {repaired} repaired",
        report.names,
        report.blobs,
        size(report.bytes),
        report.layers,
        report.findings.len(),
    );
    for (count, why) in [
        (report.uncompared_layers, "for want of a sound blob"),
        (report.foreign_layers, "because they are unpacked under other id maps"),
    ] {
        if count > 0 {
            text.push_str(&format!(
                "\nnot compared {why}: {count} unpacked {}",
                if count == 1 { "layer" } else { "layers" }
            ));
        }
    }
    text
}

fn document(report: &Report) -> Value {
    let finding = |finding: &Finding| {
        let (outcome, detail) = match &finding.outcome {
            Outcome::Found => ("found", None),
            Outcome::Repaired(how) => ("repaired", Some(how)),
            Outcome::Remains(why) => ("remains", Some(why)),
        };
        json!({
            "kind": finding.object.kind(),
            "id": finding.object.id(),
            "problem": finding.problem,
            "needed_by": finding.needed_by,
            "outcome": outcome,
            "detail": detail,
        })
    };
    json!({
        "names": report.names,
        "blobs": report.blobs,
        "bytes": report.bytes,
        "layers": report.layers,
        "foreign_layers": report.foreign_layers,
        "uncompared_layers": report.uncompared_layers,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}
