//! Word expansion. Facts from moby/buildkit (Apache-2.0), frontend/dockerfile/shell: envVarTest, wordsTest and the
//! tables of lex_test.go.

use build::dockerfile::expand::Lexer;

fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
    move |name| pairs.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

const ENV: &[(&str, &str)] = &[("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")];

/// Input, and what becomes of it; `None` for an error.
const WORDS: &[(&str, Option<&str>)] = &[
    // Quotes and escapes.
    ("hello", Some("hello")),
    ("he'll'o", Some("hello")),
    ("he'llo", None),
    (r"he\'llo", Some("he'llo")),
    (r"he\\'llo", None),
    (r"abc\tdef", Some("abctdef")),
    (r#""abc\tdef""#, Some(r"abc\tdef")),
    (r#""abc\\tdef""#, Some(r"abc\tdef")),
    (r"'abc\tdef'", Some(r"abc\tdef")),
    (r"hello\", Some("hello")),
    (r"hello\\", Some(r"hello\")),
    ("\"hello", None),
    (r#""hello\""#, None),
    ("\"hel'lo\"", Some("hel'lo")),
    ("'hello", None),
    (r"'hello\'", Some(r"hello\")),
    (r"'hello\there'", Some(r"hello\there")),
    (r"'hello\\there'", Some(r"hello\\there")),
    ("\"''\"", Some("''")),
    // Plain variables.
    ("$.", Some("$.")),
    ("$1", Some("")),
    ("he$1x", Some("hex")),
    ("he$.x", Some("he$.x")),
    ("he$pwd.", Some("he.")),
    ("he$PWD", Some("he/home")),
    (r"he\$PWD", Some("he$PWD")),
    (r"he\\$PWD", Some(r"he\/home")),
    (r#""he\$PWD""#, Some("he$PWD")),
    (r#""he\\$PWD""#, Some(r"he\/home")),
    (r"\${}", Some("${}")),
    (r"\${}aaa", Some("${}aaa")),
    (r"he\${}", Some("he${}")),
    (r"he\${}xx", Some("he${}xx")),
    ("${}", None),
    ("${}aaa", None),
    ("he${}", None),
    ("he${}xx", None),
    ("he${hi}", Some("he")),
    ("he${hi}xx", Some("hexx")),
    ("he${PWD}", Some("he/home")),
    ("he${.}", None),
    // Defaults, alternatives, demands.
    ("he${XXX:-000}xx", Some("he000xx")),
    ("he${PWD:-000}xx", Some("he/homexx")),
    ("he${XXX:-$PWD}xx", Some("he/homexx")),
    ("he${XXX:-${PWD:-yyy}}xx", Some("he/homexx")),
    ("he${XXX:-${YYY:-yyy}}xx", Some("heyyyxx")),
    ("he${XXX:YYY}", None),
    ("he${XXX?}", None),
    ("he${XXX:?}", None),
    ("he${PWD?}", Some("he/home")),
    ("he${PWD:?}", Some("he/home")),
    ("he${NULL?}", Some("he")),
    ("he${NULL:?}", None),
    ("he${XXX:+${PWD}}xx", Some("hexx")),
    ("he${PWD:+${XXX}}xx", Some("hexx")),
    ("he${PWD:+${SHELL}}xx", Some("hebashxx")),
    ("he${XXX:+000}xx", Some("hexx")),
    ("he${PWD:+000}xx", Some("he000xx")),
    ("he${PWD:=000}xx", None),
    ("he${PWD:+${PWD}:}xx", Some("he/home:xx")),
    (r"he${XXX:-\$PWD:}xx", Some("he$PWD:xx")),
    (r"he${XXX:-\${PWD}z}xx", Some("he${PWDz}xx")),
    // Variables in quotes.
    ("'he${XX}'", Some("he${XX}")),
    ("\"he${PWD}\"", Some("he/home")),
    ("\"he'$PWD'\"", Some("he'/home'")),
    ("\"$PWD\"", Some("/home")),
    ("'$PWD'", Some("$PWD")),
    (r"'\$PWD'", Some(r"\$PWD")),
    ("'\"hello\"'", Some("\"hello\"")),
    (r"'he\$PWD'", Some(r"he\$PWD")),
    ("he${PWD", None),
    ("$KOREAN", Some("한국어")),
    // Braces.
    ("${{aaa}", None),
    ("${aaa}}", Some("}")),
    ("${aaa", None),
    ("${{aaa:-bbb}", None),
    ("${aaa:-bbb}}", Some("bbb}")),
    ("${aaa:-bbb", None),
    ("${aaa:-bbb}", Some("bbb")),
    ("${aaa:-${bbb:-ccc}}", Some("ccc")),
    ("${aaa:-bbb ${foo}", None),
    ("${aaa:-bbb {foo}", Some("bbb {foo")),
    ("${:}", None),
    ("${:-bbb}", None),
    ("${:+bbb}", None),
];

#[test]
fn words_expand_as_stated() {
    for (input, expected) in WORDS {
        let result = Lexer::new('\\').word(input, &environment(ENV));
        assert_eq!(result.as_deref().ok(), *expected, "{input}: {result:?}");
    }
}

/// The suite has most rows a second time behind text of three bytes a character.
#[test]
fn words_of_any_script_expand_alike() {
    for (input, expected) in WORDS {
        let result = Lexer::new('\\').word(&format!("안녕{input}"), &environment(ENV));
        assert_eq!(result.ok(), expected.map(|expected| format!("안녕{expected}")), "{input}");
    }
}

#[test]
fn positional_and_special_parameters_are_never_set() {
    for name in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "999", "001", "@", "*", "#", "?", "-", "$", "!", "0"] {
        for (form, expected) in [
            ("$N", ""),
            ("${N}", ""),
            ("${N:+bbb}", ""),
            ("${N:-bbb}", "bbb"),
            ("$Naaa", "aaa"),
            ("${N}aaa", "aaa"),
            ("${N:+bbb}aaa", "aaa"),
            ("${N:-bbb}aaa", "bbbaaa"),
        ] {
            let input = form.replace('N', name);
            assert_eq!(Lexer::new('\\').word(&input, &environment(ENV)).as_deref(), Ok(expected), "{input}");
        }
    }
    assert_eq!(Lexer::new('\\').word("$@@@", &environment(ENV)).as_deref(), Ok("@@"));
}

#[test]
fn the_escape_may_be_a_backtick() {
    for (input, expected) in
        [("`$PWD", "$PWD"), (r"C:\$PWD", r"C:\/home"), ("\"a`\"b\"", "a\"b"), (r#""\`$PWD""#, r"\$PWD"), ("a`", "a")]
    {
        assert_eq!(Lexer::new('`').word(input, &environment(ENV)).as_deref(), Ok(expected), "{input}");
    }
}

#[test]
fn values_split_at_spaces_unless_quoted() {
    let env = environment(&[("hi", "hi"), ("space", "abc  def"), ("leading", "  ab c"), ("trailing", "ab c   ")]);
    for (input, expected) in [
        ("hello", Some(vec!["hello"])),
        ("hello${none}bye", Some(vec!["hellobye"])),
        ("hello${hi}bye", Some(vec!["hellohibye"])),
        ("hello${space}bye", Some(vec!["helloabc", "defbye"])),
        ("hello\"${space}\"bye", Some(vec!["helloabc  defbye"])),
        ("hello \"${space}\"bye", Some(vec!["hello", "abc  defbye"])),
        ("hello${leading}def", Some(vec!["hello", "ab", "cdef"])),
        ("hello\"${leading}\" def", Some(vec!["hello  ab c", "def"])),
        ("hello\"${leading}\"", Some(vec!["hello  ab c"])),
        ("hello${leading}", Some(vec!["hello", "ab", "c"])),
        ("hello${trailing}", Some(vec!["helloab", "c"])),
        ("hello${trailing}d", Some(vec!["helloab", "c", "d"])),
        ("hello\"${trailing}\"d", Some(vec!["helloab c   d"])),
        ("hel\"lo${trailing}\"", Some(vec!["helloab c   "])),
        ("hello\" there  \"", Some(vec!["hello there  "])),
        ("hello there", Some(vec!["hello", "there"])),
        (r"hello\ there", Some(vec!["hello there"])),
        ("hello\" there", None),
        (r#"hello\" there"#, Some(vec!["hello\"", "there"])),
        (r#"hello"\\there""#, Some(vec![r"hello\there"])),
        (r#"hello"\there""#, Some(vec![r"hello\there"])),
        (r"hello'\\there'", Some(vec![r"hello\\there"])),
        (r"hello'\there'", Some(vec![r"hello\there"])),
        ("hello'$there'", Some(vec!["hello$there"])),
        // Not of the suite: what stands before a braced default stays with it.
        ("80${none:-80} ''", Some(vec!["8080"])),
    ] {
        let result = Lexer::new('\\').words(input, &env);
        let words = result.as_ref().ok().map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(words, expected, "{input}");
    }
}

/// Input, environment, result (`None` for an error), the names that had a value, those that had none.
type Row = (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>, &'static str, &'static str);

const FOO_BAR: &[(&str, &str)] = &[("FOO", "xxx"), ("BAR", "")];

const LOOKED_UP: &[Row] = &[
    ("x", FOO_BAR, Some("x"), "", ""),
    ("x ${UNUSED}", FOO_BAR, Some("x "), "", "UNUSED"),
    ("x ${FOO}", &[("FOO", "y")], Some("x y"), "FOO", ""),
    ("${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}", FOO_BAR, Some("xxx  ccc"), "BAR FOO", "BAZ"),
    ("${FOO:-aaa} ${BAR:-bbb} ${BAZ:-ccc}", FOO_BAR, Some("xxx bbb ccc"), "BAR FOO", "BAZ"),
    ("${FOO:-}", FOO_BAR, Some("xxx"), "FOO", ""),
    ("${FOO:-}", &[], Some(""), "", "FOO"),
    ("${FOO+aaa} ${BAR+bbb} ${BAZ+ccc}", FOO_BAR, Some("aaa bbb "), "BAR FOO", "BAZ"),
    ("${FOO:+aaa} ${BAR:+bbb} ${BAZ:+ccc}", FOO_BAR, Some("aaa  "), "BAR FOO", "BAZ"),
    ("${FOO?aaa}", FOO_BAR, Some("xxx"), "FOO", ""),
    ("${BAR?bbb}", FOO_BAR, Some(""), "BAR", ""),
    ("${BAZ?ccc}", FOO_BAR, None, "", ""),
    ("${FOO:?aaa}", FOO_BAR, Some("xxx"), "FOO", ""),
    ("${BAR:?bbb}", FOO_BAR, None, "", ""),
    ("${BAZ:?ccc}", FOO_BAR, None, "", ""),
    ("${BAZ:?}", FOO_BAR, None, "", ""),
    ("${FOO=aaa}", FOO_BAR, None, "", ""),
    ("${FOO=:aaa}", FOO_BAR, None, "", ""),
    ("${FOO=}", &[], None, "", ""),
    // Starts and ends.
    (r"${FOO#()[]{\}^$.\*\?|\\}", &[("FOO", r"()[]{}^$.*?|\x")], Some("x"), "FOO", ""),
    (r"${FOO%%\**}", &[("FOO", "xx**")], Some("xx"), "FOO", ""),
    ("${FOO#*x*y}", &[("FOO", "xxyy")], Some("y"), "FOO", ""),
    ("${FOO#*}", &[("FOO", "xxyy")], Some("xxyy"), "FOO", ""),
    ("${FOO#$BAR}", &[("FOO", "xxyy"), ("BAR", "x")], Some("xyy"), "BAR FOO", ""),
    ("${FOO#$BAR}", &[("FOO", "xxyy"), ("BAR", "")], Some("xxyy"), "BAR FOO", ""),
    ("${FOO#}", &[("FOO", "xxyy")], Some("xxyy"), "FOO", ""),
    ("${FOO##*x}", &[("FOO", "xxyy")], Some("yy"), "FOO", ""),
    ("${FOO##}", &[("FOO", "xxyy")], Some("xxyy"), "FOO", ""),
    (r"${FOO#?\?}", &[("FOO", "???y")], Some("?y"), "FOO", ""),
    ("${ABC:-.}${FOO%x}${ABC:-.}", &[("FOO", "xxyy")], Some(".xxyy."), "FOO", "ABC"),
    (r"${FOO%%\**\*}", &[("FOO", "a***yy*")], Some("a"), "FOO", ""),
    ("${FOO%}", &[("FOO", "xxyy")], Some("xxyy"), "FOO", ""),
    ("${FOO%%$BAR}", &[("FOO", "xxyy"), ("BAR", "")], Some("xxyy"), "BAR FOO", ""),
    ("${FOO:#}", &[], None, "", ""),
    ("${FOO:##}", &[], None, "", ""),
    ("${FOO:%}", &[], None, "", ""),
    ("${FOO:%%}", &[], None, "", ""),
    // Replacement.
    (
        "${FOO/$NEEDLE/.} - ${FOO//$NEEDLE/.}",
        &[("FOO", "/foo*/*/*.txt"), ("NEEDLE", r"\*/")],
        Some("/foo.*/*.txt - /foo..*.txt"),
        "FOO NEEDLE",
        "",
    ),
    (
        "${FOO/$NEEDLE/} - ${FOO//$NEEDLE/}",
        &[("FOO", "/tmp/tmp/bar.txt"), ("NEEDLE", "/tmp")],
        Some("/tmp/bar.txt - /bar.txt"),
        "FOO NEEDLE",
        "",
    ),
    (
        "${FOO/$NEEDLE/$NEW} - ${FOO//$NEEDLE/$NEW}",
        &[("FOO", "/a/foo/b/c.txt"), ("NEEDLE", "/?/"), ("NEW", "/")],
        Some("/foo/b/c.txt - /foo/c.txt"),
        "FOO NEEDLE NEW",
        "",
    ),
    (
        "${FOO/$NEEDLE/$NEW}",
        &[("FOO", "http://google.de"), ("NEEDLE", "http://"), ("NEW", "https://")],
        Some("https://google.de"),
        "FOO NEEDLE NEW",
        "",
    ),
    (r"${FOO//\//\/}", &[("FOO", "/tmp/foo.txt")], Some(r"\/tmp\/foo.txt"), "FOO", ""),
    ("${FOO/$BAR/ww}", &[("FOO", "xxyy"), ("BAR", "")], Some("wwxxyy"), "BAR FOO", ""),
    ("${FOO//ww}", &[("FOO", "xxyy")], None, "", ""),
    ("${FOO//}", &[("FOO", "xxyy")], None, "", ""),
    ("${FOO///}", &[("FOO", "xxyy")], Some("xxyy"), "FOO", ""),
    ("${FOO///}", &[], Some(""), "", "FOO"),
    // Patterns that are none, and (not of the suite) what a star does with line ends and empty matches.
    (r"${FOO#\}", &[("FOO", "x")], None, "", ""),
    (r"${FOO#\x}", &[("FOO", "x")], None, "", ""),
    ("${FOO#*b}", &[("FOO", "a\nb")], Some("a\nb"), "FOO", ""),
    ("${FOO//*/-}", &[("FOO", "ab")], Some("-"), "FOO", ""),
    ("${FOO//b*/-}", &[("FOO", "abcbd")], Some("a-"), "FOO", ""),
    // A name out of a release's file list.
    (
        "v-${V}.${OS}-${ARCH}${VARIANT:+-${VARIANT}}.gz",
        &[("V", "1"), ("OS", "linux"), ("ARCH", "arm"), ("VARIANT", "v7")],
        Some("v-1.linux-arm-v7.gz"),
        "ARCH OS V VARIANT",
        "",
    ),
    (
        "v-${V}.${OS}-${ARCH}${VARIANT:+-${VARIANT}}.gz",
        &[("V", "1"), ("OS", "linux"), ("ARCH", "arm64")],
        Some("v-1.linux-arm64.gz"),
        "ARCH OS V",
        "VARIANT",
    ),
];

#[test]
fn names_that_were_looked_up_are_reported() {
    for (input, env, expected, used, unset) in LOOKED_UP {
        let env = environment(env);
        match (Lexer::new('\\').word_with_names(input, &env), expected) {
            (Err(_), None) => {}
            (Ok(result), Some(expected)) => {
                let names = |set: std::collections::BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
                let result = (result.text.as_str(), names(result.used), names(result.unset));
                assert_eq!(result, (*expected, (*used).to_owned(), (*unset).to_owned()), "{input}");
            }
            (result, _) => panic!("{input}: {result:?}"),
        }
    }
}

#[test]
fn a_demand_says_its_own_message() {
    let check = |input: &str, env, expected: Result<&str, &str>| {
        let result = Lexer::new('\\').word(input, &environment(env)).map_err(|fault| fault.message);
        assert_eq!(result.as_deref().map_err(String::as_str), expected, "{input}");
    };
    check("${VAR:?say $ARG}", &[("VAR", "plain"), ("ARG", "x")], Ok("plain"));
    check("${VAR:?say $ARG}", &[("VAR", ""), ("ARG", "x")], Err("variable `VAR`: say x"));
    check("${VAR:?say $ARG}", &[("ARG", "x")], Err("variable `VAR`: say x"));
    check("${VAR?say $ARG}", &[("VAR", ""), ("ARG", "x")], Ok(""));
    check("${VAR?say $ARG}", &[("ARG", "x")], Err("variable `VAR`: say x"));
    check("${VAR:?}", &[("VAR", "")], Err("variable `VAR`: is empty, but must not be"));
}

#[test]
fn a_heredoc_keeps_its_quotes() {
    let env = environment(ENV);
    for (input, expected) in
        [("\"$PWD\" '$PWD'\n", "\"/home\" '/home'\n"), (r"\$PWD \\ a\b", r"$PWD \ ab"), ("it's ${XX:-'a'}", "it's 'a'")]
    {
        assert_eq!(Lexer::heredoc().word(input, &env).as_deref(), Ok(expected), "{input}");
    }
}

#[test]
fn endless_nesting_is_refused() {
    let input = "${a:-".repeat(100_000);
    let fault = Lexer::new('\\').word(&input, &|_| None).expect_err("too deep");
    assert!(fault.message.contains("nested"), "{fault}");
}
