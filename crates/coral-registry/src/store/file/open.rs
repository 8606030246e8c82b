//! Opening a storage folder: its owner, its layout version, and what an earlier run left.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Mutex;

use coral_image::{Algorithm, RepositoryPath};
use rustix::fs::{FlockOperation, flock, syncfs};
use serde::{Deserialize, Serialize};

use super::Files;
use super::durable::{self, Durable};
use super::layout::{LOCK, Layout};
use super::leases::{LeaseTrust, Leases};
use super::locks::{KeyLocks, SharedLocks};
use super::lookup::names_in;
use super::names::Names;
use super::recent::Recent;
use super::records;
use super::usage::Usage;
use super::verdicts::Verdicts;
use crate::store::{OpenError, StoreError};

/// The layout version that this release writes, and the newest it reads.
const LAYOUT_VERSION: u64 = 1;

/// How many tags, and how many repositories, are kept in memory; each takes about 60 bytes.
const MOST_NAMES: usize = 100_000;

/// Bytes of memory for resolved tags and digests, and for manifests.
const MOST_RECORDS: usize = 4 * 1024 * 1024;
const MOST_MANIFESTS: usize = 8 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    layout_version: u64,
    /// Whether the folder of repositories was marked. Releases that do not know this field omit it.
    #[serde(default)]
    repositories_marked: bool,
}

/// Names that a folder may contain and still count as empty: leftovers of an interrupted first
/// start, and what file systems put into their roots.
const NOT_FOREIGN: [&str; 3] = [LOCK, NEW_MARK, "lost+found"];
const NEW_MARK: &str = "coral-store.json.new";

pub(super) fn open(dir: &Path) -> Result<Files, OpenError> {
    let dir = make_root(dir)?;
    let layout = Layout::new(&dir);
    let mark = check_ours(&layout)?;
    let lock = take_lock(&layout)?;
    if mark.is_none() {
        write_mark(&layout, false)?;
    }
    let durable = Durable::new(&dir, layout.tmp());
    for folder in [
        layout.tmp(),
        layout.blobs(),
        layout.repositories(),
        layout.uploads(),
    ] {
        durable.make_folder(&folder)?;
    }
    // Created together: one by one, nearly every blob of a young store would wait for one more
    // sync.
    let shelves = (0..=u8::MAX).map(|byte| format!("{byte:02x}"));
    durable.make_folders(&layout.contents(Algorithm::Sha256), shelves)?;
    let was_marked = mark.is_some_and(|mark| mark.repositories_marked);
    // Before the mark states that no other release was here.
    let leases = Leases::open(layout.root(), LeaseTrust::from_mark(was_marked))?;
    let repositories_believed = mark_repositories(&layout, &durable, was_marked)?;
    settle_leftovers(&layout)?;
    Ok(Files {
        layout,
        leases,
        repositories_believed,
        collecting: Mutex::default(),
        scrubbing: Mutex::default(),
        moved: Mutex::default(),
        unreadable: Mutex::default(),
        durable,
        repositories: SharedLocks::new(),
        contents: KeyLocks::new(),
        records: KeyLocks::new(),
        tags: Names::keeping(MOST_NAMES),
        catalog: Names::keeping(MOST_NAMES),
        resolved: Recent::keeping(MOST_RECORDS),
        manifests: Recent::keeping(MOST_MANIFESTS),
        verdicts: Verdicts::default(),
        usage: Usage::default(),
        lock,
    })
}

/// The folder with links resolved; it and its parents are created if they are missing.
fn make_root(dir: &Path) -> Result<std::path::PathBuf, OpenError> {
    let new: Vec<&Path> = dir
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    if !new.is_empty() {
        make_private(dir).map_err(|error| refused(dir, "make storage folder", error))?;
    }
    for folder in new {
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        durable::sync_folder(parent.unwrap_or(Path::new(".")))?;
    }
    fs::canonicalize(dir).map_err(|error| refused(dir, "open storage folder", error))
}

/// Creates a folder that only its owner may read, since its content may have been fetched with a
/// credential. An existing folder keeps its mode, which its owner may have chosen.
fn make_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(dir)
}

fn refused(dir: &Path, action: &'static str, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::NotWritable {
                path: dir.to_owned(),
                source: error,
            }
        }
        _ => StoreError::io(action, dir, error).into(),
    }
}

impl Files {
    /// Checks that the folder still contains the lock that is held. A folder that was removed,
    /// replaced or unmounted has another lock, or none.
    pub(super) fn check_folder(&self) -> Result<(), StoreError> {
        let held = self.lock.metadata().map(|held| (held.dev(), held.ino()));
        let there = fs::metadata(self.layout.lock()).map(|there| (there.dev(), there.ino()));
        match (held, there) {
            (Ok(held), Ok(there)) if held == there => Ok(()),
            _ => Err(replaced(self.layout.root())),
        }
    }
}

