//! Imports the storage folder of a distribution registry into a store.
//!
//! Blobs come before the manifests that name them, images before indexes, and tags last. So an
//! interrupted import leaves a state that a slow client could have left too, and the next import
//! continues it. Only damaged or unknown items are skipped, and each of them is reported.

mod folder;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use coral_image::{Descriptor, Digest, Manifest, ManifestKind, RepositoryPath, Tag, Version};
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::store::{
    FileStore, PutManifestError, Source, Store as _, StoreError, TakeError, Transfer, Transferred,
};
use folder::{Contents, Folder};

/// Blobs imported at the same time, so that reading and hashing overlap.
const AT_ONCE: usize = 4;

/// The destination of an import.
#[derive(Debug, Clone, Copy)]
pub enum ImportInto<'s> {
    /// Into this store.
    Store(&'s FileStore),
    /// Nowhere: only counts what would be imported. What the store already has does not count.
    DryRun(Option<&'s FileStore>),
}

/// Options of an import.
#[derive(Debug, Clone, Copy)]
pub struct ImportRules {
    /// How content gets into the store.
    pub transfer: Transfer,
    /// Whether to move a tag that already names another image in the store.
    pub move_tags: bool,
}

/// An item that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub what: String,
    /// Why it was skipped.
    pub why: String,
}

impl Skipped {
    fn new(what: impl Display, why: impl Display) -> Self {
        let (what, why) = (what.to_string(), why.to_string());
        Self { what, why }
    }
}

/// What was, or would be, imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Repositories that were read.
    pub repositories: u64,
    /// Manifests that the store did not have in the repository.
    pub manifests: u64,
    /// Tags that were set.
    pub tags: u64,
    /// Blobs that the store did not have, each once.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of the blobs that were copied because a hard link could not be made.
    pub unlinked: u64,
    /// Why the first of these could not be linked.
    pub unlinked_why: Option<io::ErrorKind>,
    /// Manifests that the store already had.
    pub known: u64,
    /// Items that were skipped.
    pub skipped: u64,
    /// Whether the import ran to its end.
    pub is_complete: bool,
}

/// Why nothing more could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder is not the storage of a registry.
    #[error("{path} has no folder docker/registry/v2/repositories, so it is not the storage of a \
             distribution registry: give the folder that its configuration names in \
             storage.filesystem.rootdirectory (/var/lib/registry in its container)",
            path = .0.display())]
    NoRegistry(PathBuf),
    /// The folder cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Imports everything that the registry in `folder` has. Calls `tell` for each item that is
/// skipped.
pub async fn import(
    folder: &Path,
    into: ImportInto<'_>,
    rules: ImportRules,
    tell: impl Fn(&Skipped),
    stop: &CancellationToken,
) -> Result<Imported, ImportError> {
    let folder = folder.to_owned();
    let folder = blocking(move || Folder::open(&folder)).await??;
    let mut import = Import {
        folder,
        into,
        rules,
        tell,
        imported: Imported::default(),
        counted: HashSet::new(),
        verified: HashSet::new(),
    };
    let reader = import.folder.clone();
    let (repositories, skipped) = blocking(move || reader.repositories()).await?;
    import.skip_all(skipped);
    for repository in repositories {
        if !import.take_repository(&repository, stop).await? {
            return Ok(import.imported);
        }
    }
    import.imported.is_complete = true;
    Ok(import.imported)
}

struct Import<'s, T> {
    folder: Folder,
    into: ImportInto<'s>,
    rules: ImportRules,
    tell: T,
    imported: Imported,
    /// Digests of the blobs that were counted.
    counted: HashSet<Digest>,
    /// Blobs whose files were already verified: the folder has one file for all repositories.
    verified: HashSet<Digest>,
}

