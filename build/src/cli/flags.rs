//! The flags, as clap reads them.

use std::path::PathBuf;

use clap::Parser;

/// Builds an image from a Dockerfile, without a daemon and without root.
#[derive(Debug, Parser)]
#[command(
    name = "build",
    version,
    override_usage = "build [OPTIONS] [PATH | -]",
    max_term_width = 110,
    after_help = "PATH is the context: the folder that COPY and ADD take files from. `-` reads it from standard input, \
                  as a tar archive or as a Dockerfile alone.\n\nExit codes: 0, 1 for a problem with what was given or \
                  found, 2 for a wrong command line, a failing RUN's own code, 130 when stopped."
)]
pub(super) struct Flags {
    /// The context: a folder, or `-` for standard input
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
    /// What the image will run on
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
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
    /// A further context: NAME=FOLDER or NAME=docker-image://IMAGE
    #[arg(long, value_name = "NAME=WHERE")]
    pub(super) build_context: Vec<String>,
    /// Most steps at the same time [default: 4 for each core, at least 16]
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// What steps may do beyond the usual: network.host, security.insecure
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
    /// Bytes of /dev/shm in RUN steps
    #[arg(long, value_name = "SIZE")]
    pub(super) shm_size: Option<String>,
    /// A resource limit of RUN steps: NAME=SOFT[:HARD]
    #[arg(long, value_name = "SPEC")]
    pub(super) ulimit: Vec<String>,
    /// Who unites layers: the kernel, a server of our own, or whichever works [default: auto]
    #[arg(long, value_name = "auto|overlay|fuse")]
    pub(super) mount_backend: Option<String>,
    /// No time in the image is later than this, in seconds since 1970
    #[arg(long, visible_alias = "timestamp", value_name = "SECONDS")]
    pub(super) source_date_epoch: Option<i64>,
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
    #[arg(long, hide = true)]
    compress: bool,
}
