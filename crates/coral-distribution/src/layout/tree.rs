//! Where the files of a layout are: in a directory, or inside a tar that is only read.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};

use super::beneath::LayoutFiles;
use super::files::{self, blob_file, problem};
use super::spool::Spooled;
use crate::blob_stream::Promise;
use crate::error::Problem;

/// More files than any layout has.
const MAX_ENTRIES: usize = 1_000_000;
/// More than the head of one file has, with a long name and whatever else stands before it.
const MAX_HEAD: usize = 256 * 1024;
/// Longer than the name of any file of a layout; others are passed over.
const MAX_NAME: usize = 255;

/// A file that is read from its beginning, or from the offset of an interrupted reader.
pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    Dir(LayoutFiles),
    Tar(Arc<TarIndex>),
}

/// What a tar holds.
#[derive(Debug)]
pub(super) struct TarIndex {
    path: PathBuf,
    files: Files,
    /// What `path` opens, where the tar came through a pipe: held, and never read by itself.
    spooled: Option<Spooled>,
}

/// Where each file's bytes begin, and how many there are.
pub(super) type Files = HashMap<PathBuf, (u64, u64)>;

impl Tree {
    /// The directory, or the tar.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Dir(dir) => dir.folder(),
            Self::Tar(tar) => &tar.path,
        }
    }

    /// The directory to write into; a tar has none.
    pub(super) fn writable(&self) -> Result<&LayoutFiles, Problem> {
        match self {
            Self::Dir(dir) => Ok(dir),
            Self::Tar(_) => Err(Problem::Options(
                "an archive is written as a whole, not changed".to_owned(),
            )),
        }
    }

    pub(super) async fn size(&self, file: &Path) -> Result<Option<u64>, Problem> {
        match self {
            Self::Dir(dir) => files::size(dir, file).await,
            Self::Tar(tar) => Ok(tar.files.get(file).map(|(_, size)| *size)),
        }
    }

    pub(super) async fn read_bounded(&self, file: &Path, limit: usize) -> Result<Bytes, Problem> {
        let tar = match self {
            Self::Dir(dir) => return files::read_bounded(dir, file, limit).await,
            Self::Tar(tar) => tar,
        };
        let size = tar.files.get(file).ok_or(Problem::Missing)?.1;
        if size > limit as u64 {
            return Err(Problem::TooLarge {
                limit: limit as u64,
            });
        }
        let fail = |error| problem("cannot read", &tar.path, error);
        let mut reader = tar.open(file, 0).await?;
        let mut bytes = BytesMut::new();
        while reader.read_buf(&mut bytes).await.map_err(fail)? > 0 {}
        Ok(bytes.freeze())
    }

    /// Opens a blob at the offset, its length checked first.
    pub(super) async fn open_blob(&self, promise: &Promise) -> Result<Reader, Problem> {
        let file = blob_file(&promise.digest);
        let tar = match self {
            Self::Dir(dir) => {
                let file = files::open_at(dir, &file, promise).await?;
                return Ok(Box::new(file));
            }
            Self::Tar(tar) => tar,
        };
        let actual = tar.files.get(&file).ok_or(Problem::Missing)?.1;
        if actual != promise.size {
            return Err(Problem::Length {
                expected: promise.size,
                actual,
            });
        }
        tar.open(&file, promise.offset).await
    }
}

impl TarIndex {
    /// Reads the heads of a tar; what it holds is passed over.
    pub(super) async fn read(path: PathBuf) -> Result<Self, Problem> {
        let reading = tokio::task::spawn_blocking(move || Self::read_blocking(path));
        reading.await.expect("reading a tar does not panic")
    }

    /// The same of a tar that came through a pipe.
    pub(super) async fn read_spooled(spooled: Spooled) -> Result<Self, Problem> {
        let mut read = Self::read(spooled.path()).await?;
        read.spooled = Some(spooled);
        Ok(read)
    }

    fn read_blocking(path: PathBuf) -> Result<Self, Problem> {
        let file = files::open_blocking(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Problem::Missing,
            _ => problem("cannot read", &path, error),
        })?;
        let files = files_of(file)?;
        Ok(Self {
            path,
            files,
            spooled: None,
        })
    }

    async fn open(&self, file: &Path, offset: u64) -> Result<Reader, Problem> {
        let (start, size) = self.files.get(file).copied().ok_or(Problem::Missing)?;
        let fail = |error| problem("cannot read", &self.path, error);
        let left = size.checked_sub(offset).ok_or_else(|| {
            Problem::Options(format!("the offset {offset} is beyond the blob's end"))
        })?;
        let mut tar = File::open(&self.path).await.map_err(fail)?;
        tar.seek(SeekFrom::Start(start + offset))
            .await
            .map_err(fail)?;
        Ok(Box::new(tar.take(left)))
    }
}

