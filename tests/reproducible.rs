//! The same inputs give the same image: on one thread or many, cold or cached, by whatever unites the layers, with
//! namespaces or by chroot alone, as root or not. And what tells where it is not so.

use std::fs;

use serde_json::Value;

use crate::harness::{Actor, Registry};

const EPOCH: &str = "1700000000";

/// Something of everything that makes a layer, with time, order and randomness of names in reach.
const DOCKERFILE: &str = "FROM localhost/busybox AS tools\n\
    WORKDIR /out\n\
    RUN for i in 9 3 7 1; do echo $i >f$i; done; ln f1 l1; mkfifo pipe; chmod 4755 f3\n\
    FROM localhost/busybox AS more\n\
    COPY --parents tree/./a /more/\n\
    RUN rm -r /more/a; mkdir -p /more/a/new; touch /more/a/new/x\n\
    FROM localhost/busybox\n\
    COPY tree /tree\n\
    COPY --link --chown=guest --chmod=u=rwX,go=rX tree/b /linked/\n\
    COPY --from=tools /out /tools/\n\
    COPY --from=more /more /more\n\
    ADD archive.tar /unpacked/\n\
    COPY <<EOF /inline\ncontent\nEOF\n\
    RUN --mount=type=bind,target=/src cp -r /src/tree /copied; date >/dev/null; rm /tree/b/1\n\
    RUN --mount=type=cache,target=/cache echo x >>/cache/x; mkdir -m 1777 /sticky; chown 1000:50 /sticky\n";

fn write(actor: &Actor) {
    actor.write("ctx/Dockerfile", DOCKERFILE);
    for folder in ["a", "b"] {
        for number in 0..40 {
            actor.write(&format!("ctx/tree/{folder}/{number}"), format!("{folder} {number}\n"));
        }
    }
    actor.shell("cd ctx && ln -s b tree/link && tar -cf archive.tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1600000000 tree/a").ok();
}

/// Builds into a layout of compressed layers; the digest of its manifest.
fn digest(actor: &Actor, flags: &[&str], threads: &str) -> String {
    let layout = actor.path("layout");
    let _ = fs::remove_dir_all(&layout);
    let to = format!("type=oci,tar=false,dest={}", layout.display());
    let fixed = ["-o", &to, "--source-date-epoch", EPOCH];
    actor.build([&fixed[..], flags, &["ctx"]].concat()).env("RAYON_NUM_THREADS", threads).ok();
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON");
    index["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn the_same_inputs_give_the_same_image() {
    let mut seen: Vec<(String, String)> = Vec::new();
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        write(&actor);
        let mut ways: Vec<(&str, &[&str], &str)> = vec![
            ("cold", &[], "2"),
            ("cached", &[], "2"),
            ("one thread", &["--no-cache", "--jobs", "1"], "1"),
            ("many threads", &["--no-cache", "--jobs", "32"], "16"),
            ("half cached", &["--no-cache-filter", "tools"], "4"),
        ];
        if actor.shell("exec 3<>/dev/fuse").output().code == 0 {
            ways.push(("fuse", &["--no-cache", "--mount-backend", "fuse"], "2"));
        }
        if actor.is_root() {
            ways.push(("chroot", &["--no-cache", "--isolation", "chroot"], "2"));
        }
        for (way, flags, threads) in ways {
            seen.push((format!("{} as {}", way, actor.name()), digest(&actor, flags, threads)));
        }
        actor.assert_nothing_left();
    }
    assert!(seen.windows(2).all(|pair| pair[0].1 == pair[1].1), "{seen:#?}");
}

#[test]
fn a_second_build_that_differs_is_told_by_path() {
    for actor in Actor::everyone() {
        let actor = actor.with_busybox();
        let epoch = ["--source-date-epoch", EPOCH, "--verify"];
        write(&actor);
        let report = actor.build([&epoch[..], &["-t", "localhost/good", "ctx"]].concat()).ok();
        assert!(report.stderr.contains("the second build made the same"), "{report}");
        actor.write(
            "bad/Dockerfile",
            "FROM localhost/busybox\nRUN cat /proc/sys/kernel/random/uuid >/random; echo same >/same\nRUN cp /random /copy\n",
        );
        let report = actor.build([&epoch[..], &["-t", "localhost/bad", "bad"]].concat()).fails(1);
        assert!(report.stderr.contains("[2/3] RUN cat /proc/"), "{report}");
        assert!(report.stderr.contains("\n  /random: content"), "{report}");
        // What follows from another step's difference, and what is alike, is not told.
        assert!(!report.stderr.contains("/copy: ") && !report.stderr.contains("/same: "), "{report}");
        actor.run(["--rm", "localhost/bad", "true"]).fails(125);
        actor.assert_nothing_left();
    }
}

