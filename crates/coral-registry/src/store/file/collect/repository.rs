//! The first half of a collection: the links and manifests of one repository.

use std::collections::HashSet;
use std::fs;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use coral_image::{Algorithm, Digest, Manifest, RepositoryPath, Tag};

use super::graph::{ManifestReferences, ReferenceGraph};
use super::{ALGORITHMS, Ended, Pass, TURN, digest_from_name};
use crate::store::file::durable;
use crate::store::file::lookup::names_in;
use crate::store::file::records::{self, ManifestEntry, TagEntry};
use crate::store::{Pace, StoreError};

/// The references of all manifests of a repository.
#[derive(Debug, Default)]
struct RepositoryReferences {
    /// Blobs that they name, by key.
    named: HashSet<u64>,
    manifests: Vec<ManifestReferences>,
    /// Whether a manifest could not be read, so that its references are unknown.
    is_unsure: bool,
    /// One of the unreadable manifests.
    unreadable: Option<Digest>,
}

/// The manifests that the tags of a repository point to.
struct Tagged {
    /// `None` if a tag cannot be read.
    digests: Option<Vec<Digest>>,
    /// Tags whose manifest has no record.
    lost: Vec<(Tag, Digest)>,
}

impl Pass<'_> {
    pub(super) fn repository(&mut self, repository: &RepositoryPath) -> Result<(), Ended> {
        let began = {
            // After this, manifests that are being pushed are on disk.
            let _owned = self.files.repositories.own(repository);
            self.files.leases.now()
        };
        let mut seen = self.manifests(repository)?;
        let recorded: HashSet<Digest> = seen.manifests.iter().map(|it| it.digest).collect();
        let Tagged {
            digests: tagged,
            lost,
        } = self.tagged(repository, &recorded)?;
        self.without_record(repository, &lost, &mut seen)?;
        self.collected.unreadable += u64::from(seen.is_unsure);
        self.is_waiting |= seen.is_unsure;
        self.report_unreadable(repository, seen.unreadable);
        let gone = self.untagged(repository, &seen, tagged, began)?;
        for manifest in &seen.manifests {
            if !gone.contains(&manifest.digest) {
                self.mark(&manifest.digest);
            }
        }
        for algorithm in ALGORITHMS {
            self.links(repository, algorithm, &seen, began)?;
        }
        if self.rules.pace == Pace::Beside {
            self.files.count_repository(repository)?;
        }
        Ok(())
    }

    /// Reports unreadable manifests once, until all can be read again.
    fn report_unreadable(&self, repository: &RepositoryPath, unreadable: Option<Digest>) {
        let told = &self.files.unreadable;
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(digest) = unreadable else {
            told.remove(repository);
            return;
        };
        if told.insert(repository.clone()) {
            tracing::warn!(
                %repository,
                %digest,
                "a manifest cannot be read, so no blob of its repository is collected: push the \
                 manifest again, or delete it"
            );
        }
    }

    fn manifests(&mut self, repository: &RepositoryPath) -> Result<RepositoryReferences, Ended> {
        let mut seen = RepositoryReferences::default();
        for algorithm in ALGORITHMS {
            for name in names_in(&self.files.layout.manifests(repository, algorithm))? {
                self.turns.step()?;
                if let Some(digest) = digest_from_name(algorithm, &name) {
                    self.manifest(repository, digest, &mut seen);
                }
            }
        }
        Ok(seen)
    }

    fn manifest(
        &self,
        repository: &RepositoryPath,
        digest: Digest,
        seen: &mut RepositoryReferences,
    ) {
        let mut references = ManifestReferences {
            digest,
            children: vec![],
            subject: None,
        };
        match self.read(repository, &digest) {
            ManifestRead::Whole(manifest) => {
                let leases = &self.files.leases;
                let blobs = manifest.blobs().chain(manifest.children());
                seen.named.extend(blobs.map(|it| leases.key(&it.digest)));
                // Of any media type: everything that was pushed as a manifest counts.
                references.children = manifest.entries().map(|it| it.digest).collect();
                references.subject = manifest.subject().map(|it| it.digest);
                seen.manifests.push(references);
            }
            ManifestRead::Unreadable => {
                seen.is_unsure = true;
                seen.unreadable = Some(digest);
                seen.manifests.push(references);
            }
            ManifestRead::Gone => {}
        }
    }

    fn read(&self, repository: &RepositoryPath, digest: &Digest) -> ManifestRead {
        let record = self.files.layout.manifest(repository, digest);
        let entry = match records::read::<ManifestEntry>(&record) {
            Ok(None) => return ManifestRead::Gone,
            Ok(Some(entry)) => entry,
            Err(_) => return ManifestRead::Unreadable,
        };
        let bytes = match fs::read(self.files.layout.blob(digest)) {
            Ok(bytes) if digest.matches(&bytes) => bytes,
            _ => return ManifestRead::Unreadable,
        };
        let manifest = Manifest::parse(bytes.into(), Some(&entry.media_type));
        manifest.map_or(ManifestRead::Unreadable, |it| {
            ManifestRead::Whole(Box::new(it))
        })
    }

    /// Removes manifests that nothing has reached for long enough. The lease of what a tag reaches
    /// is renewed, so that its time begins when the tag no longer reaches it; what a younger
    /// manifest reaches stays with it.
    fn untagged(
        &mut self,
        repository: &RepositoryPath,
        seen: &RepositoryReferences,
        tagged: Option<Vec<Digest>>,
        began: SystemTime,
    ) -> Result<HashSet<Digest>, Ended> {
        let mut gone = HashSet::new();
        let (Some(length), Some(tagged), false) = (self.rules.untagged, tagged, seen.is_unsure)
        else {
            return Ok(gone);
        };
        let graph = ReferenceGraph::from_manifests(&seen.manifests);
        let mut kept = HashSet::new();
        graph.add(&tagged, &mut kept);
        let young = self.young(repository, seen, began, length, &kept)?;
        graph.add(&young, &mut kept);
        // Parents first: a manifest that stays after all, because a client asked for it meanwhile,
        // then still has everything below it.
        for digest in graph.parents_first(&seen.manifests) {
            if kept.contains(&digest) {
                continue;
            }
            self.turns.step()?;
            if self.remove(repository, &digest, began, length)? {
                gone.insert(digest);
                self.collected.manifests += 1;
            } else {
                graph.add(&[digest], &mut kept);
            }
        }
        Ok(gone)
    }

    /// Manifests that no tag reaches and whose lease has not expired. Renews the leases of those
    /// that are `reached`.
    fn young(
        &mut self,
        repository: &RepositoryPath,
        seen: &RepositoryReferences,
        began: SystemTime,
        length: Duration,
        reached: &HashSet<Digest>,
    ) -> Result<Vec<Digest>, Ended> {
        let mut young = Vec::new();
        for ManifestReferences { digest, .. } in &seen.manifests {
            self.turns.step()?;
            let record = self.files.layout.manifest(repository, digest);
            if !reached.contains(digest) {
                if !self.files.leases.is_over(&record, began, length)? {
                    young.push(*digest);
                }
            } else if !self.rules.dry_run {
                self.files.lease_manifest(repository, digest)?;
            }
        }
        Ok(young)
    }

    /// The manifests that the tags point to.
    fn tagged(
        &mut self,
        repository: &RepositoryPath,
        recorded: &HashSet<Digest>,
    ) -> Result<Tagged, Ended> {
        let (mut digests, mut lost) = (Some(Vec::new()), Vec::new());
        for name in names_in(&self.files.layout.tags(repository))? {
            self.turns.step()?;
            let Ok(tag) = Tag::parse(&name) else { continue };
            match records::read::<TagEntry>(&self.files.layout.tag(repository, &tag)) {
                Ok(Some(entry)) => {
                    if !recorded.contains(&entry.digest) {
                        lost.push((tag, entry.digest));
                    }
                    if let Some(digests) = &mut digests {
                        digests.push(entry.digest);
                    }
                }
                Ok(None) => {}
                Err(_) => digests = None,
            }
        }
        Ok(Tagged { digests, lost })
    }

    /// Handles tags whose manifest has no record, which a damaged file system may have lost. Tags
    /// are answered without it, so the content stays, but its references are unknown.
    fn without_record(
        &mut self,
        repository: &RepositoryPath,
        lost: &[(Tag, Digest)],
        seen: &mut RepositoryReferences,
    ) -> Result<(), Ended> {
        let files = self.files;
        // A few at a time, since pushes to the repository wait meanwhile.
        for lost in lost.chunks(TURN as usize) {
            let tagged = {
                // After this, no push or deletion that was running is unfinished.
                let _owned = files.repositories.own(repository);
                let is_still = |tag: &Tag, digest: &Digest| {
                    let entry = records::read::<TagEntry>(&files.layout.tag(repository, tag));
                    !files.layout.manifest(repository, digest).exists()
                        && entry.map_or(true, |it| it.is_some_and(|it| it.digest == *digest))
                };
                let tagged = lost.iter().filter(|(tag, digest)| is_still(tag, digest));
                tagged.map(|(_, digest)| *digest).collect::<Vec<_>>()
            };
            for digest in tagged {
                seen.is_unsure = true;
                seen.unreadable = Some(digest);
                self.mark(&digest);
            }
            for _ in lost {
                self.turns.step()?;
            }
        }
        Ok(())
    }

    /// Returns whether the manifest was deleted, or would have been.
    fn remove(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        began: SystemTime,
        length: Duration,
    ) -> Result<bool, StoreError> {
        let files = self.files;
        let record = files.layout.manifest(repository, digest);
        if !files.leases.is_over(&record, began, length)? {
            return Ok(false);
        }
        if self.rules.dry_run {
            return Ok(true);
        }
        // Pushing a manifest or a tag that refers to this one renews the lease first.
        let _owned = files.repositories.own(repository);
        let Some(entry) = records::read_usable::<ManifestEntry>(&record)? else {
            return Ok(false);
        };
        for named in files.referenced_digests(digest, &entry) {
            files.lease_blob(repository, &named)?;
        }
        files.remove_manifest(repository, digest, &entry, |record| {
            files.leases.is_over(record, began, length)
        })
    }

    fn links(
        &mut self,
        repository: &RepositoryPath,
        algorithm: Algorithm,
        seen: &RepositoryReferences,
        began: SystemTime,
    ) -> Result<(), Ended> {
        let folder = self.files.layout.blob_links(repository, algorithm);
        let mut last_removed = None;
        for name in names_in(&folder)? {
            self.turns.step()?;
            let Some(digest) = digest_from_name(algorithm, &name) else {
                continue;
            };
            let is_named = seen.is_unsure || seen.named.contains(&self.files.leases.key(&digest));
            if is_named || !self.unlink(repository, &digest, began)? {
                self.mark(&digest);
                self.is_waiting |= !is_named;
            } else {
                self.collected.links += 1;
                last_removed = Some(self.files.layout.blob_link(repository, &digest));
            }
        }
        if let Some(link) = last_removed.filter(|_| !self.rules.dry_run) {
            self.files.durable.settle(&link)?;
        }
        Ok(())
    }

    /// Returns whether the link was deleted, or would have been.
    fn unlink(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        began: SystemTime,
    ) -> Result<bool, StoreError> {
        let files = self.files;
        let link = files.layout.blob_link(repository, digest);
        let _turn = files.records.lock(&(repository, digest));
        if !files.leases.is_over(&link, began, self.rules.grace)? {
            return Ok(false);
        }
        if self.rules.dry_run {
            return Ok(true);
        }
        let change = files.held_now(repository, digest);
        let was_there = durable::unlink(&link)?;
        change.end(0);
        Ok(was_there)
    }
}

/// The result of reading a manifest by its digest.
enum ManifestRead {
    Whole(Box<Manifest>),
    /// It has a record, but its content is missing, damaged, unreadable or not a manifest.
    Unreadable,
    /// It was deleted meanwhile.
    Gone,
}
