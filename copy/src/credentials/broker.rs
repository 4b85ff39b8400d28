//! Credential helpers for a program that has become root of a user namespace.
//!
//! A helper may ask a key ring over D-Bus, which knows the user by the real id; inside the namespace the helper would
//! be somebody else. So a small process is started before the namespace is entered, stays outside and runs helpers
//! on request. It speaks lines of JSON on its standard streams and ends with the program that started it. It is only
//! started where a credential file names a helper at all.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use layerfs::error::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::{Credential, helper};

/// The verb of `copy` that is this process.
pub(crate) const VERB: &str = "credential-broker";

#[derive(Deserialize, Serialize)]
struct Question {
    helper: String,
    server: String,
}

#[derive(Deserialize, Serialize)]
enum Answer {
    Basic { username: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
    Missing,
    Failed(String),
}

/// The running process outside.
#[derive(Debug)]
pub(super) struct Broker {
    streams: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    _process: Child,
}

impl Broker {
    /// Starts the process: `program` is `copy`.
    pub(super) fn start(program: &Path) -> Result<Self> {
        let mut process = Command::new(program)
            .arg(VERB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .at("start", program)?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => {
                Ok(Self { streams: Mutex::new((input, BufReader::new(output))), _process: process })
            }
            _ => Err(Error::new(Kind::System, "the credential broker has no streams")),
        }
    }

    /// Has the process ask a helper.
    pub(super) fn get(&self, name: &str, server: &str) -> Result<Option<Credential>> {
        let lost = || format!("ask for credentials of `{server}` outside of the user namespace");
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let question = Question { helper: name.to_owned(), server: server.to_owned() };
        let mut line = serde_json::to_vec(&question).context(lost)?;
        line.push(b'\n');
        streams.0.write_all(&line).context(lost)?;
        let mut answer = String::new();
        streams.1.read_line(&mut answer).context(lost)?;
        // The answer is a secret: serde_json's words, which may quote it, stay out.
        let answer = serde_json::from_str(&answer).map_err(|_| Error::new(Kind::System, lost()))?;
        Ok(Some(match answer {
            Answer::Basic { username, password } => Credential::Basic { username, password },
            Answer::IdentityToken(token) => Credential::IdentityToken(token),
            Answer::RegistryToken(token) => Credential::RegistryToken(token),
            Answer::Missing => return Ok(None),
            Answer::Failed(why) => return Err(Error::new(Kind::Unauthorized, why)),
        }))
    }
}

/// What the process does: answers until its input ends.
pub(crate) fn serve(input: impl BufRead, mut output: impl Write) -> Result<()> {
    for line in input.lines() {
        let line = line.context(|| "read a question")?;
        let question: Question = serde_json::from_str(&line).context(|| "a question is malformed")?;
        let answer = match helper::get(&question.helper, &question.server) {
            Ok(Some(Credential::Basic { username, password })) => Answer::Basic { username, password },
            Ok(Some(Credential::IdentityToken(token))) => Answer::IdentityToken(token),
            Ok(Some(Credential::RegistryToken(token))) => Answer::RegistryToken(token),
            Ok(None) => Answer::Missing,
            Err(error) => Answer::Failed(error.chain()),
        };
        let mut line = serde_json::to_vec(&answer).context(|| "write an answer")?;
        line.push(b'\n');
        output.write_all(&line).and_then(|()| output.flush()).context(|| "write an answer")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_an_answer() {
        let question = "{\"helper\":\"layerfs-missing\",\"server\":\"r.io\"}\n";
        let mut output = Vec::new();
        serve(question.repeat(2).as_bytes(), &mut output).expect("served");
        let text = String::from_utf8(output).expect("text");
        let answers: Vec<Answer> = text.lines().map(|line| serde_json::from_str(line).expect("an answer")).collect();
        assert!(matches!(&answers[..], [Answer::Failed(_), Answer::Failed(_)]), "{text}");
    }
}
