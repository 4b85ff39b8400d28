use std::collections::HashMap;

use super::*;
use crate::cache::CachePlace;
use crate::output::Push;

fn command(words: &str, env: &[(&str, &str)]) -> Result<Invocation> {
    let env: HashMap<String, OsString> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let surroundings = Surroundings {
        env: &|name| env.get(name).cloned(),
        columns: None,
        read: &|path| Ok(format!("content of {}", path.display()).into_bytes()),
    };
    let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
    match parse(&words, &surroundings)? {
        Command::Build(invocation) => Ok(*invocation),
        other => panic!("{other:?}"),
    }
}

fn valid(words: &str) -> Invocation {
    command(words, &[]).unwrap_or_else(|error| panic!("{words}: {error}"))
}

#[test]
fn verbs_and_contexts() {
    for (words, context) in [
        ("build .", "."),
        ("build", "."),
        ("build build dir", "dir"),
        ("build build build", "build"),
        ("build -- cache", "cache"),
        ("build ./cache", "./cache"),
        ("build -t x dir", "dir"),
    ] {
        assert_eq!(valid(words).context, ContextArgument::Folder(PathBuf::from(context)), "{words}");
    }
    assert_eq!(valid("build -").context, ContextArgument::Stdin);
    let error = command("build from", &[]).expect_err("a verb");
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Usage, "`build from` is not built yet"));
    assert_eq!(error.advice(), Some("to build the folder `from`, say `build build from`"));
}

#[test]
fn names_arguments_and_labels() {
    let words = "build -t localhost/app -t a:1 --build-arg A=1 --build-arg B --build-arg C --label l=x=y --target t \
                 --platform linux/arm64 --add-host db:10.0.0.1 --network none --jobs 3 .";
    let options = command(words, &[("B", "env")]).expect("valid").options;
    let tags: Vec<String> = options.tags.iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["localhost/app:latest", "docker.io/library/a:1"]);
    let pairs = |list: &[(String, String)]| list.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    assert_eq!(pairs(&options.graph.build_args), "A=1 B=env");
    assert_eq!(pairs(&options.graph.labels), "l=x=y");
    assert_eq!(pairs(&options.graph.hosts), "db=10.0.0.1");
    assert_eq!(options.graph.target.as_deref(), Some("t"));
    assert_eq!(options.graph.platform.to_string(), "linux/arm64");
    assert_eq!((options.graph.network, options.jobs), (Network::None, 3));
}

#[test]
fn where_the_result_goes() {
    let kinds = |words: &str| {
        let outputs = valid(words).options.outputs;
        let kind = |output: &Output| match output {
            Output::Image { push: Push::Named, .. } => "push",
            Output::Image { .. } => "image",
            Output::Oci { .. } => "oci",
            Output::Docker { .. } => "docker",
            Output::Tar { .. } => "tar",
            Output::Local { .. } => "local",
            Output::CacheOnly => "none",
        };
        outputs.iter().map(kind).collect::<Vec<_>>().join(" ")
    };
    for (words, expected) in [
        ("build .", ""),
        ("build -t x --push .", "push"),
        ("build -o out .", "local"),
        ("build -t x -o out .", "image local"),
        ("build -o type=oci,dest=x .", "oci"),
        ("build -t x -o type=oci,dest=x .", "oci"),
        ("build --load -o type=oci,dest=x .", "image oci"),
        ("build -o type=cacheonly .", "none"),
        ("build -o - .", "tar"),
    ] {
        assert_eq!(kinds(words), expected, "{words}");
    }
}

#[test]
fn secrets_come_from_files_or_variables() {
    let env = [("TOKEN", "t"), ("V", "v")];
    for (word, value) in [
        ("id=x,src=file", "content of file"),
        ("id=x,env=V", "v"),
        ("id=TOKEN", "t"),
        ("id=other", "content of other"),
        ("id=V,type=env", "v"),
    ] {
        let options = command(&format!("build --secret {word} ."), &env).expect(word).options;
        assert_eq!(String::from_utf8(options.secrets[0].value.clone()).expect("text"), value, "{word}");
    }
    for word in ["src=x", "id=x,env=NONE", "id=x,src=a,env=b", "id=x,mode=1"] {
        assert!(command(&format!("build --secret {word} ."), &env).is_err(), "{word}");
    }
}

