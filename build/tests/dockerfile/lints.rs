//! Lints. Facts from moby/buildkit (Apache-2.0), frontend/dockerfile/dockerfile_check_test.go and linter/ruleset.go.
//!
//! Not here: the rows of `UndefinedVar` and `InvalidBaseImagePlatform`, which need base images.

use build::dockerfile::{lint, parse};
use build::ignore::Ignore;

/// A Dockerfile, and of each finding: line, rule, words.
type Row = (&'static str, &'static [(usize, &'static str, &'static str)]);

#[track_caller]
fn check(text: &str, ignore: Option<&str>, options: Option<&str>, expected: &[(usize, &str, &str)]) {
    let file = parse(text.as_bytes(), "Dockerfile").unwrap_or_else(|error| panic!("{text}\n{error}"));
    let options = options.map_or_else(|| lint::options(&file), |text| lint::parse_options(text).expect("valid"));
    let ignore = ignore.map(|text| Ignore::parse(text.as_bytes(), ".dockerignore").expect("valid"));
    let found = lint::check(&file, &options, ignore.as_ref());
    let found: Vec<_> = found
        .iter()
        .map(|warning| (file.source.position(warning.span.start).line, warning.rule, warning.message.as_str()))
        .collect();
    assert_eq!(found, expected, "{text}");
}

const STAGES: &[Row] = &[
    (
        "FROM scratch AS Bad\nFROM scratch as two\nFROM scratch AS three",
        &[
            (1, "StageNameCasing", "Stage name 'Bad' should be lowercase"),
            (2, "FromAsCasing", "'as' and 'FROM' keywords' casing do not match"),
        ],
    ),
    (
        "from scratch AS base\nfrom scratch as base2",
        &[(1, "FromAsCasing", "'AS' and 'from' keywords' casing do not match")],
    ),
    (
        "FROM scratch AS b\nFROM scratch AS b",
        &[(2, "DuplicateStageName", "Duplicate stage name \"b\", stage names should be unique")],
    ),
    ("FROM scratch AS b1\nFROM scratch AS b2", &[]),
    (
        "FROM scratch AS scratch\nFROM scratch AS context",
        &[
            (1, "ReservedStageName", "Stage name should not use the same name as reserved stage \"scratch\""),
            (2, "ReservedStageName", "Stage name should not use the same name as reserved stage \"context\""),
        ],
    ),
    ("FROM scratch\nFROM scratch AS a", &[]),
    ("ARG base=scratch\nFROM $base\nCOPY x .", &[]),
    ("FROM --platform=$BUILDPLATFORM scratch\nCOPY x .", &[]),
    ("ARG BUILDPLATFORM=linux/amd64\nFROM --platform=$BUILDPLATFORM scratch", &[]),
    ("ARG DEBUG\nFROM scratch${DEBUG}", &[]),
    ("ARG DEBUG\nFROM scra${DEBUG:-tch}", &[]),
    ("ARG DEBUG=\"\"\nFROM scratch${DEBUG-@bogus}", &[]),
    (
        "FROM --platform=$BULIDPLATFORM scratch",
        &[(1, "UndefinedArgInFrom", "FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?)")],
    ),
    (
        "ARG MY_OS=linux\nARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox",
        &[(3, "UndefinedArgInFrom", "FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)")],
    ),
    (
        "ARG tag=latest\nFROM busybox:${tag}${version} AS b",
        &[(2, "UndefinedArgInFrom", "FROM argument 'version' is not declared")],
    ),
    (
        "ARG VERSION\nFROM busybox:$VERSION",
        &[(
            2,
            "InvalidDefaultArgInFrom",
            "Default value for ARG busybox:$VERSION results in empty or invalid base image name",
        )],
    ),
    (
        "ARG IMAGE\nFROM $IMAGE",
        &[(2, "InvalidDefaultArgInFrom", "Default value for ARG $IMAGE results in empty or invalid base image name")],
    ),
    (
        "ARG SFX=\"box:\"\nFROM busy${SFX}",
        &[(
            2,
            "InvalidDefaultArgInFrom",
            "Default value for ARG busy${SFX} results in empty or invalid base image name",
        )],
    ),
    ("ARG VERSION=\"latest\"\nFROM busybox:${VERSION}", &[]),
    ("ARG VARIANT=\"\"\nFROM busybox:stable${VARIANT}", &[]),
    ("ARG VARIANT\nFROM busybox:stable${VARIANT}", &[]),
    (
        "FROM --platform=$TARGETPLATFORM scratch",
        &[(
            1,
            "RedundantTargetPlatform",
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        )],
    ),
    (
        "FROM --platform=${TARGETPLATFORM} scratch",
        &[(
            1,
            "RedundantTargetPlatform",
            "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior",
        )],
    ),
    ("# x\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch", &[]),
    (
        "FROM --platform=linux/amd64 scratch",
        &[(1, "FromPlatformFlagConstDisallowed", "FROM --platform flag should not use constant value \"linux/amd64\"")],
    ),
    ("FROM --platform=linux/amd64 scratch AS my_amd64_stage", &[]),
    ("FROM --platform=linux/amd64 scratch AS linux", &[]),
];

