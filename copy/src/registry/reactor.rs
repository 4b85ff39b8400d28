//! The one thread on which all network traffic of an invocation runs.
//!
//! The rest of the program is threads that block. They hand a future over with [`Reactor::wait`] and sleep until it
//! is done; bytes flow between them and the reactor through bounded channels. Hashing and disk writes happen on the
//! callers' threads, so the reactor does nothing but move socket buffers.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use layerfs::error::{Context, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A running reactor; dropping it ends its thread and whatever still ran there.
pub(crate) struct Reactor {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context(|| "start the network reactor")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || {
                // Either a message or the sender's end means the same.
                let _ = runtime.block_on(stopped);
                // A name lookup that hangs in the C library must not hold up the program's end.
                runtime.shutdown_background();
            })
            .context(|| "start the network thread")?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `future` on the reactor and waits for its result. Never to be called on the reactor itself.
    pub(crate) fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.start_task(async move {
            // The receiver is gone only if the waiting thread died.
            let _ = done.send(future.await);
        });
        result.recv().expect("the reactor lives as long as those who use it, and a task ends by returning")
    }

    /// Starts `future` on the reactor and does not wait.
    pub(crate) fn start_task(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(future));
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
