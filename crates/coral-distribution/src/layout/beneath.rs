//! Files beneath a folder that an untrusted party may have created: no symbolic link in it is
//! followed.
//!
//! The kernel resolves the names (`openat2`); without that system call, they are opened one
//! component after the other. The folder itself is named by the user and may be a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Folders are opened with `O_PATH`, which needs no right to list them.
const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The files of an OCI image layout, which an untrusted party may have created. Names are relative
/// to its folder, such as `index.json` or `blobs/sha256/HEX`. All methods block on the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutFiles {
    folder: PathBuf,
    blobs: Option<PathBuf>,
}

impl LayoutFiles {
    /// The layout in this folder, which need not exist yet. The folder may be a symbolic link;
    /// nothing in it may be one.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            blobs: None,
        }
    }

    /// Uses another folder than `blobs` for the blobs. That folder may be a symbolic link, too.
    #[must_use]
    pub fn with_blobs(mut self, blobs: impl Into<PathBuf>) -> Self {
        self.blobs = Some(blobs.into());
        self
    }

    /// The layout's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of a file, for messages only: opening it directly would follow links.
    pub fn path(&self, name: &Path) -> PathBuf {
        let (root, name) = self.root(name);
        root.join(name)
    }

    /// Opens a regular file for reading. Anything else (a pipe, a device) is refused without
    /// opening it, and a symbolic link on the way is refused with an error that names it.
    pub fn open(&self, name: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // Opening a device can already have an effect, so the type is checked first.
        self.metadata(name).and_then(|found| regular(&found))?;
        let file = File::from(self.open_as(name, flags)?);
        regular(&file.metadata()?)?;
        Ok(file)
    }

    /// The metadata of the entry with this name, obtained without opening it.
    pub fn metadata(&self, name: &Path) -> io::Result<Metadata> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = File::from(self.open_as(name, flags)?).metadata()?;
        if found.is_symlink() {
            return Err(self.link_in(name));
        }
        Ok(found)
    }

    /// The entries of a folder, sorted by name. More than `most` entries are an error.
    pub fn entries(&self, folder: &Path, most: usize) -> io::Result<Vec<FolderEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut entries = vec![];
        for entry in Dir::new(self.open_as(folder, flags)?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() >= most {
                return Err(io::Error::other(format!("it has more than {most} entries")));
            }
            let is_folder = match entry.file_type() {
                // Some file systems do not report the type in the listing.
                FileType::Unknown => self
                    .metadata(&folder.join(name))
                    .is_ok_and(|found| found.is_dir()),
                known => known == FileType::Directory,
            };
            let name = name.to_owned();
            entries.push(FolderEntry { name, is_folder });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open_as(&self, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let (root, below) = self.root(name);
        let root = root_folder(root)?;
        match resolved_by_the_kernel(root.as_fd(), below, flags) {
            Err(Errno::NOSYS | Errno::PERM) => open_by_components(root.as_fd(), below, flags)
                .map_err(|error| self.with_link_name(name, error)),
            opened => opened.map_err(|error| self.with_link_name(name, error.into())),
        }
    }

    /// The folder for a file to be written, created if it does not exist.
    pub(super) fn made_folder(&self, name: &Path) -> io::Result<OwnedFd> {
        let (root, below) = self.root(name);
        std::fs::create_dir_all(root)?;
        let mut folder = root_folder(root)?;
        for part in plain_parts(below.parent().unwrap_or(Path::new("")))? {
            match rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let next =
                step(folder.as_fd(), part).map_err(|error| self.with_link_name(name, error))?;
            folder = next;
        }
        Ok(folder)
    }

    /// The root folder that a name is relative to, and the rest of the name.
    fn root<'a>(&'a self, name: &'a Path) -> (&'a Path, &'a Path) {
        match (&self.blobs, name.strip_prefix("blobs")) {
            (Some(blobs), Ok(rest)) => (blobs, rest),
            _ => (&self.folder, name),
        }
    }

    /// The error, with the name of the symbolic link if one is the cause.
    fn with_link_name(&self, name: &Path, error: io::Error) -> io::Error {
        if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            self.link_in(name)
        } else {
            error
        }
    }

    fn link_in(&self, name: &Path) -> io::Error {
        let (root, below) = self.root(name);
        let mut link = root.to_owned();
        for part in below.components() {
            link.push(part);
            if link.is_symlink() {
                break;
            }
        }
        io::Error::other(SymlinkInside { link })
    }
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// The name in the folder.
    pub name: OsString,
    /// Whether the entry is a folder; a symbolic link to a folder is not.
    pub is_folder: bool,
}

/// A symbolic link in a layout, where a file or a folder was expected.
#[derive(Debug, thiserror::Error)]
#[error(
    "{link} is a symbolic link, and links inside this folder are not followed: replace it by the \
     file or folder itself (`cp -rL` copies a folder this way)",
    link = link.display()
)]
pub(super) struct SymlinkInside {
    link: PathBuf,
}

impl SymlinkInside {
    pub(super) fn from_io_error(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Refuses anything that is not a regular file.
pub(super) fn regular(found: &Metadata) -> io::Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        "not a regular file",
    ))
}

/// Opens the folder that the user named; symbolic links to it are followed.
fn root_folder(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match folder.as_os_str() {
        empty if empty.is_empty() => Path::new("."),
        _ => folder,
    };
    Ok(rustix::fs::open(folder, flags, Mode::empty())?)
}

fn resolved_by_the_kernel(
    root: BorrowedFd<'_>,
    name: &Path,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
}

