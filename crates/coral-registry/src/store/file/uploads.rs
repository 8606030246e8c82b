//! Uploads: what they have on disk, and who writes to them.
//!
//! An upload is `uploads/<uuid>/{repository,data}`. It survives a restart of the process, since
//! its offset is the length of its data; the running digest does not, and is made again from the
//! data. Its bytes are not synced before the commit: after a power cut an upload may be shorter
//! than it was, which its status says truthfully, or damaged, which the digest at the end finds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use coral_image::{Algorithm, Digest, RepositoryPath};
use futures::future::BoxFuture;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::durable;
use super::hashing::{Hashing, hash_file};
use super::lookup::names_in;
use super::publish::Content;
use super::records::absent;
use super::{FileStore, Files};
use crate::kernel;
use crate::store::{StoreError, UploadError, UploadId, UploadWriter};

/// How long a request waits for another one that writes to the same upload.
const PATIENCE: Duration = Duration::from_secs(15);
/// Uploads that nobody touched for so long are swept when the store is opened.
const ABANDONED: Duration = Duration::from_hours(7 * 24);
/// How many uploads are kept in memory; idle ones above that are found again on disk.
const MOST_IN_MEMORY: usize = 1024;
/// How much of an upload is given to the disk at once.
const STRETCH: u64 = 8 * 1024 * 1024;

/// The uploads of a store.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    sessions: Mutex<HashMap<UploadId, Arc<Upload>>>,
    open: AtomicU64,
}

/// One upload.
#[derive(Debug)]
pub(super) struct Upload {
    repository: RepositoryPath,
    /// A copy of the session's, readable while somebody writes.
    offset: AtomicU64,
    session: Arc<AsyncMutex<Session>>,
}

/// What only the writer touches.
#[derive(Debug)]
struct Session {
    folder: PathBuf,
    offset: u64,
    hashing: Hashing,
    ended: bool,
}

impl Upload {
    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }
}

