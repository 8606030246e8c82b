//! The files inside a tar, found by its headers; nothing is unpacked.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::error::Problem;

/// More files than any layout has.
const MAX_ENTRIES: usize = 1_000_000;
/// An upper bound for the headers of one file, a long name and other extensions included.
const MAX_HEAD: usize = 256 * 1024;
/// Longer than the name of any file of a layout; files with longer names are skipped.
const MAX_NAME: usize = 255;
/// The file that lists the images.
const INDEX: &str = "index.json";

/// Reads the headers into memory, within bounds on their length, and seeks over the content between
/// them.
struct HeaderReader<'a, R> {
    tar: R,
    /// How many bytes the next header may still have.
    left: &'a Cell<usize>,
}

impl<R: Read> Read for HeaderReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.get() == 0 && !buffer.is_empty() {
            let why =
                format!("the name of a file, or what stands before it, has over {MAX_HEAD} bytes");
            return Err(std::io::Error::other(why));
        }
        let most = buffer.len().min(self.left.get());
        let length = self.tar.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - length);
        Ok(length)
    }
}

impl<R: Seek> Seek for HeaderReader<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.tar.seek(to)
    }
}

/// Refuses a compressed tar with an error that names the compression: a tar is read in place, which
/// needs its uncompressed bytes.
fn uncompressed<R: Read + Seek>(mut tar: R) -> Result<R, Problem> {
    let fail = |error: std::io::Error| {
        let text = crate::transport::clean(&error.to_string());
        Problem::Broken(format!("cannot be read: {text}"))
    };
    let mut head = Vec::new();
    tar.by_ref().take(6).read_to_end(&mut head).map_err(fail)?;
    tar.seek(SeekFrom::Start(0)).map_err(fail)?;
    match compression(&head) {
        Some(kind) => Err(Problem::Broken(format!(
            "it is compressed with {kind}: decompress it first"
        ))),
        None => Ok(tar),
    }
}

/// The compression of a file that begins with these bytes, of which there must be at least six.
pub(super) fn compression(head: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"BZh", "bzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    ];
    let kind = kinds.iter().find(|(magic, _)| head.starts_with(magic));
    kind.map(|(_, kind)| *kind)
}

/// The files of a tar, by their names.
#[derive(Debug, Default)]
pub(super) struct TarFiles {
    /// The position and the length of each file's content.
    found: HashMap<PathBuf, (u64, u64)>,
    /// Entries that exist but cannot be read, and why.
    odd: HashMap<PathBuf, &'static str>,
}

impl TarFiles {
    /// The position and the length of a file's content.
    pub(super) fn find(&self, name: &Path) -> Result<Option<(u64, u64)>, Problem> {
        match (self.found.get(name), self.odd.get(name)) {
            (Some(place), _) => Ok(Some(*place)),
            (None, Some(why)) => Err(Problem::Broken(format!("{} {why}", name.display()))),
            (None, None) => Ok(None),
        }
    }

