//! The source folder under construction: bounded in bytes and entries, never written through a link.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::FetchError;
use crate::beneath::{Folder, components, kind};

/// The minimum that an entry counts against the limit: one block of the file system. Without it, a
/// million small files could fill the volume while staying below the limit, and the pod would be
/// evicted without an explanation.
const BLOCK: u64 = 4096;
const BUFFER: usize = 256 * 1024;
/// Longest target of a symbolic link on Linux.
const MAX_TARGET: usize = 4095;

/// Which symbolic links are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// All links are kept as they are: the source belongs to the user.
    All,
    /// Only links whose target is inside the source; others are refused.
    Inside,
}

/// The folder that a source is written to.
#[derive(Debug)]
pub(super) struct Destination {
    root: Folder,
    limit: u64,
    /// What is charged to the limit.
    charged: u64,
    /// What the files have.
    bytes: u64,
    /// The folder of the previous entry, cached because entries arrive folder by folder.
    parent: Option<(PathBuf, Folder)>,
}

impl Destination {
    /// Opens the existing folder at this path, to which at most `limit` bytes may be written.
    pub(super) fn open(path: &Path, limit: u64) -> Result<Self, FetchError> {
        let root = Folder::open(path);
        Ok(Self {
            root: root.map_err(|error| FetchError::write(path, error))?,
            limit,
            charged: 0,
            bytes: 0,
            parent: None,
        })
    }

    /// Bytes of all files that were written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A folder that was written into the source.
    pub(super) fn inner(&self, name: &OsStr) -> std::io::Result<Folder> {
        self.root.folder(name)
    }

    /// Creates a folder, or sets the permissions of an existing one.
    pub(super) fn folder(&mut self, path: &Path, mode: u32) -> Result<(), FetchError> {
        let Some((parent, name)) = self.place(path)? else {
            return Ok(());
        };
        self.charge(0)?;
        let folder = parent.made_folder(name);
        // The owner keeps all rights, because files are written into the folder.
        let set = folder.and_then(|folder| folder.set_mode(mode & 0o777 | 0o700));
        set.map_err(|error| FetchError::write(path, error))
    }

    /// Refuses a file whose size exceeds the limit before its first byte is read.
    pub(super) fn has_room(&self, bytes: u64) -> Result<(), FetchError> {
        if self.charged.saturating_add(bytes) > self.limit {
            return Err(FetchError::TooLarge { limit: self.limit });
        }
        Ok(())
    }

