//! Input of any kind: no panic, and no disagreement with other parsers on what they accept.

use build::dockerfile::ast::{Command, Dockerfile};
use build::dockerfile::expand::Lexer;
use build::dockerfile::mount::Mount;
use build::dockerfile::{dump, parse};
use build::ignore::Ignore;

/// Dockerfiles in the style of many: each feature at least once, and nothing that a build would refuse.
const FILES: &[&str] = &[
    "FROM scratch\n",
    "# syntax=docker/dockerfile:1\nFROM debian:12 AS base\nRUN apt-get update \\\n && apt-get install -y \\\n    curl \\\n    git\n",
    "ARG TAG=1\nFROM alpine:${TAG}\nENV A=1 B=\"two words\" C='x'\nLABEL a=b \"c d\"=e\nEXPOSE 80 443/tcp\nUSER app\n",
    "FROM a AS b\nCOPY . /src\nFROM c\nCOPY --from=b /src /dst\nADD x.tar.gz /\nVOLUME /data\nWORKDIR /w\n",
    "FROM a\nCMD [\"a\", \"b\"]\nENTRYPOINT [\"c\"]\nSHELL [\"/bin/bash\", \"-c\"]\nSTOPSIGNAL SIGTERM\n",
    "FROM a\nHEALTHCHECK --interval=5s CMD curl -f x\nHEALTHCHECK NONE\nONBUILD RUN make\nMAINTAINER me\n",
    "FROM a\nRUN <<EOF\necho a\necho b\nEOF\nCOPY <<X <<Y /d\n1\nX\n2\nY\nRUN cat <<-'Z'\n\tq\n\tZ\n",
    "FROM a\nRUN --mount=type=cache,target=/c --network=none --security=sandbox make\nUSER b:c\n",
    "# escape=`\nFROM a\nRUN dir `\n  C:\\x\nCOPY a `\n b\n",
    "FROM a\nRUN a \\\n# comment\n\n && b\nENV legacy a b c\nCMD echo $HOME && exec x\n",
    "FROM a\r\nRUN a \\\r\n  b\r\nCMD x\r\n",
    "FROM --platform=$BUILDPLATFORM a AS x\nARG A B=2\nCOPY --link --chmod=0755 --chown=1:2 a b c/\nADD --checksum=sha256:0 http://x/y /z\n",
    "FROM a\nCOPY [\"a b\", \"/c d\"]\nVOLUME [\"/x\", \"/y\"]\nENV X=${Y:-a}${Z%.*}${W//a/b}\n",
];

/// Instructions, `FROM` and global `ARG` included.
fn count(file: &Dockerfile) -> usize {
    file.global_args.len() + file.stages.iter().map(|stage| stage.instructions.len() + 1).sum::<usize>()
}

/// The oracles' known faults (no heredocs, no escape directive, no flags without a value in the first; a bare
/// heredoc marker behind other words in the second) make them refuse a file, or misread it: such files are named here.
#[test]
fn other_parsers_agree() {
    let (mut first, mut second) = (0, 0);
    for text in FILES {
        let ours = parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{text}\n{error}"));
        let odd = text.starts_with("# escape") || text.contains("<<") || text.contains("--link");
        if let Ok(theirs) = dockerfile_parser::Dockerfile::parse(text)
            && !odd
        {
            assert_eq!(theirs.instructions.len(), count(&ours), "{text}");
            first += 1;
        }
        if let Ok(theirs) = parse_dockerfile::parse(text) {
            assert_eq!(theirs.instructions.len(), count(&ours), "{text}");
            second += 1;
        }
    }
    assert!(first >= 6 && second >= 10, "the oracles took {first} and {second} files");
}

/// A small generator of numbers (xorshift): the same sequence in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % limit.max(1)
    }
}

/// Pieces that mean something somewhere.
const PIECES: &[&str] = &[
    "\n",
    "\\\n",
    "`\n",
    "\r\n",
    "#",
    "# escape=`\n",
    "<<",
    "<<-",
    "<<EOF",
    "EOF\n",
    "\"",
    "'",
    "\\",
    "`",
    "$",
    "${",
    "}",
    ":-",
    "/",
    "//",
    "%",
    "##",
    "[",
    "]",
    "[\"",
    "\",\"",
    "=",
    ",",
    "--",
    "--mount=",
    "type=",
    "ONBUILD ",
    "HEALTHCHECK ",
    "CMD ",
    "FROM ",
    "RUN ",
    "COPY ",
    "ENV ",
    "ARG ",
    "é",
    "\u{a0}",
    "\u{2028}",
    "\t",
    " ",
    "\0",
    "!",
    "**",
    "*",
    "?",
    "^",
    "-",
    ".",
    "..",
];

fn mutate(text: &str, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] = numbers.below(256) as u8,
            3 => {
                let end = at + numbers.below(bytes.len() - at + 1);
                let copy = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ => {
                let piece = PIECES[numbers.below(PIECES.len())];
                bytes.splice(at..at, piece.bytes());
            }
        }
    }
    bytes
}

/// Every word of a tree that is expanded later.
fn expand_all(file: &Dockerfile) {
    let env = |name: &str| name.len().is_multiple_of(2).then(|| format!("<{name}> *?"));
    let lexer = Lexer::new(file.directives.escape);
    let word = |text: &str| {
        let _ = lexer.word_with_names(text, &env);
        let _ = lexer.words(text, &env);
        let _ = Lexer::heredoc().word(text, &env);
    };
    for stage in &file.stages {
        word(&stage.from.image.text);
        for instruction in &stage.instructions {
            word(&instruction.original);
            if let Command::Run(run) = &instruction.command {
                let _ = run.script();
                for mount in &run.mounts {
                    let _ = Mount::parse(&mount.text, &mut |text| lexer.word(text, &env));
                    let _ = Mount::from_of(&mount.text);
                }
            }
        }
    }
}

#[test]
fn nothing_panics() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for round in 0..30_000 {
        let text = mutate(FILES[round % FILES.len()], &mut numbers);
        let _ = dump(&text, "Dockerfile");
        match parse(&text, "Dockerfile") {
            Ok(file) => {
                accepted += 1;
                expand_all(&file);
                // Every span lies in the file, and the tree's instructions follow one another.
                let mut at = 0;
                for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                    assert!(instruction.span.start <= instruction.span.end && instruction.span.end <= text.len());
                    assert!(instruction.keyword.span.start >= instruction.span.start, "{instruction:?}");
                    assert!(instruction.span.start >= at);
                    at = instruction.span.end;
                }
            }
            Err(error) => {
                assert!(error.position().line <= text.split(|byte| *byte == b'\n').count());
                assert!(!error.to_string().contains('\u{1b}'));
            }
        }
        if let Ok(ignore) = Ignore::parse(&text, ".dockerignore") {
            for path in ["a", "a/b", "EOF", "x y/z"] {
                let ignored = ignore.matches(path);
                assert!(ignored || ignore.reason(path).is_none());
                ignore.may_contain_reincluded(path);
            }
        }
    }
    assert!(accepted > 3_000, "only {accepted} mutations still parse: the property is hardly tried");
}
