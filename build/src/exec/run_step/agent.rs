//! An agent's socket for one step: a socket of our own that passes everything on to the agent's.
//!
//! The agent's own socket is not shown to a step: it belongs to whoever builds, and its mode and owner are not ours to
//! change, while a step may be anybody (`--mount=type=ssh,uid=`).

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use layerfs::error::{Context, Result};

/// A socket that leads to an agent for as long as this lives.
pub(super) struct Forward {
    listener: UnixListener,
}

impl Forward {
    /// Makes the socket `folder/agent`, which leads to `agent`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn new(folder: &Path, agent: &Path) -> Result<(Self, PathBuf)> {
        let path = folder.join("agent");
        let root = File::open(folder).at("open", folder)?;
        // A socket's address has room for 107 bytes, which the path of a store may well exceed.
        let short = format!("/proc/self/fd/{}/agent", root.as_raw_fd());
        let listener = UnixListener::bind(short).at("create the socket", &path)?;
        let accepting = listener.try_clone().at("create the socket", &path)?;
        let agent = agent.to_owned();
        thread::spawn(move || {
            for client in accepting.incoming() {
                // Shut down: the step has ended.
                let Ok(client) = client else { return };
                if let Ok(server) = UnixStream::connect(&agent) {
                    connect(client, server);
                }
            }
        });
        Ok((Self { listener }, path))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// Passes on both directions, each by a thread that ends with its stream.
fn connect(client: UnixStream, server: UnixStream) {
    let pairs = (client.try_clone(), server.try_clone());
    let (Ok(client_again), Ok(server_again)) = pairs else { return };
    for (mut from, mut to) in [(client, server), (server_again, client_again)] {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_is_said_arrives_in_both_directions_however_long_the_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("a-long-name".repeat(15));
        std::fs::create_dir(&folder).expect("a folder");
        let agent = dir.path().join("agent");
        let listener = UnixListener::bind(&agent).expect("a socket");
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut question = String::new();
            stream.read_to_string(&mut question).expect("a question");
            stream.write_all(question.to_uppercase().as_bytes()).expect("an answer");
        });
        let (forward, path) = Forward::new(&folder, &agent).expect("a socket");
        let root = File::open(&folder).expect("the folder");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut client = UnixStream::connect(format!("/proc/self/fd/{}/{name}", root.as_raw_fd())).expect("connected");
        client.write_all(b"keys").expect("asked");
        client.shutdown(Shutdown::Write).expect("asked");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("answered");
        assert_eq!(answer, "KEYS");
        answering.join().expect("the agent ends");
        drop(forward);
        drop(client);
    }
}
