//! Where the files of a layout are stored: in a directory, or inside a read-only tar.

use std::collections::HashMap;
use std::io::{Cursor, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};

use super::beneath::LayoutFiles;
use super::docker;
use super::files::{self, blob_file, problem};
use super::spool::Spooled;
use super::tar_files::{TarFiles, index_files};
use crate::blob_stream::Promise;
use crate::error::Problem;

/// Reads a file from its beginning, or from the offset of an interrupted reader.
pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// The storage of a layout's files.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    Dir(LayoutFiles),
    Tar(Arc<TarIndex>),
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An OCI image layout.
    Layout,
    /// What `docker save` writes.
    Docker,
}

/// The content of a tar.
#[derive(Debug)]
pub(super) struct TarIndex {
    path: PathBuf,
    files: TarFiles,
    /// Files that are not in the tar: the index and the manifests that are created for Docker's
    /// format.
    made: HashMap<PathBuf, Bytes>,
    /// The spooled file that `path` opens, if the tar arrived through a pipe. It is held to keep
    /// the file alive, and never read directly.
    spooled: Option<Spooled>,
}

impl Tree {
    /// The path of the directory or of the tar.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Dir(dir) => dir.folder(),
            Self::Tar(tar) => &tar.path,
        }
    }

    /// The directory to write into; a tar is read-only.
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
            Self::Tar(tar) => tar.size(file),
        }
    }

    pub(super) async fn read_bounded(&self, file: &Path, limit: usize) -> Result<Bytes, Problem> {
        let tar = match self {
            Self::Dir(dir) => return files::read_bounded(dir, file, limit).await,
            Self::Tar(tar) => tar,
        };
        let size = tar.size(file)?.ok_or(Problem::Missing)?;
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

    /// Opens a blob at the offset, after checking its length.
    pub(super) async fn open_blob(&self, promise: &Promise) -> Result<Reader, Problem> {
        let file = blob_file(&promise.digest);
        let tar = match self {
            Self::Dir(dir) => {
                let file = files::open_at(dir, &file, promise).await?;
                return Ok(Box::new(file));
            }
            Self::Tar(tar) => tar,
        };
        let actual = tar.size(&file)?.ok_or(Problem::Missing)?;
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
    /// Reads the headers of a tar. The content is skipped, except in Docker's format, whose layers
    /// have to be hashed.
    pub(super) async fn read(path: PathBuf, form: Form) -> Result<Self, Problem> {
        let reading = tokio::task::spawn_blocking(move || Self::read_blocking(path, form));
        reading.await.expect("reading a tar does not panic")
    }

    /// Does the same for a tar that arrived through a pipe.
    pub(super) async fn read_spooled(spooled: Spooled, form: Form) -> Result<Self, Problem> {
        let mut read = Self::read(spooled.path(), form).await?;
        read.spooled = Some(spooled);
        Ok(read)
    }

    fn read_blocking(path: PathBuf, form: Form) -> Result<Self, Problem> {
        let mut file = files::open_blocking(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Problem::Missing,
            _ => problem("cannot read", &path, error),
        })?;
        let mut files = index_files(&mut file)?;
        let made = match form {
            Form::Layout => HashMap::new(),
            Form::Docker => docker::as_layout(&mut file, &mut files)?,
        };
        Ok(Self {
            path,
            files,
            made,
            spooled: None,
        })
    }

    fn size(&self, file: &Path) -> Result<Option<u64>, Problem> {
        if let Some(made) = self.made.get(file) {
            return Ok(Some(made.len() as u64));
        }
        Ok(self.files.find(file)?.map(|(_, size)| size))
    }

    async fn open(&self, file: &Path, offset: u64) -> Result<Reader, Problem> {
        let size = self.size(file)?.ok_or(Problem::Missing)?;
        let left = size.checked_sub(offset).ok_or_else(|| {
            Problem::Options(format!("the offset {offset} is beyond the blob's end"))
        })?;
        if let Some(made) = self.made.get(file) {
            let mut made = Cursor::new(made.clone());
            made.set_position(offset);
            return Ok(Box::new(made));
        }
        let (start, _) = self.files.find(file)?.ok_or(Problem::Missing)?;
        let fail = |error| problem("cannot read", &self.path, error);
        let mut tar = File::open(&self.path).await.map_err(fail)?;
        tar.seek(SeekFrom::Start(start + offset))
            .await
            .map_err(fail)?;
        Ok(Box::new(tar.take(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar with one file of this name and any content.
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
        let tar = TarIndex::read(file.path().to_owned(), Form::Layout).await?;
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
        let tar = TarIndex::read(file.path().to_owned(), Form::Layout)
            .await
            .unwrap();
        let read = Tree::Tar(Arc::new(tar))
            .read_bounded(Path::new("index.json"), 3)
            .await;
        assert!(matches!(read, Err(Problem::TooLarge { limit: 3 })));
    }
}
