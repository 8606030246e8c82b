//! A folder as a compressed tar.
//!
//! Links are packed as links and never followed. Owners are left out, so that the same folder is the
//! same source for every user.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coral_build::ignore::Ignore;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};

/// How many names of sockets, pipes and devices are kept for the warning.
const MAX_NAMED: usize = 5;

/// Which files of a folder are packed.
pub(super) struct Selection {
    /// Patterns of what is left out.
    pub(super) ignore: Ignore,
    /// Files that are sent even if a pattern excludes them, relative to the folder, because the
    /// build itself reads them.
    pub(super) always: Vec<PathBuf>,
}

/// What was packed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Packed {
    /// Files and links.
    pub(super) files: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
    /// Sockets, pipes and devices, which are not sent.
    pub(super) odd: u64,
    /// The names of the first few of these.
    pub(super) odd_names: Vec<PathBuf>,
}

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: became shorter while it was read", .0.display())]
    Shrunk(PathBuf),
    /// The receiving end failed, not the folder.
    #[error("{0}")]
    Write(io::Error),
}

/// Writes a folder to `out`. The end of the tar and of the compression tell the reader that nothing
/// is missing, so they are written only after the whole folder.
pub(super) fn pack(
    folder: &Path,
    selection: &Selection,
    out: impl Write,
) -> Result<Packed, PackError> {
    let mut packing = Packing {
        folder,
        selection,
        // Sources are mostly text, and the network is slower than the fastest level.
        tar: Builder::new(GzEncoder::new(out, Compression::fast())),
        packed: Packed::default(),
    };
    packing.folder(Path::new(""), &mut Vec::new())?;
    let encoder = packing.tar.into_inner().map_err(PackError::Write)?;
    let mut out = encoder.finish().map_err(PackError::Write)?;
    out.flush().map_err(PackError::Write)?;
    Ok(packing.packed)
}

struct Packing<'a, W: Write> {
    folder: &'a Path,
    selection: &'a Selection,
    tar: Builder<GzEncoder<W>>,
    packed: Packed,
}

