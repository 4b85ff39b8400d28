//! What is wrong with a command line, in the words that all other errors have.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use layerfs::error::{Error, Kind};

use super::known;

/// One sentence and a hint.
pub(super) fn explain(error: &clap::Error) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg);
    if let (ErrorKind::UnknownArgument, Some(flag)) = (error.kind(), flag)
        && known::is_flag_elsewhere(flag)
    {
        let message = format!("flag `{flag}` of podman and docker is not supported by `run` yet");
        return Error::new(Kind::Usage, message).hint("`run --help` lists the flags there are");
    }
    // A value that one of our own parsers refused.
    if let (Some(own), Some(flag)) = (error.source().and_then(|source| source.downcast_ref::<Error>()), flag) {
        let name = flag.split([' ', '=']).next().unwrap_or(flag);
        let message = format!("`{name} {}`: {}", text(ContextKind::InvalidValue).unwrap_or_default(), own.chain());
        let told = Error::new(Kind::Usage, message);
        return match own.advice() {
            Some(hint) => told.hint(hint),
            None => told,
        };
    }
    let whole = error.to_string();
    let lines = whole.lines().map(str::trim).filter(|line| !line.is_empty());
    let own = |line: &&str| !["Usage:", "tip:", "For more information"].iter().any(|start| line.starts_with(start));
    let sentence: Vec<&str> = lines.take_while(own).collect();
    let sentence = sentence.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    let mut chars = sentence.chars();
    let lower = chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect());
    let told = Error::new(Kind::Usage, lower.trim_end_matches('.').to_owned());
    match text(ContextKind::SuggestedArg) {
        Some(similar) => told.hint(format!("did you mean `{similar}`?")),
        None => told.hint("`run VERB --help` lists the flags; those of `run` come before the image"),
    }
}

/// What is said of a verb that only podman and docker have.
pub(super) fn held(verb: &str) -> Error {
    let message = format!("verb `{verb}` of podman and docker is not one of `run`");
    let hint = match known::where_it_is(verb) {
        Some(line) => format!("say `{line}`"),
        None => format!("`run --help` lists the verbs; an image of that name is started by `run run {verb}`"),
    };
    Error::new(Kind::Usage, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    #[command(name = "run")]
    struct Arguments {
        #[arg(long, value_parser = crate::options::memory)]
        memory: Option<u64>,
        #[arg(value_name = "IMAGE", required = true)]
        words: Vec<String>,
    }

    fn check(words: &[&str], sentence: &str, hint: &str) {
        let all = std::iter::once(&"run").chain(words);
        let error = explain(&Arguments::try_parse_from(all).expect_err("it is wrong"));
        assert_eq!((error.to_string().as_str(), error.advice()), (sentence, Some(hint)), "{words:?}");
    }

    #[test]
    fn refusals_name_the_flag_the_value_and_the_way_out() {
        let all = "`run VERB --help` lists the flags; those of `run` come before the image";
        check(
            &["--memory", "4k", "x"],
            "`--memory 4k`: less memory than any container can start in",
            "use 512k or more",
        );
        check(
            &["--pod", "x"],
            "flag `--pod` of podman and docker is not supported by `run` yet",
            "`run --help` lists the flags there are",
        );
        check(&["--zzz", "x"], "unexpected argument '--zzz' found", all);
        check(&["--memry", "x"], "unexpected argument '--memry' found", "did you mean `--memory`?");
        check(&[], "the following required arguments were not provided: <IMAGE>", all);
    }

    #[test]
    fn verbs_that_others_have_are_named_with_the_way_to_go() {
        for (verb, hint) in [
            ("pull", "say `copy pull`"),
            ("build", "say `build`"),
            ("attach", "`run --help` lists the verbs; an image of that name is started by `run run attach`"),
        ] {
            let error = held(verb);
            assert_eq!(error.to_string(), format!("verb `{verb}` of podman and docker is not one of `run`"));
            assert_eq!(error.advice(), Some(hint));
        }
    }
}