const JSON_CMD: &str = "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals";
const JSON_ENTRYPOINT: &str =
    "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals";
const TWO_CMD: &str =
    "Multiple CMD instructions should not be used in the same stage because only the last one will be used";
const TWO_ENTRYPOINT: &str =
    "Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used";
const TWO_HEALTHCHECK: &str =
    "Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used";

const INSTRUCTIONS: &[Row] = &[
    ("FROM scratch\nCOPY x \\\n\n.\nCOPY x \\\n.", &[(3, "NoEmptyContinuation", "Empty continuation line")]),
    ("FROM scratch\nCMD mycommand", &[(2, "JSONArgsRecommended", JSON_CMD)]),
    ("FROM scratch\nENTRYPOINT mycommand", &[(2, "JSONArgsRecommended", JSON_ENTRYPOINT)]),
    ("FROM scratch\nSHELL [\"/x\"]\nCMD mycommand", &[]),
    ("FROM scratch\nSHELL [\"/x\"]\nENTRYPOINT mycommand", &[]),
    ("FROM scratch AS base\nSHELL [\"/x\"]\nFROM base\nCMD mycommand", &[]),
    ("FROM scratch\n# check=skip=JSONArgsRecommended\nCMD mycommand", &[]),
    (
        "FROM scratch\nMAINTAINER me@example.org",
        &[(2, "MaintainerDeprecated", "Maintainer instruction is deprecated in favor of using label")],
    ),
    ("FROM scratch\n# check=skip=MaintainerDeprecated\nMAINTAINER me@example.org", &[]),
    (
        "FROM scratch\nWORKDIR app/",
        &[(
            2,
            "WorkdirRelativePath",
            "Relative workdir \"app/\" can have unexpected results if the base image changes",
        )],
    ),
    ("FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR subdir/", &[]),
    ("FROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR app/", &[]),
    (
        "FROM scratch\nENTRYPOINT [\"/a\"]\nENTRYPOINT [\"/b\"]\nCMD [\"/a\"]\nCMD [\"/b\"]\n\
         HEALTHCHECK CMD [\"/a\"]\nHEALTHCHECK CMD [\"/b\"]",
        &[
            (2, "MultipleInstructionsDisallowed", TWO_ENTRYPOINT),
            (4, "MultipleInstructionsDisallowed", TWO_CMD),
            (6, "MultipleInstructionsDisallowed", TWO_HEALTHCHECK),
        ],
    ),
    ("FROM scratch\nCMD [\"/a\"]\nCOPY x y\nCMD [\"/b\"]", &[(2, "MultipleInstructionsDisallowed", TWO_CMD)]),
    ("FROM scratch AS a\nCMD [\"/a\"]\nFROM a AS b\nCMD [\"/b\"]", &[]),
    (
        "FROM scratch\nENV testkey value\nLABEL key value",
        &[
            (2, "LegacyKeyValueFormat", "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format"),
            (
                3,
                "LegacyKeyValueFormat",
                "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
            ),
        ],
    ),
    ("FROM scratch\nENV testkey=value\nLABEL key=value", &[]),
    ("FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV testkey value", &[]),
    (
        "FROM scratch\nEXPOSE 80/TcP 8080/TCP 8080/udp",
        &[
            (2, "ExposeProtoCasing", "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase"),
            (2, "ExposeProtoCasing", "Defined protocol '8080/TCP' in EXPOSE instruction should be lowercase"),
        ],
    ),
    (
        "FROM scratch\nEXPOSE 127.0.0.1:80:80 [::1]:8080:8080 5000:5000 8000",
        &[
            (
                2,
                "ExposeInvalidFormat",
                "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
            ),
            (
                2,
                "ExposeInvalidFormat",
                "EXPOSE instruction should not define an IP address or host-port mapping, found '[::1]:8080:8080'",
            ),
            (
                2,
                "ExposeInvalidFormat",
                "EXPOSE instruction should not define an IP address or host-port mapping, found '5000:5000'",
            ),
        ],
    ),
];