impl<W: Write> Packing<'_, W> {
    /// Packs the content of a folder. `unwritten` are its excluded parents: they are written only
    /// when something below them is sent.
    fn folder(&mut self, path: &Path, unwritten: &mut Vec<PathBuf>) -> Result<(), PackError> {
        let full = self.folder.join(path);
        let failed = |error| PackError::Read {
            path: full.clone(),
            error,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&full).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        for name in names {
            self.entry(&path.join(name), unwritten)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, unwritten: &mut Vec<PathBuf>) -> Result<(), PackError> {
        let full = self.folder.join(path);
        let failed = |error| PackError::Read {
            path: full.clone(),
            error,
        };
        let metadata = fs::symlink_metadata(&full).map_err(failed)?;
        let is_left_out = self.leaves_out(path);
        if metadata.is_dir() {
            if !is_left_out {
                self.folders(unwritten)?;
                self.append(EntryType::Directory, path, &metadata, 0, io::empty())?;
                return self.folder(path, unwritten);
            }
            if !self.may_send_below(path) {
                return Ok(());
            }
            unwritten.push(path.to_owned());
            self.folder(path, unwritten)?;
            if unwritten.last().is_some_and(|last| last == path) {
                unwritten.pop();
            }
            return Ok(());
        }
        if is_left_out {
            return Ok(());
        }
        self.folders(unwritten)?;
        if metadata.is_symlink() {
            let target = fs::read_link(&full).map_err(failed)?;
            return self.link(path, &metadata, &target);
        }
        if metadata.is_file() {
            return self.file(path, &full);
        }
        self.packed.odd += 1;
        if self.packed.odd_names.len() < MAX_NAMED {
            self.packed.odd_names.push(path.to_owned());
        }
        Ok(())
    }

    fn leaves_out(&self, path: &Path) -> bool {
        let is_needed = self.selection.always.iter().any(|always| always == path);
        !is_needed && self.selection.ignore.excludes(&path.to_string_lossy())
    }

    fn may_send_below(&self, path: &Path) -> bool {
        let holds = |always: &PathBuf| always.starts_with(path);
        let Selection { ignore, always } = self.selection;
        ignore.may_take_in_below(&path.to_string_lossy()) || always.iter().any(holds)
    }

    /// Writes the parent folders that are not yet written.
    fn folders(&mut self, unwritten: &mut Vec<PathBuf>) -> Result<(), PackError> {
        for path in unwritten.drain(..) {
            let full = self.folder.join(&path);
            let metadata = fs::symlink_metadata(&full)
                .map_err(|error| PackError::Read { path: full, error })?;
            self.append(EntryType::Directory, &path, &metadata, 0, io::empty())?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, full: &Path) -> Result<(), PackError> {
        let failed = |error| PackError::Read {
            path: full.to_owned(),
            error,
        };
        let file = open(full).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let size = metadata.len();
        let mut exact = Exact::new(file, size);
        // If both ends fail, the reader's error names the cause; the writer's would be about the
        // network.
        let written = self.append(EntryType::Regular, path, &metadata, size, &mut exact);
        if let Some(error) = exact.error {
            return Err(failed(error));
        }
        if exact.left > 0 && written.is_ok() {
            return Err(PackError::Shrunk(full.to_owned()));
        }
        written?;
        self.packed.files += 1;
        self.packed.bytes += size;
        Ok(())
    }

    fn link(&mut self, path: &Path, metadata: &Metadata, target: &Path) -> Result<(), PackError> {
        let mut header = header(EntryType::Symlink, metadata, 0);
        self.tar
            .append_link(&mut header, path, target)
            .map_err(PackError::Write)?;
        self.packed.files += 1;
        Ok(())
    }

    fn append(
        &mut self,
        kind: EntryType,
        path: &Path,
        metadata: &Metadata,
        size: u64,
        content: impl Read,
    ) -> Result<(), PackError> {
        let mut header = header(kind, metadata, size);
        self.tar
            .append_data(&mut header, path, content)
            .map_err(PackError::Write)
    }
}

/// Opens a file that was a regular one when it was listed. If it has become a link or a pipe, it is
/// neither followed nor waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("is no longer a regular file"))
    }
}

