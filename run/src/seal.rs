//! This program out of a container's reach: for as long as one of its own processes works in a container, whoever is
//! there could get at the file behind `/proc/PID/exe`, and write to it if the container's root may (CVE-2019-5736).
//!
//! The launcher's processes cannot be looked at from inside, and a program is never run through a link of `/proc`; but
//! between the look at a program and its execution somebody who shares its folder can put such a link in its place.
//! Where that is possible, which is in a running container and with a volume, this program executes itself once more:
//! from a copy of its own mount that is read-only and attached nowhere, or, without the right to make one, from a
//! sealed copy in memory. Elsewhere nothing is done, and nothing is paid.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::sys::process::execute_file;
use rustix::fs::{Access, AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

const OWN: &str = "/proc/self/exe";
/// Where a sealed program was executed from.
const PLACE: &str = "LAYERFS_PROGRAM";

/// Makes this program unwritable by executing it anew, unless it is already. To be called before anything else is done,
/// as all of it is done again.
///
/// # Errors
/// The program cannot be executed anew.
pub fn ensure() -> Result<()> {
    let own = rustix::fs::open(OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at("open", OWN)?;
    if is_sealed(own.as_fd())? {
        return Ok(());
    }
    let place = std::fs::read_link(OWN).at("read", OWN)?;
    let sealed = read_only().or_else(|_| in_memory())?;
    let words = |word: OsString| CString::new(word.into_vec()).map_err(|_| Error::new(Kind::Usage, "a NUL byte"));
    let arguments = std::env::args_os().map(words).collect::<Result<Vec<_>>>()?;
    let variables = std::env::vars_os().filter(|(name, _)| name != PLACE);
    let own_place = (OsString::from(PLACE), place.into_os_string());
    let join = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        words(name)
    };
    let environment = variables.chain([own_place]).map(join).collect::<Result<Vec<_>>>()?;
    Err(execute_file(sealed.as_fd(), &arguments, &environment)).context(|| "execute this program anew, read-only")
}

/// Where this program lies, sealed or not.
///
/// # Errors
/// `/proc` is not mounted.
pub fn place() -> Result<PathBuf> {
    let link = std::env::current_exe().context(|| "find this program's own file")?;
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return Ok(link) };
    // The caller's word alone is not taken for it.
    let id = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino(), found.len())).ok();
    let (own, named) = (id(Path::new(OWN)), id(&place));
    let is_copy =
        rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).is_ok_and(|own| seals(own.as_fd()));
    let is_same = match (own, named) {
        (Some(own), Some(named)) => own == named || (is_copy && own.2 == named.2),
        _ => false,
    };
    Ok(if is_same { place } else { link })
}

/// Whether nobody who has this process's rights could write to the file.
fn is_sealed(own: BorrowedFd<'_>) -> Result<bool> {
    let found = rustix::fs::fstatvfs(own).at("look at", OWN)?;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    if rustix::fs::accessat(CWD, OWN, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        return Ok(true);
    }
    let file = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", OWN)?;
    Ok(seals(file.as_fd()))
}

fn seals(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// The file on a read-only mount of its own.
fn read_only() -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, OWN, flags).at("copy the mount of", OWN)?;
    layerfs::sys::mount::set_read_only(tree.as_fd()).context(|| "make it read-only")?;
    Ok(tree)
}

/// A copy that nobody can change.
fn in_memory() -> Result<OwnedFd> {
    let copy = rustix::fs::memfd_create(c"layerfs-run", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .context(|| "make a file in memory")?;
    let mut to = File::from(copy);
    let mut own = File::open(OWN).at("open", OWN)?;
    std::io::copy(&mut own, &mut to).context(|| "copy this program")?;
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&to, all).context(|| "seal the copy")?;
    // A file that is open for writing is not executed.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&to));
    let sealed = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(|| "open the copy")?;
    Ok(sealed)
}
