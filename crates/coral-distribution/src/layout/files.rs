//! Reads files of a layout within bounds, and writes them atomically.

use std::io::{ErrorKind, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coral_image::Digest;
use futures::StreamExt;
use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::beneath::{LayoutFiles, SymlinkInside, regular};
use super::tree::Reader;
use crate::blob_stream::{BlobStream, Promise};
use crate::error::{Error, Problem};

const READ_SIZE: usize = 256 * 1024;

/// The path `blobs/sha256/<hex>`.
pub(super) fn blob_file(digest: &Digest) -> PathBuf {
    Path::new("blobs")
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

/// Classifies an error: a missing file is missing content, a symbolic link is not followed, and
/// everything else is a failure of the storage.
fn failed(what: &'static str, path: &Path, source: std::io::Error) -> Problem {
    if let Some(link) = SymlinkInside::from_io_error(&source) {
        return Problem::Unsafe(link.to_string());
    }
    problem(what, path, source)
}

fn reading(path: &Path, source: std::io::Error) -> Problem {
    match source.kind() {
        ErrorKind::NotFound => Problem::Missing,
        _ => failed("cannot read", path, source),
    }
}

/// Runs blocking file system work on a blocking thread.
async fn blocking<T: Send + 'static>(
    files: &LayoutFiles,
    name: &Path,
    work: impl FnOnce(&LayoutFiles, &Path) -> T + Send + 'static,
) -> T {
    let (files, name) = (files.clone(), name.to_owned());
    let working = tokio::task::spawn_blocking(move || work(&files, &name));
    working.await.expect("opening a file does not panic")
}

pub(super) async fn size(files: &LayoutFiles, name: &Path) -> Result<Option<u64>, Problem> {
    match blocking(files, name, LayoutFiles::metadata).await {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(failed("cannot look at", &files.path(name), error)),
    }
}

/// Opens a regular file by a path that the user gave. Anything else is refused: opening a pipe
/// could block for ever.
pub(super) fn open_blocking(path: &Path) -> std::io::Result<std::fs::File> {
    regular(&std::fs::metadata(path)?)?;
    std::fs::File::open(path)
}

pub(super) async fn read_bounded(
    files: &LayoutFiles,
    name: &Path,
    limit: usize,
) -> Result<Bytes, Problem> {
    let fail = |error| reading(&files.path(name), error);
    let opened = blocking(files, name, LayoutFiles::open).await;
    let file = File::from_std(opened.map_err(fail)?);
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

/// Opens a blob at the offset, after checking its length.
pub(super) async fn open_at(
    files: &LayoutFiles,
    name: &Path,
    promise: &Promise,
) -> Result<File, Problem> {
    let fail = |error| reading(&files.path(name), error);
    let opened = blocking(files, name, LayoutFiles::open).await;
    let mut file = File::from_std(opened.map_err(fail)?);
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

/// A file under construction. It gets its name only in [`NewFile::publish`]; if it is dropped
/// before, it is removed.
pub(super) struct NewFile {
    file: Option<File>,
    /// Held open, so that a symbolic link that replaces the folder meanwhile is not followed.
    folder: Arc<OwnedFd>,
    temporary: String,
    name: PathBuf,
    /// The path for messages.
    target: PathBuf,
}

/// Creates an empty file beside `name`, and returns it with the folder that contains it.
fn new_file(
    files: &LayoutFiles,
    name: &Path,
    temporary: &str,
) -> Result<(OwnedFd, std::fs::File), Problem> {
    let path = files.path(name).with_file_name(temporary);
    let folder = files.made_folder(name);
    let folder = folder.map_err(|error| failed("cannot make the folder of", &path, error))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, temporary, flags, Mode::from_raw_mode(0o666));
    let file = file.map_err(|error| problem("cannot write", &path, error.into()))?;
    Ok((folder, file.into()))
}

impl NewFile {
    /// Creates the file in the folder of its name, which is created if it does not exist.
    pub(super) async fn create(files: &LayoutFiles, name: &Path) -> Result<Self, Problem> {
        let target = files.path(name);
        let last = PathBuf::from(name.file_name().unwrap_or_default());
        let temporary = format!(".coral-{}", uuid::Uuid::new_v4().simple());
        let beside = temporary.clone();
        let made = blocking(files, name, move |files, name| {
            new_file(files, name, &beside)
        });
        let (folder, file) = made.await?;
        Ok(Self {
            file: Some(File::from_std(file)),
            folder: Arc::new(folder),
            temporary,
            name: last,
            target,
        })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let file = self
            .file
            .as_mut()
            .expect("the file is open until it is published");
        file.write_all(bytes)
            .await
            .map_err(|error| problem("cannot write", &self.target, error))
    }

    /// Syncs the file, renames it and syncs the directory.
    pub(super) async fn publish(mut self) -> Result<(), Problem> {
        let fail = |error| problem("cannot write", &self.target, error);
        let mut file = self
            .file
            .take()
            .expect("the file is open until it is published");
        file.flush().await.map_err(fail)?;
        file.sync_all().await.map_err(fail)?;
        let (folder, from, to) = (
            Arc::clone(&self.folder),
            self.temporary.clone(),
            self.name.clone(),
        );
        let renaming = tokio::task::spawn_blocking(move || {
            rustix::fs::renameat(&folder, &from, &folder, &to)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&folder, ".", flags, Mode::empty())?;
            rustix::fs::fsync(folder)
        });
        let renamed = renaming.await.expect("renaming a file does not panic");
        renamed.map_err(|error| fail(error.into()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After publishing, no file has the temporary name any more.
        let _ = rustix::fs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
    }
}

pub(super) async fn write_whole(
    files: &LayoutFiles,
    name: &Path,
    bytes: &[u8],
) -> Result<(), Problem> {
    let mut file = NewFile::create(files, name).await?;
    file.write(bytes).await?;
    file.publish().await
}
