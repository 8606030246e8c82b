//! The read side.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use coral_image::{Digest, RepositoryPath, Tag, Version};

use super::Files;
use super::layout::MANIFESTS;
use super::records::{self, ManifestEntry, TagEntry, absent};
use crate::store::{
    BlobContent, BlobHandle, ManifestRecord, Page, PageQuery, ReferrersPage, ReferrersQuery,
    StoreError, StoredManifest,
};

/// Bytes of memory that an entry of a map takes, apart from its text.
const ENTRY: usize = 256;

/// The one list of repositories.
pub(super) const CATALOG: &str = "";

impl Page<Box<str>> {
    /// Parses the names; invalid ones are dropped.
    fn parsed<T>(self, parse: impl Fn(&str) -> Option<T>) -> Page<T> {
        Page {
            entries: self.entries.iter().filter_map(|name| parse(name)).collect(),
            more: self.more,
        }
    }
}

impl Files {
    /// The manifest as it can be served, checked on disk: a record of bytes that are missing or
    /// damaged would keep a mirror from copying them again.
    pub(super) fn resolve(
        &self,
        wanted: &(RepositoryPath, Version),
    ) -> Result<Option<ManifestRecord>, StoreError> {
        let found = match self.record(wanted)? {
            Some(record) if self.is_still_there(&record) => Some(record),
            Some(record) => self.read_manifest(record)?.map(|found| found.record),
            None => None,
        };
        let found = match found {
            Some(record) if !self.lease_resolved(wanted, &record)? => None,
            found => found,
        };
        self.forget_absent(wanted, found.as_ref());
        Ok(found)
    }

    /// Renews its lease; `false` if the manifest was removed meanwhile.
    fn lease_resolved(
        &self,
        wanted: &(RepositoryPath, Version),
        record: &ManifestRecord,
    ) -> Result<bool, StoreError> {
        let leased = self.lease_manifest(&wanted.0, &record.digest)?;
        // A tag is answered without a record, as in a GET.
        Ok(leased || matches!(wanted.1, Version::Tag(_)))
    }

    fn record(
        &self,
        wanted: &(RepositoryPath, Version),
    ) -> Result<Option<ManifestRecord>, StoreError> {
        let began = self.resolved.begin(wanted);
        let record = self.read_record(&wanted.0, &wanted.1)?;
        if let Some(record) = &record {
            let weight = record_weight(wanted, record);
            self.resolved.keep(
                began,
                wanted.clone(),
                record.clone(),
                weight,
                Instant::now(),
            );
        }
        Ok(record)
    }

    /// Whether the bytes were read recently and their file still has its length.
    fn is_still_there(&self, record: &ManifestRecord) -> bool {
        let bytes = self.manifests.get(&record.digest, Instant::now());
        bytes.is_some_and(|bytes| self.has_content(&record.digest, bytes.len() as u64))
    }

    fn forget_absent<T>(&self, wanted: &(RepositoryPath, Version), found: Option<&T>) {
        if found.is_none() {
            self.resolved.forget(wanted);
        }
    }

    fn read_record(
        &self,
        repository: &RepositoryPath,
        version: &Version,
    ) -> Result<Option<ManifestRecord>, StoreError> {
        match version {
            Version::Tag(tag) => {
                let entry: Option<TagEntry> =
                    records::read_usable(&self.layout.tag(repository, tag))?;
                Ok(entry.map(TagEntry::record))
            }
            Version::Digest(digest) => {
                let entry: Option<ManifestEntry> =
                    records::read_usable(&self.layout.manifest(repository, digest))?;
                Ok(entry.map(|entry| entry.record(*digest)))
            }
        }
    }

    /// A manifest from memory, without access to the disk.
    pub(super) fn remembered_manifest(
        &self,
        wanted: &(RepositoryPath, Version),
    ) -> Option<StoredManifest> {
        let now = Instant::now();
        let record = self.resolved.get(wanted, now)?;
        let bytes = self.manifests.get(&record.digest, now)?;
        Some(StoredManifest { record, bytes })
    }

    pub(super) fn manifest(
        &self,
        wanted: &(RepositoryPath, Version),
    ) -> Result<Option<StoredManifest>, StoreError> {
        let found = match self.record(wanted)? {
            Some(record) => self.read_manifest(record)?,
            None => None,
        };
        self.forget_absent(wanted, found.as_ref());
        Ok(found)
    }

    fn read_manifest(&self, record: ManifestRecord) -> Result<Option<StoredManifest>, StoreError> {
        let path = self.layout.blob(&record.digest);
        let began = self.manifests.begin(&record.digest);
        let read = content("read", &path, fs::read(&path))?;
        let Some(bytes) = read.filter(|bytes| is_whole(&path, &record.digest, bytes)) else {
            self.manifests.forget(&record.digest);
            return Ok(None);
        };
        let bytes = Bytes::from(bytes);
        let weight = bytes.len() + ENTRY;
        self.manifests
            .keep(began, record.digest, bytes.clone(), weight, Instant::now());
        Ok(Some(StoredManifest { record, bytes }))
    }