    /// Gives the content at this position a further name.
    pub(super) fn alias(&mut self, name: PathBuf, place: (u64, u64)) {
        self.found.insert(name, place);
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn into_found(self) -> HashMap<PathBuf, (u64, u64)> {
        self.found
    }

    fn count(&self) -> usize {
        self.found.len() + self.odd.len()
    }

    /// Adds one more entry of a tar of this many bytes.
    fn add_entry<R: Read>(
        &mut self,
        entry: &tar::Entry<'_, R>,
        name: PathBuf,
        length: u64,
    ) -> Result<(), Problem> {
        let why = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let (start, size) = (entry.raw_file_position(), entry.size());
                if start.checked_add(size).is_none_or(|end| end > length) {
                    return Err(Problem::Broken(format!(
                        "{} claims to have {size} bytes, which is more than the archive has: it \
                         was truncated, or is not a layout",
                        shown(&name)
                    )));
                }
                return self.put(name, (start, size));
            }
            tar::EntryType::Link => match self.linked(entry) {
                Some(place) => return self.put(name, place),
                None => "is a hard link to a file that does not precede it in the archive",
            },
            tar::EntryType::Symlink => "is a symbolic link in the archive, and none is followed",
            tar::EntryType::GNUSparse => {
                "is a sparse file, which is not supported: create the archive without sparse files"
            }
            // A layout has no use for folders, devices and pipes.
            _ => return Ok(()),
        };
        self.odd.insert(name, why);
        Ok(())
    }

    /// Adds a file. Two files with one name are refused, because one might be read where the other
    /// was checked.
    fn put(&mut self, name: PathBuf, place: (u64, u64)) -> Result<(), Problem> {
        let is_index = name == Path::new(INDEX);
        if self.found.insert(name, place).is_some() && is_index {
            return Err(Problem::Broken(format!("it contains {INDEX} twice")));
        }
        Ok(())
    }

    /// The file that a hard link refers to, which must come before it. This is how programs write a
    /// file that has two names.
    fn linked<R: Read>(&self, entry: &tar::Entry<'_, R>) -> Option<(u64, u64)> {
        let target = entry.link_name().ok()??;
        self.found.get(&plain(&target).ok()?).copied()
    }
}

/// Indexes the files of a tar.
pub(super) fn index_files(tar: impl Read + Seek) -> Result<TarFiles, Problem> {
    let fail = |error: std::io::Error| {
        let text = crate::transport::clean(&error.to_string());
        // The library's message quotes the bytes that it found: for a file that is not a tar, its
        // content.
        let is_of_content = text.contains("when getting cksum");
        let text = if is_of_content {
            "a header has no valid checksum"
        } else {
            text.as_str()
        };
        Problem::Broken(format!("not a tar, or a broken one: {text}"))
    };
    let mut tar = uncompressed(tar)?;
    let length = tar.seek(SeekFrom::End(0)).map_err(fail)?;
    tar.seek(SeekFrom::Start(0)).map_err(fail)?;
    let mut files = TarFiles::default();
    let left = Cell::new(MAX_HEAD);
    let mut archive = tar::Archive::new(HeaderReader { tar, left: &left });
    for entry in archive.entries_with_seek().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        left.set(MAX_HEAD);
        if files.count() == MAX_ENTRIES {
            return Err(Problem::Broken(format!("more than {MAX_ENTRIES} files")));
        }
        let name = entry.path().map_err(fail)?;
        // For an entry that is not a file, the name does not matter.
        let name = match plain(&name) {
            Ok(name) => name,
            Err(problem) if entry.header().entry_type().is_file() => return Err(problem),
            Err(_) => continue,
        };
        if name.as_os_str().len() <= MAX_NAME {
            files.add_entry(&entry, name, length)?;
        }
    }
    Ok(files)
}

/// A name inside the archive without `./`. A name that leads out of the archive is refused although
/// nothing is ever unpacked, because such an archive cannot be trusted.
pub(super) fn plain(name: &Path) -> Result<PathBuf, Problem> {
    let mut clean = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => {
                let text = format!(
                    "it holds a file named {}, which leads out of it",
                    shown(name)
                );
                return Err(Problem::Unsafe(text));
            }
        }
    }
    Ok(clean)
}

