//! The open uploads and their files.
//!
//! An upload is one file, `uploads/<uuid>@<repository>`, which becomes the blob. It survives a
//! restart of the process, since its offset is the length of the file; the running digest does not,
//! and is computed again from the file. Its bytes are not synced before the commit: after a power
//! cut an upload may be shorter, which its status reports, or damaged, which the digest at the end
//! reveals.

mod data;
mod idle;
mod writer;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use coral_image::{Algorithm, RepositoryPath};
use tokio::sync::Mutex as AsyncMutex;

use super::Files;
use super::hashing::Hashing;
use super::layout::Layout;
use super::lookup::names_in;
use super::records::absent;
use super::usage::file_size;
use crate::store::{Idle, StoreError, UploadId};

use self::idle::{Moment, Watched, Written};
pub(super) use self::writer::write;

/// Uploads untouched for this long are deleted when the store is opened.
const ABANDONED: Duration = Duration::from_hours(7 * 24);
/// How many uploads are kept in memory; idle ones above that are found again on disk.
const MOST_IN_MEMORY: usize = 1024;

/// The uploads of a store.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    sessions: Mutex<HashMap<UploadId, Arc<Upload>>>,
    open: AtomicU64,
    watched: Mutex<Watched>,
}

/// One upload.
#[derive(Debug)]
pub(super) struct Upload {
    repository: RepositoryPath,
    /// A copy of the session's offset, readable during a write.
    offset: AtomicU64,
    session: Arc<AsyncMutex<Session>>,
}

/// The part of an upload that only its writer accesses.
#[derive(Debug)]
struct Session {
    data: PathBuf,
    offset: u64,
    /// Bytes that count as an upload's: 0 once they have become content.
    counted: u64,
    hashing: Hashing,
    /// When a commit failed after its bytes had become content.
    broke: Option<Instant>,
    ended: bool,
}

impl Session {
    fn new(data: PathBuf, offset: u64, hashing: Hashing) -> Self {
        Self {
            data,
            offset,
            counted: offset,
            hashing,
            broke: None,
            ended: false,
        }
    }
}

impl Upload {
    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }
}

