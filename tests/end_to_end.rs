//! The whole path: a Dockerfile becomes an image, the image travels, a container runs from it.

use std::fs;

use crate::harness::{Actor, Registry, image};

const THREE_STAGES: &str = r#"
FROM localhost/busybox AS words
WORKDIR /out
RUN seq 1 1000 | sha256sum | cut -c 1-16 > fingerprint

FROM localhost/busybox AS counts
COPY tree /tree
RUN mkdir /out && find /tree -type f | wc -l > /out/files

FROM localhost/busybox
ARG GREETING=hello
ENV GREETING=$GREETING
COPY --from=words /out/fingerprint /app/
COPY --from=counts /out/files /app/
COPY --chmod=0755 say /app/say
RUN ["/bin/touch", "/app/made by exec form"]
WORKDIR /app
CMD ["/app/say"]
"#;

const SAY: &str =
    "#!/bin/sh\necho \"$GREETING $(cat fingerprint) $(cat files) $*\"\nls '/app/made by exec form' >/dev/null\n";

/// What `seq 1 1000 | sha256sum` starts with.
const FINGERPRINT: &str = "67d4ff71d43921d5";

/// A build context of three stages with this many small files in 100 folders.
fn context(actor: &Actor, files: usize) -> String {
    actor.write("app/Dockerfile", THREE_STAGES);
    actor.write("app/say", SAY);
    actor.write("app/.dockerignore", "tree/ignored\n*.log\n");
    actor.write("app/tree/ignored", "must not be seen");
    actor.write("app/noise.log", "must not be seen");
    for folder in 0..100 {
        actor.mkdir(format!("app/tree/{folder}"));
    }
    for file in 0..files {
        let path = actor.path(&format!("app/tree/{}/file-{file}.txt", file % 100));
        fs::write(path, format!("this is file {file}\n").repeat(1 + file % 20)).expect("a file in our folder");
    }
    actor.path("app").display().to_string()
}

#[test]
fn a_dockerfile_becomes_a_container_that_an_ordinary_user_runs_from_a_registry() {
    let registry = Registry::start();
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let context = context(&actor, 200);
        actor.build(["-t", "localhost/app", "--build-arg", "GREETING=welcome", &context]).ok();
        let name = registry.name(&format!("of-{}/app:1", actor.name()));
        actor.copy(["store:localhost/app", &format!("docker://{name}")]).ok();
        actor.copy(["store:localhost/app", &format!("oci:{}:app", actor.path("layout").display())]).ok();

        let Some(user) = Actor::ordinary() else { return };
        let said = user.run(["--rm", &name]).ok();
        assert_eq!(said.stdout, format!("welcome {FINGERPRINT} 200 \n"));
        let said = user.run(["--rm", "-e", "GREETING=again", &name, "/app/say", "with", "words"]).ok();
        assert_eq!(said.stdout, format!("again {FINGERPRINT} 200 with words\n"));
        user.assert_nothing_left();
        actor.assert_nothing_left();
    }
}

#[test]
fn a_second_build_of_ten_thousand_files_is_cached_and_the_same() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let context = context(&actor, 10_000);
        let build = |iid: &str| {
            let iidfile = actor.path(iid);
            let report = actor
                .build([
                    "--progress",
                    "plain",
                    "-t",
                    "localhost/app",
                    "--iidfile",
                    &iidfile.display().to_string(),
                    &context,
                ])
                .ok();
            (fs::read_to_string(iidfile).expect("--iidfile was written"), report)
        };
        let (first, _) = build("first");
        let (second, report) = build("second");
        assert_eq!(first, second, "{report}");
        let steps = report.stderr.lines().filter(|line| line.contains("RUN ") || line.contains("COPY ")).count();
        let cached = report.stderr.lines().filter(|line| line.contains("CACHED")).count();
        assert!(steps > 0 && cached >= 6, "every step is reported cached\n{report}");
        assert_eq!(actor.run(["--rm", "localhost/app"]).ok().stdout, format!("hello {FINGERPRINT} 10000 \n"));
    }
}

#[test]
fn one_changed_file_is_seen_even_with_the_same_size_and_time() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.write(
        "app/Dockerfile",
        "FROM localhost/busybox\nCOPY tree /tree\nRUN cat /tree/file > /seen\nCMD [\"cat\", \"/seen\"]\n",
    );
    let file = actor.write("app/tree/file", "one\n");
    let kept = fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("a file has a time");
    let seen = || {
        actor.build(["-t", "localhost/app", &actor.path("app").display().to_string()]).ok();
        actor.run(["--rm", "localhost/app"]).ok().stdout
    };
    assert_eq!(seen(), "one\n");
    fs::write(&file, "two\n").expect("the file is ours");
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(kept)).expect("the file is ours");
    assert_eq!(seen(), "two\n");
}

