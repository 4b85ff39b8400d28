use layerfs::oci::ImageConfig;
use serde_json::json;

use super::*;
use crate::dockerfile::{ast::Dockerfile, parse};

fn options() -> Options {
    Options {
        build_platform: "linux/amd64".parse().expect("a platform"),
        ..Options::new("linux/arm64".parse().expect("a platform"))
    }
}

fn file(text: &str) -> Dockerfile {
    parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Every image has `settings` as its configuration.
fn graph(text: &str, options: &Options, settings: serde_json::Value) -> Result<Graph> {
    let file = file(text);
    let plan = plan(&file, options)?;
    let mut configs = Configs::new();
    loop {
        let (_, images) = plan.reach(&configs)?;
        let unknown: Vec<BaseImage> = images.into_iter().filter(|image| !configs.contains_key(image)).collect();
        if unknown.is_empty() {
            return lower(&plan, &configs);
        }
        for image in unknown {
            let document = json!({
                "os": "linux", "architecture": "arm64", "config": settings.clone(),
                "rootfs": {"type": "layers", "diff_ids": []}
            });
            configs.insert(image, ImageConfig::parse(document.to_string().as_bytes()).expect("a configuration"));
        }
    }
}

fn default_graph(text: &str) -> Graph {
    graph(text, &options(), json!({})).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn run_of(stage: &Stage) -> &Run {
    let run = stage.steps.iter().rev().find_map(|step| match &step.action {
        Action::Run(run) => Some(run),
        _ => None,
    });
    run.expect("a RUN step")
}

fn env_of(stage: &Stage, name: &str) -> Option<String> {
    run_of(stage).env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

#[test]
fn arguments_have_scopes() {
    // (Dockerfile, --build-arg, the value of X that the last RUN sees)
    for (text, given, expected) in [
        ("ARG X=g\nFROM a\nRUN :", None, None),
        ("ARG X=g\nFROM a\nARG X\nRUN :", None, Some("g")),
        ("ARG X=g\nFROM a\nARG X=s\nRUN :", None, Some("s")),
        ("ARG X=g\nFROM a\nARG X\nRUN :", Some("c"), Some("c")),
        ("ARG X=g\nFROM a\nARG X=s\nRUN :", Some("c"), Some("c")),
        ("FROM a\nRUN :\nARG X=s", None, None),
        ("FROM a\nARG X=s\nRUN :", None, Some("s")),
        ("FROM a AS b\nARG X=s\nFROM a\nRUN :", None, None),
        ("FROM a AS b\nARG X=s\nFROM b\nRUN :", None, Some("s")),
        ("FROM a\nENV X=e\nRUN :", Some("c"), Some("e")),
        ("FROM a\nARG X=s\nENV X=e\nRUN :", Some("c"), Some("e")),
        ("FROM a\nARG X=s\nENV X=${X}-e\nRUN :", Some("c"), Some("c-e")),
        ("FROM a\nARG Y=1 X=$Y\nRUN :", None, Some("1")),
        ("FROM a\nENV X=1 Y=2\nENV X=$Y Z=$X\nRUN :", None, Some("2")),
        ("FROM a\nARG X=$TARGETARCH\nRUN :", None, Some("")),
        ("FROM a\nARG TARGETARCH\nARG X=$TARGETARCH\nRUN :", None, Some("arm64")),
        ("ARG X=$BUILDPLATFORM\nFROM a\nARG X\nRUN :", None, Some("linux/amd64")),
        ("ARG X=${NO:-d}\nFROM a\nARG X\nRUN :", None, Some("d")),
    ] {
        let mut options = options();
        options.build_args = given.map(|value| vec![("X".to_owned(), value.to_owned())]).unwrap_or_default();
        let graph = graph(text, &options, json!({})).expect(text);
        assert_eq!(env_of(graph.target(), "X").as_deref(), expected, "{text} with {given:?}");
    }
}

#[test]
fn only_what_the_target_needs_is_built_in_order_of_need() {
    let text = "FROM a AS one\nRUN 1\nFROM a AS two\nRUN 2\nFROM b AS three\nCOPY --from=one /x /y\n\
                FROM c AS four\nRUN --mount=from=TWO,target=/m :\nFROM three\nCOPY --from=3 / /\nCOPY --from=d / /";
    for (target, expected) in [
        (None, "one three two four stage-4"),
        (Some("three"), "one three"),
        (Some("TWO"), "two"),
        (Some("3"), "two four"),
    ] {
        let mut options = options();
        options.target = target.map(str::to_owned);
        let graph = graph(text, &options, json!({})).expect("a graph");
        let order: Vec<&str> = graph.stages.iter().map(|stage| stage.label.as_str()).collect();
        assert_eq!(order.join(" "), expected);
    }
    let mut options = options();
    options.target = Some("five".to_owned());
    let error = graph(text, &options, json!({})).expect_err("no such stage");
    assert_eq!(error.to_string(), "Dockerfile has no stage `five`");
    assert_eq!(error.advice(), Some("it has: one, two, three, four"));
}

#[test]
fn circles_are_errors_and_not_loops() {
    let text = "FROM a AS one\nCOPY --from=two / /\nFROM a AS two\nCOPY --from=one / /";
    let error = graph(text, &options(), json!({})).expect_err("a circle");
    assert!(error.to_string().contains("needs itself"), "{error}");
}

#[test]
fn bases_may_come_from_arguments_and_contexts() {
    let text = "ARG T=12\nARG E\nFROM --platform=$BUILDPLATFORM debian:$T AS x\nFROM x";
    let graph = default_graph(text);
    let base = Origin::Image(BaseImage { name: "debian:12".to_owned(), platform: "linux/amd64".to_owned() });
    assert_eq!(graph.stages[0].base, base);
    assert_eq!(graph.target().platform.to_string(), "linux/amd64", "a stage runs on what its base runs on");

    let error = super::tests::graph("ARG E\nFROM $E", &options(), json!({})).expect_err("an empty name");
    assert!(error.to_string().contains("the base image `$E` is empty"), "{error}");

    let mut options = options();
    options.contexts = vec![("debian".to_owned(), NamedContext::Image("localhost/mine".to_owned()))];
    let graph = super::tests::graph("FROM docker.io/library/debian:latest", &options, json!({})).expect("a graph");
    let mine = BaseImage { name: "localhost/mine".to_owned(), platform: "linux/arm64".to_owned() };
    assert_eq!(graph.target().base, Origin::Image(mine));
}

#[test]
fn triggers_of_the_base_run_first_and_are_not_inherited() {
    let text = "FROM scratch AS base\nENV A=1\nFROM b\nRUN own";
    let settings = json!({"OnBuild": ["COPY --from=base /x /x", "RUN trigger"]});
    let graph = graph(text, &options(), settings).expect("a graph");
    let labels: Vec<&str> = graph.stages.iter().map(|stage| stage.label.as_str()).collect();
    assert_eq!(labels, ["base", "stage-1"], "a trigger may need a stage that nothing else needs");
    let titles: Vec<_> = graph.target().steps.iter().filter_map(|step| step.title.as_deref()).collect();
    assert_eq!(titles, ["[stage-1 2/4] COPY --from=base /x /x", "[stage-1 3/4] RUN trigger", "[stage-1 4/4] RUN own"]);
    assert_eq!(graph.target().config.strings("OnBuild"), None);
}

#[test]
fn configurations_follow_docker() {
    let base = json!({"Cmd": ["base"], "Env": ["PATH=/bin", "A=0"], "WorkingDir": "/srv", "Labels": {"b": "0"}});
    let text = "FROM a\nENV A=1 B=\"two words\"\nLABEL l=$A\nWORKDIR app\nWORKDIR ../x/\nUSER u:g\nEXPOSE 80 53/udp\n\
                VOLUME /data\nSTOPSIGNAL 9\nENTRYPOINT [\"/e\"]\nHEALTHCHECK --interval=5s CMD curl -f x\nMAINTAINER me\n\
                SHELL [\"/bin/bash\", \"-c\"]\nCMD echo $A\nONBUILD RUN x";
    let graph = graph(text, &options(), base).expect("a graph");
    let config = &graph.target().config;
    let expected = json!({
        "Cmd": ["/bin/bash", "-c", "echo $A"],
        "Env": ["PATH=/bin", "A=1", "B=two words"],
        "WorkingDir": "/srv/x",
        "Labels": {"b": "0", "l": "1"},
        "User": "u:g",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "9",
        "Entrypoint": ["/e"],
        "Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 5_000_000_000_u64},
        "Shell": ["/bin/bash", "-c"],
        "OnBuild": ["RUN x"],
    });
    assert_eq!(serde_json::Value::Object(config.settings().expect("settings").clone()), expected);
    assert_eq!(config.document()["author"], "me");
}

#[test]
fn an_entrypoint_drops_an_inherited_command_only() {
    let base = json!({"Cmd": ["base"]});
    for (text, expected) in [
        ("FROM a\nENTRYPOINT [\"e\"]", None),
        ("FROM a\nCMD [\"own\"]\nENTRYPOINT [\"e\"]", Some("own")),
        ("FROM a\nENTRYPOINT [\"e\"]\nCMD [\"own\"]", Some("own")),
        ("FROM a AS x\nCMD [\"x\"]\nFROM x\nENTRYPOINT [\"e\"]", None),
    ] {
        let graph = graph(text, &options(), base.clone()).expect(text);
        let command = graph.target().config.strings("Cmd").map(|list| list.join(" "));
        assert_eq!(command.as_deref(), expected, "{text}");
    }
}

#[test]
fn history_tells_what_a_layer_was_made_with() {
    let text = "FROM a\nARG V=1\nRUN make $V\nCOPY --chown=1:2 --chmod=755 a b /dst/\nRUN [\"x\", \"y z\"]";
    let lines: Vec<String> = default_graph(text).target().steps.iter().map(|step| step.created_by.clone()).collect();
    let expected =
        ["ARG V=1", "RUN |1 V=1 /bin/sh -c make $V", "COPY --chown=1:2 --chmod=755 a b /dst/", "RUN |1 V=1 x y z"];
    assert_eq!(lines, expected);
}

#[test]
fn proxies_are_in_the_environment_but_not_in_the_history() {
    let mut options = options();
    options.build_args = vec![("http_proxy".to_owned(), "http://p".to_owned())];
    let with = graph("FROM a\nRUN x", &options, json!({})).expect("a graph");
    let run = run_of(with.target());
    assert_eq!(run.proxies.len(), 2);
    assert!(run.env.iter().all(|(name, _)| !name.eq_ignore_ascii_case("http_proxy")));
    let declared = graph("FROM a\nARG http_proxy\nRUN x", &options, json!({})).expect("a graph");
    assert_eq!(env_of(declared.target(), "http_proxy").as_deref(), Some("http://p"));
}

#[test]
fn mounts_become_absolute() {
    let text = "FROM a AS src\nFROM a\nWORKDIR /w\nRUN --mount=type=cache,target=c --mount=from=src,source=s,target=t \
                --mount=type=ssh --mount=type=secret,id=k,env=K --mount=target=/ctx :";
    let graph = default_graph(text);
    let run = run_of(graph.target());
    let Mount::Cache { options, origin: Origin::Scratch } = &run.mounts[0] else { panic!("{:?}", run.mounts[0]) };
    assert_eq!(options.target, "/w/c");
    let Mount::Bind { origin: Origin::Stage(0), source, target, .. } = &run.mounts[1] else { panic!() };
    assert_eq!((source.as_str(), target.as_str()), ("/s", "/w/t"));
    assert!(matches!(&run.mounts[2], Mount::Ssh(_, path) if path == "/run/buildkit/ssh_agent.0"));
    assert!(matches!(&run.mounts[4], Mount::Bind { origin: Origin::Context, .. }));
}

#[test]
fn what_is_not_built_is_named_with_its_place() {
    for (text, expected) in [
        ("FROM a\nADD --checksum=sha256:0 x /z", "--checksum is for files on the web and git repositories only"),
        (
            "FROM a\nADD --keep-git-dir=true https://x/y /z",
            "Dockerfile:2:25: --keep-git-dir is for git repositories only",
        ),
        ("FROM a\nRUN --security=insecure x", "Dockerfile:2:1: RUN --security=insecure was not allowed"),
        ("FROM a\nEXPOSE 99999", "Dockerfile:2:8: `99999` is not a port"),
        ("FROM a\nCOPY --chmod=9 a b", "Dockerfile:2:14: `9` is not a file mode"),
        ("FROM a\nRUN --mount=type=tmpfs,target=/ x", "a mount cannot take the place of `/`"),
    ] {
        let error = graph(text, &options(), json!({})).expect_err(text);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn paths_are_cleaned_and_a_slash_at_the_end_stays() {
    for (base, path, expected) in [
        ("/w", "a/./b", "/w/a/b"),
        ("/w", ".", "/w/"),
        ("/w", "./", "/w/"),
        ("/w", "../..", "/"),
        ("/w", "/x/", "/x/"),
        ("/", ".", "/"),
        ("/w", "/a//b/../c", "/a/c"),
        ("/w", "x/.", "/w/x/"),
    ] {
        assert_eq!(absolute(base, path), expected, "{path} in {base}");
    }
}

#[test]
fn misspelt_build_arguments_are_found() {
    let file = file("ARG A\nFROM a\nARG B\nRUN :");
    let mut options = options();
    for name in ["A", "B", "C", "HTTPS_PROXY", "TARGETARCH"] {
        options.build_args.push((name.to_owned(), "x".to_owned()));
    }
    assert_eq!(plan(&file, &options).expect("a plan").unused_arguments(), ["C"]);
}

#[test]
fn layers_of_a_base_that_have_no_history_get_one() {
    let id = |digit: &str| format!("sha256:{}", digit.repeat(64));
    for (history, expected) in [
        (json!(null), json!([{"comment": "no history"}, {"comment": "no history"}])),
        (json!([{"created_by": "a"}]), json!([{"created_by": "a"}, {"comment": "no history"}])),
        (
            json!([{"created_by": "a"}, {"created_by": "b", "empty_layer": true}, {"created_by": "c"}]),
            json!([{"created_by": "a"}, {"created_by": "b", "empty_layer": true}, {"created_by": "c"}]),
        ),
    ] {
        let document = json!({
            "os": "linux", "architecture": "arm64", "config": {}, "history": history,
            "rootfs": {"type": "layers", "diff_ids": [id("1"), id("2")]}
        });
        let base = ImageConfig::parse(document.to_string().as_bytes()).expect("a configuration");
        assert_eq!(config::inherited(&base).document()["history"], expected);
    }
}
