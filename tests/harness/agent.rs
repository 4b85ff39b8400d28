//! A seccomp agent's two calls (`seccomp_unotify(2)`).

use std::os::fd::{AsRawFd, OwnedFd};

/// Waits for a call that a filter asks about and lets it fail with this errno. False once nobody is left to ask.
#[expect(unsafe_code, reason = "two ioctls that no crate of ours wraps, wanted by tests alone")]
pub(crate) fn refuse_one(listener: &OwnedFd, errno: i32) -> bool {
    /// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of `linux/seccomp.h`.
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    // `struct seccomp_notif`, 80 bytes, beginning with its id; the kernel wants it zeroed.
    let mut asked = [0u64; 10];
    // SAFETY: the buffer has the size that the request's number states.
    if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, asked.as_mut_ptr()) } != 0 {
        return false;
    }
    // `struct seccomp_notif_resp`: id, value, error, flags.
    let mut answer = [asked[0], 0, u64::from((-errno).cast_unsigned())];
    // SAFETY: as above.
    unsafe { libc::ioctl(listener.as_raw_fd(), SEND, answer.as_mut_ptr()) == 0 }
}
