//! A layout as one tar file, written as a whole.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::problem;
use super::{Layout, Tree};
use crate::error::{Error, Problem};

/// Files are copied through a buffer of this size.
const BUFFER: usize = 256 * 1024;
/// How often the removal of the folder is tried.
const REMOVALS: usize = 8;

/// A tar that is going to be written. What it will hold is collected in a folder beside it, which
/// goes away with this value; the file appears, synced and under its name, when
/// [`NewArchive::finish`] returns, and replaces one that was there.
#[derive(Debug)]
pub struct NewArchive {
    target: PathBuf,
    folder: Folder,
}

/// A folder that goes away with this value.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Set before the folder is removed: a tar that is packed meanwhile may lack blobs.
    is_given_up: Arc<Mutex<bool>>,
}

impl NewArchive {
    /// Makes the folder, in the one that the tar will be in.
    pub fn create(target: impl Into<PathBuf>) -> Result<Self, Error> {
        let target = target.into();
        let name = format!(".coral-{}", uuid::Uuid::new_v4().simple());
        let folder = parent(&target).join(name);
        if let Err(error) = std::fs::create_dir(&folder) {
            let problem = problem("cannot make the folder", &folder, error);
            return Err(Error::new(target.display(), "writing the archive", problem));
        }
        Ok(Self {
            target,
            folder: Folder {
                path: folder,
                is_given_up: Arc::default(),
            },
        })
    }

    /// What is collected.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.folder.path)
    }

    /// Writes the tar. Dropped before that is done, no tar appears and the folder is gone: what
    /// packs, behind the back of whoever asked, ends for want of it.
    pub async fn finish(self) -> Result<(), Error> {
        let Self { target, folder } = self;
        let place = target.display().to_string();
        let packing = Packing {
            target,
            folder: folder.path.clone(),
            is_given_up: folder.is_given_up.clone(),
        };
        let packed = tokio::task::spawn_blocking(move || packing.pack()).await;
        drop(folder);
        let packed = packed.expect("writing a tar does not panic");
        packed.map_err(|problem| Error::new(place, "writing the archive", problem))
    }
}

/// The writing of the tar, on a thread that may wait.
struct Packing {
    target: PathBuf,
    folder: PathBuf,
    is_given_up: Arc<Mutex<bool>>,
}

impl Packing {
    fn pack(self) -> Result<(), Problem> {
        let whole = self.folder.join("whole.tar");
        let fail = |error| problem("cannot write", &self.target, error);
        let file = File::create_new(&whole).map_err(fail)?;
        let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER, file));
        for name in ["oci-layout", "index.json"] {
            self.append(&mut tar, Path::new(name))?;
        }
        for name in self.blobs().map_err(fail)? {
            self.append(&mut tar, &name)?;
        }
        let mut buffered = tar.into_inner().map_err(fail)?;
        buffered.flush().map_err(fail)?;
        buffered.get_ref().sync_all().map_err(fail)?;
        // Held over the renaming: the removal begins before it, and no tar appears, or after it.
        let is_given_up = lock(&self.is_given_up);
        if *is_given_up {
            return Err(fail(ErrorKind::Interrupted.into()));
        }
        std::fs::rename(&whole, &self.target).map_err(fail)?;
        drop(is_given_up);
        File::open(parent(&self.target))
            .and_then(|folder| folder.sync_all())
            .map_err(fail)
    }

    /// All blobs, in the order of their digests: the same content makes the same file.
    fn blobs(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for algorithm in std::fs::read_dir(self.folder.join("blobs"))? {
            let algorithm = PathBuf::from("blobs").join(algorithm?.file_name());
            for blob in std::fs::read_dir(self.folder.join(&algorithm))? {
                found.push(algorithm.join(blob?.file_name()));
            }
        }
        found.sort();
        Ok(found)
    }

    fn append<W: std::io::Write>(
        &self,
        tar: &mut tar::Builder<W>,
        name: &Path,
    ) -> Result<(), Problem> {
        let path = self.folder.join(name);
        let read = |error| problem("cannot read", &path, error);
        let file = File::open(&path).map_err(read)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(file.metadata().map_err(read)?.len());
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, name, file)
            .map_err(|error| problem("cannot write", &self.target, error))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        *lock(&self.is_given_up) = true;
        // The thread that packs may still add or remove a file, which fails a removal that is under
        // way. A folder that stays all the same is hidden by its name.
        for _ in 0..REMOVALS {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound || self.path.exists() => {}
                _ => return,
            }
        }
    }
}

fn lock(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder that a file is in.
fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

impl Layout {
    /// The layout inside a tar, to be read. It is read in place, never unpacked.
    pub async fn open_archive(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let place = path.display().to_string();
        let found = super::tree::TarIndex::read(path).await;
        let found = found.map_err(|problem| Error::new(&place, "reading the archive", problem))?;
        let tree = Tree::Tar(std::sync::Arc::new(found));
        if tree
            .size(Path::new("index.json"))
            .await
            .ok()
            .flatten()
            .is_none()
        {
            let problem =
                Problem::Broken("it holds no index.json, so it is no OCI layout".to_owned());
            return Err(Error::new(&place, "reading the archive", problem));
        }
        Ok(Self { tree })
    }
}