/// A name that is safe to show.
fn shown(name: &Path) -> String {
    format!("{:?}", crate::transport::clean(&name.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Disposition;

    /// An archive of these entries: kind, name, link target, size, and the bytes that follow.
    fn archive(entries: &[(tar::EntryType, &str, &str, u64, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, target, size, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_path(name).unwrap();
            if !target.is_empty() {
                header.set_link_name(target).unwrap();
            }
            header.set_size(*size);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn found(entries: &[(tar::EntryType, &str, &str, u64, &[u8])]) -> Result<TarFiles, Problem> {
        index_files(std::io::Cursor::new(archive(entries)))
    }

    /// Regression: a file with two names was reported as missing under the second one.
    #[test]
    fn a_hard_link_is_the_file_that_came_before_it() {
        use tar::EntryType::{Link, Regular};
        let files = found(&[
            (Regular, "blobs/a", "", 4, b"text"),
            (Link, "blobs/b", "./blobs/a", 0, b""),
            (Link, "blobs/c", "blobs/d", 0, b""),
            (Link, "blobs/e", "../a", 0, b""),
        ]);
        let files = files.unwrap();
        let at = |name: &str| files.find(Path::new(name));
        assert_eq!(at("blobs/b").unwrap(), at("blobs/a").unwrap());
        for name in ["blobs/c", "blobs/e"] {
            let said = at(name).unwrap_err().to_string();
            assert!(said.contains("is a hard link"), "{said}");
        }
        assert_eq!(at("blobs/x").unwrap(), None);
    }

    /// Regression: the message contained the first bytes of a file that was named by mistake.
    #[test]
    fn the_content_of_a_file_that_is_no_tar_is_not_told() {
        let text = "a password, and more of them. ".repeat(40);
        let Err(Problem::Broken(told)) = index_files(std::io::Cursor::new(text)) else {
            panic!("it was taken for a tar");
        };
        assert_eq!(
            told,
            "not a tar, or a broken one: a header has no valid checksum"
        );
    }

    #[test]
    fn what_is_no_layout_is_said_by_name() {
        use tar::EntryType::{Regular, Symlink};
        for (entries, said) in [
            (
                vec![(Symlink, "index.json", "/etc/passwd", 0, &b""[..])],
                "index.json is a symbolic link",
            ),
            (
                vec![
                    (Regular, "index.json", "", 4, b"text"),
                    (Regular, "./index.json", "", 4, b"next"),
                ],
                "it contains index.json twice",
            ),
            (
                vec![(Regular, "index.json", "", 1 << 40, b"text")],
                "\"index.json\" claims to have 1099511627776 bytes",
            ),
        ] {
            let index = found(&entries).and_then(|files| files.find(Path::new(INDEX)));
            let problem = index.unwrap_err();
            assert!(problem.to_string().contains(said), "{problem}");
            assert_eq!(problem.disposition(), Disposition::WaitForChange);
        }
    }

    /// The archive claims this length; the bytes need not exist on disk.
    #[test]
    fn a_name_without_end_is_not_read_into_memory() {
        for kind in [
            tar::EntryType::GNULongName,
            tar::EntryType::GNULongLink,
            tar::EntryType::XHeader,
        ] {
            let file = tempfile::tempfile().unwrap();
            let size = 8 << 20;
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_entry_type(kind);
            header.set_cksum();
            let mut builder = tar::Builder::new(&file);
            builder
                .append(&header, std::io::repeat(b'x').take(size))
                .unwrap();
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
            drop(builder);
            (&file).seek(SeekFrom::Start(0)).unwrap();
            let refused = index_files(&file).unwrap_err();
            assert!(
                refused.to_string().contains("has over 262144 bytes"),
                "{kind:?}: {refused}"
            );
            assert_eq!(refused.disposition(), Disposition::WaitForChange);
        }
    }

    #[test]
    fn a_name_that_is_long_and_no_layout_has_is_passed_over() {
        let file = tempfile::tempfile().unwrap();
        let mut builder = tar::Builder::new(&file);
        for name in ["x".repeat(10_000), "index.json".to_owned()] {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            builder
                .append_data(&mut header, name, &b"text"[..])
                .unwrap();
        }
        drop(builder);
        (&file).seek(SeekFrom::Start(0)).unwrap();
        let files = index_files(&file).unwrap().into_found();
        assert_eq!(
            files.into_keys().collect::<Vec<_>>(),
            [Path::new("index.json")]
        );
    }
}
