//! Writes so that acknowledged changes survive a power cut.
//!
//! The rules, which hold for every function here:
//! - content is written under a temporary name, synced and renamed, and then the folder with the
//!   new name is synced; only then does the function return;
//! - a new folder is itself an entry of its parent, so the parent is synced too, before anything is
//!   put into the folder;
//! - a deletion is permanent when the function returns, so a deleted tag does not come back.
//!
//! A partial file never has its final name, at any moment.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use uuid::Uuid;

use super::group::GroupSync;
use crate::store::StoreError;

/// How many folders are remembered. A forgotten folder costs a sync.
const MOST_FOLDERS: usize = 7168;

/// Makes files and folders that survive a power cut.
#[derive(Debug)]
pub(super) struct Durable {
    root: PathBuf,
    tmp: PathBuf,
    /// Folders whose own entry is known to be on disk. One that merely exists may have been created
    /// by a process that ended before it synced the parent.
    folders: Cache<PathBuf, ()>,
    syncs: GroupSync,
    /// How many files were given a name, or lost theirs.
    changes: AtomicU64,
}

impl Durable {
    /// Works below `root`, which exists and is on disk; temporary files go into `tmp`.
    pub(super) fn new(root: &Path, tmp: PathBuf) -> Self {
        Self {
            root: root.to_owned(),
            tmp,
            folders: Cache::new(MOST_FOLDERS),
            syncs: GroupSync::default(),
            changes: AtomicU64::new(0),
        }
    }

    /// How many files were given a name, or lost theirs, so far. Each change is counted after it
    /// happened, so a caller that reads this first and then reads the disk sees all counted
    /// changes.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Creates folders in a parent that exists or is created, with one sync for all of them.
    pub(super) fn make_folders(
        &self,
        parent: &Path,
        names: impl Iterator<Item = String>,
    ) -> Result<(), StoreError> {
        self.make_folder(parent)?;
        let folders: Vec<PathBuf> = names.map(|name| parent.join(name)).collect();
        for folder in &folders {
            create(folder)?;
        }
        self.sync_folder(parent)?;
        for folder in folders {
            self.folders.insert(folder, ());
        }
        Ok(())
    }

    /// Creates a folder and its parents.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), StoreError> {
        if self.known(path) {
            return Ok(());
        }
        let parent = path
            .parent()
            .expect("every folder of a store is below its root");
        self.make_folder(parent)?;
        create(path)?;
        self.sync_folder(parent)?;
        self.folders.insert(path.to_owned(), ());
        Ok(())
    }

    /// Writes a small file as a whole, replacing an existing one.
    pub(super) fn write(&self, target: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temporary = self.tmp.join(Uuid::new_v4().to_string());
        let written =
            write_synced(&temporary, content).and_then(|()| self.publish(&temporary, target));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Creates an empty file, or makes sure that an existing one is on disk. Since it has no
    /// content, it can be created under its final name.
    pub(super) fn mark(&self, target: &Path) -> Result<(), StoreError> {
        let folder = parent_folder(target);
        self.make_folder(folder)?;
        #[cfg(test)]
        fuse::burn(target)?;
        let made = File::options().write(true).create_new(true).open(target);
        self.changed();
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(StoreError::io("create", target, error))
            }
            _ => self.sync_folder(folder),
        }
    }

    /// Makes sure that an existing file's name is on disk.
    pub(super) fn settle(&self, target: &Path) -> Result<(), StoreError> {
        let folder = parent_folder(target);
        self.make_folder(folder)?;
        self.sync_folder(folder)
    }

    /// Gives a file its final name. Its content was synced before.
    pub(super) fn publish(&self, source: &Path, target: &Path) -> Result<(), StoreError> {
        let folder = parent_folder(target);
        self.make_folder(folder)?;
        #[cfg(test)]
        fuse::burn(target)?;
        fs::rename(source, target).map_err(|error| StoreError::io("name", target, error))?;
        self.changed();
        self.sync_folder(folder)
    }

    /// Deletes a file; `false` if there was none.
    pub(super) fn remove(&self, target: &Path) -> Result<bool, StoreError> {
        let was_there = unlink(target)?;
        if was_there {
            self.changed();
            self.sync_folder(parent_folder(target))?;
        }
        Ok(was_there)
    }

    /// Syncs the entries of a folder, together with the changes of other callers.
    fn sync_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.syncs
            .sync(path, |path| File::open(path)?.sync_all())
            .map_err(|error| StoreError::io("sync folder", path, error))
    }

    fn known(&self, path: &Path) -> bool {
        path == self.root || self.folders.get(path).is_some()
    }
}

/// Deletes one of many files of a folder. Before relying on the deletions, the caller calls
/// [`Durable::settle`] for one of them.
pub(super) fn unlink(target: &Path) -> Result<bool, StoreError> {
    #[cfg(test)]
    fuse::burn(target)?;
    match fs::remove_file(target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("delete", target, error)),
    }
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        file.write_all(content)?;
        file.sync_data()
    };
    write().map_err(|error| StoreError::io("write", path, error))
}

/// Simulates the end of the process after a number of changes to the file system: all later ones
/// fail.
#[cfg(test)]
pub(super) mod fuse {
    use std::cell::Cell;
    use std::io;
    use std::path::Path;

    use crate::store::StoreError;

    thread_local!(static LEFT: Cell<Option<u32>> = const { Cell::new(None) });

    /// `None`: nothing fails.
    pub(in crate::store::file) fn set(left: Option<u32>) {
        LEFT.set(left);
    }

    pub(in crate::store::file) fn burn(path: &Path) -> Result<(), StoreError> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(StoreError::io("reach", path, io::Error::other("fuse"))),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

fn create(folder: &Path) -> Result<(), StoreError> {
    #[cfg(test)]
    fuse::burn(folder)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("make folder", folder, error))
        }
        _ => Ok(()),
    }
}

fn parent_folder(path: &Path) -> &Path {
    path.parent()
        .expect("every file of a store is below its root")
}

/// Syncs the content of a file.
pub(super) fn sync_content(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_data())
        .map_err(|error| StoreError::io("sync", path, error))
}

/// Syncs the entries of a folder.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StoreError::io("sync folder", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_folders_are_made_what_is_kept_is_bounded_and_what_is_used_stays() {
        let durable = Durable::new(Path::new("/"), PathBuf::from("/tmp"));
        let folder = |number: usize| PathBuf::from(format!("/a/{number}"));
        durable.folders.insert(folder(0), ());
        for number in 1..20_000 {
            durable.folders.insert(folder(number), ());
            assert!(durable.known(&folder(number)), "{number}");
            if number % 1000 == 0 {
                assert!(durable.known(&folder(0)), "{number}");
            }
        }
        assert!(durable.folders.len() <= MOST_FOLDERS);
    }
}
