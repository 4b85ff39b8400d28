//! What instructions mean and refuse. Facts from moby/buildkit (Apache-2.0), frontend/dockerfile/instructions:
//! parse_test.go, parse_heredoc_test.go, bflag_test.go, commands_rundevice_test.go, and the code beside them.

use std::time::Duration;

use build::dockerfile::ast::{
    Command, CommandLine, CopySource, Device, Dockerfile, Healthcheck, Instruction, Network, Script, Security,
};
use build::dockerfile::expand::Lexer;
use build::dockerfile::mount::{BindMount, CacheMount, Mount, Permissions, SecretMount, Sharing, SshMount, TmpfsMount};
use build::dockerfile::{Fault, parse, parse_trigger};

#[track_caller]
fn file(text: &str) -> Dockerfile {
    parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The one instruction of a stage.
#[track_caller]
fn one(text: &str) -> Instruction {
    file(&format!("FROM a\n{text}")).stages[0].instructions.remove(0)
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = parse(format!("FROM a\n{text}").as_bytes(), "Dockerfile").expect_err(text);
    assert_eq!(error.message(), expected, "{text}");
}

#[test]
fn errors_show_the_place_and_a_way_out() {
    for (text, expected, hint) in [
        (
            "FROM a\n  RNU true\n",
            "Dockerfile:2:3: unknown instruction `RNU`\n  2 |   RNU true\n    |   ^^^",
            Some("did you mean `RUN`?"),
        ),
        (
            "FROM a\nCOPY --form=b /x \\\n  /y\n",
            "Dockerfile:2:6: unknown flag `--form`\n  2 | COPY --form=b /x \\\n    |      ^^^^^^^^",
            Some("did you mean `--from`?"),
        ),
        (
            "FROM a\nRUN --mount=type=cache \\\n    --netwrok=none true\n",
            "Dockerfile:3:5: unknown flag `--netwrok`\n  3 |     --netwrok=none true\n    |     ^^^^^^^^^^^^^^",
            Some("did you mean `--network`?"),
        ),
        (
            "FROM a\nRUN --mount=type=cahce,target=/x true\n",
            "Dockerfile:2:13: unknown mount type `cahce`\n  2 | RUN --mount=type=cahce,target=/x true\n    |             ^^^^^^^^^^^^^^^^^^^^",
            Some("did you mean `cache`?"),
        ),
        (
            "FROM a\nENV  PATH\n",
            "Dockerfile:2:6: `PATH` has no value\n  2 | ENV  PATH\n    |      ^^^^",
            Some("ENV PATH=VALUE"),
        ),
        (
            "FROM a AS 1x\n",
            "Dockerfile:1:11: `1x` cannot name a stage\n  1 | FROM a AS 1x\n    |           ^^",
            Some("a stage's name begins with a letter and holds letters, digits, `-`, `_` and `.`"),
        ),
        (
            "FROM a\nRUN true\nif [ x ]; then\n",
            "Dockerfile:3:1: unknown instruction `if`\n  3 | if [ x ]; then\n    | ^^",
            Some("does the line before end in a backslash, or does this text belong to a heredoc?"),
        ),
        (
            "FROM a\nRUN <<EOF\necho\n",
            "Dockerfile:2:1: the heredoc `EOF` is not closed\n  2 | RUN <<EOF\n    | ^^^^^^^^^",
            Some("end it with a line that is `EOF` alone"),
        ),
    ] {
        let error = parse(text.as_bytes(), "Dockerfile").expect_err(text);
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.advice(), hint, "{text}");
        let error = layerfs::error::Error::from(error);
        assert_eq!((error.chain().as_str(), error.advice()), (expected, hint));
        assert_eq!(error.kind(), layerfs::error::Kind::Invalid);
    }
    let error = parse(b"FROM a\nRUN \xff\n", "Dockerfile").expect_err("no UTF-8");
    assert!(error.to_string().starts_with("Dockerfile:2:5: an instruction holds bytes that are not UTF-8"), "{error}");
    // A comment may hold anything.
    assert!(parse(b"# \xff\nFROM a\nRUN a \\\n# \xff\n b\n", "Dockerfile").is_ok());
}

