//! What a step's parent and its launcher say to each other. Both are the same program, so there are no versions.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use layerfs::error::{Context, Error, Kind, Result};
use layerfs::mount::{Backend, MountPlan, Upper};
use oci_spec::runtime::Spec;
use rustix::fs::{MemfdFlags, memfd_create};

use super::Step;
use crate::launch::channel::{decode_error, encode_error};
use crate::launch::{Exit, Rootfs, Stdio};

/// First byte of a packet that asks for a step.
pub(super) const RUN: u8 = b'r';
/// First byte of a packet that ends all steps.
pub(super) const CANCEL: u8 = b'c';
/// Longest reply.
pub(super) const REPLY_MAX: usize = 64 * 1024;

/// The descriptors of a request.
pub(super) struct Request {
    pub(super) payload: OwnedFd,
    pub(super) reply: OwnedFd,
    pub(super) stdio: Stdio,
}

impl Request {
    pub(super) fn of(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [payload, reply, stdin, stdout, stderr] = <[OwnedFd; 5]>::try_from(descriptors).ok()?;
        Some(Self { payload, reply, stdio: Stdio { stdin, stdout, stderr } })
    }
}

/// Writes a Spec and a root to memory that travels as a descriptor: they may be longer than a packet.
pub(super) fn write_payload(spec: &Spec, rootfs: &Rootfs) -> Result<OwnedFd> {
    let root = encode_root(rootfs);
    let json = serde_json::to_vec(spec).context(|| "write a step's Spec")?;
    let memory = memfd_create("layerfs-step", MemfdFlags::CLOEXEC).context(|| "make memory for a step")?;
    let mut file = File::from(memory);
    let length = (root.len() as u64).to_le_bytes();
    for part in [&length[..], &root, &json] {
        file.write_all(part).context(|| "write a step's Spec")?;
    }
    file.rewind().context(|| "write a step's Spec")?;
    Ok(file.into())
}

/// What [`write_payload`] wrote.
pub(super) fn read_payload(payload: OwnedFd) -> Result<(Spec, Rootfs)> {
    let mut bytes = Vec::new();
    File::from(payload).read_to_end(&mut bytes).context(|| "read a step's Spec")?;
    let broken = || Error::new(Kind::Corrupt, "a step's Spec is cut short");
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(broken)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken())?;
    let (root, json) = rest.split_at_checked(length).ok_or_else(broken)?;
    Ok((serde_json::from_slice(json).context(|| "read a step's Spec")?, decode_root(root).ok_or_else(broken)?))
}

/// Paths are bytes, which JSON cannot hold; they cannot hold a NUL, so that is what parts them.
fn encode_root(rootfs: &Rootfs) -> Vec<u8> {
    let (tag, paths): (&[u8], Vec<&Path>) = match rootfs {
        Rootfs::Path(path) => (b"path", vec![path]),
        Rootfs::Overlay(plan) => {
            let tag: &[u8] = match (&plan.upper, plan.volatile) {
                (None, _) => b"lowers",
                (Some(_), false) => b"upper",
                (Some(_), true) => b"volatile",
            };
            let (backend, program) = match &plan.backend {
                Backend::Overlay => ("overlay", Path::new("")),
                Backend::Fuse(program) => ("fuse", program.as_path()),
                Backend::Auto(program) => ("auto", program.as_path()),
            };
            let backend = [Path::new(backend), program].into_iter();
            let upper = plan.upper.iter().flat_map(|upper| [upper.dir.as_path(), upper.work.as_path()]);
            (tag, backend.chain(upper).chain(plan.lowers.iter().map(PathBuf::as_path)).collect())
        }
    };
    let mut bytes = tag.to_vec();
    for path in paths {
        bytes.push(0);
        bytes.extend_from_slice(path.as_os_str().as_bytes());
    }
    bytes
}

fn decode_root(bytes: &[u8]) -> Option<Rootfs> {
    let mut parts = bytes.split(|byte| *byte == 0);
    let tag = parts.next()?;
    let mut paths = parts.map(|part| PathBuf::from(OsStr::from_bytes(part)));
    if tag == b"path" {
        return Some(Rootfs::Path(paths.next()?));
    }
    let (backend, program) = (paths.next()?, paths.next()?);
    let backend = match backend.as_os_str().as_bytes() {
        b"overlay" => Backend::Overlay,
        b"fuse" => Backend::Fuse(program),
        _ => Backend::Auto(program),
    };
    let upper = match tag {
        b"lowers" => None,
        _ => Some(Upper { dir: paths.next()?, work: paths.next()? }),
    };
    Some(Rootfs::Overlay(MountPlan { upper, volatile: tag == b"volatile", lowers: paths.collect(), backend }))
}

/// What comes back.
pub(super) enum Reply {
    Ended(Step),
    Failed(Error),
    /// The other side is gone.
    Nothing,
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        match self {
            Reply::Nothing => {}
            Reply::Failed(error) => {
                packet.push(b'e');
                encode_error(error, &mut packet);
            }
            Reply::Ended(Step { exit, notes }) => {
                packet.push(b'x');
                packet.extend_from_slice(&exit.code.to_le_bytes());
                packet.extend_from_slice(&exit.signal.unwrap_or(0).to_le_bytes());
                packet.push(u8::from(exit.oom));
                packet.extend_from_slice(notes.join("\0").as_bytes());
            }
        }
        packet.truncate(REPLY_MAX);
        packet
    }

    pub(super) fn decode(packet: &[u8]) -> Self {
        match packet.split_first() {
            None => Reply::Nothing,
            Some((b'x', rest)) => match rest.split_first_chunk::<9>() {
                Some(([a, b, c, d, e, f, g, h, oom], notes)) => {
                    let signal = i32::from_le_bytes([*e, *f, *g, *h]);
                    let exit = Exit {
                        code: i32::from_le_bytes([*a, *b, *c, *d]),
                        signal: (signal != 0).then_some(signal),
                        oom: *oom != 0,
                    };
                    let notes = notes.split(|byte| *byte == 0).filter(|note| !note.is_empty());
                    let notes = notes.map(|note| String::from_utf8_lossy(note).into_owned()).collect();
                    Reply::Ended(Step { exit, notes })
                }
                None => Reply::Nothing,
            },
            Some((_, rest)) => Reply::Failed(decode_error(rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_way() {
        let upper = Some(Upper { dir: "/u p".into(), work: OsStr::from_bytes(b"/\xff").into() });
        let plan = MountPlan {
            lowers: vec!["/a".into(), "/b:c".into()],
            upper,
            volatile: true,
            backend: Backend::Fuse("/p q".into()),
        };
        for rootfs in [Rootfs::Overlay(plan), Rootfs::Path("/x".into())] {
            let payload = write_payload(&Spec::default(), &rootfs).expect("memory");
            let (spec, back) = read_payload(payload).expect("the same program wrote it");
            assert_eq!((spec, back), (Spec::default(), rootfs));
        }
    }

    #[test]
    fn a_result_survives_the_way() {
        let step = Step {
            exit: Exit { code: 137, signal: Some(9), oom: true },
            notes: vec!["one".to_owned(), "two".to_owned()],
        };
        let Reply::Ended(back) = Reply::decode(&Reply::Ended(step.clone()).encode()) else { panic!("it ended") };
        assert_eq!(back, step);
    }
}
