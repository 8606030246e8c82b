//! Opening a storage folder: whose it is, which layout it has, and what an earlier run left.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, syncfs};
use serde::{Deserialize, Serialize};

use super::Files;
use super::durable::{self, Durable};
use super::layout::Layout;
use super::locks::{KeyLocks, SharedLocks};
use super::records;
use crate::store::StoreError;

/// The layout version that this release writes, and the newest it reads.
const LAYOUT_VERSION: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    layout_version: u64,
}

pub(super) fn open(dir: &Path) -> Result<Files, StoreError> {
    let dir = make_root(dir)?;
    let layout = Layout::new(&dir);
    let lock = take_lock(&layout)?;
    check_version(&layout)?;
    settle_leftovers(&layout)?;
    let durable = Durable::new(&dir, layout.tmp());
    for folder in [
        layout.tmp(),
        layout.blobs(),
        layout.repositories(),
        layout.uploads(),
    ] {
        durable.make_folder(&folder)?;
    }
    durable.write(
        &layout.mark(),
        &records::write(&Mark {
            layout_version: LAYOUT_VERSION,
        }),
    )?;
    Ok(Files {
        layout,
        durable,
        repositories: SharedLocks::new(),
        contents: KeyLocks::new(),
        records: KeyLocks::new(),
        _lock: lock,
    })
}

/// The folder with its links followed, made if it was missing, together with its parents.
fn make_root(dir: &Path) -> Result<std::path::PathBuf, StoreError> {
    let new: Vec<&Path> = dir
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    fs::create_dir_all(dir).map_err(|error| refused(dir, "make storage folder", error))?;
    for folder in new {
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        durable::sync_folder(parent.unwrap_or(Path::new(".")))?;
    }
    fs::canonicalize(dir).map_err(|error| refused(dir, "open storage folder", error))
}

fn refused(dir: &Path, action: &'static str, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::NotWritable {
                path: dir.to_owned(),
                source: error,
            }
        }
        _ => StoreError::io(action, dir, error),
    }
}

/// Two processes would not know of each other's uploads and locks.
fn take_lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| refused(layout.root(), "open", error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse {
            path: layout.root().to_owned(),
        }),
        Err(error) => Err(StoreError::io("lock", &path, error.into())),
    }
}

fn check_version(layout: &Layout) -> Result<(), StoreError> {
    let mark: Option<Mark> = records::read(&layout.mark())?;
    match mark {
        Some(mark) if mark.layout_version > LAYOUT_VERSION => Err(StoreError::Newer {
            path: layout.root().to_owned(),
            found: mark.layout_version,
            known: LAYOUT_VERSION,
        }),
        _ => Ok(()),
    }
}

/// Sweeps temporary files, and makes everything else that an earlier run renamed but had no time
/// to sync survive: from here on, what is visible is durable.
fn settle_leftovers(layout: &Layout) -> Result<(), StoreError> {
    let tmp = layout.tmp();
    match fs::remove_dir_all(&tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io("sweep", &tmp, error));
        }
        _ => {}
    }
    let root = layout.root();
    File::open(root)
        .and_then(|folder| syncfs(&folder).map_err(Into::into))
        .map_err(|error| StoreError::io("sync", root, error))
}