#[test]
fn instructions_need_their_arguments() {
    for name in
        ["ARG", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"]
    {
        refused(name, &format!("`{name}` needs an argument"));
    }
    refused("ONBUILD", "`ONBUILD` needs an instruction");
    refused("SHELL []", "`SHELL` needs an argument");
    refused("SHELL bash -c", "`SHELL` takes a JSON array");
    for name in ["ADD", "COPY"] {
        refused(name, &format!("`{name}` needs a source and a destination"));
        refused(&format!("{name} x"), &format!("`{name}` needs a source and a destination"));
        refused(&format!("{name} \t\n"), &format!("`{name}` needs a source and a destination"));
    }
    refused("FROM", "`FROM` names no image");
    for text in ["FROM a b", "FROM a as", "FROM a is b", "FROM a as b c"] {
        refused(text, "`FROM` takes an image, or an image, `AS` and a name");
    }
    refused("ARG =x", "a name of this `ARG` is empty");
    refused("VOLUME [\"\"]", "a `VOLUME` cannot be empty");
    // A bare command is one for the shell, and empty.
    for name in ["RUN", "CMD", "ENTRYPOINT"] {
        let command = one(name).command;
        let (Command::Cmd(line) | Command::Entrypoint(line)) = command else {
            let Command::Run(run) = command else { panic!("{name}") };
            assert_eq!(run.script(), Script::Shell(String::new()));
            continue;
        };
        assert!(matches!(line, CommandLine::Shell(word) if word.text.is_empty()));
    }
    assert!(matches!(one("ENTRYPOINT []").command, Command::Entrypoint(CommandLine::Exec(none)) if none.is_empty()));
}

#[test]
fn flags_are_checked() {
    for (text, expected) in [
        ("MAINTAINER --boo joe@example.com", "unknown flag `--boo`"),
        ("ARG --boo x", "unknown flag `--boo`"),
        ("STOPSIGNAL --boo x", "unknown flag `--boo`"),
        ("HEALTHCHECK --boo NONE", "unknown flag `--boo`"),
        ("FROM --boo=x a", "unknown flag `--boo`"),
        ("ONBUILD --boo RUN x", "unknown flag `--boo`"),
        ("ADD --from=x a b", "unknown flag `--from`"),
        ("ADD --parents a b", "unknown flag `--parents`"),
        ("COPY --unpack a b", "unknown flag `--unpack`"),
        ("COPY --From=x a b", "unknown flag `--From`"),
        ("COPY --from a b", "the flag `--from` needs a value"),
        ("COPY --exclude a b", "the flag `--exclude` needs a value"),
        ("COPY --link= a b", "the flag `--link` is true or false, not ``"),
        ("COPY --link=false1 a b", "the flag `--link` is true or false, not `false1`"),
        ("COPY --link --link a b", "the flag `--link` is written twice"),
        ("COPY --from=a --from=b a b", "the flag `--from` is written twice"),
        ("COPY --from=$x a b", "`--from` takes no variables"),
        ("RUN --network=foo x", "`foo` is no value for `--network`"),
        ("RUN --network=$x x", "`$x` is no value for `--network`"),
        ("RUN --security=unsafe x", "`unsafe` is no value for `--security`"),
    ] {
        refused(text, expected);
    }
    let Command::Copy(copy) =
        one("COPY --link=TRUE --parents=false --exclude=a --exclude=b --chown= --from=x --chmod=u=rwX a b").command
    else {
        panic!()
    };
    assert!(copy.link && !copy.parents && copy.chown.is_none());
    assert_eq!(copy.exclude.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(copy.from.map(|word| word.text).as_deref(), Some("x"));
    assert_eq!(copy.chmod.map(|word| word.text).as_deref(), Some("u=rwX"));
    let Command::Add(add) = one("ADD --keep-git-dir --unpack=false --checksum=sha256:$X a b").command else { panic!() };
    assert_eq!((add.keep_git_dir, add.unpack, add.link), (Some(true), Some(false), false));
    assert_eq!(add.checksum.map(|word| word.text).as_deref(), Some("sha256:$X"));
    let Command::Run(run) = one("RUN --security=insecure --network=host --mount=target=/a --mount=target=/b x").command
    else {
        panic!()
    };
    assert_eq!((run.network, run.security, run.mounts.len()), (Network::Host, Security::Insecure, 2));
    assert_eq!(run.flags, ["security", "network", "mount"]);
}

#[test]
fn stages_and_arguments_have_names_and_docs() {
    let text = "# foo sets foo\nARG foo=bar\n\n# base defines first stage\nFROM --platform=$BUILDPLATFORM busybox AS Base\n\
                # this is irrelevant\nARG foo\n# bar defines bar\n# baz is something else\nARG bar baz=\"1 2\"\nFROM base\n";
    let file = file(text);
    let docs = |instruction: &Instruction| {
        let Command::Arg(arguments) = &instruction.command else { panic!() };
        let pairs = arguments.iter().map(|argument| {
            let default = argument.default.as_ref().map(|word| word.text.clone());
            (argument.name.text.clone(), default, argument.doc.clone())
        });
        pairs.collect::<Vec<_>>()
    };
    let row = |name: &str, default: Option<&str>, doc: Option<&str>| {
        (name.to_owned(), default.map(str::to_owned), doc.map(str::to_owned))
    };
    assert_eq!(docs(&file.global_args[0]), [row("foo", Some("bar"), Some("sets foo"))]);
    let stage = &file.stages[0];
    assert_eq!((stage.name.as_deref(), stage.from.image.text.as_str()), (Some("base"), "busybox"));
    assert_eq!(stage.from.platform.as_ref().map(|word| word.text.as_str()), Some("$BUILDPLATFORM"));
    assert_eq!(stage.from.alias.as_ref().map(|(_, name)| name.text.as_str()), Some("Base"));
    assert_eq!(stage.comments, ["base defines first stage"]);
    assert_eq!(docs(&stage.instructions[0]), [row("foo", None, None)]);
    let both = [row("bar", None, Some("defines bar")), row("baz", Some("\"1 2\""), Some("is something else"))];
    assert_eq!(docs(&stage.instructions[1]), both);
    assert_eq!((file.stages.len(), file.stages[1].name.clone()), (2, None));
}

#[test]
fn words_know_their_places() {
    let text = "FROM a\nCOPY --from=b --chown=1 \\\n  src \\\n  dst\nENV A=1 B=\"2 3\"\nRUN <<X\ny\nX\n";
    let file = file(text);
    let at = |span: build::dockerfile::source::Span| &text[span.start..span.end];
    let [copy, env, run] = file.stages[0].instructions.as_slice() else { panic!() };
    let Command::Copy(copied) = &copy.command else { panic!() };
    let CopySource::Path(source) = &copied.sources[0] else { panic!() };
    let from = copied.from.as_ref().expect("written");
    assert_eq!((at(source.span), at(copied.destination.span), at(from.span)), ("src", "dst", "b"));
    let Command::Env(pairs) = &env.command else { panic!() };
    assert_eq!((at(pairs[1].key.span), at(pairs[1].value.span)), ("B", "\"2 3\""));
    assert_eq!(at(run.span), "RUN <<X\ny\nX");
    let Command::Run(run) = &run.command else { panic!() };
    assert_eq!(at(run.heredocs[0].span), "y\n");
    assert_eq!(copy.original, "COPY --from=b --chown=1   src   dst");
}

#[test]
fn copy_takes_paths_and_heredocs_in_order() {
    let sources = |text: &str| {
        let Command::Copy(copy) = one(text).command else { panic!("{text}") };
        let list = copy.sources.iter().map(|source| match source {
            CopySource::Path(word) => word.text.clone(),
            CopySource::Inline(heredoc) => format!("{}:{}:{:?}", heredoc.name, heredoc.expand, heredoc.content()),
        });
        list.collect::<Vec<_>>()
    };
    assert_eq!(sources("COPY /foo /bar"), ["/foo"]);
    assert_eq!(sources("COPY <<EOF /bar\nEOF"), ["EOF:true:\"\""]);
    assert_eq!(sources("COPY <<-EOF /bar\n\tA\n\t\tB\nEOF"), ["EOF:true:\"A\\nB\\n\""]);
    assert_eq!(sources("COPY <<'EOF' /bar\nA\nEOF"), ["EOF:false:\"A\\n\""]);
    assert_eq!(sources("COPY <<A x.txt <<B /bar\n1\nA\n2\nB"), ["A:true:\"1\\n\"", "x.txt", "B:true:\"2\\n\""]);
    assert_eq!(sources("COPY [\"<<EOF\", \"b c\", \"/d\"]"), ["<<EOF", "b c"]);
}

#[test]
fn heredocs_become_scripts() {
    let script = |text: &str| {
        let Command::Run(run) = one(text).command else { panic!("{text}") };
        run.script()
    };
    let shell = |text: &str| Script::Shell(text.to_owned());
    assert_eq!(script("RUN [\"ls\", \"/\"]"), Script::Exec(vec!["ls".to_owned(), "/".to_owned()]));
    assert_eq!(script("RUN [\"<<EOF\"]"), Script::Exec(vec!["<<EOF".to_owned()]));
    assert_eq!(script("RUN ls /"), shell("ls /"));
    assert_eq!(script("RUN <<EOF\nls /\nwhoami\nEOF"), shell("ls /\nwhoami\n"));
    assert_eq!(script("RUN <<-EOF\n\techo\nEOF"), shell("echo\n"));
    assert_eq!(script("RUN <<'E' | python\nprint(1)\nE"), shell("<<'E' | python\nprint(1)\nE"));
    assert_eq!(script("RUN cat <<A <<B\n1\nA\n2\nB"), shell("cat <<A <<B\n1\nA\n2\nB"));
    let content = "#!/usr/bin/python3\nprint(1)\n".to_owned();
    assert_eq!(
        script(&format!("RUN <<x.py\n{content}x.py")),
        Script::File { name: "x.py".to_owned(), content: content.clone() }
    );
    assert_eq!(
        script("RUN <<-x.py\n\t#!/usr/bin/python3\n\tprint(1)\n\tx.py"),
        Script::File { name: "x.py".to_owned(), content }
    );
}

#[test]
fn triggers_are_kept_and_read_back() {
    let trigger = |text: &str| {
        let Command::Onbuild(onbuild) = one(text).command else { panic!("{text}") };
        let read = parse_trigger(&onbuild.trigger, "trigger").unwrap_or_else(|error| panic!("{text}\n{error}"));
        assert_eq!(read.command.name(), onbuild.instruction.command.name(), "{text}");
        onbuild.trigger
    };
    assert_eq!(trigger("ONBUILD RUN echo  a \\\n && b"), "RUN echo  a  && b");
    assert_eq!(trigger("onbuild\tCOPY --from=x a b"), "COPY --from=x a b");
    assert_eq!(trigger("ONBUILD RUN cat <<A <<B\n1\nA\n2\nB"), "RUN cat <<A <<B\n1\nA\n2\nB");
    refused("ONBUILD FROM scratch", "`FROM` cannot stand in an `ONBUILD`");
    refused("ONBUILD maintainer x", "`MAINTAINER` cannot stand in an `ONBUILD`");
    refused("ONBUILD ONBUILD RUN x", "`ONBUILD` cannot stand in another `ONBUILD`");
    refused("ONBUILD RNU x", "unknown instruction `RNU`");
    for (text, expected) in [
        ("RUN a\nRUN b", "the trigger holds more than one instruction"),
        ("", "the trigger holds no instruction"),
        ("FROM x", "`FROM` cannot stand in an `ONBUILD`"),
        ("ONBUILD RUN x", "`ONBUILD` cannot stand in an `ONBUILD`"),
    ] {
        assert_eq!(parse_trigger(text, "trigger").expect_err(text).message(), expected);
    }
}

#[test]
fn healthchecks_have_durations() {
    let check = |text: &str| {
        let Command::Healthcheck(check) = one(text).command else { panic!("{text}") };
        check
    };
    assert_eq!(check("HEALTHCHECK none"), Healthcheck::None);
    let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } =
        check("HEALTHCHECK --interval=1m30s --timeout=1ms --start-period=0s --start-interval=2s --retries=3 CMD a b")
    else {
        panic!()
    };
    assert!(matches!(command, CommandLine::Shell(word) if word.text == "a b"));
    assert_eq!((interval, timeout), (Some(Duration::from_secs(90)), Some(Duration::from_millis(1))));
    assert_eq!((start_period, start_interval, retries), (None, Some(Duration::from_secs(2)), Some(3)));
    for (text, expected) in [
        ("HEALTHCHECK NONE x", "`HEALTHCHECK NONE` takes no arguments"),
        ("HEALTHCHECK CMD", "`HEALTHCHECK CMD` needs a command"),
        ("HEALTHCHECK CMD []", "`HEALTHCHECK CMD` needs a command"),
        ("HEALTHCHECK CONNECT TCP 7000", "`HEALTHCHECK` knows no `CONNECT`"),
        ("HEALTHCHECK --interval=50ns CMD x", "`--interval` cannot be less than 1ms"),
        ("HEALTHCHECK --interval=5 CMD x", "`5` is no duration"),
        ("HEALTHCHECK --retries=-1 CMD x", "`-1` is no number of retries"),
    ] {
        refused(text, expected);
    }
}

fn mount(text: &str) -> Result<Mount, Fault> {
    let env = |name: &str| (name == "X").then(|| "x y".to_owned());
    Mount::parse(text, &mut |value| Lexer::new('\\').word(value, &env))
}

#[test]
fn mounts_have_their_defaults() {
    let bind = |target: &str, source: &str, from: Option<&str>, writable| {
        let (target, source, from) = (target.to_owned(), source.to_owned(), from.map(str::to_owned));
        Mount::Bind(BindMount { target, source, from, writable })
    };
    let cache = |id: &str, target: &str| CacheMount {
        id: id.to_owned(),
        target: target.to_owned(),
        source: String::new(),
        from: None,
        sharing: Sharing::Shared,
        read_only: false,
        permissions: None,
    };
    let secret = |id: &str, target: Option<&str>, env: Option<&str>| SecretMount {
        id: id.to_owned(),
        target: target.map(str::to_owned),
        env: env.map(str::to_owned),
        required: false,
        permissions: Permissions { mode: 0o400, uid: 0, gid: 0 },
    };
    let ssh = |id: &str, target: Option<&str>, required, mode, uid| {
        let permissions = Permissions { mode, uid, gid: 0 };
        Mount::Ssh(SshMount { id: id.to_owned(), target: target.map(str::to_owned), required, permissions })
    };
    let tmpfs = |target: &str, size| Mount::Tmpfs(TmpfsMount { target: target.to_owned(), size, read_only: false });
    for (text, expected) in [
        ("target=/a", bind("/a", "", None, false)),
        ("TYPE=Bind,DST=/a,Src=b", bind("/a", "b", None, false)),
        ("type=bind,destination=/a,source=$X,from=st,rw", bind("/a", "x y", Some("st"), true)),
        ("target=/a,readwrite=false", bind("/a", "", None, false)),
        ("target=/a,ro=false", bind("/a", "", None, true)),
        ("target=/a,id=harmless", bind("/a", "", None, false)),
        (r#"type=bind,"target=/a,b""#, bind("/a,b", "", None, false)),
        ("type=bind", bind("", "", None, false)),
        ("type=cache,target=/root/.cache/", Mount::Cache(cache("/root/.cache", "/root/.cache/"))),
        ("type=cache,target=/a,id=$X", Mount::Cache(cache("x y", "/a"))),
        (
            "type=cache,target=/a,sharing=Locked,ro,from=b,source=/s,mode=0700,uid=3",
            Mount::Cache(CacheMount {
                source: "/s".to_owned(),
                from: Some("b".to_owned()),
                sharing: Sharing::Locked,
                read_only: true,
                permissions: Some(Permissions { mode: 0o700, uid: 3, gid: 0 }),
                ..cache("/a", "/a")
            }),
        ),
        (
            "type=cache,target=/a,gid=4",
            Mount::Cache(CacheMount {
                permissions: Some(Permissions { mode: 0o755, uid: 0, gid: 4 }),
                ..cache("/a", "/a")
            }),
        ),
        ("type=tmpfs,target=/t", tmpfs("/t", None)),
        ("type=tmpfs,target=/t,size=64m", tmpfs("/t", Some(64 << 20))),
        ("type=secret,id=a", Mount::Secret(secret("a", Some("/run/secrets/a"), None))),
        ("type=secret,source=a/b", Mount::Secret(secret("a/b", Some("/run/secrets/b"), None))),
        ("type=secret,target=/x/key", Mount::Secret(secret("key", Some("/x/key"), None))),
        ("type=secret,id=a,env=TOKEN", Mount::Secret(secret("a", None, Some("TOKEN")))),
        ("type=secret,id=a,env=T,target=/t", Mount::Secret(secret("a", Some("/t"), Some("T")))),
        (
            "required,type=secret,id=a,mode=444,uid=5",
            Mount::Secret(SecretMount {
                required: true,
                permissions: Permissions { mode: 0o444, uid: 5, gid: 0 },
                ..secret("a", Some("/run/secrets/a"), None)
            }),
        ),
        ("type=ssh", ssh("default", None, false, 0o600, 0)),
        ("type=ssh,id=k,target=/s,required=true,uid=7", ssh("k", Some("/s"), true, 0o600, 7)),
    ] {
        assert_eq!(mount(text), Ok(expected), "{text}");
    }
    assert_eq!(Mount::from_of("type=bind,From=base,target=/a").as_deref(), Some("base"));
    assert_eq!(Mount::from_of("type=bind,target=/a"), None);
}

#[test]
fn mounts_refuse_what_they_cannot_do() {
    for (text, expected, hint) in [
        ("type=voluem,target=/a", "unknown mount type `voluem`", "the types are bind, cache, tmpfs, secret, ssh"),
        ("type=tmfs,target=/a", "unknown mount type `tmfs`", "did you mean `tmpfs`?"),
        ("targt=/a", "unknown mount option `targt`", "did you mean `target`?"),
        ("target", "the mount option `target` needs a value", ""),
        (
            "type=cache,target=/a,from=$X",
            "the mount option `from` takes no variables",
            "give the image a stage of its own, `FROM $IMAGE AS name`, and name that",
        ),
        ("target=/a,required", "a bind mount has no option `required`", ""),
        ("target=/a,mode=0700", "a bind mount has no option `mode`", ""),
        ("type=tmpfs,target=/a,uid=1", "a tmpfs mount has no option `uid`", ""),
        ("type=cache,target=/a,size=1m", "a cache mount has no option `size`", ""),
        ("target=/a,sharing=locked", "a bind mount has no option `sharing`", ""),
        ("type=cache,target=/a,sharing=lock", "unknown cache sharing `lock`", "did you mean `locked`?"),
        ("type=ssh,source=a", "a ssh mount has no option `source`", ""),
        ("type=secret", "a secret mount says neither `id` nor `target`", "--mount=type=secret,id=NAME"),
        ("type=secret,id=a,source=b", "a secret mount has `id` or `source`, not both", ""),
        ("type=secret,id=a,from=b", "a secret mount has no option `from`", ""),
        ("type=cache,target=/a,mode=rwx", "`rwx` is no value for the mount option `mode`", ""),
        ("type=cache,target=/a,uid=root", "`root` is no value for the mount option `uid`", ""),
        ("type=cache,target=/a,ro=perhaps", "`perhaps` is no value for the mount option `ro`", ""),
        ("type=tmpfs,target=/a,size=big", "`big` is no value for the mount option `size`", ""),
        ("a\"b", "the mount `a\"b` is no list: a quote stands inside a field that does not begin with one", ""),
    ] {
        let fault = mount(text).expect_err(text);
        assert_eq!((fault.message.as_str(), fault.hint.as_deref().unwrap_or("")), (expected, hint), "{text}");
    }
    // Without variables the parser says so at once; with some, the value decides later.
    refused("RUN --mount=type=cache,target=/a,mode=x true", "`x` is no value for the mount option `mode`");
    assert!(matches!(one("RUN --mount=type=$X,target=/a true").command, Command::Run(_)));
}

#[test]
fn devices_have_names() {
    let devices = |text: &str| {
        let Command::Run(run) = one(&format!("RUN --device={text} true")).command else { panic!("{text}") };
        run.devices.into_iter().map(|Device { name, required, .. }| (name, required)).collect::<Vec<_>>()
    };
    for (text, name, required) in [
        ("vendor1.com/device=foo", "vendor1.com/device=foo", false),
        ("vendor1.com/device", "vendor1.com/device", false),
        ("vendor1.com/device=foo,required", "vendor1.com/device=foo", true),
        ("vendor1.com/device=foo,required=true", "vendor1.com/device=foo", true),
        ("vendor1.com/device=foo,required=false", "vendor1.com/device=foo", false),
        ("name=vendor1.com/device=foo", "vendor1.com/device=foo", false),
        ("name=vendor1.com/device=foo,required", "vendor1.com/device=foo", true),
    ] {
        assert_eq!(devices(text), [(name.to_owned(), required)], "{text}");
    }
    refused("RUN --device=a=b,name=c=d x", "the device `a=b` has a second name");
    refused("RUN --device=a=b,requird=1 x", "unknown device option `requird`");
}