    pub(super) fn stat_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Option<u64>, StoreError> {
        if !self.lease_blob(repository, digest)? {
            return Ok(None);
        }
        let path = self.layout.blob(digest);
        let metadata = content("read", &path, fs::metadata(&path))?;
        Ok(metadata.map(|metadata| metadata.len()))
    }

    pub(super) fn open_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Option<BlobHandle>, StoreError> {
        if !self.has_blob(repository, digest)? {
            return Ok(None);
        }
        let path = self.layout.blob(digest);
        let open = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            Ok(BlobHandle {
                size,
                content: BlobContent::File(Arc::new(file)),
            })
        };
        content("open", &path, open())
    }

    pub(super) fn has_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        exists(&self.layout.blob_link(repository, digest))
    }

    /// Whether the repository has a blob. If so, this grants a lease.
    pub(super) fn lease_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let link = self.layout.blob_link(repository, digest);
        self.lease(&link, repository, digest)
    }

    /// Whether the repository has the record of a manifest. If so, this grants a lease.
    pub(super) fn lease_manifest(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let record = self.layout.manifest(repository, digest);
        self.lease(&record, repository, digest)
    }

    fn lease(
        &self,
        file: &Path,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        match self.leases.is_fresh(file)? {
            None => Ok(false),
            Some(true) => Ok(true),
            Some(false) => {
                let _turn = self.records.lock(&(repository, digest));
                self.leases.renew(file)
            }
        }
    }

    pub(super) fn tags(
        &self,
        repository: &RepositoryPath,
        page: &PageQuery,
    ) -> Result<Option<Page<Tag>>, StoreError> {
        let read = || self.read_tags(repository);
        let found = self.tags.page(repository.as_str(), page, read)?;
        Ok(found.map(|found| found.parsed(|name| Tag::parse(name).ok())))
    }

    fn read_tags(&self, repository: &RepositoryPath) -> Result<Option<Vec<String>>, StoreError> {
        let manifests = self.layout.repository(repository).join(MANIFESTS);
        if !exists(&manifests)? {
            return Ok(None);
        }
        let mut names = names_in(&self.layout.tags(repository))?;
        names.retain(|name| Tag::parse(name).is_ok());
        Ok(Some(names))
    }

    pub(super) fn referrers(
        &self,
        repository: &RepositoryPath,
        subject: &Digest,
        page: &ReferrersQuery,
    ) -> Result<ReferrersPage, StoreError> {
        let names = names_in(&self.layout.referrers(repository, subject))?;
        let digests = names
            .iter()
            .filter_map(|name| Digest::parse(&name.replacen('-', ":", 1)).ok());
        page.fill(digests, |digest| {
            records::read_usable(&self.layout.referrer(repository, subject, digest))
        })
    }

    pub(super) fn repositories(
        &self,
        page: &PageQuery,
    ) -> Result<Page<RepositoryPath>, StoreError> {
        let read = || {
            let mut found = Vec::new();
            self.walk(&self.layout.repositories(), "", &mut found)?;
            Ok(Some(found))
        };
        let found = self.catalog.page(CATALOG, page, read)?.unwrap_or_default();
        Ok(found.parsed(|name| RepositoryPath::parse(name).ok()))
    }

    fn walk(&self, folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<(), StoreError> {
        for name in names_in(folder)? {
            let path = format!("{prefix}{name}");
            // The folders inside a repository begin with an underscore; no name does.
            let Ok(repository) = RepositoryPath::parse(&path) else {
                continue;
            };
            if self.has_manifests(&repository)? {
                found.push(path.clone());
            }
            self.walk(&folder.join(&name), &format!("{path}/"), found)?;
        }
        Ok(())
    }

    pub(super) fn has_manifests(&self, repository: &RepositoryPath) -> Result<bool, StoreError> {
        let folder = self.layout.repository(repository).join(MANIFESTS);
        for algorithm in names_in(&folder)? {
            if !is_empty(&folder.join(algorithm))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_whole(path: &Path, digest: &Digest, bytes: &[u8]) -> bool {
    let whole = digest.matches(bytes);
    if !whole {
        tracing::error!(path = %path.display(), "content is damaged; push it again");
    }
    whole
}

fn record_weight(wanted: &(RepositoryPath, Version), record: &ManifestRecord) -> usize {
    let version = match &wanted.1 {
        Version::Tag(tag) => tag.as_str().len(),
        Version::Digest(_) => 0,
    };
    ENTRY + wanted.0.as_str().len() + version + record.media_type.len()
}

/// Content that a repository refers to. If it is missing, a person changed the folder; it is
/// treated as a missing blob, so the next push restores it.
fn content<T>(
    action: &'static str,
    path: &Path,
    found: io::Result<T>,
) -> Result<Option<T>, StoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if absent(&error) => {
            tracing::error!(path = %path.display(), "content is missing; push it again");
            Ok(None)
        }
        Err(error) => Err(StoreError::io(action, path, error)),
    }
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if absent(&error) => Ok(false),
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}

/// Whether a folder is empty; reads only the first entry.
fn is_empty(folder: &Path) -> Result<bool, StoreError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if absent(&error) => Ok(true),
        Err(error) => Err(StoreError::io("list", folder, error)),
    }
}

/// The names in a folder; none if there is no such folder. Names that are not UTF-8 are skipped:
/// Coral wrote none.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::io("list", folder, error))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
