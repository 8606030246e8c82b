//! The writing side, apart from uploads. The order is always content → reference → manifest →
//! referrer → tag, and the reverse when deleting, so a crash leaves only states that a slow client
//! could have left too.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use coral_image::{Descriptor, Digest, Manifest, ManifestKind, RepositoryPath, Tag, Version};

use super::Files;
use super::durable;
use super::lookup::{CATALOG, names_in};
use super::names;
use super::records::{self, ManifestEntry, TagEntry};
use super::usage::{Change, file_size};
use super::verdicts::Verdict;
use crate::store::{Deleted, Mounted, PutManifestError, StoreError};

/// Whether a file's bytes are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Synced,
    Unsynced,
}

/// The result of checking content that may be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// It was damaged and has been removed.
    Gone,
    /// It is sound and stays.
    Sound,
    /// It could not be checked now.
    Busy,
}

impl Files {
    /// Whether the content of `digest` is present.
    pub(super) fn has_content(&self, digest: &Digest, size: u64) -> bool {
        has_size(&self.layout.blob(digest), size)
    }

    /// Publishes a file as the content of `digest`, against which it was verified. If another
    /// publication was quicker, the file is left. A file that already has its final name, because a
    /// later step failed, is published again.
    ///
    /// `uploaded`: the bytes that count as an upload's; 0 once they count as content.
    pub(super) fn adopt_content(
        &self,
        digest: &Digest,
        source: &Path,
        size: u64,
        content: Content,
        uploaded: &mut u64,
    ) -> Result<(), StoreError> {
        let target = self.layout.blob(digest);
        let _turn = self.contents.lock(digest);
        if has_size(&target, size) && is_gone(source) {
            return self.durable.settle(&target);
        }
        // The existing content may be damaged: then this repairs it.
        if has_size(&target, size) && same_bytes(&target, source) {
            return self.durable.settle(&target);
        }
        // It existed a moment ago and was just deleted.
        if content == Content::Unsynced {
            durable::sync_content(source)?;
        }
        let change = self.usage.content(digest, &target);
        let published = self.durable.publish(source, &target);
        // Also if a step after the rename failed. Done before the bytes count as content, so that
        // no other push is refused because bytes count twice.
        if published.is_ok() || is_gone(source) {
            self.usage.uploads_shrank(std::mem::take(uploaded));
        }
        change.end(file_size(&target));
        published
    }

    fn write_content(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let target = self.layout.blob(digest);
        let _turn = self.contents.lock(digest);
        // Small enough to compare, so that a damaged one is replaced.
        if fs::read(&target).is_ok_and(|there| there == bytes) {
            return self.durable.settle(&target);
        }
        let more = (bytes.len() as u64).saturating_sub(file_size(&target));
        if more > 0 {
            self.check_room(more)?;
        }
        let change = self.usage.content(digest, &target);
        let written = self.durable.write(&target, bytes);
        change.end(file_size(&target));
        written
    }

    /// Deletes content without a sync. The caller holds its lock.
    pub(super) fn unlink_content(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.layout.blob(digest);
        let change = self.usage.content(digest, &path);
        let was_there = durable::unlink(&path)?;
        change.end(0);
        Ok(was_there)
    }

    /// Makes content visible in a repository, and grants a lease on it. The caller has a hold on
    /// the content.
    pub(super) fn link(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let link = self.layout.blob_link(repository, digest);
        let _turn = self.records.lock(&(repository, digest));
        let size = file_size(&self.layout.blob(digest));
        let before = if link.exists() { size } else { 0 };
        let change = self.usage.held(repository, digest, before);
        let marked = self.durable.mark(&link);
        change.end(if link.exists() { size } else { 0 });
        marked?;
        self.leases.renew(&link).map(|_| ())
    }