impl<T: Fn(&Skipped)> Import<'_, T> {
    fn skip_all(&mut self, all: Vec<Skipped>) {
        for skipped in all {
            (self.tell)(&skipped);
            self.imported.skipped += 1;
        }
    }

    fn skip(&mut self, what: impl Display, why: impl Display) {
        self.skip_all(vec![Skipped::new(what, why)]);
    }

    /// Returns whether it ran to its end.
    async fn take_repository(
        &mut self,
        path: &RepositoryPath,
        stop: &CancellationToken,
    ) -> Result<bool, ImportError> {
        let (folder, own) = (self.folder.clone(), path.clone());
        let (contents, skipped) = blocking(move || folder.contents(&own)).await?;
        self.skip_all(skipped);
        self.imported.repositories += 1;
        // An index comes after those of its manifests that the repository has.
        let mut indexes = BTreeMap::new();
        for digest in &contents.revisions {
            if stop.is_cancelled() {
                return Ok(false);
            }
            let Some(manifest) = self.read_manifest(path, digest).await? else {
                continue;
            };
            if manifest.kind() == ManifestKind::Index {
                let listed = manifest.children().iter().map(|child| child.digest);
                let listed = listed.filter(|it| contents.revisions.binary_search(it).is_ok());
                indexes.insert(*digest, listed.collect::<BTreeSet<Digest>>());
            } else {
                self.take_image(path, &contents, manifest).await?;
            }
        }
        for digest in inner_first(indexes) {
            if stop.is_cancelled() {
                return Ok(false);
            }
            if let Some(manifest) = self.read_manifest(path, &digest).await? {
                self.take_image(path, &contents, manifest).await?;
            }
        }
        Ok(true)
    }

    async fn read_manifest(
        &mut self,
        path: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Option<Manifest>, ImportError> {
        let (folder, wanted) = (self.folder.clone(), *digest);
        match blocking(move || folder.manifest(&wanted)).await? {
            Ok(manifest) => Ok(Some(manifest)),
            Err(why) => {
                self.skip(format_args!("{path}@{digest}"), why);
                Ok(None)
            }
        }
    }

    /// Imports one manifest with its blobs and tags.
    async fn take_image(
        &mut self,
        path: &RepositoryPath,
        contents: &Contents,
        manifest: Manifest,
    ) -> Result<(), ImportError> {
        let digest = manifest.digest();
        let is_known = self.is_known(path, &digest).await?;
        let tags = self.new_tags(path, &digest, contents).await?;
        // This is also done for a manifest that the store has: one of its blobs may have been lost
        // since.
        let blobs = self.take_blobs(path, &manifest).await?;
        if is_known {
            self.imported.known += 1;
            if tags.is_empty() {
                return Ok(());
            }
        } else if let Err(why) = blobs {
            self.skip(format_args!("{path}@{digest}"), why);
            return Ok(());
        }
        let count = tags.len() as u64;
        if let ImportInto::Store(store) = self.into {
            match store.put_manifest(path, manifest, tags).await {
                Ok(_) => {}
                Err(PutManifestError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    self.skip(format_args!("{path}@{digest}"), error);
                    return Ok(());
                }
            }
        }
        self.imported.manifests += u64::from(!is_known);
        self.imported.tags += count;
        Ok(())
    }

    async fn is_known(&self, path: &RepositoryPath, digest: &Digest) -> Result<bool, ImportError> {
        let there = self.resolve(path, &Version::Digest(*digest)).await?;
        Ok(there.is_some())
    }

    /// The tags of a manifest that are missing in the store. A tag that names another image there
    /// stays as it is.
    async fn new_tags(
        &mut self,
        path: &RepositoryPath,
        digest: &Digest,
        contents: &Contents,
    ) -> Result<Vec<Tag>, ImportError> {
        let mut new = vec![];
        for tag in contents.tags.get(digest).into_iter().flatten() {
            match self.resolve(path, &Version::Tag(tag.clone())).await? {
                Some(there) if there == *digest => {}
                Some(there) if !self.rules.move_tags => {
                    let why = format!("in the store it is {there} and stays; --move-tags moves it");
                    self.skip(format_args!("{path}:{tag}"), why);
                }
                _ => new.push(tag.clone()),
            }
        }
        Ok(new)
    }

    async fn resolve(
        &self,
        path: &RepositoryPath,
        version: &Version,
    ) -> Result<Option<Digest>, ImportError> {
        let Some(store) = self.store() else {
            return Ok(None);
        };
        let there = store.resolve(path, version).await?;
        Ok(there.map(|record| record.digest))
    }

    fn store(&self) -> Option<&FileStore> {
        match self.into {
            ImportInto::Store(store) => Some(store),
            ImportInto::DryRun(store) => store,
        }
    }

    /// Imports the blobs of a manifest that the repository has; the store checks whether any is
    /// missing when it gets the manifest. The inner result is why a blob cannot be used.
    async fn take_blobs(
        &mut self,
        path: &RepositoryPath,
        manifest: &Manifest,
    ) -> Result<Result<(), String>, ImportError> {
        let mut seen = HashSet::new();
        let blobs = manifest.blobs().filter(|blob| seen.insert(blob.digest));
        let blobs = blobs.map(|blob| self.take_blob(path, blob));
        let blobs: Vec<_> = blobs.collect();
        let taken: Vec<_> = stream::iter(blobs).buffered(AT_ONCE).collect().await;
        for taken in taken {
            if let Ok((digest, _)) = &taken {
                self.verified.insert(*digest);
            }
            match taken {
                Ok((_, Transferred::Known)) => {}
                Ok((digest, Transferred::New { bytes, unlinked })) => {
                    if self.counted.insert(digest) {
                        self.imported.blobs += 1;
                        self.imported.bytes += bytes;
                        self.imported.unlinked += u64::from(unlinked.is_some());
                        self.imported.unlinked_why = self.imported.unlinked_why.or(unlinked);
                    }
                }
                Err(BlobError::Store(error)) => return Err(error.into()),
                Err(BlobError::Unusable(why)) => return Ok(Err(why)),
                // What an index lists may be missing.
                Err(BlobError::Absent(_)) if manifest.kind() == ManifestKind::Index => {}
                Err(BlobError::Absent(digest)) => {
                    return Ok(Err(format!("the repository does not have blob {digest}")));
                }
            }
        }
        Ok(Ok(()))
    }

    async fn take_blob(
        &self,
        path: &RepositoryPath,
        blob: &Descriptor,
    ) -> Result<(Digest, Transferred), BlobError> {
        let digest = blob.digest;
        let unusable = |why: String| BlobError::Unusable(format!("blob {digest}: {why}"));
        let (folder, own) = (self.folder.clone(), path.clone());
        let file = blocking(move || folder.blob(&own, &digest)).await?;
        let Some(file) = file.map_err(unusable)? else {
            if blob.is_foreign() {
                return Ok((digest, Transferred::Known));
            }
            return Err(BlobError::Absent(digest));
        };
        let size = file
            .metadata()
            .map_err(|error| unusable(error.to_string()))?;
        let size = size.len();
        if size != blob.size {
            let expected = blob.size;
            let why = format!("it has {size} bytes where the manifest says {expected}");
            return Err(unusable(why));
        }
        let ImportInto::Store(store) = self.into else {
            let is_known = self.store().is_some_and(|it| it.has_content(&digest, size));
            let taken = if is_known {
                Transferred::Known
            } else {
                Transferred::New {
                    bytes: size,
                    unlinked: None,
                }
            };
            return Ok((digest, taken));
        };
        let (path, transfer) = (path.clone(), self.rules.transfer);
        let was_verified = self.verified.contains(&digest);
        let taken = store.take_blob(path, digest, file, transfer, was_verified);
        match taken.await {
            Ok(taken) => Ok((digest, taken)),
            Err(TakeError::Store(error)) => Err(error.into()),
            Err(error) => Err(unusable(error.to_string())),
        }
    }
}