impl Uploads {
    /// Counts what is there, and sweeps what was abandoned.
    pub(super) fn open(files: &Files) -> Result<Self, StoreError> {
        let uploads = Self::default();
        let folder = files.layout.uploads();
        for name in names_in(&folder)? {
            let path = folder.join(name);
            if abandoned(&path) {
                let _ = fs::remove_dir_all(&path);
            } else {
                uploads.open.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(uploads)
    }

    pub(super) fn count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends what was left alone for so long, unless somebody writes to it just now.
    pub(super) fn end_abandoned(&self, files: &Files, idle: Duration) -> Result<u64, StoreError> {
        let mut ended = 0;
        for name in names_in(&files.layout.uploads())? {
            let Some(id) = UploadId::parse(&name) else {
                continue;
            };
            if !left_alone(&files.layout.upload(id), idle) {
                continue;
            }
            let known = self.sessions().get(&id).cloned();
            let upload = match known {
                Some(upload) => upload,
                None => match load(files, id)? {
                    Some((repository, session)) => self.remember(id, repository, session),
                    None => continue,
                },
            };
            if let Ok(mut session) = Arc::clone(&upload.session).try_lock_owned()
                && !session.ended
            {
                self.end(id, &mut session);
                ended += 1;
            }
        }
        Ok(ended)
    }

    pub(super) fn begin(
        &self,
        files: &Files,
        repository: &RepositoryPath,
        algorithm: Algorithm,
    ) -> Result<UploadId, StoreError> {
        let id = UploadId::random();
        let folder = files.layout.upload(id);
        let make = || {
            fs::create_dir(&folder)?;
            fs::write(folder.join("repository"), repository.as_str())?;
            File::create_new(folder.join("data"))
        };
        if let Err(error) = make() {
            let _ = fs::remove_dir_all(&folder);
            return Err(StoreError::io("begin upload in", &folder, error));
        }
        let session = Session {
            folder,
            offset: 0,
            hashing: Hashing::Ready(algorithm.hasher()),
            ended: false,
        };
        self.remember(id, repository.clone(), session);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    /// An upload of this repository, from memory or as an earlier run left it.
    pub(super) fn find(
        &self,
        files: &Files,
        repository: &RepositoryPath,
        id: UploadId,
    ) -> Result<Option<Arc<Upload>>, StoreError> {
        let upload = match self.known(id) {
            Some(upload) => upload,
            None => match load(files, id)? {
                Some((repository, session)) => self.remember(id, repository, session),
                None => return Ok(None),
            },
        };
        Ok(Some(upload).filter(|upload| upload.repository == *repository))
    }

    fn known(&self, id: UploadId) -> Option<Arc<Upload>> {
        self.sessions().get(&id).cloned()
    }

    /// Puts a session into memory; if another request was quicker, its one counts.
    fn remember(&self, id: UploadId, repository: RepositoryPath, session: Session) -> Arc<Upload> {
        let mut sessions = self.sessions();
        if sessions.len() >= MOST_IN_MEMORY {
            sessions.retain(|_, upload| {
                Arc::strong_count(upload) > 1 || Arc::strong_count(&upload.session) > 1
            });
        }
        let upload = sessions.entry(id).or_insert_with(|| {
            Arc::new(Upload {
                repository,
                offset: AtomicU64::new(session.offset),
                session: Arc::new(AsyncMutex::new(session)),
            })
        });
        Arc::clone(upload)
    }

    fn end(&self, id: UploadId, session: &mut Session) {
        session.ended = true;
        // The data may be gone already, by rename. What cannot be deleted now is swept later.
        if let Err(error) = fs::remove_dir_all(&session.folder)
            && !absent(&error)
        {
            tracing::warn!(folder = %session.folder.display(), %error, "cannot delete an upload");
        }
        if self.sessions().remove(&id).is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Upload>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At the start, whatever has no data was never given out.
fn abandoned(folder: &Path) -> bool {
    !folder.join("data").exists() || left_alone(folder, ABANDONED)
}

/// Whether nothing was added for so long. Without data it is just being begun.
fn left_alone(folder: &Path, idle: Duration) -> bool {
    let touched = fs::metadata(folder.join("data")).and_then(|metadata| metadata.modified());
    touched.is_ok_and(|touched| {
        SystemTime::now()
            .duration_since(touched)
            .is_ok_and(|age| age > idle)
    })
}

fn load(files: &Files, id: UploadId) -> Result<Option<(RepositoryPath, Session)>, StoreError> {
    let folder = files.layout.upload(id);
    let read = || {
        let repository = fs::read_to_string(folder.join("repository"))?;
        let data = fs::metadata(folder.join("data"))?;
        Ok((repository, data.len()))
    };
    match read() {
        Ok((repository, offset)) => Ok(RepositoryPath::parse(&repository).ok().map(|repository| {
            (
                repository,
                Session {
                    folder,
                    offset,
                    hashing: Hashing::Unknown,
                    ended: false,
                },
            )
        })),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io("read upload in", &folder, error)),
    }
}

/// Those in memory are found without a look at the disk.
async fn find(
    store: &FileStore,
    repository: &RepositoryPath,
    id: UploadId,
) -> Result<Option<Arc<Upload>>, StoreError> {
    if let Some(upload) = store.uploads.known(id) {
        return Ok(Some(upload).filter(|upload| upload.repository == *repository));
    }
    let (uploads, repository) = (Arc::clone(&store.uploads), repository.clone());
    let find = move |files: &Files| uploads.find(files, &repository, id);
    store.run(find).await
}

/// Waits for the upload and takes hold of it.
pub(super) async fn write(
    store: &FileStore,
    repository: &RepositoryPath,
    id: UploadId,
) -> Result<FileUpload, UploadError> {
    let upload = find(store, repository, id)
        .await?
        .ok_or(UploadError::Unknown)?;
    let session = Arc::clone(&upload.session).lock_owned();
    let held = tokio::time::timeout(PATIENCE, session)
        .await
        .map_err(|_| UploadError::Busy)?;
    if held.ended {
        return Err(UploadError::Unknown);
    }
    let held = Held {
        store: store.clone(),
        id,
        upload,
        told: held.offset,
        session: held,
        file: None,
    };
    Ok(FileUpload { held: Some(held) })
}

/// The hold on an upload.
///
/// While a closure on the blocking pool works, the hold is with the closure. So when the client
/// goes away in the middle, the next one waits until what was begun has ended.
pub(super) struct FileUpload {
    held: Option<Held>,
}

struct Held {
    store: FileStore,
    id: UploadId,
    upload: Arc<Upload>,
    session: OwnedMutexGuard<Session>,
    /// How much there was before: what the client was told that it need not send again.
    told: u64,
    file: Option<File>,
}

impl FileUpload {
    /// Waits for the digest of all that came before.
    async fn hashed(&mut self) -> Result<&mut Hashing, UploadError> {
        let held = self.held.as_mut().ok_or(StoreError::Closed)?;
        held.session.hashing.settle().await;
        Ok(&mut held.session.hashing)
    }

    /// Begins to hash a batch.
    async fn hash(&mut self, batch: Vec<Bytes>) -> Result<(), UploadError> {
        self.hashed().await?.begin(batch);
        Ok(())
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Held) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let mut held = self.held.take().ok_or(StoreError::Closed)?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&mut held);
            (held, result)
        });
        let (held, result) = task.await.map_err(|_| StoreError::Closed)?;
        self.held = Some(held);
        result
    }
}

impl UploadWriter for FileUpload {
    fn offset(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.session.offset)
    }

    fn expect(&mut self, algorithm: Algorithm) {
        if let Some(held) = &mut self.held
            && held.session.offset == 0
        {
            held.session.hashing = Hashing::Ready(algorithm.hasher());
        }
    }

    fn append(&mut self, batch: Vec<Bytes>) -> BoxFuture<'_, Result<(), UploadError>> {
        Box::pin(async move {
            self.hash(batch.clone()).await?;
            self.work(move |held| held.append(&batch)).await
        })
    }

    fn commit(mut self: Box<Self>, digest: Digest) -> BoxFuture<'static, Result<u64, UploadError>> {
        Box::pin(async move {
            self.hashed().await?;
            self.work(move |held| held.commit(&digest)).await
        })
    }

    fn cancel(mut self: Box<Self>) -> BoxFuture<'static, Result<(), UploadError>> {
        let end = |held: &mut Held| {
            held.end();
            Ok(())
        };
        Box::pin(async move { self.work(end).await })
    }
}

