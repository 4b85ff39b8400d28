//! The rules by name.

/// A rule: BuildKit's name, description and page, and what to do about a finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name that `check=skip=…` takes.
    pub name: &'static str,
    /// What the rule wants.
    pub description: &'static str,
    /// Where it is explained; empty where it is not.
    pub url: &'static str,
    /// How to satisfy it.
    pub hint: &'static str,
    /// It runs only where `check=experimental=…` names it.
    pub experimental: bool,
}

/// All rules, in the order BuildKit lists them.
pub const RULES: [Rule; 22] = [
    Rule {
        name: "StageNameCasing",
        description: "Stage names should be lowercase",
        url: "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        hint: "write the name in lowercase; references to it do not distinguish case",
        experimental: false,
    },
    Rule {
        name: "FromAsCasing",
        description: "The 'as' keyword should match the case of the 'from' keyword",
        url: "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
        hint: "write `FROM … AS …` or `from … as …`",
        experimental: false,
    },
    Rule {
        name: "NoEmptyContinuation",
        description: "Empty continuation lines will become errors in a future release",
        url: "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/",
        hint: "delete the empty line, or make it a comment",
        experimental: false,
    },
    Rule {
        name: "ConsistentInstructionCasing",
        description: "All commands within the Dockerfile should use the same casing (either upper or lower)",
        url: "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/",
        hint: "write all instructions in capitals",
        experimental: false,
    },
    Rule {
        name: "DuplicateStageName",
        description: "Stage names should be unique",
        url: "https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/",
        hint: "give one of the stages another name",
        experimental: false,
    },
    Rule {
        name: "ReservedStageName",
        description: "Reserved words should not be used as stage names",
        url: "https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/",
        hint: "give the stage another name",
        experimental: false,
    },
    Rule {
        name: "JSONArgsRecommended",
        description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        url: "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        hint: "write the command as a JSON array, or name the shell it needs with `SHELL`",
        experimental: false,
    },
    Rule {
        name: "MaintainerDeprecated",
        description: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        url: "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
        hint: "LABEL org.opencontainers.image.authors=\"…\"",
        experimental: false,
    },
    Rule {
        name: "UndefinedArgInFrom",
        description: "FROM command must use declared ARGs",
        url: "https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/",
        hint: "declare it with `ARG` before the first `FROM`",
        experimental: false,
    },
    Rule {
        name: "WorkdirRelativePath",
        description: "Relative workdir without an absolute workdir declared within the build can have unexpected results \
                      if the base image changes",
        url: "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/",
        hint: "begin the path with a slash",
        experimental: false,
    },
    Rule {
        name: "UndefinedVar",
        description: "Variables should be defined before their use",
        url: "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
        hint: "define it with `ARG` or `ENV` above, or give a default: ${NAME:-}",
        experimental: false,
    },
    Rule {
        name: "MultipleInstructionsDisallowed",
        description: "Multiple instructions of the same type should not be used in the same stage",
        url: "https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/",
        hint: "delete the earlier one: only the last counts",
        experimental: false,
    },
    Rule {
        name: "LegacyKeyValueFormat",
        description: "Legacy key/value format with whitespace separator should not be used",
        url: "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
        hint: "put `=` between key and value, and quotes around a value with spaces",
        experimental: false,
    },
    Rule {
        name: "InvalidBaseImagePlatform",
        description: "Base image platform does not match expected target platform",
        url: "",
        hint: "choose the platform with `--platform`, or an image that has it",
        experimental: false,
    },
    Rule {
        name: "RedundantTargetPlatform",
        description: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        url: "https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/",
        hint: "delete the flag",
        experimental: false,
    },
    Rule {
        name: "SecretsUsedInArgOrEnv",
        description: "Sensitive data should not be used in the ARG or ENV commands",
        url: "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/",
        hint: "give it to the one step that needs it: RUN --mount=type=secret,id=…",
        experimental: false,
    },
    Rule {
        name: "InvalidDefaultArgInFrom",
        description: "Default value for global ARG results in an empty or invalid base image name",
        url: "https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/",
        hint: "give the argument a default with which the image's name is valid",
        experimental: false,
    },
    Rule {
        name: "FromPlatformFlagConstDisallowed",
        description: "FROM --platform flag should not use a constant value",
        url: "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/",
        hint: "use $BUILDPLATFORM or no flag; or put the platform into the stage's name",
        experimental: false,
    },
    Rule {
        name: "CopyIgnoredFile",
        description: "Attempting to Copy file that is excluded by .dockerignore",
        url: "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/",
        hint: "take the pattern out of the ignore file, or the file back in with `!`",
        experimental: false,
    },
    Rule {
        name: "InvalidDefinitionDescription",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. \
                      If this is not intended to be a description comment, add an empty line or comment between the \
                      instruction and the comment.",
        url: "https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/",
        hint: "begin the comment with the name, or put an empty comment below it",
        experimental: true,
    },
    Rule {
        name: "ExposeProtoCasing",
        description: "Protocol in EXPOSE instruction should be lowercase",
        url: "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/",
        hint: "write tcp, udp or sctp",
        experimental: false,
    },
    Rule {
        name: "ExposeInvalidFormat",
        description: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an \
                      error in a future release",
        url: "https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/",
        hint: "name the port alone; addresses belong to `run -p`",
        experimental: false,
    },
];

/// The rule of a name, in any case.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name.eq_ignore_ascii_case(name))
}
