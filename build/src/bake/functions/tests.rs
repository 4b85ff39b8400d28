//! What functions give, from buildx's reference (docs/bake-stdlib.md of docker/buildx, Apache-2.0) where its examples
//! agree with what its functions do, and from what go-cty's functions of those names do.

use std::collections::BTreeMap;

use super::super::module::Module;
use super::super::syntax;

/// The value of an expression as JSON, or its error's first line without the place.
pub(in super::super) fn value(expression: &str) -> Result<String, String> {
    let text = format!("target \"t\" {{ args = {{ x = jsonencode({expression}) }} }}");
    let file = syntax::parse(&text, "t").map_err(|error| error.to_string())?;
    let (files, builtins) = ([file], BTreeMap::new());
    let module = Module::new(&files, &builtins, &|_| None);
    let line = |error: layerfs::error::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let (_, targets) = module.blocks().map_err(line)?;
    Ok(targets[0].args["x"].clone())
}

#[test]
fn the_list_is_sorted() {
    assert!(super::FUNCTIONS.is_sorted_by_key(|(name, ..)| *name));
}

#[test]
fn functions_give_what_they_say() {
    for (expression, expected) in [
        ("absolute(-42)", "42"),
        ("add(123, 1)", "124"),
        ("and(true, false)", "false"),
        (r#"base64decode("SGVsbG8=")"#, r#""Hello""#),
        (r#"base64encode("Hello")"#, r#""SGVsbG8=""#),
        (r#"basename("/usr/local/bin/docker")"#, r#""docker""#),
        (r#"byteslen("Docker")"#, "6"),
        (r#"bytesslice("Docker", 0, 3)"#, r#""Doc""#),
        (r#"can(parseint("123", 10))"#, "true"),
        (r#"can(parseint("zz", 10))"#, "false"),
        ("ceil(3.14)", "4"),
        (r#"chomp("Hello\n\n")"#, r#""Hello""#),
        ("chunklist([1,2,3,4,5], 2)", "[[1,2],[3,4],[5]]"),
        (r#"cidrhost("10.0.0.0/16", 5)"#, r#""10.0.0.5""#),
        (r#"cidrhost("10.0.0.0/16", -1)"#, r#""10.0.255.255""#),
        (r#"cidrnetmask("10.0.0.0/16")"#, r#""255.255.0.0""#),
        (r#"cidrsubnet("10.0.0.0/16", 4, 2)"#, r#""10.0.32.0/20""#),
        (r#"cidrsubnet("fd00::/8", 8, 1)"#, r#""fd01::/16""#),
        (r#"cidrsubnets("10.0.0.0/16", 4, 4)"#, r#"["10.0.0.0/20","10.0.16.0/20"]"#),
        (r#"coalesce(null, "docker")"#, r#""docker""#),
        ("coalescelist([], [1,2], [3])", "[1,2]"),
        (r#"compact(["a", "", "b", ""])"#, r#"["a","b"]"#),
        ("concat([1,2],[3,4])", "[1,2,3,4]"),
        ("contains([1,2,3], 2)", "true"),
        (r#"convert("42", number)"#, "42"),
        (r#"convert(["1", "2"], list(number))"#, "[1,2]"),
        (r#"csvdecode("name,age\nAlice,30")"#, r#"[{"age":"30","name":"Alice"}]"#),
        (r#"dirname("/usr/local/bin/docker")"#, r#""/usr/local/bin""#),
        ("distinct([1,2,2,3,3,3])", "[1,2,3]"),
        ("divide(10, 2)", "5"),
        (r#"element(["a","b","c"], 4)"#, r#""b""#),
        ("equal(2, 2)", "true"),
        ("flatten([[1,2],[3,4],[5]])", "[1,2,3,4,5]"),
        ("floor(3.99)", "3"),
        (r#"format("Hello, %s!", "World")"#, r#""Hello, World!""#),
        (r#"format("%05d|%-4s|%.2f|%q|%x", 42, "a", 3.14159, "q", 255)"#, r#""00042|a   |3.14|\"q\"|ff""#),
        (r#"formatdate("YYYY-MM-DD", "2025-09-16T12:00:00Z")"#, r#""2025-09-16""#),
        (r#"formatdate("EEE, D MMM 'at' HH:mm AA", "2025-09-16T15:04:05+02:00")"#, r#""Tue, 16 Sep at 03:04 PM""#),
        (r#"formatlist("Hi %s", ["Alice", "Bob"])"#, r#"["Hi Alice","Hi Bob"]"#),
        (r#"formattimestamp("X", "2015-10-21T00:00:00Z")"#, r#""1445385600""#),
        (r#"formattimestamp("YYYY-MM-DD'T'hh:mm:ssZ", 1445385600)"#, r#""2015-10-21T00:00:00Z""#),
        ("greaterthan(5, 2)", "true"),
        ("greaterthanorequalto(5, 5)", "true"),
        ("hasindex([10, 20, 30], 5)", "false"),
        (r#"indent(4, "Hello\nWorld")"#, r#""Hello\n    World""#),
        (r#"index({foo = "bar", baz = "qux"}, "baz")"#, r#""qux""#),
        (r#"indexof(["a","b","c"], "b")"#, "1"),
        ("int(3.75)", "3"),
        (r#"join(",", ["a","b","c"])"#, r#""a,b,c""#),
        (r#"jsondecode("{\"name\":\"Docker\",\"stars\":5}")"#, r#"{"name":"Docker","stars":5}"#),
        ("keys({foo = 1, bar = 2, baz = 3})", r#"["bar","baz","foo"]"#),
        ("length([1,2,3,4])", "4"),
        ("lessthan(10, 3)", "false"),
        ("lessthanorequalto(5, 7)", "true"),
        ("log(100, 10)", "2"),
        (r#"lookup({a="apple", b="banana"}, "c", "none")"#, r#""none""#),
        (r#"lower("HELLO")"#, r#""hello""#),
        ("max(3, 9, 7)", "9"),
        (r#"md5("hello")"#, r#""5d41402abc4b2a76b9719d911017c592""#),
        ("merge({a=1, b=2}, {b=3, c=4})", r#"{"a":1,"b":3,"c":4}"#),
        ("min(3, 9, 7)", "3"),
        ("modulo(10, 3)", "1"),
        ("multiply(6, 7)", "42"),
        ("negate(7)", "-7"),
        ("not(true)", "false"),
        ("notequal(4, 5)", "true"),
        ("or(true, false)", "true"),
        (r#"parseint("ff", 16)"#, "255"),
        ("pow(3, 2)", "9"),
        ("range(0, 5)", "[0,1,2,3,4]"),
        (r#"regex("h.llo", "hello")"#, r#""hello""#),
        (r#"regex("(?P<a>\\d+)-(?P<b>\\d+)", "1-22")"#, r#"{"a":"1","b":"22"}"#),
        (r#"regex_replace("abc123xyz", "[0-9]+", "NUM")"#, r#""abcNUMxyz""#),
        (r#"regexall("[a-z]+", "abc123xyz")"#, r#"["abc","xyz"]"#),
        (r#"replace("banana", "na", "--")"#, r#""ba----""#),
        (r#"reverse("stressed")"#, r#""desserts""#),
        ("reverselist([1,2,3])", "[3,2,1]"),
        (r#"sanitize("My App! v1.0")"#, r#""My_App__v1_0""#),
        (r#"semvercmp("3.23", ">= 3.20")"#, "true"),
        (r#"semvercmp("v1.2.3", ">= 1.3, < 2 || =1.2.3")"#, "true"),
        ("sethaselement([1,2,3], 2)", "true"),
        (r#"setintersection(["a","b","c"], ["b","c","d"])"#, r#"["b","c"]"#),
        (r#"setproduct(["x","y"], [1,2])"#, r#"[["x",1],["x",2],["y",1],["y",2]]"#),
        ("setsubtract([1,2,3], [2])", "[1,3]"),
        ("setsymmetricdifference([1,2,3], [3,4])", "[1,2,4]"),
        (r#"setunion(["a","b"], ["b","c"])"#, r#"["a","b","c"]"#),
        (r#"sha1("hello")"#, r#""aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d""#),
        (r#"substr(sha256("hello"), 0, 8)"#, r#""2cf24dba""#),
        (r#"substr(sha512("hello"), 0, 8)"#, r#""9b71d224""#),
        ("[signum(0), signum(12), signum(-12)]", "[0,1,-1]"),
        (r#"slice(["a","b","c","d"], 1, 3)"#, r#"["b","c"]"#),
        (r#"sort(["b","c","a"])"#, r#"["a","b","c"]"#),
        (r#"split(",", "a,b,c")"#, r#"["a","b","c"]"#),
        (r#"strlen("Döcker")"#, "6"),
        (r#"substr("abcdef", 2, 3)"#, r#""cde""#),
        (r#"substr("abcdef", -2, -1)"#, r#""ef""#),
        ("subtract(10, 3)", "7"),
        (r#"timeadd("2025-09-24T12:00:00Z", "1h30m")"#, r#""2025-09-24T13:30:00Z""#),
        (r#"timeadd("2025-09-24T00:00:00+02:00", "-1s")"#, r#""2025-09-23T23:59:59+02:00""#),
        (r#"title("hello world")"#, r#""Hello World""#),
        (r#"trim("--hello--", "-")"#, r#""hello""#),
        (r#"trimprefix("docker-build", "docker-")"#, r#""build""#),
        (r#"trimspace("   hello   ")"#, r#""hello""#),
        (r#"trimsuffix("filename.txt", ".txt")"#, r#""filename""#),
        (r#"try(parseint("zz", 16), parseint("ff", 16))"#, "255"),
        (r#"try(index({a="apple"}, "b"), "fallback")"#, r#""fallback""#),
        ("unixtimestampparse(1690328596).rfc3339", r#""2023-07-25T23:43:16Z""#),
        ("unixtimestampparse(1690328596).iso_week", "30"),
        (r#"upper("hello")"#, r#""HELLO""#),
        (r#"urlencode("a b=c&d")"#, r#""a+b%3Dc%26d""#),
        ("strlen(uuidv4())", "36"),
        (r#"uuidv5("dns", "example.com")"#, r#""cfbff0d1-9375-5685-968c-48ce8b15ae17""#),
        ("values({a=1, c=3, b=2})", "[1,2,3]"),
        (r#"zipmap(["name","stars"], ["Docker", 5])"#, r#"{"name":"Docker","stars":5}"#),
    ] {
        assert_eq!(value(expression).as_deref(), Ok(expected), "{expression}");
    }
}

#[test]
fn wrong_arguments_are_told() {
    for (expression, expected) in [
        ("add(1)", "t:1:38: `add` takes 2 arguments, not 1"),
        (r#"add("x", 1)"#, "t:1:38: `add`: the first argument is a string, not a number"),
        ("divide(1, 0)", "t:1:38: `divide`: this divides by zero"),
        ("uper(\"x\")", "t:1:38: there is no function `uper`"),
        ("bcrypt(\"x\")", "t:1:38: the function `bcrypt` is not built yet"),
        (r#"timeadd("soon", "1h")"#, "t:1:38: `timeadd`: `soon` is not a time"),
    ] {
        assert_eq!(value(expression), Err(expected.to_owned()), "{expression}");
    }
}
