//! Sends the folder into the step `fetch`, through the API server.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use coral_build::contract::Step;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::pack::{PackError, Packed, pack};
use super::source::Source;

/// Bytes of one message.
const CHUNK: usize = 64 * 1024;
/// How many messages may be packed ahead of the network.
const AHEAD: usize = 8;

/// Why the folder was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// Nothing was sent.
    #[error("cannot attach to the step fetch")]
    Attach(#[source] kube::Error),
    /// The folder cannot be read.
    #[error(transparent)]
    Pack(PackError),
    /// The connection or the step ended.
    #[error("the connection to the step fetch ended before the folder was sent{0}")]
    Cut(String),
    /// The thread that packs.
    #[error("packing stopped")]
    Packing(#[source] tokio::task::JoinError),
}

/// What was sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// The files.
    pub(super) packed: Packed,
    /// Bytes over the network.
    pub(super) bytes: u64,
}

/// Attaches to the step `fetch` of a pod, which must be running, and sends it the folder.
pub(super) async fn send(
    pods: &Api<Pod>,
    pod: &str,
    source: Arc<Source>,
) -> Result<Sent, SendError> {
    let parameters = AttachParams::default()
        .container(Step::Fetch.name())
        .stdin(true)
        .stdout(false)
        .stderr(false)
        .max_stdin_buf_size(CHUNK);
    let mut attached = pods
        .attach(pod, &parameters)
        .await
        .map_err(SendError::Attach)?;
    let stdin = attached.stdin();
    let mut stdin = stdin.ok_or_else(|| SendError::Cut(String::new()))?;
    // It resolves as soon as the other end is gone, which writes to the pipe would not notice.
    let status = attached.take_status();
    let ended = async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    };
    let sent = tokio::select! {
        biased;
        sent = packed_into(&mut stdin, source) => sent,
        status = ended => {
            let said = status.and_then(|status| status.message);
            Err(SendError::Cut(said.map_or(String::new(), |said| format!(": {said}"))))
        }
    }?;
    drop(stdin);
    settle(attached).await;
    Ok(sent)
}

/// Waits until the other end has received everything: closing the connection earlier loses what is
/// still on its way. How the connection ends does not matter, since the step itself checks that the
/// archive is complete.
async fn settle(attached: AttachedProcess) {
    if let Err(error) = attached.join().await {
        tracing::debug!(%error, "the connection to the step fetch ended");
    }
}

/// Packs the folder on a separate thread and writes it to `out`, which is shut down only if the
/// whole folder was written: a truncated archive must not look complete.
async fn packed_into(
    out: &mut (impl AsyncWrite + Unpin),
    source: Arc<Source>,
) -> Result<Sent, SendError> {
    let (sender, mut chunks) = mpsc::channel(AHEAD);
    let packing = tokio::task::spawn_blocking(move || {
        pack(&source.folder, &source.selection, Chunks::new(sender))
    });
    let mut bytes = 0;
    let cut = |error: io::Error| SendError::Cut(format!(": {error}"));
    while let Some(chunk) = chunks.recv().await {
        out.write_all(&chunk).await.map_err(cut)?;
        bytes += chunk.len() as u64;
    }
    let packed = packing.await.map_err(SendError::Packing)?;
    let packed = packed.map_err(SendError::Pack)?;
    out.shutdown().await.map_err(cut)?;
    Ok(Sent { packed, bytes })
}

/// Collects what is written and passes it on in chunks.
struct Chunks {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Chunks {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self {
            sender,
            buffer: Vec::with_capacity(CHUNK),
        }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(chunk.into())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The lines about a folder that was sent.
pub(super) fn summary(sent: &Sent) -> Vec<String> {
    let packed = &sent.packed;
    let mut lines = vec![format!(
        "sent {} {}, {} ({} compressed)",
        packed.files,
        if packed.files == 1 { "file" } else { "files" },
        size(packed.bytes),
        size(sent.bytes)
    )];
    if packed.odd > 0 {
        let names = packed
            .odd_names
            .iter()
            .map(|name| name.display().to_string());
        let names: Vec<String> = names.collect();
        let more = if packed.odd > names.len() as u64 {
            ", …"
        } else {
            ""
        };
        lines.push(format!(
            "warning: sockets, pipes and devices are not sent: {}{more}",
            names.join(", ")
        ));
    }
    lines
}

/// A number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncReadExt;

    use super::*;

    fn source(folder: &Path) -> Arc<Source> {
        Arc::new(Source::open(folder, None, false).unwrap())
    }

    #[tokio::test]
    async fn a_folder_that_is_larger_than_what_is_packed_ahead_arrives_whole() {
        let folder = tempfile::tempdir().unwrap();
        // Random bytes, so that compression does not make it small.
        let content: Vec<u8> = (0..4 * CHUNK * AHEAD).map(|_| rand::random()).collect();
        std::fs::write(folder.path().join("large"), &content).unwrap();
        let (mut reader, mut writer) = tokio::io::duplex(1024);
        let mut received = Vec::new();
        let (sent, read) = tokio::join!(
            packed_into(&mut writer, source(folder.path())),
            reader.read_to_end(&mut received)
        );
        read.unwrap();
        let sent = sent.unwrap();
        assert_eq!(sent.bytes, received.len() as u64);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(received.as_slice()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut found = Vec::new();
        io::Read::read_to_end(&mut entry, &mut found).unwrap();
        assert!(found == content);
    }

    #[tokio::test]
    async fn an_archive_that_is_not_whole_has_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        drop(folder);
        let mut received = Vec::new();
        let error = packed_into(&mut received, source).await.unwrap_err();
        assert!(matches!(error, SendError::Pack(_)), "{error}");
        let mut reader = flate2::read::GzDecoder::new(received.as_slice());
        assert!(io::Read::read_to_end(&mut reader, &mut Vec::new()).is_err());
    }

    #[tokio::test]
    async fn the_other_end_may_go_away() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        let (reader, mut writer) = tokio::io::duplex(8);
        drop(reader);
        let error = packed_into(&mut writer, source(folder.path())).await;
        assert!(matches!(error, Err(SendError::Cut(_))), "{error:?}");
    }
}