    /// Writes a file with what the reader gives.
    pub(super) fn file(
        &mut self,
        path: &Path,
        mode: u32,
        modified: Option<SystemTime>,
        from: &mut dyn Read,
    ) -> Result<(), FetchError> {
        let Some((parent, name)) = self.place(path)? else {
            return Err(FetchError::entry(path, "its name is that of the source"));
        };
        let fail = |error| FetchError::write(path, error);
        let mut file = parent.new_file(name).map_err(fail)?;
        let mut written = 0;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FetchError::read(path, error)),
            };
            written += length as u64;
            self.has_room(written)?;
            file.write_all(&buffer[..length]).map_err(fail)?;
        }
        self.charge(written)?;
        self.bytes += written;
        file.set_permissions(Permissions::from_mode(mode & 0o777 | 0o400))
            .map_err(fail)?;
        match modified {
            Some(time) => file.set_modified(time).map_err(fail),
            None => Ok(()),
        }
    }

    /// Writes a symbolic link.
    pub(super) fn link(
        &mut self,
        path: &Path,
        target: &OsStr,
        links: Links,
    ) -> Result<(), FetchError> {
        let depth = components(path).map_or(0, |parts| parts.len());
        let Some((parent, name)) = self.place(path)? else {
            return Err(FetchError::entry(path, "its name is that of the source"));
        };
        if target.is_empty() || target.len() > MAX_TARGET || target.as_bytes().contains(&0) {
            return Err(FetchError::entry(
                path,
                "it is a symbolic link whose target is not a path",
            ));
        }
        if links == Links::Inside && !stays_inside(Path::new(target), depth) {
            return Err(FetchError::entry(
                path,
                "it is a symbolic link that leads out of the source",
            ));
        }
        self.charge(0)?;
        parent
            .new_link(target, name)
            .map_err(|error| FetchError::write(path, error))
    }

    /// Creates a hard link to a file that was written before.
    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), FetchError> {
        let no_file = || {
            let problem = "it is a hard link to something that is not a file of the source";
            FetchError::entry(path, problem)
        };
        let Some((from, file)) = self.place(target).map_err(|_| no_file())? else {
            return Err(no_file());
        };
        let found = from.stat(file).map_err(|_| no_file())?;
        if kind(&found) != rustix::fs::FileType::RegularFile {
            return Err(no_file());
        }
        let Some((parent, name)) = self.place(path)? else {
            return Err(FetchError::entry(path, "its name is that of the source"));
        };
        if components(path) == components(target) {
            return Ok(());
        }
        self.charge(0)?;
        parent
            .new_hard_link(&from, file, name)
            .map_err(|error| FetchError::write(path, error))
    }

    /// Removes an existing entry, a folder with its content.
    pub(super) fn remove(&mut self, path: &Path) -> Result<(), FetchError> {
        let Some((parent, name)) = self.place(path)? else {
            return self.empty(path);
        };
        parent
            .remove(name)
            .map_err(|error| FetchError::write(path, error))
    }

    /// Removes the content of a folder.
    pub(super) fn empty(&mut self, path: &Path) -> Result<(), FetchError> {
        let fail = |error| FetchError::write(path, error);
        let folder = match self.place(path)? {
            Some((parent, name)) => parent.folder(name),
            None => self.root.again(),
        };
        let folder = folder.map_err(fail)?;
        self.parent = None;
        for name in folder.names().map_err(fail)? {
            folder.remove(&name).map_err(fail)?;
        }
        Ok(())
    }

    /// Opens the parent folder of an entry, creating it if necessary. Returns it with the entry's
    /// name; `None` for the source itself.
    fn place<'p>(&mut self, path: &'p Path) -> Result<Option<(Folder, &'p OsStr)>, FetchError> {
        let Some(parts) = components(path) else {
            let problem = "its name leads out of the source or is too deep";
            return Err(FetchError::entry(path, problem));
        };
        let Some((name, folders)) = parts.split_last() else {
            return Ok(None);
        };
        let fail = |error| FetchError::write(path, error);
        let parent: PathBuf = folders.iter().collect();
        let whole = parent.join(name);
        // The entry may replace the cached folder or one of its parents.
        self.parent.take_if(|(known, _)| known.starts_with(&whole));
        if let Some((known, folder)) = &self.parent
            && *known == parent
        {
            return Ok(Some((folder.again().map_err(fail)?, name)));
        }
        let mut folder = self.root.again().map_err(fail)?;
        for part in folders {
            folder = if let Ok(next) = folder.folder(part) {
                next
            } else {
                self.charge(0)?;
                folder.made_folder(part).map_err(fail)?
            };
        }
        let again = folder.again().map_err(fail)?;
        self.parent = Some((parent, folder));
        Ok(Some((again, name)))
    }

    /// Charges an entry with this many bytes to the limit.
    fn charge(&mut self, bytes: u64) -> Result<(), FetchError> {
        let blocks = bytes.div_ceil(BLOCK).max(1).saturating_mul(BLOCK);
        self.charged = self.charged.saturating_add(blocks);
        if self.charged > self.limit {
            return Err(FetchError::TooLarge { limit: self.limit });
        }
        Ok(())
    }
}

