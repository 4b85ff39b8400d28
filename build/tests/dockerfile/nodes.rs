//! How lines become nodes. Facts from moby/buildkit (Apache-2.0), frontend/dockerfile/parser: testfiles,
//! testfiles-negative, testfile-line, parser_test.go, parser_heredoc_test.go, directives_test.go, json_test.go.
//!
//! Each row is a piece of a Dockerfile and its s-expressions, in the suite's own form.

use build::dockerfile::ast::{Command, Heredoc};
use build::dockerfile::{detect_directive, dump, parse};

#[track_caller]
fn check(text: &str, expected: &str) {
    match dump(text.as_bytes(), "Dockerfile") {
        Ok(result) => assert_eq!(result.trim_end(), expected.trim_end(), "{text}"),
        Err(error) => panic!("{text}\n{error}"),
    }
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = parse(text.as_bytes(), "Dockerfile").expect_err(text);
    assert_eq!(error.message(), expected, "{text}");
}

#[test]
fn arguments_split_as_their_instruction_does() {
    for (text, expected) in [
        ("FROM\tubuntu:14.04", r#"(from "ubuntu:14.04")"#),
        ("FROM ubuntu AS  Base", r#"(from "ubuntu" "AS" "Base")"#),
        ("LABEL\tmaintainer\tA B <a@b.c>", r#"(label "maintainer" "A B <a@b.c>" "")"#),
        ("COPY\t.\t/go/src", r#"(copy "." "/go/src")"#),
        ("ADD\t\tnull /", r#"(add "null" "/")"#),
        ("ADD\t\t[ \"vimrc\", \"/tmp\" ]", r#"(add "vimrc" "/tmp")"#),
        (r#"COPY [ "test file", "/tmp/test file" ]"#, r#"(copy "test file" "/tmp/test file")"#),
        ("ARG foo bar=baz", r#"(arg "foo" "bar=baz")"#),
        (r#"ARG abc="123 456" def"#, r#"(arg "abc=\"123 456\"" "def")"#),
        ("EXPOSE 9000 5000 6000", r#"(expose "9000" "5000" "6000")"#),
        ("USER docker:root", r#"(user "docker:root")"#),
        (r#"VOLUME ["/test", "/test2"]"#, r#"(volume "/test" "/test2")"#),
        ("VOLUME /opt/a /opt/b /opt/c", r#"(volume "/opt/a" "/opt/b" "/opt/c")"#),
        ("WORKDIR /a dir", r#"(workdir "/a dir")"#),
        ("MAINTAINER A \"B\" <c>", r#"(maintainer "A \"B\" <c>")"#),
        ("STOPSIGNAL SIGKILL", r#"(stopsignal "SIGKILL")"#),
        (r#"SHELL ["/bin/bash", "-c"]"#, r#"(shell "/bin/bash" "-c")"#),
        ("run    sh -c 'a b'", r#"(run "sh -c 'a b'")"#),
        (r#"ONBUILD RUN ["echo", "test"]"#, r#"(onbuild (run "echo" "test"))"#),
        ("ONBUILD RUN echo test", r#"(onbuild (run "echo test"))"#),
        ("ONBUILD COPY . /", r#"(onbuild (copy "." "/"))"#),
        ("FOO some args", r#"(foo "")"#),
    ] {
        // An instruction that does not exist is a node without arguments here, and refused later.
        check(text, expected);
    }
}

#[test]
fn env_and_label_keep_quotes_and_escapes() {
    for (text, expected) in [
        ("ENV name value", r#"(env "name" "value" "")"#),
        ("ENV name=value", r#"(env "name" "value" "=")"#),
        ("ENV name=value name2=value2", r#"(env "name" "value" "=" "name2" "value2" "=")"#),
        (r#"ENV name="value value1""#, r#"(env "name" "\"value value1\"" "=")"#),
        (r"ENV name=value\ value2", r#"(env "name" "value\\ value2" "=")"#),
        (r#"ENV name="a'b c'd""#, r#"(env "name" "\"a'b c'd\"" "=")"#),
        (r#"ENV name='a"b c"d'"#, r#"(env "name" "'a\"b c\"d'" "=")"#),
        (r"ENV a=b\ c d=e\ f", r#"(env "a" "b\\ c" "=" "d" "e\\ f" "=")"#),
        (r#"ENV name="a\"b""#, r#"(env "name" "\"a\\\"b\"" "=")"#),
        (r#"ENV name="a\'b""#, r#"(env "name" "\"a\\'b\"" "=")"#),
        (r"ENV name='a\'b'", r#"(env "name" "'a\\'b'" "=")"#),
        (r"ENV name='a\'b''", r#"(env "name" "'a\\'b''" "=")"#),
        (r#"ENV name='a\"b'"#, r#"(env "name" "'a\\\"b'" "=")"#),
        (r#"ENV name="''""#, r#"(env "name" "\"''\"" "=")"#),
        ("ENV SCUBA 1 DUBA 3", r#"(env "SCUBA" "1 DUBA 3" "")"#),
        (r#"ENV SCUBA "1 DUBA 3""#, r#"(env "SCUBA" "\"1 DUBA 3\"" "")"#),
        ("LABEL àöû=\"âbc xÿz\" ö=", r#"(label "àöû" "\"âbc xÿz\"" "=" "ö" "" "=")"#),
        (
            "ENV a=b \\\n    c=\"d \\\n           e\" \\\n    f=\"g\\n\\\"h\\\"\" \\\n\ti=\"j\\\\nk\" \\",
            r#"(env "a" "b" "=" "c" "\"d            e\"" "=" "f" "\"g\\n\\\"h\\\"\"" "=" "i" "\"j\\\\nk\"" "=")"#,
        ),
        (r#"LABEL maintainer Erik \\H <e@h>\""#, r#"(label "maintainer" "Erik \\\\H <e@h>\\\"" "")"#),
    ] {
        check(text, expected);
    }
    refused("FROM x\nENV PATH", "`PATH` has no value");
    refused("FROM x\nENV a=b c", "`c` has no `=`");
    refused("FROM x\nLABEL =b", "a name of this `LABEL` is empty");
    refused("FROM x\nENV =b", "a name of this `ENV` is empty");
}

#[test]
fn json_is_taken_or_left() {
    for (text, expected) in [
        ("CMD []", "(cmd)"),
        (r#"CMD [""]"#, r#"(cmd "")"#),
        (r#"CMD ["a"]"#, r#"(cmd "a")"#),
        (r#"CMD [ "a", "b" ]"#, r#"(cmd "a" "b")"#),
        ("CMD\t[\t\"a\",\t\"b\"\t]\t", r#"(cmd "a" "b")"#),
        (
            r#"CMD ["abc 123", "♥", "☃", "\" \\ \/ \b \f \n \r \t \u0000"]"#,
            r#"(cmd "abc 123" "♥" "☃" "\" \\ / \b \f \n \r \t \x00")"#,
        ),
        (r#"CMD [ "\/usr\\\"/bin/znc", "-f", "-r" ]"#, r#"(cmd "/usr\\\"/bin/znc" "-f" "-r")"#),
        // What is no JSON is a shell's command.
        (r#"CMD '["echo", "JSON in a string"]'"#, r#"(cmd "'[\"echo\", \"JSON in a string\"]'")"#),
        (r#"CMD "[\"echo\", \"escaped\"]""#, r#"(cmd "\"[\\\"echo\\\", \\\"escaped\\\"]\"")"#),
        ("CMD ['echo','single quotes']", r#"(cmd "['echo','single quotes']")"#),
        (r#"CMD ["echo", "no bracket""#, r#"(cmd "[\"echo\", \"no bracket\"")"#),
        (r#"CMD ["echo", "no quote]"#, r#"(cmd "[\"echo\", \"no quote]")"#),
        (r#"RUN ["a"] && b"#, r#"(run "[\"a\"] && b")"#),
        (r#"COPY ["a b" /c"#, r#"(copy "[\"a" "b\"" "/c")"#),
    ] {
        check(text, expected);
    }
    for value in ["42", "123.456", "{}", r#"{"c": "d"}"#, r#"["c"]"#, "true", "false", "null"] {
        for instruction in ["CMD", "ADD", "SHELL"] {
            let text = format!("{instruction} [\"a\",{value},\"b\"]");
            let error = dump(text.as_bytes(), "Dockerfile").expect_err(&text);
            assert!(error.message().ends_with("in this JSON array is not a string"), "{text}: {error}");
        }
    }
}

#[test]
fn lines_continue() {
    for (text, expected) in [
        ("RUN a\\\n  b\\\n  c  \\\n  d\\\ne", r#"(run "a  b  c    de")"#),
        ("RUN a  \\  \nb", r#"(run "a  b")"#),
        ("RUN a \\\n \\\n b \\\n\\\n c\\\n\\\nd", r#"(run "a   b  cd")"#),
        ("RUN a \\\n# comment\n\n# again\n\nb", r#"(run "a b")"#),
        ("RUN a \\\n    # indented\n    b", r#"(run "a     b")"#),
        ("RUN a \\", r#"(run "a")"#),
        ("FROM x\nRUN a \\\n", "(from \"x\")\n(run \"a\")"),
        ("ENV B another\\\\path", r#"(env "B" "another\\\\path" "")"#),
        ("ENV C trailing\\\\\nENV D next", "(env \"C\" \"trailing\\\\\\\\\" \"\")\n(env \"D\" \"next\" \"\")"),
        ("ENV E hello\\\n\\\nworld", r#"(env "E" "helloworld" "")"#),
        ("ENV F hello\\\n \\\nworld", r#"(env "F" "hello world" "")"#),
        ("ENV G hello \\\n\\\nworld", r#"(env "G" "hello world" "")"#),
        ("\\\nRUN a", r#"(run "a")"#),
        ("RUN a \\\r\n  b\r\nRUN c\r\n", "(run \"a   b\")\n(run \"c\")"),
        ("\u{feff}RUN a", r#"(run "a")"#),
        ("# RUN x \\\nRUN a", r#"(run "a")"#),
        ("RUN apt \\update && \\\n  apt \\\"x -y", r#"(run "apt \\update &&   apt \\\"x -y")"#),
        (r#"ADD \conf\\" /.znc"#, r#"(add "\\conf\\\\\"" "/.znc")"#),
    ] {
        check(text, expected);
    }
}

#[test]
fn an_empty_line_in_a_continuation_warns() {
    let text =
        "\nFROM a\nRUN valid \\\n b\nRUN one \\\n\n two \\\n\n three\nRUN four \\\n\n five\nRUN six \\\n# x\n seven\n";
    let file = parse(text.as_bytes(), "Dockerfile").expect("valid");
    let lines = |at: usize| file.source.position(file.warnings[at].span.start).line;
    assert_eq!((file.warnings.len(), lines(0), lines(1)), (2, 6, 11));
    assert_eq!(file.warnings[0].rule, "NoEmptyContinuation");
}

#[test]
fn directives_stand_at_the_top() {
    for (text, expected) in [
        ("#escape = `\n\nENV A `\n\\go", r#"(env "A" "\\go" "")"#),
        ("# ESCAPE=\\\nENV A \\\n/go", r#"(env "A" "/go" "")"#),
        ("# syntax = docker/dockerfile\n# escape = `\n\nFROM `\n    image", r#"(from "image")"#),
        // A comment ends them.
        ("# A comment\n# escape = `\nENV A \\\n\\go", r#"(env "A" "\\go" "")"#),
        ("# escape = `\n# A comment\nENV A `\n\\go", r#"(env "A" "\\go" "")"#),
        ("\n# escape = `\nENV A \\\n\\go", r#"(env "A" "\\go" "")"#),
        // One without a value is a comment.
        ("# escape=\n# escape = `\nENV A \\\n\\go", r#"(env "A" "\\go" "")"#),
        ("RUN a\n# escape = `\nRUN b `", "(run \"a\")\n(run \"b `\")"),
    ] {
        check(text, expected);
    }
    refused("# escape=`\n# escape=\\\nFROM a", "the parser directive `escape` is written twice");
    refused("# escape=x\nFROM a", "the escape character cannot be `x`");
    refused("# escape= \nFROM a", "the escape character cannot be ``");
    refused("# check=skip=A;oops=1\nFROM a", "the check directive has no option `oops`");
    let file =
        parse(b"# syntax=docker/dockerfile:1\n# check=skip=A,B;error=true;experimental=all\nFROM a", "Dockerfile");
    let directives = file.expect("valid").directives;
    assert_eq!(directives.syntax.map(|word| word.text).as_deref(), Some("docker/dockerfile:1"));
    let check = directives.check.expect("written");
    assert!(check.error && check.skip.contains("b") && !check.skip.contains("C") && check.experimental.contains("C"));
}

#[test]
fn directives_are_found_in_other_files_too() {
    for (name, text, expected) in [
        (
            "syntax",
            "# syntax = dockerfile:experimental // opts\nFROM a\n",
            Some(("dockerfile:experimental // opts", 1)),
        ),
        ("syntax", "#!/bin/sh\n# syntax = x\nFROM a\n", Some(("x", 2))),
        ("syntax", "#!/bin/sh\n\n# syntax = x\n", None),
        ("syntax", "FROM a\nRUN ls\n", None),
        ("syntax", "//syntax=foo\n//key=value", Some(("foo", 1))),
        ("syntax", "#!/bin/sh\n//syntax=x", Some(("x", 2))),
        ("syntax", "{\"syntax\": \"foo\", \"bar\": [\"abc\"]}", Some(("foo", 1))),
        ("syntax", "{\"syntax\": \"foo\"", None),
        ("syntax", "{\"syntax\": \"foo\"}\n# syntax=bar", None),
        ("syntax", "\u{feff}# syntax = x\nFROM a\n", Some(("x", 1))),
        ("escape", "#escape=\\\n# key = FOO bar\n", Some(("\\", 1))),
        ("escape", "# EScape=\\\n# KEY = FOO bar\n", Some(("\\", 1))),
        ("check", "#!/bin/sh\n# check = skip=all\nFROM a\n", Some(("skip=all", 2))),
        ("check", "# syntax=a\n# check = skip=all // opts\n", Some(("skip=all // opts", 2))),
    ] {
        let found = detect_directive(name, text.as_bytes());
        assert_eq!(found, expected.map(|(value, line)| (value.to_owned(), line)), "{text}");
    }
}

#[test]
fn flags_lose_their_quotes() {
    for (text, expected) in [
        ("COPY --user=me --doit=true foo /tmp/", r#"(copy ["--user=me" "--doit=true"] "foo" "/tmp/")"#),
        ("COPY --doit=true -- foo /tmp/", r#"(copy ["--doit=true"] "foo" "/tmp/")"#),
        ("COPY -- --foo /tmp/", r#"(copy "--foo" "/tmp/")"#),
        (r#"CMD --doit [ "a", "b" ]"#, r#"(cmd ["--doit"] "a" "b")"#),
        ("CMD --doit -- [ ]", r#"(cmd ["--doit"])"#),
        (r#"RUN --a="b c" --d='e f'g x"#, r#"(run ["--a=b c" "--d=e fg"] "x")"#),
        (r"RUN --a=b\ c\\ x", r#"(run ["--a=b c\\"] "x")"#),
        (r#"RUN --mount='type=bind,"target=/a,b"' x"#, r#"(run ["--mount=type=bind,\"target=/a,b\""] "x")"#),
        ("RUN --a=é x", r#"(run ["--a=é"] "x")"#),
        ("RUN x --not=a-flag", r#"(run "x --not=a-flag")"#),
        ("RUN - x", r#"(run "- x")"#),
    ] {
        check(text, expected);
    }
}

#[test]
fn healthchecks_have_a_kind_and_a_command() {
    for (text, expected) in [
        ("HEALTHCHECK", "(healthcheck)"),
        (
            "HEALTHCHECK --interval=5s --timeout=3s \\\n  CMD /app/check.sh --quiet",
            r#"(healthcheck ["--interval=5s" "--timeout=3s"] "CMD" "/app/check.sh --quiet")"#,
        ),
        ("HEALTHCHECK CMD", r#"(healthcheck "CMD")"#),
        ("HEALTHCHECK   CMD   a b", r#"(healthcheck "CMD" "a b")"#),
        (r#"HEALTHCHECK --timeout=3s CMD ["foo"]"#, r#"(healthcheck ["--timeout=3s"] "CMD" "foo")"#),
        ("HEALTHCHECK CONNECT TCP 7000", r#"(healthcheck "CONNECT" "TCP 7000")"#),
    ] {
        check(text, expected);
    }
}

#[test]
fn instructions_know_their_lines() {
    let text = "# ESCAPE=\\\n\n\nFROM a\n\n# x\n\nENV A \\\n/go\n\nRUN b \\\n\n  && c \\\n# d\n  && e\n\n\n";
    let file = parse(text.as_bytes(), "Dockerfile").expect("valid");
    let lines = |span: build::dockerfile::source::Span| {
        (file.source.position(span.start).line, file.source.position(span.end).line)
    };
    let stage = &file.stages[0];
    assert_eq!(lines(stage.span), (4, 4));
    assert_eq!(stage.instructions.iter().map(|i| lines(i.span)).collect::<Vec<_>>(), [(8, 9), (11, 15)]);
}

fn heredocs(text: &str) -> Vec<Heredoc> {
    let text = format!("FROM a\n{text}");
    let file = parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{text}\n{error}"));
    let instruction = file.stages[0].instructions.first().expect("one instruction");
    let command = match &instruction.command {
        Command::Onbuild(onbuild) => &onbuild.instruction.command,
        command => command,
    };
    let inline = |sources: &[build::dockerfile::ast::CopySource]| {
        let heredocs = sources.iter().filter_map(|source| match source {
            build::dockerfile::ast::CopySource::Inline(heredoc) => Some(heredoc.clone()),
            build::dockerfile::ast::CopySource::Path(_) => None,
        });
        heredocs.collect()
    };
    match command {
        Command::Run(run) => run.heredocs.clone(),
        Command::Copy(copy) => inline(&copy.sources),
        Command::Add(add) => inline(&add.sources),
        _ => Vec::new(),
    }
}

/// An instruction with its heredocs, and of each: name, content as written, whether it expands, whether tabs go,
/// and its descriptor.
type HeredocRow = (&'static str, &'static [(&'static str, &'static str, bool, bool, u32)]);

const HEREDOCS: &[HeredocRow] = &[
    ("RUN ls", &[]),
    ("RUN <<EMPTY\nEMPTY", &[("EMPTY", "", true, false, 0)]),
    ("RUN 3<<EMPTY\nEMPTY", &[("EMPTY", "", true, false, 3)]),
    ("RUN \"<<NO\"", &[]),
    ("RUN '<<NO'", &[]),
    ("RUN [\"<<NO\"]", &[]),
    ("RUN <<TABS\n\tfoo\n\tbar\nTABS", &[("TABS", "\tfoo\n\tbar\n", true, false, 0)]),
    ("RUN <<-CUT\n\tfoo\n\tbar\nCUT", &[("CUT", "\tfoo\n\tbar\n", true, true, 0)]),
    ("RUN <<-CUT\n\tfoo\n\tCUT", &[("CUT", "\tfoo\n", true, true, 0)]),
    ("RUN <<-'RAW'\n\tno $NAME\nRAW", &[("RAW", "\tno $NAME\n", false, true, 0)]),
    ("RUN <<E\n# inside\necho # behind\nE", &[("E", "# inside\necho # behind\n", true, false, 0)]),
    ("RUN --mount=type=cache,target=/foo <<M\necho\nM", &[("M", "echo\n", true, false, 0)]),
    ("COPY <<F1 <<F2 /d\none\nF1\ntwo\nF2", &[("F1", "one\n", true, false, 0), ("F2", "two\n", true, false, 0)]),
    ("COPY <<EOF /q\n\"foo\"\n'bar'\nEOF", &[("EOF", "\"foo\"\n'bar'\n", true, false, 0)]),
    ("COPY <<X <<Y /d\nY\nX\nX\nY", &[("X", "Y\n", true, false, 0), ("Y", "X\n", true, false, 0)]),
    ("RUN <<PY python3\nprint()\nPY", &[("PY", "print()\n", true, false, 0)]),
    ("RUN python3 <<A >/x && cat <<'B'\na\nA\nb\nB", &[("A", "a\n", true, false, 0), ("B", "b\n", false, false, 0)]),
    ("COPY <<file.txt /d\nhello\nfile.txt", &[("file.txt", "hello\n", true, false, 0)]),
    ("ADD <<file.txt /d\nhello\nfile.txt", &[("file.txt", "hello\n", true, false, 0)]),
    ("RUN <<eo'f'\nx\neof", &[("eof", "x\n", false, false, 0)]),
    ("RUN <<eo\\'f\nx\neo'f", &[("eo'f", "x\n", true, false, 0)]),
    ("RUN <<'e'o\\'f\nx\neo'f", &[("eo'f", "x\n", false, false, 0)]),
    ("RUN <<'one two'\nx\none two", &[("one two", "x\n", false, false, 0)]),
    ("RUN <<$EOF\n$EOF", &[("$EOF", "", true, false, 0)]),
    ("RUN <<  EOF\nEOF", &[("EOF", "", true, false, 0)]),
    ("RUN <<  EOF  > foo\nEOF", &[("EOF", "", true, false, 0)]),
    ("RUN <<- EOF", &[]),
    ("RUN << -EOF\n-EOF", &[("-EOF", "", true, false, 0)]),
    ("RUN <<\"EOF\"\nEOF", &[("EOF", "", false, false, 0)]),
    ("RUN <<EO\"F\"\nEOF", &[("EOF", "", false, false, 0)]),
    ("RUN cat <<<word", &[]),
    ("RUN cat <word", &[]),
    ("RUN cat <<", &[]),
    ("RUN <<EOF\r\nx\r\nEOF\r\n", &[("EOF", "x\r\n", true, false, 0)]),
    ("ONBUILD RUN <<EOF\nx\nEOF", &[("EOF", "x\n", true, false, 0)]),
    ("COPY [\"<<EOF\", \"/d\"]", &[]),
];

#[test]
fn heredocs_are_read() {
    for (text, expected) in HEREDOCS {
        let found = heredocs(text);
        let found: Vec<_> =
            found.iter().map(|h| (h.name.as_str(), h.raw.as_str(), h.expand, h.chomp, h.descriptor)).collect();
        assert_eq!(found, *expected, "{text}");
        // And the instruction behind them is seen as one.
        let file = parse(format!("FROM a\n{text}\nUSER after").as_bytes(), "Dockerfile").expect(text);
        assert_eq!(file.stages[0].instructions.len(), 2, "{text}");
    }
}

#[test]
fn heredocs_end_or_fail() {
    refused("FROM a\nRUN <<EOF\nx\n", "the heredoc `EOF` is not closed");
    refused("FROM a\nRUN <<EOF <<B\nx\nEOF", "the heredoc `B` is not closed");
    refused("FROM a\nCOPY /foo <<EOF\nEOF", "`COPY` cannot copy to a heredoc");
    refused("FROM a\nCOPY << EOF /foo\nEOF", "the heredoc `EOF` is not a source of this `COPY`");
    // Elsewhere `<<` is text.
    refused("FROM a\nUSER <<X\nX", "unknown instruction `X`");
    for word in ["<<'EOF", "<<\"EOF", "<<EOF'", "<<EOF\""] {
        // An open quote makes no heredoc, but is the shell's to judge.
        assert_eq!(heredocs(&format!("RUN {word}")), []);
    }
}

#[test]
fn files_need_instructions() {
    refused("", "the file holds no instructions");
    refused("# only\n# comments\n", "the file holds no instructions");
    refused("ARG a\n", "the file holds no `FROM`");
    refused("RUN a\nFROM b", "`RUN` stands before the first `FROM`");
    refused("\\", "a line that is continued holds no instruction");
}