const CASING: &[Row] = &[
    (
        "From scratch as base\nFROM scratch AS base2",
        &[(
            1,
            "ConsistentInstructionCasing",
            "Command 'From' should match the case of the command majority (uppercase)",
        )],
    ),
    (
        "FROM scratch\ncopy x /foo\nCOPY x /bar",
        &[(
            2,
            "ConsistentInstructionCasing",
            "Command 'copy' should match the case of the command majority (uppercase)",
        )],
    ),
    (
        "frOM scratch as base\nfrom scratch as base2",
        &[(
            1,
            "ConsistentInstructionCasing",
            "Command 'frOM' should match the case of the command majority (lowercase)",
        )],
    ),
    (
        "from scratch\nCOPY x /foo\ncopy x /bar",
        &[(
            2,
            "ConsistentInstructionCasing",
            "Command 'COPY' should match the case of the command majority (lowercase)",
        )],
    ),
    (
        "FROM scratch\ncopy x /a\ncopy x /b",
        &[(
            1,
            "ConsistentInstructionCasing",
            "Command 'FROM' should match the case of the command majority (lowercase)",
        )],
    ),
    ("from scratch\ncopy x /a\ncopy x /b", &[]),
    ("FROM alpine\nRUN <<'EOT'\nenv\nEOT", &[]),
];

#[test]
fn rules_find_what_they_are_for() {
    for (text, expected) in STAGES.iter().chain(INSTRUCTIONS).chain(CASING) {
        // An empty line first: a comment on the first line could be a directive.
        let shifted: Vec<_> = expected.iter().map(|(line, rule, words)| (line + 1, *rule, *words)).collect();
        check(&format!("\n{text}\n"), None, None, &shifted);
    }
    for rule in &lint::RULES {
        assert!(!rule.hint.is_empty() && !rule.description.contains("  "), "{}", rule.name);
        assert_eq!(lint::rule(&rule.name.to_lowercase()), Some(rule));
    }
}

#[test]
fn secrets_are_known_by_their_names() {
    let text = "# check=skip=InvalidDefinitionDescription\n\nFROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\n\
                ENV password=bar secret=baz\nARG super_duper_secret_token=foo auth=bar\nENV apikey=bar sunflower=foo\n\
                ENV git_key=\nENV PUBLIC_KEY=\nARG public_token\nARG SECRET_PASSPHRASE_FILE\n\
                ENV password_file=bar secret_File=baz\nARG AUTH_MODULE_VERSION\n\
                # check=skip=SecretsUsedInArgOrEnv // allowed here\nENV password=bar\n\
                # check=skip=all // only for this instruction\nARG password\nENV monkey=1\n";
    let names = [
        (4, "ARG \"SECRET_PASSPHRASE\""),
        (5, "ENV \"SUPER_Secret\""),
        (6, "ENV \"password\""),
        (6, "ENV \"secret\""),
        (7, "ARG \"super_duper_secret_token\""),
        (7, "ARG \"auth\""),
        (8, "ENV \"apikey\""),
        (9, "ENV \"git_key\""),
    ];
    let words = names.map(|(_, name)| format!("Do not use ARG or ENV instructions for sensitive data ({name})"));
    let expected: Vec<_> =
        names.iter().zip(&words).map(|((line, _), words)| (*line, "SecretsUsedInArgOrEnv", words.as_str())).collect();
    check(text, None, None, &expected);
}

