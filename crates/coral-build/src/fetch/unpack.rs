//! Unpacks untrusted tar archives into the source folder.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::FetchError;
use super::destination::{Destination, Links};

/// An upper bound for the headers of one file, a long name and other extensions included.
const MAX_HEAD: usize = 256 * 1024;
/// A tar ends with two blocks of zeros.
const END: u64 = 1024;
/// The first bytes of a gzip file.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// First bytes of compression formats that are not supported.
const OTHERS: [(&[u8], &str); 3] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
];

/// What an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveKind {
    /// A folder that was packed.
    Folder,
    /// A layer of an image: names that begin with `.wh.` remove what layers below have.
    Layer,
}

/// Unpacks a tar, compressed with gzip or not, and reads it to its end.
pub(super) fn unpack(
    archive: &mut dyn Read,
    kind: ArchiveKind,
    to: &mut Destination,
) -> Result<(), FetchError> {
    let mut archive = io::BufReader::with_capacity(64 * 1024, archive);
    let start = io::BufRead::fill_buf(&mut archive).map_err(FetchError::archive)?;
    if start.is_empty() {
        return Err(FetchError::Archive("it is empty".to_owned()));
    }
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(FetchError::Archive(format!(
            "it is compressed with {name}; send it as a tar with gzip or without compression"
        )));
    }
    if start.starts_with(GZIP) {
        unpack_tar(MultiGzDecoder::new(archive), kind, to)
    } else {
        unpack_tar(archive, kind, to)
    }
}

fn unpack_tar(from: impl Read, kind: ArchiveKind, to: &mut Destination) -> Result<(), FetchError> {
    let (left, zeros) = (Cell::new(MAX_HEAD), Cell::new(0));
    let mut archive = Archive::new(Bounded {
        from,
        left: &left,
        zeros: &zeros,
    });
    for entry in archive.entries().map_err(FetchError::archive)? {
        let mut entry = entry.map_err(FetchError::archive)?;
        left.set(usize::MAX);
        write(&mut entry, kind, to)?;
        left.set(MAX_HEAD);
    }
    // The end mark is followed by padding. It is read to its end, because the compression has a
    // checksum there.
    left.set(usize::MAX);
    let mut from = archive.into_inner();
    io::copy(&mut from, &mut io::sink()).map_err(FetchError::archive)?;
    if zeros.get() < END {
        return Err(FetchError::Archive(
            "it ends early: the sender stopped before it was complete".to_owned(),
        ));
    }
    Ok(())
}

fn write(
    entry: &mut Entry<'_, impl Read>,
    kind: ArchiveKind,
    to: &mut Destination,
) -> Result<(), FetchError> {
    let name = entry.path_bytes().into_owned();
    let path = Path::new(OsStr::from_bytes(&name));
    if name.contains(&0) {
        return Err(FetchError::entry(path, "its name has a zero byte"));
    }
    if kind == ArchiveKind::Layer && removed(path, to)? {
        return Ok(());
    }
    let header = entry.header();
    let mode = header.mode().map_err(FetchError::archive)?;
    let modified = header.mtime().ok().map(Duration::from_secs);
    let modified = modified.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time));
    let target = |entry: &Entry<'_, _>| {
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        target.ok_or_else(|| FetchError::entry(path, "it is a link without a target"))
    };
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            // A file that is too large is refused by the size in its header, before anything is
            // written.
            to.has_room(entry.size())?;
            to.file(path, mode, modified, entry)
        }
        EntryType::Directory => to.folder(path, mode),
        EntryType::Symlink => to.link(path, OsStr::from_bytes(&target(entry)?), Links::Inside),
        EntryType::Link => {
            let target = target(entry)?;
            to.hard_link(path, Path::new(OsStr::from_bytes(&target)))
        }
        EntryType::XGlobalHeader => Ok(()),
        EntryType::Char | EntryType::Block => Err(FetchError::entry(path, "it is a device")),
        EntryType::Fifo => Err(FetchError::entry(path, "it is a pipe")),
        _ => Err(FetchError::entry(
            path,
            "it is neither a file nor a folder nor a link",
        )),
    }
}

/// Applies a whiteout, an entry whose name begins with `.wh.` (OCI image-spec, `layer.md`). Returns
/// whether the entry was one.
fn removed(path: &Path, to: &mut Destination) -> Result<bool, FetchError> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let Some(hidden) = name.strip_prefix(b".wh.") else {
        return Ok(false);
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    if hidden == b".wh..opq" {
        to.empty(folder)?;
    } else if !hidden.is_empty() && hidden != b"." && hidden != b".." {
        to.remove(&folder.join(OsStr::from_bytes(hidden)))?;
    }
    Ok(true)
}

/// The bytes of a tar, with a limit on headers, because they are read into memory.
struct Bounded<'a, R> {
    from: R,
    /// Bytes that may be read until the next entry is found.
    left: &'a Cell<usize>,
    /// How many zeros were last read in a row.
    zeros: &'a Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!(
                "the name of a file, or what stands before it, has over {MAX_HEAD} bytes"
            )));
        }
        let most = buffer.len().min(self.left.get());
        let length = self.from.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - length);
        let read = &buffer[..length];
        match read.iter().rposition(|byte| *byte != 0) {
            Some(last) => self.zeros.set((length - last - 1) as u64),
            None => self.zeros.set(self.zeros.get() + length as u64),
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
