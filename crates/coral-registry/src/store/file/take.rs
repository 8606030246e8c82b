//! Imports content from files of another folder, such as that of another registry.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use coral_image::{Digest, RepositoryPath};
use rustix::fs::{AtFlags, CWD, ioctl_ficlone, linkat};
use uuid::Uuid;

use super::publish::Content;
use super::{FileStore, Files, hashing};
use crate::store::StoreError;

/// Bytes copied at a time.
const PIECE: usize = 1024 * 1024;

/// How content gets from a file into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// The store gets its own bytes. On file systems that support it, both files share space until
    /// one of them changes; elsewhere the bytes are copied.
    Copy,
    /// On the same file system the file gets a second name, which takes no space; other programs
    /// must not write to it any more.
    HardLink,
}

/// The result of importing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transferred {
    /// The store has this many bytes more. `unlinked` is why a wanted hard link could not be made.
    New {
        bytes: u64,
        unlinked: Option<io::ErrorKind>,
    },
    /// The store already had the content; the repository has it now.
    Known,
}

/// Why a file was not imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("its bytes hash to {0}")]
    Digest(Digest),
    #[error("its bytes cannot be read: {0}")]
    Read(io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FileStore {
    /// Makes the content of a file a blob of a repository, after verifying it against the digest.
    /// `was_verified`: this file was already verified.
    pub(crate) async fn take_blob(
        &self,
        repository: RepositoryPath,
        digest: Digest,
        source: File,
        transfer: Transfer,
        was_verified: bool,
    ) -> Result<Transferred, TakeError> {
        self.write(move |files| files.take(&repository, &digest, source, transfer, was_verified))
            .await
    }

    /// Whether the store has content of this digest and size, in any repository.
    pub(crate) fn has_content(&self, digest: &Digest, size: u64) -> bool {
        self.files.has_content(digest, size)
    }
}

/// A file under a temporary name, which is deleted when this is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Files {
    fn take(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        source: File,
        transfer: Transfer,
        was_verified: bool,
    ) -> Result<Transferred, TakeError> {
        let size = source.metadata().map_err(TakeError::Read)?.len();
        let _hold = self.leases.hold(digest);
        if self.has_content(digest, size) {
            if self.has_blob(repository, digest)? {
                return Ok(Transferred::Known);
            }
            // Knowing a digest gives no right to the content of another repository: the file itself
            // must have it.
            if !was_verified {
                let actual = hashing::hash(source, digest.algorithm()).map_err(TakeError::Read)?;
                if actual != *digest {
                    return Err(TakeError::Digest(actual));
                }
            }
            self.link(repository, digest)?;
            return Ok(Transferred::Known);
        }
        let temporary = Temporary(self.layout.tmp().join(Uuid::new_v4().to_string()));
        // Only a copy needs space.
        let has_room = || self.check_room(size);
        let (actual, size, unlinked) = fetch(source, &temporary.0, digest, transfer, has_room)?;
        if actual != *digest {
            return Err(TakeError::Digest(actual));
        }
        self.adopt_content(digest, &temporary.0, size, Content::Unsynced, &mut 0)?;
        self.link(repository, digest)?;
        Ok(Transferred::New {
            bytes: size,
            unlinked,
        })
    }
}

/// Puts the bytes into a file of the store, reading them once. Returns their digest and length, and
/// why a wanted hard link could not be made.
fn fetch(
    source: File,
    target: &Path,
    digest: &Digest,
    transfer: Transfer,
    has_room: impl FnOnce() -> Result<(), StoreError>,
) -> Result<(Digest, u64, Option<io::ErrorKind>), TakeError> {
    let linked = match transfer {
        Transfer::HardLink => Some(hard_link(&source, target)),
        Transfer::Copy => None,
    };
    let is_linked = linked == Some(Ok(()));
    let unlinked = linked.and_then(Result::err);
    let unlinked = unlinked.map(|error| io::Error::from(error).kind());
    if is_linked || reflink(&source, target)? {
        let failed = |error| StoreError::io("read", target, error);
        let size = fs::metadata(target).map_err(failed)?.len();
        let hashed = hashing::hash_file(target, digest.algorithm()).map_err(failed)?;
        // Linked or shared: nothing takes space twice.
        return Ok((hashed, size, None));
    }
    has_room()?;
    let (hashed, size) = copy(source, target, digest)?;
    Ok((hashed, size, unlinked))
}

/// Through the open file, since its name may refer to another file by now.
fn hard_link(source: &File, target: &Path) -> rustix::io::Result<()> {
    let name = format!("/proc/self/fd/{}", source.as_raw_fd());
    linkat(CWD, name, CWD, target, AtFlags::SYMLINK_FOLLOW)
}

/// Whether the file system made a file that shares the bytes of `source`.
fn reflink(source: &File, target: &Path) -> Result<bool, StoreError> {
    let file = create(target)?;
    let is_cloned = ioctl_ficlone(&file, source).is_ok();
    if !is_cloned {
        drop(file);
        fs::remove_file(target).map_err(|error| StoreError::io("delete", target, error))?;
    }
    Ok(is_cloned)
}

fn copy(mut source: File, target: &Path, digest: &Digest) -> Result<(Digest, u64), TakeError> {
    let mut file = create(target)?;
    let mut hasher = digest.algorithm().hasher();
    let (mut piece, mut size) = (vec![0; PIECE], 0);
    loop {
        let read = match source.read(&mut piece) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(TakeError::Read)?,
        };
        hasher.update(&piece[..read]);
        let written = file.write_all(&piece[..read]);
        written.map_err(|error| StoreError::io("write", target, error))?;
        size += read as u64;
    }
}

fn create(target: &Path) -> Result<File, StoreError> {
    let made = File::options().write(true).create_new(true).open(target);
    made.map_err(|error| StoreError::io("create", target, error))
}
