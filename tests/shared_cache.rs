//! `--cache-to` and `--cache-from`: what one machine built, another does not build again.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Actor, Registry};

const DOCKERFILE: &str = "FROM localhost/busybox AS tools\nRUN echo tool >/tool\nFROM localhost/busybox\nCOPY src /src\n\
                          RUN --network=none cat /src/a >/made\nRUN true\nCOPY --from=tools /tool /tools/\n";

/// Another machine with the same context.
fn machine(like: &Actor) -> Actor {
    let actor = like.elsewhere().with_busybox();
    write(&actor);
    actor
}

fn write(actor: &Actor) {
    actor.write("ctx/Dockerfile", DOCKERFILE);
    actor.write("ctx/src/a", "content\n");
}

/// Builds; gives the titles of steps that were not found in a cache, and the layers.
fn build(actor: &Actor, args: &[&str]) -> (Vec<String>, Vec<String>, String) {
    let metadata = actor.path("metadata.json");
    let fixed =
        ["--progress=plain", "-t", "localhost/made", "--metadata-file", metadata.to_str().expect("a plain name")];
    let report = actor.build([&fixed[..], args, &["ctx"]].concat()).ok();
    let lines: Vec<&str> = report.stderr.lines().collect();
    let number = |line: &str| line.split(' ').next().map(str::to_owned);
    let done = lines.iter().filter(|line| line.contains(" DONE ")).filter_map(|line| number(line)).collect::<Vec<_>>();
    let steps = lines.iter().filter(|line| line.contains("] RUN ") || line.contains("] COPY "));
    let made = steps.filter(|line| number(line).is_some_and(|number| done.contains(&number)));
    let made = made.map(|line| line.split_once("] ").map_or(*line, |(_, step)| step).to_owned()).collect();
    let document = actor.copy(["inspect", "store:localhost/made"]).ok().json();
    let layers = document["Layers"].as_array().expect("layers").iter().map(Value::to_string).collect();
    (made, layers, report.stderr)
}

#[test]
fn a_registry_carries_a_cache() {
    for first in Actor::everyone() {
        let registry = Registry::start();
        let name = format!("{}/team/app:cache", registry.address());
        let reference = format!("type=registry,ref={name}");
        let first = first.with_busybox();
        write(&first);
        let (made, layers, _) = build(&first, &["--cache-to", &format!("{reference},mode=max")]);
        assert_eq!(made.len(), 5, "{made:?}");

        let second = machine(&first);
        let (made, same, log) = build(&second, &["--cache-from", &reference]);
        assert_eq!((made, &same), (Vec::<String>::new(), &layers), "{log}");

        // Only what changed is done again, and the next one has that too.
        let third = machine(&first);
        third.write("ctx/src/a", "other\n");
        let (made, _, log) = build(&third, &["--cache-from", &name, "--cache-to", &reference]);
        assert_eq!(made, ["COPY src /src", "RUN --network=none cat /src/a >/made", "RUN true"], "{log}");
        let fourth = machine(&first);
        fourth.write("ctx/src/a", "other\n");
        assert_eq!(build(&fourth, &["--cache-from", &name]).0, Vec::<String>::new());
        for actor in [first, second, third, fourth] {
            actor.assert_nothing_left();
        }
    }
}

#[test]
fn a_folder_and_the_image_itself_carry_a_cache() {
    for first in Actor::everyone() {
        let registry = Registry::start();
        let first = first.with_busybox();
        write(&first);
        let folder = first.path("shared");
        let image = format!("{}/team/app:1", registry.address());
        let to = format!("type=local,dest={},mode=max", folder.display());
        build(&first, &["--cache-to", &to, "--cache-to", "type=inline"]);
        first.copy(["store:localhost/made", &format!("docker://{image}")]).ok();

        let second = machine(&first);
        let from = format!("type=local,src={}", folder.display());
        assert_eq!(build(&second, &["--cache-from", &from]).0, Vec::<String>::new());
        let third = machine(&first);
        // The image carries what it stands on; the tools it took a file from are not needed.
        let (made, _, log) = build(&third, &["--cache-from", &image]);
        assert_eq!(made, ["RUN echo tool >/tool"], "{log}");
    }
}

