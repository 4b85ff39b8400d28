//! The flags, as clap reads them.

use std::path::PathBuf;

use clap::Parser;

/// Builds an image from a Dockerfile, without a daemon and without root.
#[derive(Debug, Parser)]
#[command(
    name = "build",
    version,
    override_usage = "build [OPTIONS] [PATH | URL | -]",
    max_term_width = 110,
    after_help = "PATH is the context: the folder that COPY and ADD take files from. URL is a git repository \
                  (https://…/x.git#BRANCH:FOLDER) or a tar archive or Dockerfile on the web. `-` reads one of those two from \
                  standard input.\n\nExit codes: 0, 1 for a problem with what was given or \
                  found, 2 for a wrong command line, a failing RUN's own code, 130 when stopped."
)]
pub(super) struct Flags {
    /// The context: a folder, a git repository, an address on the web, or `-` for standard input
    #[arg(value_name = "PATH")]
    pub(super) context: Option<PathBuf>,
    /// A name for the image; may be repeated
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(super) tag: Vec<String>,
    /// The Dockerfile [default: PATH/Dockerfile, PATH/Containerfile], or `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// A value for an ARG; without a value, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// What the image will run on; of several, an index holds an image for each
    #[arg(long, value_name = "OS/ARCH[/VARIANT],…")]
    pub(super) platform: Vec<String>,
    /// Run every step, whatever was built before
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,
    /// When base images are pulled: always, missing, newer or never [default: missing]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(super) pull: Option<String>,
    /// Where the result goes: type=image|registry|oci|docker|tar|local|cacheonly with dest=, or a folder
    #[arg(short, long, value_name = "SPEC")]
    pub(super) output: Vec<String>,
    /// Push the image under its names
    #[arg(long)]
    pub(super) push: bool,
    /// Keep the image in the store, whatever --output says
    #[arg(long)]
    pub(super) load: bool,
    /// How progress is shown: auto, plain, tty, quiet or rawjson
    #[arg(long, value_name = "STYLE")]
    pub(super) progress: Option<String>,
    /// Print nothing but the image's id
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Write a picture of what ran when to a file, as HTML
    #[arg(long, value_name = "FILE")]
    pub(super) timeline: Option<PathBuf>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// Write what is known of the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
    /// A label for the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) label: Vec<String>,
    /// An annotation for the manifest
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) annotation: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=NAME[,src=FILE | ,env=VARIABLE]
    #[arg(long, value_name = "SPEC")]
    pub(super) secret: Vec<String>,
    /// An agent for RUN --mount=type=ssh: default, or NAME[=SOCKET]
    #[arg(long, value_name = "SPEC")]
    pub(super) ssh: Vec<String>,
    /// The network of RUN steps: default, none or host
    #[arg(long, value_name = "NETWORK")]
    pub(super) network: Option<String>,
    /// A line for /etc/hosts of RUN steps
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(super) add_host: Vec<String>,
    /// A further context: NAME=FOLDER, a URL, docker-image://IMAGE, oci-layout://PATH or target:STAGE
    #[arg(long, value_name = "NAME=WHERE")]
    pub(super) build_context: Vec<String>,
    /// Most steps at the same time [default: 4 for each core, at least 16]
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// A cache to look into: type=registry,ref=NAME | type=local,src=FOLDER, or NAME
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_from: Vec<String>,
    /// A cache to write: type=registry,ref=NAME | type=local,dest=FOLDER | type=inline, with mode=min|max, and
    /// mounts=all|ID for cache mounts
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_to: Vec<String>,
    /// Tell of the Dockerfile instead of building: check, outline or targets, with ,format=json
    #[arg(long, value_name = "WHAT")]
    pub(super) call: Option<String>,
    /// The same as --call=check
    #[arg(long)]
    pub(super) check: bool,
    /// Make one layer of all new ones
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) squash: Option<String>,
    /// Memory of each RUN step
    #[arg(short, long, value_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// Memory and swap of each RUN step together; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Weight of RUN steps' CPU time, 1024 being usual
    #[arg(short = 'c', long, value_name = "N")]
    pub(super) cpu_shares: Option<u64>,
    /// CPU time of each RUN step per period, in microseconds
    #[arg(long, value_name = "N")]
    pub(super) cpu_quota: Option<i64>,
    /// That period, in microseconds [default: 100000]
    #[arg(long, value_name = "N")]
    pub(super) cpu_period: Option<i64>,
    /// CPUs of RUN steps, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// A capability for RUN steps
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) cap_add: Vec<String>,
    /// A capability that RUN steps do without
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) cap_drop: Vec<String>,
    /// seccomp=, apparmor=, label=, no-new-privileges for RUN steps
    #[arg(long, value_name = "OPTION")]
    pub(super) security_opt: Vec<String>,
    /// A device of the host for RUN steps
    #[arg(long, value_name = "SOURCE[:PLACE[:rwm]]")]
    pub(super) device: Vec<String>,
    /// A folder of the host for RUN steps: it is in no cache key
    #[arg(short, long, value_name = "SOURCE:PLACE[:ro]")]
    pub(super) volume: Vec<String>,
    /// A name server of RUN steps
    #[arg(long, value_name = "ADDRESS")]
    pub(super) dns: Vec<String>,
    /// A search domain of RUN steps
    #[arg(long, value_name = "DOMAIN")]
    pub(super) dns_search: Vec<String>,
    /// A file of NAME=VALUE lines for ARG
    #[arg(long, value_name = "FILE")]
    pub(super) build_arg_file: Vec<PathBuf>,
    /// A variable of the image
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// A variable that the image does not have
    #[arg(long, value_name = "NAME")]
    pub(super) unsetenv: Vec<String>,
    /// Leave the history out of the image
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) omit_history: Option<String>,
    /// Media types of a pushed or exported image: oci or docker [default: oci]
    #[arg(long, value_name = "FORM")]
    pub(super) format: Option<String>,
    /// How often a request is repeated
    #[arg(long, value_name = "N")]
    pub(super) retry: Option<u32>,
    /// A folder of certificates for registries
    #[arg(long, value_name = "DIR")]
    pub(super) cert_dir: Option<PathBuf>,
    /// Whether steps get the caller's proxies [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) http_proxy: Option<String>,
    /// The operating system, in place of --platform
    #[arg(long, value_name = "OS")]
    pub(super) os: Option<String>,
    /// The architecture, in place of --platform
    #[arg(long, value_name = "ARCH")]
    pub(super) arch: Option<String>,
    /// The architecture's variant, in place of --platform
    #[arg(long, value_name = "VARIANT")]
    pub(super) variant: Option<String>,
    /// Another name for the image; of several platforms, that of the index
    #[arg(long, value_name = "NAME")]
    pub(super) manifest: Option<String>,
    /// What steps may do beyond the usual: network.host, security.insecure
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
    /// Bytes of /dev/shm in RUN steps
    #[arg(long, value_name = "SIZE")]
    pub(super) shm_size: Option<String>,
    /// A resource limit of RUN steps: NAME=SOFT[:HARD]
    #[arg(long, value_name = "SPEC")]
    pub(super) ulimit: Vec<String>,
    /// How RUN steps are kept apart from the machine [default: auto]
    #[arg(long, value_name = "auto|namespaces|chroot")]
    pub(super) isolation: Option<String>,
    /// Who unites layers: the kernel, a server of our own, or whichever works [default: auto]
    #[arg(long, value_name = "auto|overlay|fuse")]
    pub(super) mount_backend: Option<String>,
    /// No time in the image is later than this, in seconds since 1970
    #[arg(long, visible_alias = "timestamp", value_name = "SECONDS")]
    pub(super) source_date_epoch: Option<i64>,
    /// Whether that holds for files too, and not for the image's documents alone [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) rewrite_timestamp: Option<String>,
    /// Say of each step that is not in the cache which of its inputs changed
    #[arg(long)]
    pub(super) explain: bool,
    /// Build everything twice, and fail with the paths that differ
    #[arg(long)]
    pub(super) verify: bool,
    /// List the image's packages (SPDX) beside it in the registry, or in the exported folder
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) sbom: Option<String>,
    /// Tell beside the image what it was built from (SLSA): mode=min, or mode=max with arguments and Dockerfile
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) provenance: Option<String>,
    /// The same as --sbom or --provenance: type=sbom, or type=provenance,mode=max
    #[arg(long, value_name = "SPEC")]
    pub(super) attest: Vec<String>,
    /// The ignore file [default: FILE.dockerignore, PATH/.containerignore, PATH/.dockerignore]
    #[arg(long, value_name = "FILE")]
    pub(super) ignorefile: Option<PathBuf>,
    /// The credential file for registries
    #[arg(long, value_name = "FILE")]
    pub(super) authfile: Option<PathBuf>,
    /// User and password for registries
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(super) creds: Option<String>,
    /// Whether registries have to prove who they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) tls_verify: Option<bool>,
    /// The store's folder
    #[arg(long, value_name = "DIR")]
    pub(super) store: Option<PathBuf>,

    // What is always so here; other builders' command lines say it.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    layers: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    identity_label: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<String>,
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(long, hide = true)]
    retry_delay: Option<String>,
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    #[arg(long, hide = true)]
    compress: bool,
}