#[test]
fn an_image_is_the_same_wherever_it_is_built() {
    let mut ids = Vec::new();
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let context = context(&actor, 50);
        let iidfile = actor.path("iid");
        actor
            .build(["--no-cache", "--iidfile", &iidfile.display().to_string(), "-t", "localhost/app", &context])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .ok();
        ids.push((actor.name().to_owned(), fs::read_to_string(iidfile).expect("--iidfile was written")));
    }
    assert!(ids.windows(2).all(|pair| pair[0].1 == pair[1].1), "{ids:?}");
}

#[test]
fn a_step_has_its_network_when_other_stages_have_ended() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        actor.write(
            "app/Dockerfile",
            "FROM localhost/busybox AS first\nRUN grep -v Iface /proc/net/route | cut -f 1-3 >/routes; cat /routes\n\
             FROM localhost/busybox\nCOPY --from=first /routes /routes\n\
             RUN grep -v Iface /proc/net/route | cut -f 1-3 | cmp - /routes\n",
        );
        actor.build(["--no-cache", &actor.path("app").display().to_string()]).ok();
    }
}

#[test]
fn a_step_that_is_written_twice_is_done_twice() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let count = "RUN --mount=type=cache,target=/count echo >>/count/lines; wc -l </count/lines\n";
    actor.write("app/Dockerfile", format!("FROM localhost/busybox AS base\n{count}{count}FROM base\n{count}"));
    let context = actor.path("app").display().to_string();
    let build = |flags: &[&str]| {
        let report = actor.build(flags.iter().copied().chain(["--progress", "plain", &context])).ok();
        let said = |number: &usize| {
            report.stderr.lines().any(|line| line.starts_with('#') && line.ends_with(&format!(" {number}")))
        };
        (1..9).filter(said).collect::<Vec<usize>>()
    };
    assert_eq!(build(&[]), [1, 2, 3]);
    assert!(build(&[]).is_empty());
    assert_eq!(build(&["--no-cache"]), [4, 5, 6]);
}

#[test]
fn outputs_other_than_the_store_hold_the_same_files() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.write(
        "out/Dockerfile",
        "FROM localhost/busybox AS made\nRUN echo made > /made\nFROM scratch\nCOPY --from=made /made /made\n",
    );
    let context = actor.path("out").display().to_string();
    let to = |name: &str| actor.path(name).display().to_string();
    actor.build(["-o", &format!("type=local,dest={}", to("local")), &context]).ok();
    assert_eq!(fs::read_to_string(actor.path("local/made")).expect("the file came out"), "made\n");
    actor.build(["-o", &format!("type=tar,dest={}", to("made.tar")), &context]).ok();
    assert!(actor.shell("tar -tf made.tar").ok().stdout.lines().any(|line| line.trim_start_matches("./") == "made"));
    actor.build(["-t", "localhost/made", "-o", &format!("type=oci,dest={}", to("made.oci.tar")), &context]).ok();
    actor.copy(["inspect", &format!("oci-archive:{}", to("made.oci.tar"))]).ok();
    actor.build(["-t", "localhost/made", "-o", &format!("type=docker,dest={}", to("made.docker.tar")), &context]).ok();
    actor.copy([&format!("docker-archive:{}", to("made.docker.tar")), "store:localhost/again"]).ok();
}

#[test]
fn build_pushes_by_itself() {
    let registry = Registry::start();
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let context = context(&actor, 10);
    let name = registry.name("pushed/app:2");
    actor.build(["-t", &name, "--push", &context]).ok();
    let elsewhere = actor.elsewhere();
    assert_eq!(elsewhere.run(["--rm", &name]).ok().stdout, format!("hello {FINGERPRINT} 10 \n"));
    assert!(elsewhere.copy(["list-tags", &registry.name("pushed/app")]).ok().stdout.contains('2'));
}

#[test]
fn a_real_debian_is_a_base_to_build_on() {
    let tar = image::debian_tar();
    for actor in Actor::everyone() {
        actor.mkdir("debian");
        fs::copy(&tar, actor.path("debian/root.tar")).expect("a file in our folder");
        actor.write("debian/Dockerfile", "FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n");
        actor.build(["-t", "localhost/debian", &actor.path("debian").display().to_string()]).ok();
        // Owners, setuid bits and links are those that the packages have.
        let seen = actor
            .run([
                "--rm",
                "localhost/debian",
                "stat",
                "-c",
                "%U:%G %a %F",
                "/etc/shadow",
                "/usr/bin/passwd",
                "/tmp",
                "/bin",
            ])
            .ok();
        assert_eq!(
            seen.lines(),
            [
                "root:shadow 640 regular file",
                "root:root 4755 regular file",
                "root:root 1777 directory",
                "root:root 777 symbolic link"
            ]
        );
        actor.run(["--rm", "localhost/debian", "dpkg", "--audit"]).ok();
        actor.write("app/Dockerfile", "FROM localhost/debian\nRUN useradd -m worker && echo mine > /home/worker/file && chown worker: /home/worker/file\nUSER worker\nCMD [\"cat\", \"/home/worker/file\"]\n");
        actor.build(["-t", "localhost/app", &actor.path("app").display().to_string()]).ok();
        assert_eq!(actor.run(["--rm", "localhost/app"]).ok().stdout, "mine\n");
    }
}