#[test]
fn times_are_rewritten_unless_the_user_says_otherwise() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.write("ctx/Dockerfile", "FROM localhost/busybox\nCOPY file /file\nRUN touch /made\n");
    actor.write("ctx/file", "x");
    let times = |flags: &[&str]| {
        let fixed = ["-t", "localhost/dated", "--source-date-epoch", "1000000000"];
        actor.build([&fixed[..], flags, &["ctx"]].concat()).ok();
        let seen = actor.run(["--rm", "--network=none", "localhost/dated", "stat", "-c", "%Y", "/file", "/made"]).ok();
        let created = actor.copy(["inspect", "store:localhost/dated"]).ok().json()["Created"].clone();
        assert_eq!(created, "2001-09-09T01:46:40Z", "the image's documents are dated in any case");
        seen.lines().iter().map(|line| *line == "1000000000").collect::<Vec<_>>()
    };
    assert_eq!(times(&[]), [true, true]);
    assert_eq!(times(&["--rewrite-timestamp=false"]), [false, false]);
    assert_eq!(times(&["-o", "type=image,rewrite-timestamp=false"]), [false, false]);
    assert_eq!(times(&["-o", "type=image,rewrite-timestamp=true"]), [true, true]);
    let report = actor.build(["--rewrite-timestamp", "ctx"]).ok();
    assert!(report.stderr.contains("SOURCE_DATE_EPOCH is not set"), "{report}");
}

#[test]
fn outputs_have_their_own_words_and_forms() {
    let registry = Registry::start();
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    actor.write("ctx/Dockerfile", "FROM localhost/busybox\nRUN echo x >/x\n");
    let metadata = actor.path("metadata.json");
    let build = |output: &str| {
        let _ = fs::remove_file(&metadata);
        actor.build(["-o", output, "--metadata-file", &metadata.display().to_string(), "ctx"]).ok();
        let text = fs::read(&metadata).expect("--metadata-file was written");
        serde_json::from_slice::<Value>(&text).expect("JSON")
    };
    // By its digest alone: no tag.
    let name = registry.name("apart/app");
    let told = build(&format!("type=image,name={name},push-by-digest=true,push=true"));
    let digest = told["containerimage.pushed.digest"].as_str().expect("it was pushed").to_owned();
    actor.copy(["inspect", "--raw", &format!("docker://{name}@{digest}")]).ok();
    assert_eq!(actor.copy(["list-tags", &format!("docker://{name}")]).output().stdout.matches("latest").count(), 0);
    // Docker's types, a word of its own, other compression, all of it for this output only.
    let tagged = registry.name("own/app:1");
    build(&format!(
        "type=image,name={tagged},push=true,oci-mediatypes=false,annotation.org.Example.A=b,name-canonical=true"
    ));
    let raw = actor.copy(["inspect", "--raw", &format!("docker://{tagged}")]).ok().json();
    assert_eq!(raw["mediaType"], "application/vnd.docker.distribution.manifest.v2+json", "{raw}");
    assert_eq!(raw["annotations"]["org.Example.A"], "b", "{raw}");
    let images = actor.copy(["images"]).ok().stdout;
    let mut tags = images.lines().filter(|line| line.contains("own/app")).map(|line| line.split_whitespace().nth(1));
    assert!(tags.any(|tag| tag == Some("1")) && images.matches("own/app").count() == 2, "{images}");
    let layout = actor.path("forced");
    build(&format!("type=oci,tar=false,dest={},compression=zstd,force-compression=true", layout.display()));
    let raw = actor.copy(["inspect", "--raw", &format!("oci:{}", layout.display())]).ok().json();
    let kinds: Vec<_> =
        raw["layers"].as_array().expect("layers").iter().map(|layer| layer["mediaType"].clone()).collect();
    assert!(kinds.iter().all(|kind| *kind == "application/vnd.oci.image.layer.v1.tar+zstd"), "{kinds:?}");
}
