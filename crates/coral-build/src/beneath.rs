//! Access to one folder through its file descriptor. Names are single components, and no symbolic
//! link is followed.
//!
//! Walking through folders one component at a time keeps every access beneath the first one, even
//! if the content is untrusted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Deepest folder below the first one.
pub(crate) const MAX_DEPTH: usize = 200;

const OPEN_FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
const OPEN_FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens the folder at a path that this program chose; the path itself may be a symbolic link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OPEN_FOLDER, Mode::empty())?))
    }

    /// Opens a subfolder. A symbolic link is an error.
    pub(crate) fn folder(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OPEN_FOLDER | OFlags::NOFOLLOW;
        Ok(Self(rustix::fs::openat(
            &self.0,
            name,
            flags,
            Mode::empty(),
        )?))
    }

    /// Opens a regular file for reading. Anything else is an error, and opening never blocks.
    pub(crate) fn file(&self, name: &OsStr) -> io::Result<File> {
        if kind(&self.stat(name)?) != FileType::RegularFile {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let file = rustix::fs::openat(&self.0, name, OPEN_FILE, Mode::empty())?;
        Ok(File::from(file))
    }

    /// The metadata of the entry with a name.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(rustix::fs::statat(
            &self.0,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// What a symbolic link points at.
    pub(crate) fn link_target(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.0, name, Vec::new())?;
        Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
    }

    /// The names in this folder, sorted.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Creates a folder, or opens the existing one. Any other entry of this name is removed.
    pub(crate) fn made_folder(&self, name: &OsStr) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if kind(&self.stat(name)?) != FileType::Directory {
                    self.remove(name)?;
                    rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.folder(name)
    }

    /// Creates a file. An existing entry of this name is removed.
    pub(crate) fn new_file(&self, name: &OsStr) -> io::Result<File> {
        self.remove(name)?;
        let file = rustix::fs::openat(&self.0, name, NEW_FILE, Mode::from_raw_mode(0o600))?;
        Ok(File::from(file))
    }

    /// Creates a symbolic link. An existing entry of this name is removed.
    pub(crate) fn new_link(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        self.remove(name)?;
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    /// Creates a hard link to a file in another folder. An existing entry of this name is removed.
    pub(crate) fn new_hard_link(&self, from: &Self, file: &OsStr, name: &OsStr) -> io::Result<()> {
        self.remove(name)?;
        Ok(rustix::fs::linkat(
            &from.0,
            file,
            &self.0,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Removes the entry of this name, a folder with all its content. A missing entry is not an
    /// error.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.remove_at_depth(name, 0)
    }

    fn remove_at_depth(&self, name: &OsStr, depth: usize) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // The errors of unlinking a folder. Linux returns the first one.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        if depth > MAX_DEPTH {
            return Err(io::Error::other("the folders are nested too deeply"));
        }
        let folder = self.folder(name)?;
        for inner in folder.names()? {
            folder.remove_at_depth(&inner, depth + 1)?;
        }
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets the permissions of this folder.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(
            self.0.as_fd(),
            Mode::from_raw_mode(mode),
        )?)
    }

    /// Another descriptor of the same folder.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

/// What kind of file it is.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The components of a relative path below its folder; an empty list for the folder itself. `None`
/// for a path that is absolute, contains `..` or is too deep.
pub(crate) fn components(path: &Path) -> Option<Vec<&OsStr>> {
    let mut found = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => found.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (found.len() <= MAX_DEPTH).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_neither_read_nor_walked_through_nor_written_through() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("folder")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.folder(OsStr::new("folder")).is_err());
        assert!(folder.file(OsStr::new("file")).is_err());
        // Written in the link's place.
        folder.new_file(OsStr::new("file")).unwrap();
        folder.made_folder(OsStr::new("folder")).unwrap();
        let secret = std::fs::read_to_string(outside.path().join("secret")).unwrap();
        assert_eq!(secret, "secret");
        assert!(!dir.path().join("folder").is_symlink());
    }

    #[test]
    fn a_folder_is_removed_with_its_content_and_without_what_its_links_point_at() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        symlink(outside.path(), dir.path().join("a/b/link")).unwrap();
        std::fs::write(dir.path().join("a/b/c/file"), "").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.remove(OsStr::new("a")).unwrap();
        folder.remove(OsStr::new("a")).unwrap();
        assert!(folder.names().unwrap().is_empty());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mode = Mode::from_raw_mode(0o600);
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let refused = folder.file(OsStr::new("pipe")).unwrap_err();
        assert_eq!(refused.to_string(), "not a regular file");
    }

    #[test]
    fn a_path_leads_nowhere_but_down() {
        let parts = |path| components(Path::new(path)).map(|parts| parts.len());
        assert_eq!(parts("a/./b/"), Some(2));
        assert_eq!(parts("./"), Some(0));
        assert_eq!(parts("a/../b"), None);
        assert_eq!(parts("/a"), None);
        assert_eq!(parts(&"a/".repeat(MAX_DEPTH + 1)), None);
    }
}
