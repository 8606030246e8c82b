//! The files of a layout.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use coral_distribution::LayoutFiles;
use coral_image::{Digest, MAX_MANIFEST_SIZE};

use super::LayoutError;
use crate::stamp::Stamp;
use crate::store::StoreError;

const PIECE: usize = 256 * 1024;

/// The index of the layout.
pub(super) const INDEX: &str = "index.json";

pub(super) fn stamp(files: &LayoutFiles) -> Result<Stamp, LayoutError> {
    let index = Path::new(INDEX);
    match files.metadata(index) {
        Ok(metadata) => Ok(Stamp::from_metadata(&metadata)),
        Err(source) => Err(read_error(&files.path(index), source)),
    }
}

pub(super) fn read_error(path: &Path, source: io::Error) -> LayoutError {
    let path = path.to_owned();
    LayoutError::Read { path, source }
}

/// Reads a small file; `InvalidData` if it is larger than any manifest.
pub(super) fn read(files: &LayoutFiles, name: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = files.open(name)?;
    file.take(MAX_MANIFEST_SIZE as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_MANIFEST_SIZE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes)
}

/// The name of a blob's file in the layout.
pub(super) fn blob(digest: &Digest) -> PathBuf {
    Path::new("blobs")
        .join(digest.algorithm().name())
        .join(digest.hex())
}

pub(super) fn read_blob(files: &LayoutFiles, digest: &Digest) -> Result<Vec<u8>, StoreError> {
    let name = blob(digest);
    read(files, &name).map_err(|error| StoreError::io("read", &files.path(&name), error))
}

pub(super) fn open_blob(
    files: &LayoutFiles,
    digest: &Digest,
) -> Result<Option<(File, Stamp)>, StoreError> {
    let name = blob(digest);
    let fail = |error| StoreError::io("open", &files.path(&name), error);
    match files.open(&name) {
        Ok(file) => {
            let metadata = file.metadata().map_err(fail)?;
            Ok(Some((file, Stamp::from_metadata(&metadata))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

/// Compares a file with its digest, from its beginning, without moving the file's own position.
pub(super) fn verify(
    files: &LayoutFiles,
    mut file: &File,
    digest: &Digest,
) -> Result<(), StoreError> {
    let path = files.path(&blob(digest));
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
    Err(damaged(files, digest))
}

pub(super) fn damaged(files: &LayoutFiles, digest: &Digest) -> StoreError {
    let path = files.path(&blob(digest));
    StoreError::damaged(&path, "its content does not match the digest in its name")
}