#[test]
fn descriptions_begin_with_their_names() {
    check(
        "# check=skip=all;experimental=InvalidDefinitionDescription\n# foo this is the foo\nARG foo=bar\n\n\
         # base this is the base image\nFROM scratch AS base\n# version this is it\nARG version=latest\n\
         # baz this is the baz\nARG foo=baz bar=qux baz=quux\n#\nARG bit=bat\n# of something else\nCOPY x .\n",
        None,
        None,
        &[],
    );
    let rule = "InvalidDefinitionDescription";
    check(
        "# check=experimental=InvalidDefinitionDescription\n# bar this is the bar\nARG foo=bar\n# BasE this is it\n\
         FROM scratch AS base\n# definitely bad\nARG version=latest\n# definitely bad\nARG foo=baz bar=qux\n",
        None,
        None,
        &[
            (3, rule, "Comment for ARG should follow the format: `# foo <description>`"),
            (5, rule, "Comment for FROM should follow the format: `# base <description>`"),
            (7, rule, "Comment for ARG should follow the format: `# version <description>`"),
            (9, rule, "Comment for ARG should follow the format: `# <arg_key> <description>`"),
        ],
    );
}

#[test]
fn rules_are_skipped_on_demand() {
    let from_as = (2, "FromAsCasing", "'as' and 'FROM' keywords' casing do not match");
    for (directive, options, expected) in [
        ("#check=skip=all", None, vec![]),
        ("#check=skip=all;error=true", None, vec![]),
        ("#check=skip=ConsistentInstructionCasing,FromAsCasing", None, vec![]),
        ("#check=skip=ConsistentInstructionCasing", None, vec![from_as]),
        ("#check=skip=all", Some("skip=ConsistentInstructionCasing;error=true"), vec![from_as]),
        ("#check=error=true", Some("skip=all"), vec![]),
    ] {
        check(&format!("{directive}\nFROM scratch as base\ncopy Dockerfile .\n"), None, options, &expected);
    }
    let file = parse(b"#check=error=true // why\nFROM a", "Dockerfile").expect("valid");
    assert!(lint::options(&file).error);
}

#[test]
fn ignored_sources_are_found() {
    let two = "\nFROM scratch\nCOPY Dockerfile .\nADD Dockerfile /windy\n";
    let rule = "CopyIgnoredFile";
    let copy = (3, rule, "Attempting to Copy file \"Dockerfile\" that is excluded by .dockerignore");
    let add = (4, rule, "Attempting to Add file \"Dockerfile\" that is excluded by .dockerignore");
    check(two, Some("Dockerfile\n"), None, &[copy, add]);
    check(&format!("# check=skip=CopyIgnoredFile\n{two}"), Some("Dockerfile\n"), None, &[]);
    check("FROM scratch AS base\nCOPY x /f\nFROM base\nCOPY --from=base /f /d\n", Some("f\n"), None, &[]);
    check("FROM scratch\nCOPY ./Dockerfile .\nCOPY . .\n", Some("**\n!Dockerfile\n"), None, &[]);
    check("\n\nFROM scratch\nCOPY . .\n", Some(".*\n"), None, &[]);
    let root = (3, rule, "Attempting to Copy file \".\" that is excluded by .dockerignore");
    check("\nFROM scratch\nCOPY . .\n", Some("*\n"), None, &[root]);
}
