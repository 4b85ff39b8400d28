//! Verbs about images without containers: `mount`, `umount`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use layerfs::oci::Platform;

use super::{Common, exit, for_each, note, parse, tell};
use crate::look::{self, Wanted};

/// Shows an image's files in a folder, read-only, until `run umount`.
#[derive(Parser)]
#[command(name = "run mount", override_usage = "run mount [FLAGS] IMAGE FOLDER")]
struct Mount {
    /// The image's platform
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where it is to be seen
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn mount(words: &[OsString]) -> i32 {
    let Mount { platform, image, folder, common } = match parse(words, exit::ENGINE) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let wanted = Wanted { store: common.store, image, platform };
    match look::mount(&wanted, &folder, note) {
        Ok(()) => exit::OK,
        Err(error) => tell("run", &error, exit::ENGINE),
    }
}

/// Takes images away from the folders that they were mounted on.
#[derive(Parser)]
#[command(name = "run umount")]
struct Umount {
    /// Where they are seen
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<PathBuf>,
}

pub(super) fn umount(words: &[OsString]) -> i32 {
    match parse::<Umount>(words, exit::ENGINE) {
        Ok(arguments) => for_each(&arguments.folders, |folder| look::umount(folder)),
        Err(code) => code,
    }
}
