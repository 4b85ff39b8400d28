//! A corpus of Dockerfiles over every instruction, flag and rule, and what each of them makes: settings, history and every
//! file that the base does not have, or the exit code and the message.
//!
//! The expectations in `corpus/cases` are what BuildKit makes too, but where a case says otherwise and why; with the
//! rivals installed that is tried again. `BLESS=1` writes anew what is expected, `CASE=name` is for one case.

mod case;
mod picture;
mod rivals;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::harness::{Actor, Report};
use case::Case;
use picture::{Layout, Picture};
use rivals::{BuildKit, Buildah, Rival};

/// No time is later, so that every run makes the same images.
const EPOCH: &str = "1000000000";
/// The images that cases start from.
const BASES: [&str; 4] = ["busybox", "base", "onbuild", "set"];

/// What a build made: the image, or how it failed.
struct Made {
    /// The image's digest, the same for everybody.
    id: Option<String>,
    picture: String,
}

/// A party whose store has the base images.
struct Builder {
    actor: Actor,
}

impl Builder {
    fn new(actor: Actor) -> Self {
        let builder = Self { actor: actor.with_busybox() };
        let context = Case::base().context(&builder.actor);
        for name in &BASES[1..] {
            let tag = format!("localhost/{name}");
            builder.build(&context, &["-t", &tag, "--target", name], false).expect_code(0);
        }
        builder
    }

    fn build<S: AsRef<str>>(&self, context: &Path, args: &[S], times: bool) -> Report {
        let call = self.actor.build(["--network", "none", "--progress", "quiet"]).args(args.iter().map(AsRef::as_ref));
        let call = if times { call } else { call.env("SOURCE_DATE_EPOCH", EPOCH) };
        call.arg(".").dir(context).output()
    }

    /// The base images.
    fn bases(&self) -> Vec<Picture> {
        let inspect = |name: &str| {
            let store = format!("store:localhost/{name}");
            self.actor.copy(["inspect", &store]).ok().json()["Digest"].as_str().expect("a digest").to_owned()
        };
        BASES.iter().map(|name| Picture::of(&Layout(&self.actor.store()), &inspect(name))).collect()
    }

    fn make(&self, case: &Case, bases: &[Picture]) -> Made {
        let context = case.context(&self.actor);
        let metadata = self.actor.path(&format!("contexts/{}.json", case.name));
        let mut args = vec!["--metadata-file".to_owned(), metadata.display().to_string()];
        args.extend(case.args.iter().cloned());
        let report = self.build(&context, &args, case.times);
        if report.code != 0 {
            let at = report.stderr.find("build: ").unwrap_or_else(|| panic!("{}: no message\n{report}", case.name));
            let message = report.stderr[at..].replace(&context.display().to_string(), "CONTEXT");
            let message = message.replace(&self.actor.store().display().to_string(), "STORE");
            return Made { id: None, picture: format!("exit {}\n{message}", report.code) };
        }
        let text = std::fs::read(&metadata).expect("the build wrote what it made");
        let made: Value = serde_json::from_slice(&text).expect("a document");
        let digest = made["containerimage.digest"].as_str().expect("a digest");
        let picture = Picture::of(&Layout(&self.actor.store()), digest).show(bases, case.times);
        Made { id: (!case.times).then(|| digest.to_owned()), picture }
    }
}

/// Goes through all cases with several threads; gives the complaints.
fn for_all(cases: &[Case], check: impl Fn(&Case) -> Result<(), String> + Sync) -> Vec<String> {
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() + 1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(complaint) = check(case) {
                        complaints.lock().expect("nobody panics").push(format!("== {}\n{complaint}", case.name));
                    }
                }
            });
        }
    });
    let mut complaints = complaints.into_inner().expect("nobody panics");
    complaints.sort();
    complaints
}

/// The lines that only one of them has.
fn difference(expected: &str, made: &str) -> String {
    let only = |sign: char, ours: &str, theirs: &str| -> String {
        let theirs: Vec<&str> = theirs.lines().collect();
        ours.lines().filter(|line| !theirs.contains(line)).map(|line| format!("{sign} {line}\n")).collect()
    };
    let lines = only('<', expected, made) + &only('>', made, expected);
    if lines.is_empty() { "the order of the lines".to_owned() } else { lines }
}

#[test]
fn every_dockerfile_makes_what_is_expected_for_root_and_for_everybody() {
    let bless = std::env::var_os("BLESS").is_some();
    let cases = Case::all();
    let ids: Vec<Mutex<Vec<String>>> = cases.iter().map(|_| Mutex::default()).collect();
    for actor in Actor::everyone() {
        let builder = Builder::new(actor);
        let bases = builder.bases();
        let complaints = for_all(&cases, |case| {
            let made = builder.make(case, &bases);
            if bless {
                case.bless(&made.picture);
            } else if made.picture != case.expected {
                return Err(difference(&case.expected, &made.picture));
            }
            let at = cases.iter().position(|other| other.name == case.name).expect("it is one of them");
            let mut ids = ids[at].lock().expect("nobody panics");
            ids.extend(made.id);
            match ids.iter().any(|id| *id != ids[0]) {
                true => Err("root and an ordinary user made different images".to_owned()),
                false => Ok(()),
            }
        });
        assert!(complaints.is_empty(), "as {}:\n{}", builder.actor.name(), complaints.join("\n"));
        builder.actor.assert_nothing_left();
    }
}

/// What of a picture is the same whoever made the image: not how a line of history is worded, nor that of ONBUILD, which
/// leaves none there.
fn comparable(picture: &str, history: bool) -> String {
    let line = |line: &str| match line.split_once(' ') {
        Some(("+" | "-", text)) if !history || text.starts_with("ONBUILD") => String::new(),
        Some((sign @ ("+" | "-"), text)) => format!("{sign} {}\n", text.split(' ').next().unwrap_or_default()),
        _ => format!("{line}\n"),
    };
    picture.lines().map(line).collect()
}

fn compare(rival: &dyn Rival, builder: &Builder, history: bool) {
    for name in BASES {
        let archive = builder.actor.path(&format!("{name}.tar"));
        let to = format!("docker-archive:{}:localhost/{name}:latest", archive.display());
        builder.actor.copy([&format!("store:localhost/{name}"), &to]).ok();
        rival.load(&archive);
    }
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| case.asks(rival.name())).collect();
    let bases = builder.bases();
    let complaints = for_all(&cases, |case| {
        let context = case.context(&builder.actor);
        match (rival.build(case, &context), case.fails()) {
            (Err(_), true) => Ok(()),
            (Err(message), false) => Err(format!("it fails there: {message}")),
            (Ok(_), true) => Err("it does not fail there".to_owned()),
            (Ok(made), false) => {
                let made = comparable(&made.show(&bases, case.times), history);
                let expected = comparable(&case.expected, history);
                if made == expected { Ok(()) } else { Err(difference(&expected, &made)) }
            }
        }
    });
    let (name, count) = (rival.name(), cases.len());
    assert!(
        complaints.is_empty(),
        "{name} differs in {} of {count} cases:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[test]
fn buildkit_makes_the_same() {
    let Some(actor) = Actor::root() else { return };
    let Some(buildkit) = BuildKit::start(actor.dir()) else { return };
    compare(&buildkit, &Builder::new(actor), true);
}

#[test]
fn buildah_makes_the_same_where_buildkit_cannot() {
    let Some(actor) = Actor::root() else { return };
    let Some(buildah) = Buildah::new(actor.dir()) else { return };
    compare(&buildah, &Builder::new(actor), false);
}