impl Files {
    /// Checks that the folder of repositories is the one that the content belongs to.
    pub(super) fn check_repositories(&self) -> Result<(), StoreError> {
        let path = self.layout.repositories_mark();
        if self.repositories_believed {
            return Ok(());
        }
        match fs::metadata(&path) {
            Ok(_) => Ok(()),
            Err(error) if records::absent(&error) => Err(unmarked(&path)),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }
}

fn replaced(root: &Path) -> StoreError {
    StoreError::Unavailable(format!(
        "storage folder {} is not the one that this registry opened: it was removed or replaced, \
         or its disk is no longer mounted; nothing is written until it is back; restart the \
         registry to use what is there now",
        root.display()
    ))
}

fn unmarked(mark: &Path) -> StoreError {
    StoreError::Unavailable(format!(
        "{} is missing, so its folder may be empty by mistake: nothing is collected; restore the \
         contents of the folder or, if they are no longer wanted, create the file (it is empty)",
        mark.display()
    ))
}

/// Locks the folder: two processes would not know each other's uploads and locks.
fn take_lock(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| refused(layout.root(), "open", error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse {
            path: layout.root().to_owned(),
        }),
        Err(error) => Err(StoreError::io("lock", &path, error.into()).into()),
    }
}

/// Checks that the folder is a store of a supported version, or empty: other files must not be
/// taken for a store's.
fn check_ours(layout: &Layout) -> Result<Option<Mark>, OpenError> {
    let root = layout.root();
    match records::read::<Mark>(&layout.mark())? {
        Some(mark) if mark.layout_version > LAYOUT_VERSION => Err(OpenError::Newer {
            path: root.to_owned(),
            found: mark.layout_version,
            known: LAYOUT_VERSION,
        }),
        Some(mark) => Ok(Some(mark)),
        None => match names_in(root)?
            .iter()
            .find(|name| !NOT_FOREIGN.contains(&name.as_str()))
        {
            Some(name) => Err(OpenError::NotEmpty {
                path: root.to_owned(),
                name: name.clone(),
            }),
            None => Ok(None),
        },
    }
}

/// Written before everything else, so that the next start recognises its folder.
fn write_mark(layout: &Layout, repositories_marked: bool) -> Result<(), OpenError> {
    let (new, mark) = (layout.root().join(NEW_MARK), layout.mark());
    let write = || {
        fs::write(
            &new,
            records::write(&Mark {
                layout_version: LAYOUT_VERSION,
                repositories_marked,
            }),
        )?;
        File::open(&new)?.sync_data()?;
        fs::rename(&new, &mark)
    };
    write().map_err(|error| refused(layout.root(), "write", error))?;
    Ok(durable::sync_folder(layout.root())?)
}

/// Marks the folder of repositories. A collection deletes nothing without the mark: if the folder
/// were empty because its disk is not mounted, or because it is restored later than the content,
/// all content would be deleted. A store without content, or of a release without marks, is
/// trusted; a mark that was there once and is missing is not recreated.
///
/// Returns whether the folder is trusted without a mark, because a full disk has no space for it.
fn mark_repositories(
    layout: &Layout,
    durable: &Durable,
    was_marked: bool,
) -> Result<bool, OpenError> {
    let path = layout.repositories_mark();
    let is_there = path.exists();
    if !is_there {
        let is_believed = !was_marked && has_repositories(layout)?;
        if !is_believed && has_content(layout)? {
            tracing::error!("{}", unmarked(&path));
            return Ok(false);
        }
    }
    if was_marked && is_there {
        return Ok(false);
    }
    let marked = durable.mark(&path).map_err(OpenError::from);
    match marked.and_then(|()| write_mark(layout, true)) {
        Err(OpenError::Store(error @ StoreError::Full { .. })) => {
            tracing::warn!(%error, "the folder of repositories cannot be marked now; a later start \
                                    tries again");
            Ok(true)
        }
        marked => marked.map(|()| false),
    }
}

fn has_repositories(layout: &Layout) -> Result<bool, StoreError> {
    let names = names_in(&layout.repositories())?;
    Ok(names.iter().any(|name| RepositoryPath::parse(name).is_ok()))
}

fn has_content(layout: &Layout) -> Result<bool, StoreError> {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let folder = layout.contents(algorithm);
        for shelf in names_in(&folder)? {
            if !names_in(&folder.join(shelf))?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Deletes temporary files, and syncs everything that an earlier run renamed but had no time to
/// sync: from here on, what is visible is durable.
fn settle_leftovers(layout: &Layout) -> Result<(), StoreError> {
    let tmp = layout.tmp();
    for name in names_in(&tmp)? {
        let path = tmp.join(name);
        fs::remove_file(&path).map_err(|error| StoreError::io("sweep", &path, error))?;
    }
    let root = layout.root();
    File::open(root)
        .and_then(|folder| syncfs(&folder).map_err(Into::into))
        .map_err(|error| StoreError::io("sync", root, error))
}