    pub(super) fn mount(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        from: Option<&RepositoryPath>,
    ) -> Result<Mounted, StoreError> {
        let content = self.layout.blob(digest);
        let _hold = self.leases.hold(digest);
        let known = match from {
            Some(from) => self.has_blob(from, digest)?,
            None => true,
        };
        {
            // A collection that has not yet seen the hold unlinks the content under this lock.
            let _turn = self.contents.lock(digest);
            match (known, content.exists()) {
                (_, false) => return Ok(Mounted::Nowhere),
                (false, true) => return Ok(Mounted::Elsewhere),
                (true, true) => {}
            }
            self.durable.settle(&content)?;
        }
        self.link(repository, digest).map(|()| Mounted::Here)
    }

    pub(super) fn put_manifest(
        &self,
        repository: &RepositoryPath,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<Vec<(Tag, Digest)>, PutManifestError> {
        let _shared = self.repositories.share(repository);
        self.check_blobs(repository, manifest)?;
        self.lease_named_manifests(repository, manifest)?;
        let digest = manifest.digest();
        let _hold = self.leases.hold(&digest);
        self.write_content(&digest, manifest.bytes())?;
        self.write_manifest_record(repository, manifest)?;
        if let Some(subject) = manifest.subject() {
            let path = self.layout.referrer(repository, &subject.digest, &digest);
            self.durable
                .write(&path, &records::write(&manifest.descriptor()))?;
        }
        let entry = records::write(&TagEntry::from_manifest(manifest));
        let mut moved = vec![];
        for tag in tags {
            self.lease_tagged(repository, tag)?;
            let _turn = self.records.lock(&(repository, tag));
            let path = self.layout.tag(repository, tag);
            // An unreadable record is replaced.
            let before = records::read_usable::<TagEntry>(&path).ok().flatten();
            let written = self.durable.write(&path, &entry);
            self.tag_changed(repository, names::Change::Added, tag, &written);
            written?;
            let before = before.map(|before| before.digest);
            moved.extend(
                before
                    .filter(|it| *it != digest)
                    .map(|it| (tag.clone(), it)),
            );
        }
        Ok(moved)
    }

    fn write_manifest_record(
        &self,
        repository: &RepositoryPath,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        let digest = manifest.digest();
        let _turn = self.records.lock(&(repository, &digest));
        let path = self.layout.manifest(repository, &digest);
        let size = manifest.size();
        let before = if path.exists() { size } else { 0 };
        let change = self.usage.held(repository, &digest, before);
        let written = self
            .durable
            .write(
                &path,
                &records::write(&ManifestEntry::from_manifest(manifest)),
            )
            .map(|()| change.end(size))
            .and_then(|()| self.leases.renew(&path).map(|_| ()));
        self.resolved
            .forget(&(repository.clone(), Version::Digest(digest)));
        match written {
            Ok(()) => self
                .catalog
                .changed(CATALOG, names::Change::Added, repository.as_str()),
            Err(_) => self.catalog.forget(CATALOG),
        }
        written
    }

    /// Grants leases on what the manifest names. It need not be there, but accepting the manifest
    /// is a positive answer for what is. Some tools list plain blobs as the children of an index.
    fn lease_named_manifests(
        &self,
        repository: &RepositoryPath,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        let named = manifest.blobs().chain(manifest.children());
        for named in named.chain(manifest.subject()) {
            self.lease_blob(repository, &named.digest)?;
            self.lease_manifest(repository, &named.digest)?;
        }
        Ok(())
    }

    /// Checks that the blobs of a manifest are there. Foreign layers are fetched from the URLs that
    /// they name and need not be pushed. Manifests that an index lists may be missing: a copy of
    /// some platforms keeps the index unchanged, byte for byte.
    fn check_blobs(
        &self,
        repository: &RepositoryPath,
        manifest: &Manifest,
    ) -> Result<(), PutManifestError> {
        if manifest.kind() == ManifestKind::Index {
            return Ok(());
        }
        let mut missing = Vec::new();
        for descriptor in manifest.blobs() {
            // Taking the lock waits for a push of this blob that is visible but not yet on disk.
            let turn = self.records.lock(&(repository, &descriptor.digest));
            drop(turn);
            if !descriptor.is_foreign() && !self.has_whole_blob(repository, descriptor)? {
                missing.push(descriptor.digest);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(PutManifestError::MissingBlobs(missing))
    }

    /// Whether the repository has a blob of the size that a manifest states. If the sizes differ,
    /// one of the two is wrong: damaged content is removed, so that clients are no longer told that
    /// it exists, and a push restores it.
    fn has_whole_blob(
        &self,
        repository: &RepositoryPath,
        named: &Descriptor,
    ) -> Result<bool, PutManifestError> {
        match self.stat_blob(repository, &named.digest)? {
            None => Ok(false),
            Some(stored) if stored == named.size => Ok(true),
            Some(stored) => match self.remove_if_damaged(&named.digest)? {
                Removal::Gone => Ok(false),
                Removal::Busy => Err(PutManifestError::Busy),
                Removal::Sound => Err(PutManifestError::WrongSize {
                    digest: named.digest,
                    named: named.size,
                    stored,
                }),
            },
        }
    }

    /// Removes content if its bytes do not hash to its digest. No request waits while they are
    /// read.
    fn remove_if_damaged(&self, digest: &Digest) -> Result<Removal, StoreError> {
        let path = self.layout.blob(digest);
        let stamp = match self.verdicts.check(&path, digest) {
            Ok(Verdict::Sound) => return Ok(Removal::Sound),
            Ok(Verdict::Busy) => return Ok(Removal::Busy),
            Ok(Verdict::Damaged(stamp)) => stamp,
            Err(error) if records::absent(&error) => return Ok(Removal::Gone),
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        let _turn = self.contents.lock(digest);
        // A push may have repaired it meanwhile; then it is another file.
        if stamp.matches(&path) {
            tracing::error!(
                path = %path.display(),
                "content is damaged and is being removed; push it again"
            );
            let change = self.usage.content(digest, &path);
            self.durable.remove(&path)?;
            change.end(0);
        }
        Ok(Removal::Gone)
    }

    pub(super) fn delete_tag(
        &self,
        repository: &RepositoryPath,
        tag: &Tag,
    ) -> Result<Option<Deleted>, StoreError> {
        self.lease_tagged(repository, tag)?;
        let _turn = self.records.lock(&(repository, tag));
        // Read again under the lock, since the tag may have been moved.
        let entry = records::read_usable::<TagEntry>(&self.layout.tag(repository, tag));
        let digest = entry.ok().flatten().map(|entry| entry.digest);
        let removed = self.remove_tag(repository, tag)?;
        Ok(removed.then(|| Deleted {
            digest,
            tags: vec![tag.clone()],
        }))
    }

    /// Renews the lease of the manifest that is about to lose this tag, so that its time begins
    /// now. The tag's lock is not held, because two locks of one set must not be held together; an
    /// operation that moves the tag meanwhile grants a lease on its new manifest.
    fn lease_tagged(&self, repository: &RepositoryPath, tag: &Tag) -> Result<(), StoreError> {
        // An unreadable record is replaced.
        let entry = records::read_usable::<TagEntry>(&self.layout.tag(repository, tag));
        if let Ok(Some(entry)) = entry {
            self.lease_manifest(repository, &entry.digest)?;
        }
        Ok(())
    }

    /// The caller holds the tag's lock, or the repository's exclusively.
    fn remove_tag(&self, repository: &RepositoryPath, tag: &Tag) -> Result<bool, StoreError> {
        let removed = self.durable.remove(&self.layout.tag(repository, tag));
        self.tag_changed(repository, names::Change::Removed, tag, &removed);
        removed
    }

    /// Updates the memory of a tag after an attempted change on disk.
    fn tag_changed<T>(
        &self,
        repository: &RepositoryPath,
        change: names::Change,
        tag: &Tag,
        tried: &Result<T, StoreError>,
    ) {
        self.resolved
            .forget(&(repository.clone(), Version::Tag(tag.clone())));
        match tried {
            Ok(_) => self.tags.changed(repository.as_str(), change, tag.as_str()),
            Err(_) => self.tags.forget(repository.as_str()),
        }
    }

    pub(super) fn delete_manifest(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Option<Deleted>, StoreError> {
        // With this lock, no tag is added between reading the tags and deleting the manifest.
        let _owned = self.repositories.own(repository);
        let path = self.layout.manifest(repository, digest);
        let Some(entry) = records::read_usable::<ManifestEntry>(&path)? else {
            return Ok(None);
        };
        let mut tags = vec![];
        for tag in names_in(&self.layout.tags(repository))?
            .iter()
            .filter_map(|name| Tag::parse(name).ok())
        {
            let entry: Option<TagEntry> = records::read_usable(&self.layout.tag(repository, &tag))?;
            if entry.is_some_and(|entry| entry.digest == *digest)
                && self.remove_tag(repository, &tag)?
            {
                tags.push(tag);
            }
        }
        // What it names stays for the grace time, since a client may be about to fetch it.
        for named in self.referenced_digests(digest, &entry) {
            self.lease_blob(repository, &named)?;
            self.lease_manifest(repository, &named)?;
        }
        let removed = self.remove_manifest(repository, digest, &entry, |_| Ok(true))?;
        Ok(removed.then_some(Deleted {
            digest: Some(*digest),
            tags,
        }))
    }

    /// Removes a manifest if `may` agrees; `may` is called under the lock that renewals of its
    /// lease take. The caller holds the repository's lock exclusively, has removed the tags, and
    /// has granted leases on what the manifest names.
    pub(super) fn remove_manifest(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        entry: &ManifestEntry,
        may: impl FnOnce(&Path) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let path = self.layout.manifest(repository, digest);
        let _turn = self.records.lock(&(repository, digest));
        if !may(&path)? {
            return Ok(false);
        }
        if let Some(subject) = &entry.subject {
            self.durable
                .remove(&self.layout.referrer(repository, subject, digest))?;
        }
        let change = self.usage.held(repository, digest, entry.size);
        let removed = self.durable.remove(&path);
        if removed.is_ok() {
            change.end(0);
        }
        self.resolved
            .forget(&(repository.clone(), Version::Digest(*digest)));
        // If another repository has it, it is simply read again.
        self.manifests.forget(digest);
        match self.has_manifests(repository) {
            Ok(true) => {}
            Ok(false) => self
                .catalog
                .changed(CATALOG, names::Change::Removed, repository.as_str()),
            Err(_) => self.catalog.forget(CATALOG),
        }
        removed
    }

    /// What a manifest names; nothing if it cannot be read, since it cannot be pulled either.
    pub(super) fn referenced_digests(&self, digest: &Digest, entry: &ManifestEntry) -> Vec<Digest> {
        let bytes = fs::read(self.layout.blob(digest)).unwrap_or_default();
        let Ok(manifest) = Manifest::parse(bytes.into(), Some(&entry.media_type)) else {
            return vec![];
        };
        let named = manifest.blobs().chain(manifest.children());
        named.map(|named| named.digest).collect()
    }

    pub(super) fn delete_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let _turn = self.records.lock(&(repository, digest));
        let change = self.held_now(repository, digest);
        let was_there = self
            .durable
            .remove(&self.layout.blob_link(repository, digest))?;
        change.end(0);
        Ok(was_there)
    }

    /// Call it before a link is removed, under its lock.
    pub(super) fn held_now(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Change<'_, RepositoryPath> {
        let link = self.layout.blob_link(repository, digest);
        let size = if link.exists() {
            file_size(&self.layout.blob(digest))
        } else {
            0
        };
        self.usage.held(repository, digest, size)
    }
}

/// Whether two files of the same length have the same content; `false` if one cannot be read.
fn same_bytes(one: &Path, other: &Path) -> bool {
    const BLOCK: usize = 256 * 1024;
    let open = |path| File::open(path).map(|file| BufReader::with_capacity(BLOCK, file));
    let (Ok(mut one), Ok(mut other)) = (open(one), open(other)) else {
        return false;
    };
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let Ok(read) = one.read(&mut left) else {
            return false;
        };
        if other.read_exact(&mut right[..read]).is_err() || left[..read] != right[..read] {
            return false;
        }
        if read == 0 {
            return true;
        }
    }
}

fn is_gone(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| records::absent(&error))
}

/// Whether a file has this length. A file of another length under a digest is damaged and gets
/// replaced.
fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == size)
}