fn header(kind: EntryType, metadata: &Metadata, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Exactly as many bytes of a file as its header states, even if the file grows meanwhile.
struct Exact {
    file: File,
    left: u64,
    error: Option<io::Error>,
}

impl Exact {
    fn new(file: File, size: u64) -> Self {
        Self {
            file,
            left: size,
            error: None,
        }
    }
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let length = buffer.len().min(most);
        match self.file.read(&mut buffer[..length]) {
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use flate2::read::GzDecoder;
    use tempfile::TempDir;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn selection(patterns: &str, always: &[&str]) -> Selection {
        Selection {
            ignore: Ignore::parse(patterns).unwrap(),
            always: always.iter().map(PathBuf::from).collect(),
        }
    }

    /// Kind, path and content or target of each entry.
    fn entries(packed: &[u8]) -> Vec<(EntryType, String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(packed));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let kind = header.entry_type();
            let path = entry.path().unwrap().display().to_string();
            let mut content = String::new();
            match entry.link_name().unwrap() {
                Some(target) => content = target.display().to_string(),
                None => drop(entry.read_to_string(&mut content).unwrap()),
            }
            found.push((kind, path, content));
        }
        found
    }

    fn packed(folder: &TempDir, selection: &Selection) -> (Packed, Vec<u8>) {
        let mut out = Vec::new();
        let packed = pack(folder.path(), selection, &mut out).unwrap();
        (packed, out)
    }

    fn paths(folder: &TempDir, selection: &Selection) -> Vec<String> {
        let (_, out) = packed(folder, selection);
        entries(&out).into_iter().map(|(_, path, _)| path).collect()
    }

    #[test]
    fn files_folders_and_links_are_sent_in_the_order_of_their_names() {
        let folder = folder(&[("b/c", "sea"), ("a", "hey")]);
        symlink("/etc/passwd", folder.path().join("out")).unwrap();
        symlink("b", folder.path().join("d")).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        let (packed, out) = packed(&folder, &selection("", &[]));
        let entry = |kind, path: &str, content: &str| (kind, path.to_owned(), content.to_owned());
        assert_eq!(
            entries(&out),
            [
                entry(EntryType::Regular, "a", "hey"),
                entry(EntryType::Directory, "b", ""),
                entry(EntryType::Regular, "b/c", "sea"),
                entry(EntryType::Symlink, "d", "b"),
                entry(EntryType::Directory, "empty", ""),
                entry(EntryType::Symlink, "out", "/etc/passwd"),
            ]
        );
        assert_eq!((packed.files, packed.bytes), (4, 6));
    }

    #[test]
    fn what_patterns_leave_out_is_not_sent_and_the_dockerfile_always_is() {
        let folder = folder(&[
            ("Dockerfile", ""),
            (".git/config", ""),
            ("src/main.rs", ""),
            ("src/secret", ""),
        ]);
        let selection = selection(".git\nDockerfile\n**/secret", &["Dockerfile"]);
        assert_eq!(
            paths(&folder, &selection),
            ["Dockerfile", "src", "src/main.rs"]
        );
    }

    #[test]
    fn a_folder_that_is_left_out_is_sent_with_what_an_exception_sends_of_it() {
        let folder = folder(&[("a/b/keep", ""), ("a/b/drop", ""), ("a/c/drop", "")]);
        let with_exception = selection("a\n!a/b/keep", &[]);
        assert_eq!(paths(&folder, &with_exception), ["a", "a/b", "a/b/keep"]);
        let needed = selection("a", &["a/b/keep"]);
        assert_eq!(paths(&folder, &needed), ["a", "a/b", "a/b/keep"]);
    }

    #[test]
    fn names_that_are_longer_than_a_header_are_sent_whole() {
        let name = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        let folder = folder(&[(&name, "x")]);
        symlink("t".repeat(300), folder.path().join("l")).unwrap();
        let (_, out) = packed(&folder, &selection("", &[]));
        let found = entries(&out);
        assert!(found.iter().any(|(_, path, _)| *path == name));
        assert!(found.iter().any(|(_, _, target)| target.len() == 300));
    }

    #[test]
    fn modes_are_kept_and_rights_of_the_owner_are_not_lent() {
        let folder = folder(&[("run", "")]);
        let run = folder.path().join("run");
        fs::set_permissions(run, fs::Permissions::from_mode(0o4755)).unwrap();
        let (_, out) = packed(&folder, &selection("", &[]));
        let mut archive = tar::Archive::new(GzDecoder::new(out.as_slice()));
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o755);
    }

    #[test]
    fn sockets_are_counted_and_not_sent() {
        let folder = folder(&[("a", "")]);
        let socket = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let (packed, out) = packed(&folder, &selection("", &[]));
        assert_eq!(entries(&out).len(), 1);
        assert_eq!((packed.odd, packed.odd_names), (1, vec!["s".into()]));
    }

    /// Takes a number of bytes and refuses the next.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_says_whether_the_folder_or_the_other_end_is_to_blame() {
        let folder = folder(&[("a", "content")]);
        let all = selection("", &[]);
        let error = pack(folder.path(), &all, Full(3)).unwrap_err();
        assert!(matches!(error, PackError::Write(_)), "{error}");
        let gone = folder.path().join("gone");
        let error = pack(&gone, &all, io::sink()).unwrap_err();
        assert!(error.to_string().starts_with(&gone.display().to_string()));
    }
}