#[derive(Debug)]
enum BlobError {
    /// The repository does not have the blob.
    Absent(Digest),
    /// The bytes of the blob cannot be used, for this reason.
    Unusable(String),
    Store(StoreError),
}

impl From<StoreError> for BlobError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Sorts indexes so that each comes after those that it lists. There are no cycles, because content
/// cannot contain its own digest.
fn inner_first(mut indexes: BTreeMap<Digest, BTreeSet<Digest>>) -> Vec<Digest> {
    let all: BTreeSet<Digest> = indexes.keys().copied().collect();
    let mut listed_by: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for (digest, listed) in &mut indexes {
        listed.retain(|it| all.contains(it));
        for child in listed.iter() {
            listed_by.entry(*child).or_default().push(*digest);
        }
    }
    let mut sorted: Vec<Digest> = all
        .into_iter()
        .filter(|digest| indexes[digest].is_empty())
        .collect();
    let mut next = 0;
    while let Some(&done) = sorted.get(next) {
        next += 1;
        for outer in listed_by.remove(&done).into_iter().flatten() {
            if let Some(waits_for) = indexes.get_mut(&outer) {
                waits_for.remove(&done);
                if waits_for.is_empty() {
                    sorted.push(outer);
                }
            }
        }
    }
    sorted
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Closed)
}
