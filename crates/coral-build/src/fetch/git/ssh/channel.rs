//! Blocking reader and writer for the streams of a command on an SSH server.

use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use russh::client::{self, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::HostKey;
use crate::fetch::git::remote::FetchTrace;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_mins(2);
/// Most bytes of the command's standard error that are kept.
const MAX_SAID: usize = 1024;
/// Most bytes that are sent. A request names one commit, which takes a few hundred bytes.
const MAX_SENT: usize = 1024 * 1024;
/// The number of the standard error stream in the SSH protocol.
const STDERR: u32 = 1;

/// Splits a command's channel into a reader of its output, `limit` bytes at most, and a writer of
/// its input.
pub(super) fn split(
    runtime: Handle,
    session: client::Handle<HostKey>,
    channel: Channel<Msg>,
    limit: u64,
) -> (Reader, Writer, Rc<FetchTrace>) {
    let (read, write) = channel.split();
    let seen = Rc::<FetchTrace>::default();
    let reader = Reader {
        channel: read,
        chunk: Bytes::new(),
        has_ended: false,
        received: 0,
        limit,
        seen: Rc::clone(&seen),
        session: Session {
            handle: Some(session),
            runtime: runtime.clone(),
        },
    };
    let writer = Writer {
        channel: write,
        sent: 0,
        seen: Rc::clone(&seen),
        runtime,
    };
    (reader, writer, seen)
}

/// A session that is ended when it is dropped.
struct Session {
    handle: Option<client::Handle<HostKey>>,
    runtime: Handle,
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        self.runtime.spawn(async move {
            // An error does not matter: the connection is gone already.
            let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
        });
    }
}

/// Gives the command's answer.
pub(in crate::fetch::git) struct Reader {
    channel: ChannelReadHalf,
    chunk: Bytes,
    /// Whether the command's answer is complete.
    has_ended: bool,
    received: u64,
    limit: u64,
    seen: Rc<FetchTrace>,
    session: Session,
}

impl Reader {
    /// Waits for the next part of the answer; empty at its end.
    fn next_chunk(&mut self) -> io::Result<Bytes> {
        loop {
            let waiting = async { timeout(SILENCE, self.channel.wait()).await };
            let message = self.session.runtime.block_on(waiting);
            match message.map_err(|_| lost(&self.seen, "it is silent"))? {
                Some(ChannelMsg::Data { data }) => return self.count(data),
                Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => self.hear(&data),
                // Standard error and the exit status may still follow the end of the output.
                Some(ChannelMsg::Eof | ChannelMsg::ExitStatus { .. }) => self.has_ended = true,
                Some(ChannelMsg::Close) => return Ok(Bytes::new()),
                Some(_) => {}
                None if self.has_ended => return Ok(Bytes::new()),
                None => return Err(lost(&self.seen, "it ended the connection")),
            }
        }
    }

    fn count(&mut self, data: Bytes) -> io::Result<Bytes> {
        self.received = self.received.saturating_add(data.len() as u64);
        if self.received > self.limit {
            self.seen.too_large.set(true);
            return Err(io::Error::other("the repository is larger than the limit"));
        }
        Ok(data)
    }

    fn hear(&self, data: &[u8]) {
        let mut said = self.seen.said.borrow_mut();
        let left = MAX_SAID.saturating_sub(said.len());
        said.extend_from_slice(&data[..data.len().min(left)]);
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            self.chunk = self.next_chunk()?;
            if self.chunk.is_empty() {
                return Ok(0);
            }
        }
        let length = self.chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.chunk[..length]);
        self.chunk.advance(length);
        Ok(length)
    }
}

/// Takes the command's input.
pub(in crate::fetch::git) struct Writer {
    channel: ChannelWriteHalf<Msg>,
    sent: usize,
    seen: Rc<FetchTrace>,
    runtime: Handle,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent = self.sent.saturating_add(bytes.len());
        if self.sent > MAX_SENT {
            return Err(io::Error::other("the request is too large"));
        }
        let sending = self.channel.data_bytes(Bytes::copy_from_slice(bytes));
        let sent = self
            .runtime
            .block_on(async { timeout(SILENCE, sending).await });
        let sent = sent.map_err(|_| lost(&self.seen, "it takes no request"))?;
        sent.map_err(|error| lost(&self.seen, &error.to_string()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The connection is of no more use.
fn lost(seen: &FetchTrace, problem: &str) -> io::Error {
    seen.no_answer.replace(Some(problem.to_owned()));
    io::Error::other(problem.to_owned())
}
