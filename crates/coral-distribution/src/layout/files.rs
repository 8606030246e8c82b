//! Files of a layout: read with bounds, written so that they are whole or not there.

use std::io::{ErrorKind, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use coral_image::Digest;
use futures::StreamExt;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::tree::Reader;
use crate::blob_stream::{BlobStream, Promise};
use crate::error::{Error, Problem};

const READ_SIZE: usize = 256 * 1024;

pub(super) fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs")
        .join(digest.algorithm().name())
        .join(digest.hex())
}

pub(super) fn problem(what: &'static str, path: &Path, source: std::io::Error) -> Problem {
    Problem::Storage {
        what,
        path: path.display().to_string(),
        source,
    }
}

/// A file that is not there is missing content; everything else is the storage's fault.
fn reading(path: &Path, source: std::io::Error) -> Problem {
    match source.kind() {
        ErrorKind::NotFound => Problem::Missing,
        _ => problem("cannot read", path, source),
    }
}

pub(super) async fn size(path: &Path) -> Result<Option<u64>, Problem> {
    match fs::metadata(path).await {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(problem("cannot look at", path, error)),
    }
}

/// Opens a file, and nothing that is none: opening a pipe waits for its other end, for ever.
async fn open(path: &Path) -> std::io::Result<File> {
    must_be_file(&fs::metadata(path).await?)?;
    let file = File::open(path).await?;
    must_be_file(&file.metadata().await?)?;
    Ok(file)
}

/// The same, for who may wait for the file system.
pub(super) fn open_blocking(path: &Path) -> std::io::Result<std::fs::File> {
    must_be_file(&std::fs::metadata(path)?)?;
    std::fs::File::open(path)
}

fn must_be_file(metadata: &std::fs::Metadata) -> std::io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(std::io::Error::new(
        ErrorKind::InvalidInput,
        "not a regular file",
    ))
}

pub(super) async fn read_bounded(path: &Path, limit: usize) -> Result<Bytes, Problem> {
    let fail = |error| reading(path, error);
    let file = open(path).await.map_err(fail)?;
    let mut bytes = BytesMut::new();
    let mut file = file.take(limit as u64 + 1);
    while file.read_buf(&mut bytes).await.map_err(fail)? > 0 {}
    if bytes.len() > limit {
        Err(Problem::TooLarge {
            limit: limit as u64,
        })
    } else {
        Ok(bytes.freeze())
    }
}

/// Opens a blob at the offset, its length checked first.
pub(super) async fn open_at(path: &Path, promise: &Promise) -> Result<File, Problem> {
    let fail = |error| reading(path, error);
    let mut file = open(path).await.map_err(fail)?;
    let actual = file.metadata().await.map_err(fail)?.len();
    if actual != promise.size {
        return Err(Problem::Length {
            expected: promise.size,
            actual,
        });
    }
    if promise.offset > promise.size {
        let text = format!("the offset {} is beyond the blob's end", promise.offset);
        return Err(Problem::Options(text));
    }
    file.seek(SeekFrom::Start(promise.offset))
        .await
        .map_err(fail)?;
    Ok(file)
}

pub(super) fn stream(file: Reader, path: PathBuf, place: String, asked: String) -> BlobStream {
    BlobStream::new(
        ReaderStream::with_capacity(file, READ_SIZE).map(move |item| {
            item.map_err(|error| Error::new(&place, &asked, reading(&path, error)))
        }),
    )
}

/// A file under construction. It has its name only after [`NewFile::publish`]; dropped before
/// that, it is removed.
pub(super) struct NewFile {
    file: Option<File>,
    path: PathBuf,
    target: PathBuf,
}

impl NewFile {
    /// In the target's directory, which is made if it is not there.
    pub(super) async fn create(target: &Path) -> Result<Self, Problem> {
        let dir = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)
            .await
            .map_err(|e| problem("cannot make the folder", dir, e))?;
        let path = dir.join(format!(".coral-{}", uuid::Uuid::new_v4().simple()));
        let file = File::create_new(&path)
            .await
            .map_err(|e| problem("cannot write", &path, e))?;
        Ok(Self {
            file: Some(file),
            path,
            target: target.to_owned(),
        })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let file = self
            .file
            .as_mut()
            .expect("the file is open until it is published");
        file.write_all(bytes)
            .await
            .map_err(|error| problem("cannot write", &self.path, error))
    }

    /// Synced, renamed, and the directory synced.
    pub(super) async fn publish(mut self) -> Result<(), Problem> {
        let fail = |error| problem("cannot write", &self.target, error);
        let mut file = self
            .file
            .take()
            .expect("the file is open until it is published");
        file.flush().await.map_err(fail)?;
        file.sync_all().await.map_err(fail)?;
        fs::rename(&self.path, &self.target).await.map_err(fail)?;
        let dir = self.target.parent().unwrap_or(Path::new("."));
        File::open(dir)
            .await
            .map_err(fail)?
            .sync_all()
            .await
            .map_err(fail)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After publishing nothing has this name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn write_whole(target: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let mut file = NewFile::create(target).await?;
    file.write(bytes).await?;
    file.publish().await
}