/// Heads, which are read into memory, of a length within bounds; what lies between them is sought
/// over.
struct Heads<'a, R> {
    tar: R,
    /// How much the next head may have yet.
    left: &'a Cell<usize>,
}

impl<R: Read> Read for Heads<'_, R> {
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

impl<R: Seek> Seek for Heads<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.tar.seek(to)
    }
}

/// Refuses a compressed tar by name: it is read in place, which needs its bytes as they are.
fn uncompressed<R: Read + Seek>(mut tar: R) -> Result<R, Problem> {
    let fail = |error: std::io::Error| {
        let text = crate::transport::clean(&error.to_string());
        Problem::Broken(format!("cannot be read: {text}"))
    };
    let mut head = Vec::new();
    tar.by_ref().take(6).read_to_end(&mut head).map_err(fail)?;
    tar.seek(SeekFrom::Start(0)).map_err(fail)?;
    let kinds: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"BZh", "bzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    ];
    let kind = kinds.iter().find(|(magic, _)| head.starts_with(magic));
    match kind {
        Some((_, kind)) => Err(Problem::Broken(format!(
            "it is compressed with {kind}: decompress it first"
        ))),
        None => Ok(tar),
    }
}

/// The files of a tar.
pub(super) fn files_of(tar: impl Read + Seek) -> Result<Files, Problem> {
    let fail = |error: std::io::Error| {
        let text = crate::transport::clean(&error.to_string());
        Problem::Broken(format!("not a tar, or a broken one: {text}"))
    };
    let tar = uncompressed(tar)?;
    let mut files = HashMap::new();
    let left = Cell::new(MAX_HEAD);
    let mut archive = tar::Archive::new(Heads { tar, left: &left });
    for entry in archive.entries_with_seek().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        left.set(MAX_HEAD);
        if files.len() == MAX_ENTRIES {
            return Err(Problem::Broken(format!("more than {MAX_ENTRIES} files")));
        }
        // Links and other things that are no files are nothing that a layout has.
        if !matches!(entry.header().entry_type(), tar::EntryType::Regular) {
            continue;
        }
        let name = entry.path().map_err(fail)?;
        let name = plain(&name)?;
        if name.as_os_str().len() <= MAX_NAME {
            files.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(files)
}

/// A name inside the archive without `./`. One that leads out of it is refused, although nothing
/// is ever unpacked: such an archive is not to be trusted.
fn plain(name: &Path) -> Result<PathBuf, Problem> {
    let mut clean = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => {
                let shown = crate::transport::clean(&name.display().to_string());
                let text = format!("it holds a file named {shown:?}, which leads out of it");
                return Err(Problem::Unsafe(text));
            }
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Disposition;

    /// A tar with one file of this name, whatever it is.
    fn tar_with(name: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(4);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        builder.append(&header, &b"text"[..]).unwrap();
        builder.finish().unwrap();
        file
    }

    async fn text_of(name: &str, wanted: &str) -> Result<Bytes, Problem> {
        let file = tar_with(name);
        let tar = TarIndex::read(file.path().to_owned()).await?;
        Tree::Tar(Arc::new(tar))
            .read_bounded(Path::new(wanted), 10)
            .await
    }

    #[tokio::test]
    async fn a_file_is_found_under_its_plain_name() {
        for name in ["index.json", "./index.json", ".//index.json"] {
            assert_eq!(text_of(name, "index.json").await.unwrap(), "text", "{name}");
        }
        let missing = text_of("index.json", "oci-layout").await;
        assert!(matches!(missing, Err(Problem::Missing)));
    }

    #[tokio::test]
    async fn an_archive_with_a_name_that_leads_out_of_it_is_refused() {
        for name in ["../index.json", "/index.json", "blobs/../../x"] {
            let refused = text_of(name, "index.json").await.unwrap_err();
            assert!(
                matches!(&refused, Problem::Unsafe(text) if text.contains("leads out")),
                "{name}: {refused}"
            );
        }
    }

    #[tokio::test]
    async fn a_file_larger_than_the_bound_is_not_read() {
        let file = tar_with("index.json");
        let tar = TarIndex::read(file.path().to_owned()).await.unwrap();
        let read = Tree::Tar(Arc::new(tar))
            .read_bounded(Path::new("index.json"), 3)
            .await;
        assert!(matches!(read, Err(Problem::TooLarge { limit: 3 })));
    }

    /// The length is the archive's word, and the bytes need not be on disk.
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
            let refused = files_of(&file).unwrap_err();
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
        let files = files_of(&file).unwrap();
        assert_eq!(
            files.into_keys().collect::<Vec<_>>(),
            [Path::new("index.json")]
        );
    }
}