#[test]
fn pull_caches_times_and_styles() {
    assert_eq!(valid("build .").options.pull, Pull::Missing);
    assert_eq!(valid("build --pull .").options.pull, Pull::Always);
    assert_eq!(valid("build --pull=never .").options.pull, Pull::Never);
    assert_eq!(valid("build --no-cache .").options.no_cache, NoCache::Everything);
    let stages = NoCache::Stages(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(valid("build --no-cache-filter a,b .").options.no_cache, stages);
    assert_eq!(valid("build --build-arg SOURCE_DATE_EPOCH=5 .").options.epoch, Some(5));
    assert_eq!(command("build .", &[("SOURCE_DATE_EPOCH", "7")]).expect("valid").options.epoch, Some(7));
    assert_eq!(valid("build --timestamp 9 .").options.epoch, Some(9));
    assert_eq!(valid("build -q .").options.progress, Style::Quiet);
    assert_eq!(valid("build --progress=rawjson .").options.progress, Style::RawJson);
}

#[test]
fn contexts_may_be_elsewhere() {
    let remote = |words: &str| match valid(words).context {
        ContextArgument::Remote(remote) => remote,
        other => panic!("{words}: {other:?}"),
    };
    assert!(matches!(remote("build https://example.com/x.git#v1:docs"), Remote::Git(git) if git.subdir == "docs"));
    assert!(matches!(remote("build -t a https://example.com/x.tar"), Remote::File(_)));
    assert!(matches!(remote("build git@example.com:a/b"), Remote::Git(_)));
    let contexts = valid(
        "build --build-context a=dir --build-context b=https://x/y.git --build-context c=target:s \
                          --build-context d=oci-layout:///l --build-context e=docker-image://i .",
    )
    .options;
    let names: Vec<&str> = contexts.contexts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(contexts.graph.contexts[3].1, graph::NamedContext::Image("oci-layout:///l".to_owned()));
    assert_eq!(contexts.graph.contexts[2].1, graph::NamedContext::Stage("s".to_owned()));
}

#[test]
fn caches_of_others() {
    let options = valid(
        "build --cache-from r.example/a:c --cache-from type=local,src=in --cache-to type=registry,ref=r.example/a:c,mode=max \
         --cache-to type=local,dest=out,ignore-error=true --cache-to type=inline .",
    )
    .options;
    let name = |text: &str| CachePlace::Registry(text.parse().expect("a name"));
    assert_eq!(options.cache_from, [name("r.example/a:c"), CachePlace::Folder(PathBuf::from("in"))]);
    let places: Vec<_> = options.cache_to.iter().map(|to| (to.place.clone(), to.max)).collect();
    let folder = CachePlace::Folder(PathBuf::from("out"));
    assert_eq!(places, [(name("r.example/a:c"), true), (folder, false), (CachePlace::Inline, false)]);
}

#[test]
fn limits_and_platforms() {
    let options = valid(
        "build --platform linux/amd64,linux/arm64 --memory 1g --cpu-quota 50000 --cpu-period 50000 --cap-add SYS_PTRACE \
         --ulimit nofile=10 --squash --check .",
    )
    .options;
    let platforms: Vec<String> = options.platforms.iter().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!((options.steps.resources.memory, options.steps.resources.cpu_quota), (Some(1 << 30), Some(100_000)));
    assert_eq!((options.squash, options.call), (true, Some(Call::Check(Form::Text))));
    assert_eq!(valid("build --arch arm64 .").options.graph.platform.to_string(), "linux/arm64");
    assert_eq!(valid("build --call outline,format=json .").options.call, Some(Call::Outline(Form::Json)));
}

#[test]
fn what_is_not_known_is_named() {
    for (words, expected) in [
        ("build --policy p .", "--policy is not built yet"),
        ("build --provenance=mode=most .", "--provenance mode=most is not built yet"),
        ("build --sbom .", "an SBOM or provenance refers to an image in a registry"),
        ("build --call nothing .", "--call nothing is not known"),
        ("build --memory lots .", "--memory lots: "),
        ("build --build-context a=ftp://b .", "`ftp://b` is not a context"),
        ("build --cache-from=type=gha .", "--cache-from type=gha: the type `gha` is not built yet"),
        ("build --cache-to=type=registry .", "--cache-to type=registry has no ref"),
        ("build --network mynet .", "--network mynet is not built yet"),
        ("build --ssh x=/etc/passwd .", "--ssh x=/etc/passwd: key files are not built yet"),
        ("build --add-host db .", "--add-host `db` is not NAME:ADDRESS"),
        ("build https://example.com/x.git?colour=red", "`https://example.com/x.git?colour=red`: `colour` is not known"),
        ("build -t UPPER/x@bad .", "`UPPER/x@bad` is not an image name"),
        ("build -f - -", "standard input cannot be both the context and the Dockerfile"),
        ("build --tagg x .", "unexpected argument '--tagg' found"),
    ] {
        let error = command(words, &[]).expect_err(words);
        assert_eq!(error.kind(), Kind::Usage, "{words}");
        assert!(error.to_string().starts_with(expected), "{words}: {error}");
    }
}
