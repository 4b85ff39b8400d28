//! Writing a blob into a repository, whatever comes between: an upload that breaks off goes on where the registry says
//! that it is, also after this program was killed (see [`super::bookmark`]).

use bytes::Bytes;
use layerfs::digest::Digest;
use layerfs::error::{Error, Kind, Result};
use layerfs::oci::Descriptor;
use tokio::sync::mpsc;

use super::bookmark::{Bookmark, Marks, RESUMED_MIN};
use super::upload::{self, Begun, Cut};
use super::{AHEAD, Repository, Sent, WHOLE_MAX};
use crate::stream::{Chunks, Skip, Start, read_all};
use crate::transport::Opener;

impl Repository {
    /// Writes a blob: mounted from the repository `from` of the same registry if that works, else out of the stream
    /// that `open` begins. The stream has to fail before its end if its bytes are not those of `blob`. An upload that
    /// an earlier invocation did not end goes on where the registry says that it is.
    pub(crate) fn put_blob<'a>(&self, blob: &Descriptor, from: Option<&str>, open: Opener<'a>) -> Result<Sent> {
        let (host, path, digest) = (self.host.clone(), self.path.clone(), blob.digest);
        let mut bookmark = self.bookmark(blob);
        if let Some(bookmark) = &mut bookmark
            && self.resume(blob, bookmark, open)?
        {
            return Ok(Sent::Bytes);
        }
        let marks = (blob.size >= RESUMED_MIN).then(Marks::default);
        let start = Start { after: None, marks: marks.clone() };
        // Where the bytes will be needed for sure, their way here begins while the upload is being arranged.
        let ahead = from.is_none().then(|| open(start.clone())).transpose()?;
        let from = from.map(str::to_owned);
        let begun = self.reactor.wait({
            let (host, path) = (host.clone(), path.clone());
            async move {
                match upload::begin(&host, &path, digest, from.as_deref()).await {
                    // A registry that does not let us mount may well let us upload.
                    Err(error) if from.is_some() && error.kind() != Kind::Unavailable => {
                        upload::begin(&host, &path, digest, None).await
                    }
                    begun => begun,
                }
            }
        })?;
        let Begun::Session(session) = begun else { return Ok(Sent::Mounted) };
        let chunks = ahead.map_or_else(|| open(start), Ok);
        let sent = match (blob.size <= WHOLE_MAX, marks) {
            (true, _) => chunks
                .and_then(|mut chunks| read_all(&mut chunks, WHOLE_MAX))
                .and_then(|bytes| self.send_whole(session.clone(), digest, bytes.into())),
            (false, None) => chunks.and_then(|mut chunks| self.stream(&session, blob, 0, &mut chunks, None)),
            (false, Some(marks)) => chunks.and_then(|chunks| {
                self.stream_from((session.clone(), 0), blob, chunks, &marks, bookmark.as_mut(), open)
            }),
        };
        match sent {
            Ok(()) => Ok(Sent::Bytes),
            // The answer to the last request may have been lost: then the session is gone and the blob is there.
            Err(error) if error.kind() == Kind::NotFound && self.blob_size(digest)? == Some(blob.size) => {
                Ok(Sent::Bytes)
            }
            Err(error) => {
                // What is written down is for the next attempt, be it of this invocation or of another.
                let kept = error.kind() == Kind::Unavailable && bookmark.is_some();
                if error.kind() != Kind::NotFound && !kept {
                    self.reactor.start_task(async move { upload::cancel(&host, &path, session).await });
                }
                Err(error)
            }
        }
    }

    /// Sends a small blob in one request. Where that breaks off nobody knows what the session has: a new one is opened.
    fn send_whole(&self, session: reqwest::Url, digest: Digest, bytes: Bytes) -> Result<()> {
        let send = |session: reqwest::Url| {
            let (host, path, bytes) = (self.host.clone(), self.path.clone(), bytes.clone());
            self.reactor.wait(async move { upload::complete(&host, &path, session, digest, bytes).await })
        };
        let again = |error: &Error| matches!(error.kind(), Kind::NotFound | Kind::Invalid | Kind::Unavailable);
        match send(session) {
            Err(error) if again(&error) => {
                let (host, path) = (self.host.clone(), self.path.clone());
                match self.reactor.wait(async move { upload::begin(&host, &path, digest, None).await }) {
                    Ok(Begun::Session(session)) => send(session),
                    Ok(Begun::Mounted) => Ok(()),
                    Err(_) => Err(error),
                }
            }
            sent => sent,
        }
    }

    /// Goes on with an upload that an earlier invocation did not end; `false` where there is none, or it is lost.
    fn resume<'a>(&self, blob: &Descriptor, bookmark: &mut Bookmark, open: Opener<'a>) -> Result<bool> {
        let Some((session, marks)) = bookmark.load(blob.digest.algorithm()) else { return Ok(false) };
        let Ok(session) = session.parse::<reqwest::Url>() else { return Ok(false) };
        let (next, at) = match self.status(&session, blob) {
            Ok(Some(found)) if found.1 <= blob.size => found,
            // Whatever is wrong with the old session, a new one may do.
            _ => {
                bookmark.remove();
                return Ok(false);
            }
        };
        let after = marks.back_to(at);
        let chunks = open(Start { after: after.clone(), marks: Some(marks.clone()) })?;
        let known = at - after.map_or(0, |mark| mark.at);
        let chunks = Box::new(Skip::new(chunks, known));
        match self.stream_from((next, at), blob, chunks, &marks, Some(bookmark), open) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == Kind::Corrupt => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Streams a large blob from `at` on; when the connection breaks, the registry is asked how far it got.
    fn stream_from<'a>(
        &self,
        (mut session, mut at): (reqwest::Url, u64),
        blob: &Descriptor,
        mut chunks: Box<dyn Chunks + 'a>,
        marks: &Marks,
        mut bookmark: Option<&mut Bookmark>,
        open: Opener<'a>,
    ) -> Result<()> {
        let (mut failures, mut furthest) = (0, at);
        loop {
            let noted = bookmark.as_deref_mut().map(|bookmark| (bookmark, marks));
            let error = match self.stream(&session, blob, at, &mut chunks, noted) {
                Ok(()) => {
                    bookmark.iter().for_each(|bookmark| bookmark.remove());
                    return Ok(());
                }
                Err(error) => error,
            };
            failures += 1;
            if error.kind() != Kind::Unavailable {
                bookmark.iter().for_each(|bookmark| bookmark.remove());
                return Err(error);
            }
            if failures > self.host.retries() {
                return Err(error);
            }
            std::thread::sleep(self.host.pause_before(failures));
            let Ok(Some((next, got))) = self.status(&session, blob) else { return Err(error) };
            if got > blob.size {
                return Err(error);
            }
            // As long as it gets further, it is worth going on.
            if got > furthest + RESUMED_MIN {
                (failures, furthest) = (0, got);
            }
            let after = marks.back_to(got);
            let from = after.as_ref().map_or(0, |mark| mark.at);
            chunks = Box::new(Skip::new(open(Start { after, marks: Some(marks.clone()) })?, got - from));
            (session, at) = (next, got);
        }
    }

    fn status(&self, session: &reqwest::Url, blob: &Descriptor) -> Result<Option<(reqwest::Url, u64)>> {
        let (host, path, session, digest) = (self.host.clone(), self.path.clone(), session.clone(), blob.digest);
        self.reactor.wait(async move { upload::status(&host, &path, session, digest).await })
    }

    fn bookmark(&self, blob: &Descriptor) -> Option<Bookmark> {
        let dir = self.host.uploads().filter(|_| blob.size >= RESUMED_MIN)?;
        Bookmark::take(dir, self.host.name(), &self.path, blob.digest)
    }

    fn stream(
        &self,
        session: &reqwest::Url,
        blob: &Descriptor,
        at: u64,
        chunks: &mut dyn Chunks,
        mut noted: Option<(&mut Bookmark, &Marks)>,
    ) -> Result<()> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (done, result) = std::sync::mpsc::sync_channel(1);
        let (host, path, target, descriptor) = (self.host.clone(), self.path.clone(), session.clone(), blob.clone());
        self.reactor.start_task(async move {
            let sent = match upload::stream(&host, &path, &target, &descriptor, at, receiver).await {
                Ok(next) => upload::complete(&host, &path, next, descriptor.digest, Bytes::new()).await,
                Err(error) => Err(error),
            };
            let _ = done.send(sent);
        });
        let mut own = None;
        loop {
            match chunks.next_chunk() {
                Ok(Some(chunk)) => {
                    if sender.blocking_send(Ok(chunk)).is_err() {
                        break;
                    }
                    if let Some((bookmark, marks)) = &mut noted {
                        bookmark.keep(session.as_str(), marks);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // The request must fail: cut its body off. Our own error is the one to tell.
                    let _ = sender.blocking_send(Err(Cut));
                    own = Some(error);
                    break;
                }
            }
        }
        drop(sender);
        let sent = result.recv().expect("an upload task ends by sending its result");
        own.map_or(sent, Err)
    }
}
