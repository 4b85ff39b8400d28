//! `build cache du` and `build cache prune`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use layerfs::error::{Error, Kind, Result};

use super::Command;

/// What is to be done with the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheCommand {
    /// The store's folder, where one was named.
    pub store: Option<PathBuf>,
    /// Let go of it, rather than tell of it.
    pub prune: bool,
    /// Of what was written longer ago than this only.
    pub age: Option<Duration>,
}

/// The build cache of this machine
#[derive(Debug, Parser)]
#[command(name = "build cache")]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell what it holds, the largest first
    Du {
        /// The store's folder
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Let go of it
    Prune {
        /// Only of what was written longer ago, such as 24h or 7d
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Docker's form of the same: until=TIME
        #[arg(long, value_name = "FILTER")]
        filter: Vec<String>,
        /// Accepted: nothing is asked here
        #[arg(short, long)]
        force: bool,
        /// Accepted: all is meant where no time is given
        #[arg(short, long)]
        all: bool,
        /// The store's folder
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
}

/// Understands the words after `build cache`.
pub(super) fn parse(words: &[OsString]) -> Result<Command> {
    let words = std::iter::once(OsString::from("build cache")).chain(words.iter().cloned());
    let verb = match Words::try_parse_from(words) {
        Ok(words) => words.verb,
        Err(error) if !error.use_stderr() => return Ok(Command::Print(error.to_string())),
        Err(error) => {
            let text = error.to_string();
            return Err(Error::new(Kind::Usage, text.trim_start_matches("error: ").trim_end().to_owned()));
        }
    };
    Ok(Command::Cache(match verb {
        Verb::Du { store } => CacheCommand { store, prune: false, age: None },
        Verb::Prune { until, filter, store, .. } => {
            let mut age = until.as_deref().map(duration).transpose()?;
            for text in &filter {
                let time = text.strip_prefix("until=").ok_or_else(|| {
                    Error::new(Kind::Usage, format!("--filter {text} is not known")).hint("there is until=TIME")
                })?;
                age = Some(duration(time)?);
            }
            CacheCommand { store, prune: true, age }
        }
    }))
}

/// `90s`, `30m`, `24h`, `7d`.
fn duration(text: &str) -> Result<Duration> {
    let invalid = || Error::new(Kind::Usage, format!("`{text}` is not a time")).hint("such as 30m, 24h or 7d");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(invalid()),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_times() {
        let parse = |text: &str| match parse(&text.split(' ').map(OsString::from).collect::<Vec<_>>()) {
            Ok(Command::Cache(command)) => Ok((command.prune, command.age.map(|age| age.as_secs()))),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(parse("du"), Ok((false, None)));
        assert_eq!(parse("prune -f -a"), Ok((true, None)));
        assert_eq!(parse("prune --until 7d"), Ok((true, Some(604_800))));
        assert_eq!(parse("prune --filter until=30m"), Ok((true, Some(1800))));
        assert_eq!(parse("prune --until soon"), Err("`soon` is not a time".to_owned()));
    }
}