#[test]
fn a_cache_that_cannot_be_had_fails_nothing() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    write(&actor);
    let nowhere = "127.0.0.1:1/team/app:cache";
    let (made, _, log) = build(&actor, &["--cache-from", nowhere, "--cache-to", nowhere]);
    assert_eq!(made.len(), 5);
    assert!(log.contains("note: a cache was not written: "), "{log}");
    // What is in the place of a cache is read with care.
    let junk = actor.path("junk");
    std::fs::create_dir(&junk).expect("a folder");
    actor.write("junk/index.json", "{}");
    build(&actor, &["--cache-from", &format!("type=local,src={}", Path::new(&junk).display())]);
    actor.assert_nothing_left();
}

#[test]
fn the_cache_is_told_of_and_let_go_of() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        write(&actor);
        let page = actor.path("page.html");
        assert_eq!(build(&actor, &["--timeline", page.to_str().expect("a plain name")]).0.len(), 5);
        let page = std::fs::read_to_string(page).expect("a page");
        assert!(page.contains("<rect class=done") && page.contains("RUN true"), "{page}");
        let told = actor.build(["cache", "du"]).ok().stdout;
        assert!(told.contains("RUN echo tool >/tool"), "{told}");
        actor.build(["cache", "prune", "--until", "24h"]).ok();
        assert_eq!(actor.build(["cache", "du"]).ok().stdout, told, "nothing is that old");
        actor.build(["cache", "prune", "-f"]).ok();
        assert!(actor.build(["cache", "du"]).ok().stdout.ends_with("\n0 results, 0 bytes of layers\n"));
        assert_eq!(build(&actor, &[]).0.len(), 5, "all is done again");
        actor.assert_nothing_left();
    }
}

#[test]
fn cache_mounts_travel_in_pieces() {
    for first in Actor::everyone() {
        let registry = Registry::start();
        let reference = format!("type=registry,ref={}/team/app:cache", registry.address());
        let folder = format!("type=local,dest={}", first.path("shared").display());
        let dockerfile = |run: &str| {
            format!("FROM localhost/busybox\nRUN --network=none --mount=type=cache,id=things,target=/c {run}\n")
        };
        let first = first.with_busybox();
        first.write("ctx/noise", noise(6 << 20));
        let fill = "--mount=type=bind,target=/src cp /src/noise /c/a; mkdir -m 700 /c/d; ln -s a /c/l; touch -d @1600000000 /c/d/old";
        first.write("ctx/Dockerfile", dockerfile(fill));
        let both = ["--cache-to", &format!("{reference},mounts=all"), "--cache-to", &format!("{folder},mounts=things")];
        build(&first, &both);
        let pieces = |actor: &Actor| -> Vec<String> {
            let tags = actor.copy(["list-tags", &format!("docker://{}/team/app", registry.address())]).ok().stdout;
            let tag =
                tags.split(['"', ' ', '\n', ',']).find(|word| word.contains("cache-mount-")).expect("the mount's tag");
            let place = format!("docker://{}/team/app:{tag}", registry.address());
            let manifest = actor.copy(["inspect", "--raw", &place]).ok().json();
            let layers = manifest["layers"].as_array().expect("pieces").iter();
            layers.map(|piece| piece["digest"].to_string()).collect()
        };
        let before = pieces(&first);
        assert!(before.len() > 2, "{before:?}");

        // Another machine begins with it, and adds a little.
        let look = "cmp /c/a /c/l && stat -c '%a %Y' /c/d /c/d/old /c/a && echo more >/c/z";
        for (number, from) in [reference.clone(), folder.replace("dest=", "src=")].iter().enumerate() {
            let other = machine(&first);
            other.write("ctx/Dockerfile", dockerfile(look));
            let to = format!("{reference},mounts=all");
            let flags = ["--cache-from", from, "--cache-to", &to];
            let (_, _, log) = build(&other, if number == 0 { &flags } else { &flags[..2] });
            assert!(log.contains("the cache mount `things` was filled from a cache"), "{log}");
            assert!(log.contains(" 700 ") && log.contains(" 1600000000"), "{log}");
            other.assert_nothing_left();
        }
        let after = pieces(&first);
        let new = after.iter().filter(|piece| !before.contains(piece)).count();
        assert!(new <= 2, "{new} of {} pieces were sent again", after.len());

        // A machine to whom nobody gave it begins with nothing.
        let alone = machine(&first);
        alone.write("ctx/Dockerfile", dockerfile("test ! -e /c/a"));
        build(&alone, &[]);
        first.assert_nothing_left();
    }
}

/// Bytes that do not compress, always the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
