//! Whole files: what `--print` shows of them. The cases are those of buildx's reference (docs/bake-reference.md and
//! docs/reference/buildx_bake.md of docker/buildx, Apache-2.0), with what its command prints for them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::functions::tests::value;
use super::{Asked, BakeFile, Plan};

fn file(name: &str, text: &str) -> BakeFile {
    BakeFile { name: name.to_owned(), text: text.to_owned() }
}

fn asked(words: &[&str]) -> Asked {
    let mut asked = Asked::default();
    for word in words {
        match (word.strip_prefix("--set="), word.strip_prefix("--var="), word.strip_prefix("env:")) {
            (Some(set), ..) => asked.sets.push(set.to_owned()),
            (_, Some(pair), _) | (.., Some(pair)) => {
                let (name, value) = pair.split_once('=').expect("a pair");
                let into = if word.starts_with("env:") { &mut asked.environment } else { &mut asked.variables };
                into.insert(name.to_owned(), value.to_owned());
            }
            _ => asked.targets.push((*word).to_owned()),
        }
    }
    asked.builtins = BTreeMap::from(
        [("BAKE_LOCAL_PLATFORM", "linux/amd64"), ("BAKE_CMD_CONTEXT", "cwd://")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    asked
}

fn print(files: &[BakeFile], words: &[&str]) -> Result<Json, String> {
    let plan = Plan::read(files, &asked(words)).map_err(|error| {
        let hint = error.advice().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        format!("{}{hint}", error.chain())
    })?;
    serde_json::from_str(&plan.print()).map_err(|error| error.to_string())
}

/// The targets of one HCL file.
fn targets(text: &str, words: &[&str]) -> Json {
    print(&[file("docker-bake.hcl", text)], words).unwrap_or_else(|error| panic!("{text}\n{error}"))["target"].clone()
}

fn fails(text: &str, words: &[&str]) -> String {
    print(&[file("docker-bake.hcl", text)], words).expect_err(text)
}

#[test]
fn groups_and_inheritance() {
    let text = r#"
        group "default" { targets = ["db", "webapp-dev"] }
        target "webapp-dev" {
          dockerfile = "Dockerfile.webapp"
          tags = ["docker.io/username/webapp"]
          args = { A = "1", B = "dev" }
        }
        target "webapp-release" {
          inherits = ["webapp-dev"]
          platforms = ["linux/amd64", "linux/arm64"]
          args = { B = "release" }
        }
        target "db" {
          dockerfile = "Dockerfile.db"
          tags = ["docker.io/username/db"]
        }
    "#;
    assert_eq!(
        print(&[file("docker-bake.hcl", text)], &["db", "webapp-release"]),
        Ok(json!({
            "group": { "default": { "targets": ["db", "webapp-release"] } },
            "target": {
                "db": { "context": ".", "dockerfile": "Dockerfile.db", "tags": ["docker.io/username/db"] },
                "webapp-release": {
                    "context": ".",
                    "dockerfile": "Dockerfile.webapp",
                    "args": { "A": "1", "B": "release" },
                    "tags": ["docker.io/username/webapp"],
                    "platforms": ["linux/amd64", "linux/arm64"],
                },
            },
        }))
    );
    let default = print(&[file("docker-bake.hcl", text)], &[]).expect("valid");
    assert_eq!(default["group"]["default"]["targets"], json!(["db", "webapp-dev"]));
    assert_eq!(fails(text, &["dv"]), "there is no target `dv`\nhint: did you mean `db`?");
}

#[test]
fn variables_come_from_the_command_line_then_the_environment() {
    let text = r#"
        variable "TAG" { default = "latest" }
        variable "DEBUG" { default = false }
        variable "LIST" { type = list(string) }
        variable "JOBS" {
          type = number
          default = 2
          validation {
            condition = JOBS > 0
            error_message = "there must be some"
          }
        }
        repo = "docker.io/user"
        target "default" {
          tags = ["${repo}/app:${TAG}", notequal("", TAG) ? "x:${TAG}-1" : ""]
          args = { DEBUG = DEBUG ? "yes" : null, LIST = LIST == null ? "none" : join("+", LIST), JOBS = JOBS }
        }
    "#;
    assert_eq!(
        targets(text, &[])["default"],
        json!({
            "context": ".", "dockerfile": "Dockerfile", "args": { "JOBS": "2", "LIST": "none" },
            "tags": ["docker.io/user/app:latest", "x:latest-1"],
        })
    );
    let given = targets(text, &["env:TAG=env", "--var=TAG=var", "env:DEBUG=1", "env:LIST=a,b", "env:JOBS_JSON=7"]);
    assert_eq!(given["default"]["tags"][0], "docker.io/user/app:var");
    assert_eq!(given["default"]["args"], json!({ "DEBUG": "yes", "JOBS": "7", "LIST": "a+b" }));
    assert_eq!(
        fails(text, &["env:JOBS=0"]).lines().next(),
        Some("docker-bake.hcl:9:25: the variable `JOBS` is not valid: there must be some")
    );
    assert_eq!(
        fails(text, &["env:JOBS=many"]).lines().next(),
        Some("docker-bake.hcl:5:9: the value of `JOBS` from outside: `many` is not a number")
    );
}

#[test]
fn a_matrix_makes_a_group_of_targets() {
    let text = r#"
        target "app" {
          name = "app-${tgt}-${replace(item.version, ".", "-")}"
          matrix = {
            tgt = ["foo", "bar"]
            item = [{ version = "1.0", extra = "x" }, { version = "2.0", extra = null }]
          }
          target = tgt
          args = { VERSION = item.version, EXTRA = item.extra }
        }
    "#;
    let printed = print(&[file("docker-bake.hcl", text)], &["app"]).expect("valid");
    assert_eq!(
        printed["group"],
        json!({
            "app": { "targets": ["app-foo-1-0", "app-foo-2-0", "app-bar-1-0", "app-bar-2-0"] },
            "default": { "targets": ["app"] },
        })
    );
    assert_eq!(
        printed["target"]["app-bar-1-0"],
        json!({
            "context": ".", "dockerfile": "Dockerfile", "args": { "EXTRA": "x", "VERSION": "1.0" }, "target": "bar",
        })
    );
    let error = fails("target \"a\" {\n  matrix = { x = [1, 2] }\n}\n", &["a"]);
    assert!(error.starts_with("docker-bake.hcl:2:12: the matrix makes two targets `a`"), "{error}");
}

#[test]
fn functions_of_the_file() {
    let text = r#"
        function "increment" {
          params = [number]
          result = number + 1
        }
        function "tags" {
          params = [name]
          variadic_params = versions
          result = [for v in versions : "${name}:${v}"]
        }
        target "default" {
          args = { buildno = increment(123) }
          tags = tags("app", "1", "2")
        }
    "#;
    let target = &targets(text, &[])["default"];
    assert_eq!(target["args"], json!({ "buildno": "124" }));
    assert_eq!(target["tags"], json!(["app:1", "app:2"]));
}

#[test]
fn attributes_of_other_targets() {
    let text = r#"
        target "foo" { dockerfile = "foo.Dockerfile", }
    "#
    .replace(',', "");
    let text = format!("{text}\ntarget \"bar\" {{ dockerfile = target.foo.dockerfile }}");
    assert_eq!(targets(&text, &["bar"])["bar"]["dockerfile"], "foo.Dockerfile");
}

#[test]
fn links_bring_the_targets_they_need() {
    let text = r#"
        target "base" { dockerfile = "base.Dockerfile" }
        target "app" { contexts = { baseapp = "target:base", src = "docker-image://alpine" } }
    "#;
    assert_eq!(
        targets(text, &["app"]),
        json!({
            "app": {
                "context": ".", "contexts": { "baseapp": "target:base", "src": "docker-image://alpine" },
                "dockerfile": "Dockerfile",
            },
            "base": { "context": ".", "dockerfile": "base.Dockerfile", "output": [{ "type": "cacheonly" }] },
        })
    );
    let circle = "target \"a\" { contexts = { x = \"target:b\" } }\ntarget \"b\" { contexts = { y = \"target:a\" } }";
    assert_eq!(fails(circle, &["a"]), "targets need each other in a circle: a → b → a");
}

#[test]
fn composed_values_are_texts_or_objects() {
    let text = r#"
        target "default" {
          cache-from = ["user/app:cache", { type = "local", src = "path" }]
          cache-to = ["type=registry,mode=max,ref=user/app:cache"]
          output = ["type=oci,dest=../out.tar", { type = "image", push = true }, "out"]
          secret = ["type=env,id=KUBE", { id = "aws", src = "creds" }]
          ssh = ["default", { id = "key", paths = ["a.pem", "b.pem"] }]
          attest = ["type=provenance,mode=max", { type = "sbom", disabled = "true" }]
          network = "host"
          extra-hosts = { my = "8.8.8.8" }
          annotations = ["index,manifest:a=$${b}"]
          no-cache = true
        }
    "#;
    assert_eq!(
        targets(text, &[])["default"],
        json!({
            "annotations": ["index,manifest:a=$${b}"],
            "attest": [{ "mode": "max", "type": "provenance" }, { "disabled": true, "type": "sbom" }],
            "context": ".",
            "dockerfile": "Dockerfile",
            "cache-from": [{ "ref": "user/app:cache", "type": "registry" }, { "src": "path", "type": "local" }],
            "cache-to": [{ "mode": "max", "ref": "user/app:cache", "type": "registry" }],
            "secret": [{ "id": "KUBE" }, { "id": "aws", "src": "creds" }],
            "ssh": [{ "id": "default" }, { "id": "key", "paths": ["a.pem", "b.pem"] }],
            "output": [
                { "dest": "../out.tar", "type": "oci" }, { "push": "true", "type": "image" },
                { "dest": "out", "type": "local" },
            ],
            "no-cache": true,
            "network": "host",
            "entitlements": ["network.host"],
            "extra-hosts": { "my": "8.8.8.8" },
        })
    );
}

#[test]
fn the_command_line_goes_over_the_files() {
    let text = "target \"foo1\" { platforms = [\"linux/amd64\"] }\ntarget \"foo2\" { tags = [\"x\"] }";
    let words = [
        "foo1",
        "foo2",
        "--set=foo*.args.mybuildarg=value",
        "--set=foo1.platform+=linux/arm64",
        "--set=foo2.no-cache",
        "--set=foo2.tags=a",
        "--set=foo2.tags=b",
        "--set=*.contexts.bar=../bar",
        "--set=foo2.push=true",
        "--set=foo1.load=true",
        "--set=foo1.args.FROM_ENV",
        "env:FROM_ENV=set",
    ];
    assert_eq!(
        targets(text, &words),
        json!({
            "foo1": {
                "context": ".", "contexts": { "bar": "../bar" }, "dockerfile": "Dockerfile",
                "args": { "FROM_ENV": "set", "mybuildarg": "value" }, "platforms": ["linux/amd64", "linux/arm64"],
                "output": [{ "type": "docker" }],
            },
            "foo2": {
                "context": ".", "contexts": { "bar": "../bar" }, "dockerfile": "Dockerfile",
                "args": { "mybuildarg": "value" }, "tags": ["a", "b"],
                "output": [{ "push": "true", "type": "image" }], "no-cache": true,
            },
        })
    );
    for (set, expected) in [
        ("foo1.tag=x", "--set foo1.tag=x: a target has no key `tag`\nhint: did you mean `tags`?"),
        ("foo3.tags=x", "--set foo3.tags=x: there is no target `foo3`\nhint: did you mean `foo1`?"),
        (
            "foo1.args=x",
            "--set foo1.args=x: `args` needs a name behind it: args.NAME=VALUE\nhint: the form is \
                         TARGET.KEY[.NAME]=VALUE",
        ),
        ("foo1.pull=maybe", "--set foo1.pull: `maybe` is neither true nor false"),
    ] {
        assert_eq!(fails(text, &["foo1", &format!("--set={set}")]), expected);
    }
}

#[test]
fn json_files_are_the_same_with_templates() {
    let text = r#"{
        "variable": { "TAG": { "default": "v1" } },
        "function": { "up": { "params": ["x"], "result": "${upper(x)}" } },
        "group": { "default": { "targets": ["app"] } },
        "target": { "app": { "tags": ["app:${TAG}"], "args": { "A": "${up(TAG)}", "N": 3, "E": "$${TAG}" } } }
    }"#;
    let printed = print(&[file("docker-bake.json", text)], &[]).expect("valid");
    assert_eq!(
        printed["target"]["app"],
        json!({
            "context": ".", "dockerfile": "Dockerfile", "args": { "A": "V1", "E": "$${TAG}", "N": "3" },
            "tags": ["app:v1"],
        })
    );
    // What is printed is a bake file itself.
    let again = print(&[file("x.json", &printed.to_string())], &[]).expect("valid");
    assert_eq!(again, printed);
}

#[test]
fn compose_files_are_targets_and_hcl_goes_over_them() {
    let compose = r#"
services:
  addon:
    image: ct-addon:bar
    build:
      context: .
      dockerfile: ./Dockerfile
      args:
        CT_ECR: foo
        CT_TAG: ${TAG:-bar}
        FROM_ENV:
      labels: ["a=b"]
      x-bake:
        tags:
          - ct-addon:foo
        platforms: linux/amd64 linux/arm64
        cache-from: user/app:cache
        no-cache: true
  aws:
    image: ct-fake-aws:bar
    build:
      dockerfile: ./aws.Dockerfile
      secrets: [token]
      additional_contexts:
        addon: service:addon
      ulimits: { nofile: { soft: 1, hard: 2 } }
  db:
    image: postgres
secrets:
  token:
    environment: ENV_TOKEN
"#;
    let over = "target \"addon\" { args = { CT_ECR = \"over\" } }";
    let files = [file("compose.yaml", compose), file("docker-bake.hcl", over)];
    assert_eq!(
        print(&files, &["env:FROM_ENV=here"]),
        Ok(json!({
            "group": { "default": { "targets": ["addon", "aws"] } },
            "target": {
                "addon": {
                    "context": ".", "dockerfile": "./Dockerfile",
                    "args": { "CT_ECR": "over", "CT_TAG": "bar", "FROM_ENV": "here" }, "labels": { "a": "b" },
                    "tags": ["ct-addon:foo"], "cache-from": [{ "ref": "user/app:cache", "type": "registry" }],
                    "platforms": ["linux/amd64", "linux/arm64"], "no-cache": true,
                },
                "aws": {
                    "context": ".", "contexts": { "addon": "target:addon" }, "dockerfile": "./aws.Dockerfile",
                    "tags": ["ct-fake-aws:bar"], "secret": [{ "id": "token", "env": "ENV_TOKEN" }],
                    "ulimits": ["nofile=1:2"],
                },
            },
        }))
    );
}

#[test]
fn expressions() {
    for (expression, expected) in [
        ("1 + 2 * 3 - 4 / 2", "5"),
        ("-7 % 3", "-1"),
        ("!true || 2 >= 2 && \"a\" != \"b\"", "true"),
        ("\"a${1 + 1}b\"", "\"a2b\""),
        ("\"${[1, 2]}\"", "[1,2]"),
        ("\"$${x}%%{y}\"", "\"${x}%{y}\""),
        ("\"%{ if true }yes%{ else }no%{ endif }\"", "\"yes\""),
        ("\"%{ for x in [1, 2] }<${x}>%{ endfor }\"", "\"<1><2>\""),
        ("[for k, v in {b = 2, a = 1} : \"${k}${v}\" if v > 1]", "[\"b2\"]"),
        ("{for x in [\"a\", \"b\"] : x => upper(x)}", "{\"a\":\"A\",\"b\":\"B\"}"),
        ("{for x in [\"aa\", \"ab\", \"b\"] : substr(x, 0, 1) => x...}", "{\"a\":[\"aa\",\"ab\"],\"b\":[\"b\"]}"),
        ("[{a = 1}, {a = 2}][*].a", "[1,2]"),
        ("{a = {b = [5]}}.a[\"b\"][0]", "5"),
        ("max([1, 5, 3]...)", "5"),
        ("true ? 1 : 2", "1"),
        ("<<EOT\n  a\n   b\nEOT\n", "\"  a\\n   b\\n\""),
        ("<<-EOT\n  a\n   b\n  EOT\n", "\"a\\n b\\n\""),
    ] {
        assert_eq!(value(expression).as_deref(), Ok(expected), "{expression}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_a_caret() {
    for (text, expected) in [
        (
            "target \"app\" {\n  tag = [\"x\"]\n}\n",
            "docker-bake.hcl:2:3: a target has no attribute `tag`\n  2 |   tag = [\"x\"]\n    |   ^^^\nhint: did you mean `tags`?",
        ),
        (
            "variable \"TAG\" {}\ntarget \"app\" {\n  tags = [\"a:${TAGS}\"]\n}\n",
            "docker-bake.hcl:3:16: there is no variable `TAGS`",
        ),
        ("target \"app\" {\n  tags = \"x\"\n}\n", "docker-bake.hcl:2:10: this is a string, not a list of strings"),
        ("tarjet \"app\" {}\n", "docker-bake.hcl:1:1: a block `tarjet` has no place here"),
        ("target \"a b\" {}\n", "docker-bake.hcl:1:1: `a b` cannot be the name of a target"),
        ("target \"app\" {\n  tags = [\n", "docker-bake.hcl:"),
        ("a = b\nb = a\ntarget \"app\" { args = { x = a } }", "the variable `a` is made of itself"),
        (
            "target \"app\" { args = { x = f(1) } }\nfunction \"f\" {\n  params = [n]\n  result = f(n)\n}",
            "the function `f` goes more than 64 calls deep",
        ),
    ] {
        let error = fails(text, &["app"]);
        assert!(error.contains(expected), "{error}");
    }
}
