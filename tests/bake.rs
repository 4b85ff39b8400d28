//! `build bake`: several images from one file, in one build.

use std::fs;

use crate::harness::{Actor, Registry};

const FILE: &str = r#"
variable "TAG" { default = "v1" }
variable "REGISTRY" { default = "localhost" }
group "default" { targets = ["app", "tool"] }
target "base" {
  context = "files"
  dockerfile-inline = <<EOT
FROM localhost/busybox
ARG WORD
COPY word /word
RUN head -c 16 /dev/urandom | md5sum > /made
EOT
}
target "app" {
  contexts = { below = "target:base" }
  dockerfile-inline = "FROM below\nARG WORD\nRUN echo $WORD $(cat /word) > /said\nCMD [\"cat\", \"/said\", \"/made\"]\n"
  args = { WORD = upper("hello") }
  tags = ["${REGISTRY}/bake/app:${TAG}"]
}
target "tool" {
  inherits = ["base"]
  labels = { of = "tool" }
  tags = ["${REGISTRY}/bake/tool:${TAG}"]
}
"#;

fn bake(actor: &Actor, words: &[&str]) -> crate::harness::Call {
    actor.build([&["bake"][..], words].concat()).dir(actor.dir())
}

fn with_files(actor: Actor) -> Actor {
    let actor = actor.with_busybox();
    actor.write("docker-bake.hcl", FILE);
    actor.write("files/word", "there\n");
    actor
}

#[test]
fn targets_are_built_together_and_what_they_have_in_common_once() {
    for actor in Actor::everyone() {
        let actor = with_files(actor);
        let report = bake(&actor, &["--progress", "plain", "--metadata-file", "about.json"]).ok();
        let about = fs::read_to_string(actor.path("about.json")).expect("--metadata-file was written");
        let about: serde_json::Value = serde_json::from_str(&about).expect("it is JSON");
        for target in ["app", "base", "tool"] {
            assert!(about[target]["containerimage.digest"].is_string(), "{target}: {about}\n{report}");
        }
        let said = actor.run(["--rm", "localhost/bake/app:v1"]).ok();
        let (word, made) = said.stdout.split_once('\n').expect("two lines");
        assert_eq!(word, "HELLO there");
        // The step that is never the same twice ran once for both.
        let tool = actor.run(["--rm", "localhost/bake/tool:v1", "cat", "/made"]).ok();
        assert_eq!(tool.stdout, made, "{report}");
        // What is only there for others has no name.
        actor.run(["--rm", "localhost/base", "true"]).fails(125);
        actor.assert_nothing_left();
    }
}

#[test]
fn what_is_printed_is_a_bake_file_of_the_same_images() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = with_files(actor);
    let printed = bake(&actor, &["--print", "--set", "tool.args.WORD=x"]).env("TAG", "of-env").ok();
    let json: serde_json::Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
    assert_eq!(json["target"]["tool"]["tags"][0], "localhost/bake/tool:of-env");
    actor.write("printed.json", &printed.stdout);
    let again = bake(&actor, &["-f", "printed.json", "--print"]).ok();
    assert_eq!(again.stdout, printed.stdout);
    bake(&actor, &["-f", "printed.json", "tool", "--set=tool.output=type=oci,dest=tool.tar"]).ok();
    assert!(actor.path("tool.tar").is_file());
}

#[test]
fn images_are_pushed_from_a_compose_file() {
    let Some(actor) = Actor::ordinary() else { return };
    let (actor, registry) = (actor.with_busybox(), Registry::start());
    actor.write("service/Dockerfile", "FROM localhost/busybox\nARG WORD\nENV WORD=$WORD\nCMD echo $WORD\n");
    let image = registry.name("bake/service:1");
    let compose = format!(
        "services:\n  service:\n    image: {image}\n    build:\n      context: service\n      args:\n        WORD: ${{WORD:-none}}\n"
    );
    actor.write("compose.yaml", compose);
    actor.write(".env", "WORD=from-env-file\n");
    bake(&actor, &["--push", "--tls-verify=false"]).ok();
    let Some(other) = Actor::root() else { return };
    assert_eq!(other.run(["--rm", &image]).ok().stdout, "from-env-file\n");
}

#[test]
fn what_is_wrong_is_told_before_anything_runs() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = with_files(actor);
    for (words, expected) in [
        (&["tol"][..], "there is no target `tol`\nhint: did you mean `tool`?"),
        (&["-f", "missing.hcl"], "open `missing.hcl`: no such file or directory\nhint: -f names a bake file"),
        (&["--set", "tool.ulimits=nofile", "tool"], "target `tool`: "),
        (&["--var", "TAG"], "--var `TAG` is not NAME=VALUE"),
    ] {
        let report = bake(&actor, words).output().expect_not_zero();
        assert!(report.stderr.contains(expected), "{words:?}\n{report}");
    }
    actor.write("wrong.hcl", "target \"app\" {\n  tag = [\"x\"]\n}\n");
    let report = bake(&actor, &["-f", "wrong.hcl"]).fails(1);
    let told = "wrong.hcl:2:3: a target has no attribute `tag`\n  2 |   tag = [\"x\"]\n    |   ^^^\nhint: did you mean `tags`?";
    assert!(report.stderr.contains(told), "{report}");
}

#[test]
fn a_failing_step_of_one_target_ends_all_with_its_code() {
    let Some(actor) = Actor::ordinary() else { return };
    let actor = actor.with_busybox();
    let file = "target \"a\" {\n  dockerfile-inline = \"FROM localhost/busybox\\nRUN exit 7\\n\"\n}\n\
                target \"b\" {\n  dockerfile-inline = \"FROM localhost/busybox\\nRUN sleep 600\\n\"\n}\n";
    actor.write("docker-bake.hcl", file);
    bake(&actor, &["a", "b"]).fails(7);
    actor.assert_nothing_left();
}