impl Held {
    fn append(&mut self, batch: &[Bytes]) -> Result<(), UploadError> {
        let path = self.session.folder.join("data");
        let failed = |error| StoreError::io("write", &path, error);
        let offset = self.session.offset;
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(open_at(&path, offset).map_err(failed)?),
        };
        if let Err(error) = write_all(file, batch) {
            let error = failed(error);
            let kept = match error {
                StoreError::Full { .. } => self.told,
                _ => offset,
            };
            self.back_to(kept);
            return Err(error.into());
        }
        let written: u64 = batch.iter().map(|piece| piece.len() as u64).sum();
        self.session.offset = offset + written;
        start_writing(file, offset, self.session.offset);
        self.upload
            .offset
            .store(self.session.offset, Ordering::Release);
        Ok(())
    }

    /// Gives back what came behind `offset`. What was hashed of it cannot be taken back.
    fn back_to(&mut self, offset: u64) {
        let path = self.session.folder.join("data");
        // Where that fails, the next writer cuts it.
        let _ = open_at(&path, offset);
        self.file = None;
        self.session.hashing = Hashing::Unknown;
        self.session.offset = offset;
        self.upload.offset.store(offset, Ordering::Release);
    }

    /// On a full disk, what the client has to send again has no business there. What has its
    /// final name already stays: only the rest of the commit is to be done again.
    fn commit(&mut self, expected: &Digest) -> Result<u64, UploadError> {
        let committed = self.commit_all(expected);
        let full = matches!(committed, Err(UploadError::Store(StoreError::Full { .. })));
        if full && !self.session.ended && self.session.folder.join("data").exists() {
            self.back_to(self.told);
        }
        committed
    }

    fn commit_all(&mut self, expected: &Digest) -> Result<u64, UploadError> {
        let path = self.session.folder.join("data");
        let size = self.session.offset;
        cut_to(&path, size).map_err(|error| StoreError::io("cut", &path, error))?;
        let actual = match self.session.hashing.digest() {
            Some(digest) if digest.algorithm() == expected.algorithm() => digest,
            _ => hash_file(&path, expected.algorithm())
                .map_err(|error| StoreError::io("read", &path, error))?,
        };
        if actual != *expected {
            self.end();
            return Err(UploadError::Digest { actual });
        }
        let mut content = Content::Unsynced;
        if !self.store.files.has_content(expected, size) {
            if let Err(error) = self.sync(&path) {
                // What the system could not write it forgets, and a second sync would not say so.
                self.end();
                return Err(error.into());
            }
            content = Content::Synced;
        }
        let files = &self.store.files;
        files.adopt_content(expected, &path, size, content)?;
        files.link(&self.upload.repository, expected)?;
        self.end();
        Ok(size)
    }

    /// By the descriptor that wrote, where it is there: that one is told of every error.
    fn sync(&self, path: &Path) -> Result<(), StoreError> {
        match &self.file {
            Some(file) => file
                .sync_data()
                .map_err(|error| StoreError::io("sync", path, error)),
            None => durable::sync_content(path),
        }
    }

    fn end(&mut self) {
        self.file = None;
        self.store.uploads.end(self.id, &mut self.session);
    }
}

/// Lets the disk begin with what is complete of each stretch, so that the sync at the end has
/// little left to wait for. Nothing relies on it.
fn start_writing(file: &File, before: u64, now: u64) {
    let (begin, end) = (before / STRETCH * STRETCH, now / STRETCH * STRETCH);
    if begin < end {
        kernel::start_writing(file, begin, end - begin);
    }
}

fn open_at(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = File::options().write(true).open(path)?;
    // Longer than told: an append that was cut off by the end of the process.
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

/// What a failed append left behind its end must not become part of a blob. The data may have its
/// final name already, when an earlier commit came half-way.
fn cut_to(path: &Path, size: u64) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == size => Ok(()),
        Err(error) if absent(&error) => Ok(()),
        Ok(_) => File::options().write(true).open(path)?.set_len(size),
        Err(error) => Err(error),
    }
}

fn write_all(file: &mut File, batch: &[Bytes]) -> io::Result<()> {
    let mut rest: Vec<Bytes> = batch
        .iter()
        .filter(|piece| !piece.is_empty())
        .cloned()
        .collect();
    let mut first = 0;
    while first < rest.len() {
        let slices: Vec<IoSlice<'_>> = rest[first..]
            .iter()
            .take(64)
            .map(|piece| IoSlice::new(piece))
            .collect();
        let mut written = file.write_vectored(&slices)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while written > 0 {
            let piece = &mut rest[first];
            let step = written.min(piece.len());
            piece.advance(step);
            written -= step;
            if piece.is_empty() {
                first += 1;
            }
        }
    }
    Ok(())
}