impl Uploads {
    /// Counts the uploads, and deletes abandoned ones.
    pub(super) fn open(files: &Files) -> Result<Self, StoreError> {
        let uploads = Self::default();
        let folder = files.layout.uploads();
        for name in names_in(&folder)? {
            if Layout::upload_id_from_name(&name).is_none() {
                adopt_folder(files, &name);
            }
        }
        for name in names_in(&folder)? {
            let path = folder.join(&name);
            let written = written(&path);
            if written.is_some_and(|it| it.age(SystemTime::now()) > ABANDONED) {
                let _ = fs::remove_file(&path);
            } else {
                files.usage.uploads_grew(file_size(&path));
                uploads.open.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(uploads)
    }

    pub(super) fn count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends uploads that were idle for this long, unless they are being written to.
    pub(super) fn end_abandoned(
        &self,
        files: &Files,
        idle: Idle,
    ) -> Result<Vec<UploadId>, StoreError> {
        let mut ended = Vec::new();
        for (id, data) in self.over(files, idle)? {
            // A writer is always in memory.
            let Some(upload) = self.known(id) else {
                let size = file_size(&data);
                if fs::remove_file(&data).is_ok() {
                    files.usage.uploads_shrank(size);
                    self.open.fetch_sub(1, Ordering::Relaxed);
                    ended.push(id);
                }
                continue;
            };
            if let Ok(mut session) = Arc::clone(&upload.session).try_lock_owned()
                && !session.ended
            {
                self.end(files, id, &mut session);
                ended.push(id);
            }
        }
        self.end_broken(files, idle, &mut ended);
        Ok(ended)
    }

    /// Ends uploads that no longer have a file and whose commit the client did not repeat.
    fn end_broken(&self, files: &Files, idle: Idle, ended: &mut Vec<UploadId>) {
        let all: Vec<_> = self
            .sessions()
            .iter()
            .map(|(id, it)| (*id, Arc::clone(it)))
            .collect();
        for (id, upload) in all {
            let Ok(mut session) = Arc::clone(&upload.session).try_lock_owned() else {
                continue;
            };
            let is_over = session
                .broke
                .is_some_and(|since| since.elapsed() >= idle.any);
            if is_over && !session.ended {
                self.end(files, id, &mut session);
                ended.push(id);
            }
        }
    }

    /// The uploads that were idle for too long, with their files.
    fn over(&self, files: &Files, idle: Idle) -> Result<Vec<(UploadId, PathBuf)>, StoreError> {
        let folder = files.layout.uploads();
        let uploads = names_in(&folder)?.into_iter().filter_map(|name| {
            let id = Layout::upload_id_from_name(&name)?;
            let data = folder.join(name);
            // An upload that has just ended counts too.
            let written = written(&data)?;
            Some((id, data, written))
        });
        let uploads: Vec<_> = uploads.collect();
        let seen: Vec<_> = uploads.iter().map(|(id, _, w)| (*id, *w)).collect();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let ages = watched.look(&seen, Moment::now());
        let over = uploads.into_iter().filter(|(id, _, written)| {
            let age = ages.get(id).copied().unwrap_or_default();
            idle.is_over(age, written.size)
        });
        Ok(over.map(|(id, data, _)| (id, data)).collect())
    }

    pub(super) fn begin(
        &self,
        files: &Files,
        repository: &RepositoryPath,
        algorithm: Algorithm,
    ) -> Result<UploadId, StoreError> {
        files.check_room(0)?;
        let id = UploadId::random();
        let data = files.layout.upload(repository, id);
        if let Err(error) = File::create_new(&data) {
            return Err(StoreError::io("begin upload in", &data, error));
        }
        let session = Session::new(data, 0, Hashing::Ready(algorithm.hasher()));
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
            None => match load(files, repository, id)? {
                Some(session) => self.remember(id, repository.clone(), session),
                None => return Ok(None),
            },
        };
        Ok(Some(upload).filter(|upload| upload.repository == *repository))
    }

    fn known(&self, id: UploadId) -> Option<Arc<Upload>> {
        self.sessions().get(&id).cloned()
    }

    /// Puts a session into memory; if another request was quicker, that one is used.
    fn remember(&self, id: UploadId, repository: RepositoryPath, session: Session) -> Arc<Upload> {
        let mut sessions = self.sessions();
        if sessions.len() >= MOST_IN_MEMORY {
            sessions.retain(|_, upload| {
                let is_used =
                    Arc::strong_count(upload) > 1 || Arc::strong_count(&upload.session) > 1;
                // An upload without a file could not be found again.
                is_used || upload.session.try_lock().is_ok_and(|it| it.broke.is_some())
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

    fn end(&self, files: &Files, id: UploadId, session: &mut Session) {
        files
            .usage
            .uploads_shrank(std::mem::take(&mut session.counted));
        session.ended = true;
        // It may already have been renamed. What cannot be deleted now is deleted later.
        if let Err(error) = fs::remove_file(&session.data)
            && !absent(&error)
        {
            tracing::warn!(file = %session.data.display(), %error, "cannot delete an upload");
        }
        if self.sessions().remove(&id).is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Upload>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adopts an upload of an older release, which was a folder `<uuid>/{repository,data}`. Unusable
/// ones are deleted.
fn adopt_folder(files: &Files, name: &str) {
    let folder = files.layout.uploads().join(name);
    let repository = fs::read_to_string(folder.join("repository"));
    if let Some(id) = UploadId::parse(name)
        && let Some(repository) = repository
            .ok()
            .and_then(|text| RepositoryPath::parse(&text).ok())
    {
        let _ = fs::rename(folder.join("data"), files.layout.upload(&repository, id));
    }
    let _ = fs::remove_dir_all(&folder);
}

/// When bytes were last added, and the size.
fn written(data: &Path) -> Option<Written> {
    let metadata = fs::metadata(data).ok()?;
    Some(Written {
        at: metadata.modified().ok()?,
        size: metadata.len(),
    })
}

fn load(
    files: &Files,
    repository: &RepositoryPath,
    id: UploadId,
) -> Result<Option<Session>, StoreError> {
    let data = files.layout.upload(repository, id);
    match fs::metadata(&data) {
        Ok(metadata) => Ok(Some(Session::new(data, metadata.len(), Hashing::Unknown))),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io("read upload", &data, error)),
    }
}

#[cfg(test)]
mod tests;