/// Does the same for kernels without `openat2`, and for containers that forbid it.
fn open_by_components(root: BorrowedFd<'_>, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let parts = plain_parts(name)?;
    let (last, folders) = parts.split_last().ok_or(Errno::NOENT)?;
    let mut folder = root.try_clone_to_owned()?;
    for part in folders {
        folder = step(folder.as_fd(), part)?;
    }
    let flags = flags | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(&folder, *last, flags, Mode::empty())?)
}

/// Opens a folder in a folder; a symbolic link gives `ELOOP`.
fn step(folder: BorrowedFd<'_>, part: &Path) -> io::Result<OwnedFd> {
    match rustix::fs::openat(folder, part, FOLDER, Mode::empty()) {
        Err(Errno::NOTDIR) => {
            let found = rustix::fs::statat(folder, part, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Symlink => Err(Errno::LOOP.into()),
                _ => Err(Errno::NOTDIR.into()),
            }
        }
        opened => Ok(opened?),
    }
}

/// The components of a name, which must stay beneath its folder.
fn plain_parts(name: &Path) -> io::Result<Vec<&Path>> {
    let part = |part| match part {
        Component::Normal(part) => Ok(Path::new(part)),
        _ => Err(Errno::XDEV.into()),
    };
    name.components().map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Opener = fn(BorrowedFd<'_>, &Path, OFlags) -> io::Result<OwnedFd>;

    /// Both ways to open a name, whether or not this kernel has `openat2`.
    const WAYS: [Opener; 2] = [
        open_by_components,
        |root, name, flags| match resolved_by_the_kernel(root, name, flags) {
            Err(Errno::NOSYS | Errno::PERM) => open_by_components(root, name, flags),
            opened => Ok(opened?),
        },
    ];

    #[test]
    fn both_ways_stay_beneath_the_folder_and_follow_no_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("blobs/sha256")).unwrap();
        std::fs::write(at("blobs/sha256/x"), "x").unwrap();
        symlink(outside.path().join("secret"), at("index.json")).unwrap();
        symlink("blobs/sha256/x", at("inside")).unwrap();
        symlink(outside.path(), at("blobs/sha512")).unwrap();
        let root = root_folder(folder.path()).unwrap();
        for way in WAYS {
            let open = |name: &str| way(root.as_fd(), Path::new(name), OFlags::RDONLY);
            assert!(open("blobs/sha256/x").is_ok());
            for link in ["index.json", "inside", "blobs/sha512/secret"] {
                let errno = open(link).unwrap_err().raw_os_error();
                assert_eq!(errno, Some(Errno::LOOP.raw_os_error()), "{link}");
            }
            for way_out in ["../x", "/etc/passwd", "blobs/../../x"] {
                let errno = open(way_out).unwrap_err().raw_os_error();
                assert_eq!(errno, Some(Errno::XDEV.raw_os_error()), "{way_out}");
            }
            for none in ["none", "none/x"] {
                let kind = open(none).unwrap_err().kind();
                assert_eq!(kind, ErrorKind::NotFound, "{none}");
            }
            let kind = open("blobs/sha256/x/y").unwrap_err().kind();
            assert_eq!(kind, ErrorKind::NotADirectory);
        }
    }

    #[test]
    fn a_link_in_a_layout_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("/etc", at("blobs")).unwrap();
        symlink("/etc/passwd", at("index.json")).unwrap();
        let files = LayoutFiles::new(folder.path());
        for (name, link) in [("index.json", "index.json"), ("blobs/passwd", "blobs")] {
            let name = Path::new(name);
            let refusals = [files.open(name).map(drop), files.metadata(name).map(drop)];
            for refused in refusals {
                let said = refused.unwrap_err().to_string();
                let start = format!("{} is a symbolic link", at(link).display());
                assert!(said.starts_with(&start), "{said}");
            }
        }
        let written = files.made_folder(Path::new("blobs/sha256/x")).unwrap_err();
        assert!(
            SymlinkInside::from_io_error(&written).is_some(),
            "{written}"
        );
    }

    #[test]
    fn the_folders_that_the_user_names_may_be_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["layout", "store/sha256"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("layout/index.json"), "{}").unwrap();
        std::fs::write(at("store/sha256/x"), "x").unwrap();
        symlink("layout", at("link")).unwrap();
        symlink("store", at("blobs")).unwrap();
        let files = LayoutFiles::new(at("link")).with_blobs(at("blobs"));
        for name in ["index.json", "blobs/sha256/x"] {
            assert!(files.open(Path::new(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_folder_is_listed_by_name_and_no_link_to_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("top/b")).unwrap();
        std::fs::write(at("top/a"), "").unwrap();
        symlink("b", at("top/c")).unwrap();
        symlink("top", at("other")).unwrap();
        let files = LayoutFiles::new(folder.path());
        let listed = files.entries(Path::new("top"), 3).unwrap();
        let listed: Vec<_> = listed
            .iter()
            .map(|entry| (entry.name.to_str().unwrap(), entry.is_folder))
            .collect();
        assert_eq!(listed, [("a", false), ("b", true), ("c", false)]);
        assert!(files.entries(Path::new("top"), 2).is_err(), "one too many");
        let refused = files.entries(Path::new("other"), 3).unwrap_err();
        assert!(
            SymlinkInside::from_io_error(&refused).is_some(),
            "{refused}"
        );
    }

    #[test]
    fn what_is_no_regular_file_is_neither_opened_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("index.json");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        let files = LayoutFiles::new(folder.path());
        let refused = files.open(Path::new("index.json")).unwrap_err();
        assert_eq!(refused.to_string(), "not a regular file");
    }
}