/// Whether the target of a link in a folder `depth - 1` levels below the root stays below the root.
/// The folders above the link are not links themselves, so leading `..` components can be counted.
/// A `..` after a name cannot, since that name may be a link.
fn stays_inside(target: &Path, depth: usize) -> bool {
    use std::path::Component;
    let mut above = 0;
    let mut has_name = false;
    for component in target.components() {
        match component {
            Component::Normal(_) => has_name = true,
            Component::CurDir => {}
            Component::ParentDir if has_name => return false,
            Component::ParentDir => above += 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    above < depth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(limit: u64) -> (tempfile::TempDir, Destination) {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::open(dir.path(), limit).unwrap();
        (dir, destination)
    }

    #[test]
    fn links_stay_inside_however_they_are_written() {
        for (target, depth, inside) in [
            ("a", 1, true),
            ("a/b", 1, true),
            (".", 1, true),
            ("..", 1, false),
            ("../a", 2, true),
            ("../../a", 2, false),
            ("a/../../../etc", 3, false),
            // The name before may be a link to the root.
            ("a/../b", 3, false),
            ("/etc/passwd", 9, false),
        ] {
            let stays = stays_inside(Path::new(target), depth);
            assert_eq!(stays, inside, "{target} at {depth}");
        }
    }

    #[test]
    fn a_file_is_never_written_through_a_link() {
        let outside = tempfile::tempdir().unwrap();
        let (dir, mut to) = destination(1 << 20);
        to.link(Path::new("out"), outside.path().as_os_str(), Links::All)
            .unwrap();
        to.file(Path::new("out/file"), 0o644, None, &mut &b"x"[..])
            .unwrap();
        assert!(!outside.path().join("file").exists());
        assert!(dir.path().join("out/file").is_file());
    }

    #[test]
    fn an_entry_takes_the_place_of_a_folder_that_was_just_written_into() {
        let (dir, mut to) = destination(1 << 20);
        let mut write = |name: &str| to.file(Path::new(name), 0o644, None, &mut &b"x"[..]);
        for name in ["a/b/one", "a/b", "a/b/two", "a", "a/b/three"] {
            write(name).unwrap();
        }
        assert!(dir.path().join("a/b/three").is_file());
        assert!(!dir.path().join("a/b/two").exists());
    }

    #[test]
    fn a_file_of_exactly_the_limit_fits_and_one_byte_more_does_not() {
        let (dir, mut to) = destination(2 * BLOCK);
        let bytes = [1; 8192];
        to.file(Path::new("a"), 0o644, None, &mut &bytes[..])
            .unwrap();
        assert_eq!(to.bytes(), 2 * BLOCK);
        let more = to.file(Path::new("b"), 0o644, None, &mut &b"x"[..]);
        assert!(matches!(more, Err(FetchError::TooLarge { .. })));
        drop(dir);
        let (dir, mut to) = destination(2 * BLOCK);
        let endless = &mut std::io::repeat(0);
        let more = to.file(Path::new("c"), 0o644, None, endless);
        assert!(matches!(more, Err(FetchError::TooLarge { .. })));
        let length = std::fs::metadata(dir.path().join("c")).unwrap().len();
        assert!(length <= 2 * BLOCK, "{length}");
    }

    #[test]
    fn entries_without_content_count_too() {
        let (_dir, mut to) = destination(3 * BLOCK);
        for name in ["a", "b", "c"] {
            to.folder(Path::new(name), 0o755).unwrap();
        }
        let more = to.folder(Path::new("d"), 0o755);
        assert!(matches!(more, Err(FetchError::TooLarge { .. })));
    }

    #[test]
    fn permissions_are_kept_but_for_those_that_give_more_rights() {
        let (dir, mut to) = destination(1 << 20);
        to.file(Path::new("run"), 0o6755, None, &mut &b""[..])
            .unwrap();
        to.folder(Path::new("folder"), 0o1000).unwrap();
        let mode = |name| {
            let found = std::fs::metadata(dir.path().join(name)).unwrap();
            found.permissions().mode() & 0o7777
        };
        assert_eq!(mode("run"), 0o755);
        assert_eq!(mode("folder"), 0o700);
    }
}
