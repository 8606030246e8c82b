//! The files of a layout.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use coral_image::{Digest, MAX_MANIFEST_SIZE};

use super::LayoutError;
use crate::stamp::Stamp;
use crate::store::StoreError;

const PIECE: usize = 256 * 1024;

pub(super) fn stamp(path: &Path) -> Result<Stamp, LayoutError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Stamp::of(&metadata)),
        Err(source) => Err(read_error(path, source)),
    }
}

pub(super) fn read_error(path: &Path, source: io::Error) -> LayoutError {
    let path = path.to_owned();
    LayoutError::Read { path, source }
}

/// Opens a file, and nothing that is none: opening a pipe waits for its other end, for ever. Who
/// puts a pipe there between the look and the opening is not waited for either.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let only_files = |metadata: Metadata| {
        if metadata.is_file() {
            return Ok(metadata);
        }
        let why = "it is not a regular file";
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    only_files(std::fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = only_files(file.metadata()?)?;
    Ok((file, metadata))
}

/// Reads a small file; `InvalidData` if it is larger than any manifest.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (file, _) = open(path)?;
    file.take(MAX_MANIFEST_SIZE as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_MANIFEST_SIZE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes)
}

pub(super) fn blob(folder: &Path, digest: &Digest) -> PathBuf {
    let text = digest.to_string();
    let (algorithm, hex) = text.split_once(':').unwrap_or(("sha256", &text));
    folder.join("blobs").join(algorithm).join(hex)
}

pub(super) fn read_blob(folder: &Path, digest: &Digest) -> Result<Vec<u8>, StoreError> {
    let path = blob(folder, digest);
    read(&path).map_err(|error| StoreError::io("read", &path, error))
}

pub(super) fn open_blob(
    folder: &Path,
    digest: &Digest,
) -> Result<Option<(File, Stamp)>, StoreError> {
    let path = blob(folder, digest);
    match open(&path) {
        Ok((file, metadata)) => Ok(Some((file, Stamp::of(&metadata)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("open", &path, error)),
    }
}

/// Holds a file against its digest, from its beginning; where it is read from later does not
/// depend on that.
pub(super) fn verify(folder: &Path, mut file: &File, digest: &Digest) -> Result<(), StoreError> {
    let path = blob(folder, digest);
    let mut hasher = digest.algorithm().hasher();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => hasher.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::io("read", &path, error)),
        }
    }
    if hasher.finish() == *digest {
        return Ok(());
    }
    Err(damaged(folder, digest))
}

pub(super) fn damaged(folder: &Path, digest: &Digest) -> StoreError {
    StoreError::Damaged {
        path: blob(folder, digest),
        reason: "its content is not what its name says".to_owned(),
    }
}
