//! Which repository of a destination has a blob, as the manifests of a mirror's own images say.
//!
//! A registry mounts a blob only from a repository that it is told. What this process copied
//! itself, [`Arrived`](super::arrived::Arrived) knows; what an earlier one copied is read here from
//! the destination, when the first blob is wanted of which nothing is known: each image once.
//!
//! What is missing here costs a blob that is sent once more; what is wrong here costs a request,
//! since the registry itself decides whether it mounts. So everything is bounded: the images that
//! wait to be read, the manifests that are read in a pass, and the blobs that are remembered.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_distribution::{Category, Client, Credentials, Endpoint};
use coral_image::{Digest, Manifest, RepositoryPath, Version};
use futures::{StreamExt, stream};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard};

use crate::progress::Key;

/// Images read at the same time.
const AT_ONCE: usize = 8;
/// Manifests of one index that are read.
const MOST_CHILDREN: usize = 64;
/// Longest time that a copy waits for manifests of other images.
const LONGEST: Duration = Duration::from_secs(30);
/// Images that wait to be read; further ones are left out.
const MOST_WAITING: usize = 4096;
/// Manifests read in a pass: some seconds at a registry nearby.
const MOST_READ: usize = 4096;
/// Blobs that are remembered, at 16 bytes each.
const MOST_BLOBS: usize = 128 * 1024;

/// What the images of one mirror at its destination consist of. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Catalogue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    /// Held by the one that reads: the others wait for what it finds.
    reading: AsyncMutex<()>,
    /// Held until the registry's first answer to a push.
    first_push: AsyncMutex<()>,
}

/// Whether a registry says by itself that a blob could be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    /// It does, so that no manifest has to be read.
    OfMounts,
    /// It mounts from where it is told.
    Nothing,
}

#[derive(Debug, Default)]
struct Known {
    /// Images that may be at the destination: their comparison goes on.
    expected: HashSet<Key>,
    /// Images that are at the destination, and have not been read.
    unread: HashSet<Key>,
    /// Images that are being read.
    reading: HashSet<Key>,
    /// Hashes of the images that were read.
    read: HashSet<u64>,
    /// Manifests that were read in this pass.
    spent: usize,
    /// Places in `paths` by the blob's hash. Where two blobs have one hash, the registry declines
    /// the mount of one of them.
    blobs: HashMap<u64, u32>,
    paths: Vec<RepositoryPath>,
    numbers: HashMap<RepositoryPath, u32>,
    hashes: RandomState,
    tells: Option<Tells>,
}

impl Catalogue {
    /// A pass begins: manifests may be read again.
    pub(crate) fn begin_pass(&self) {
        self.known().spent = 0;
    }

    /// Source and destination of an image are being compared. `held` is what the destination had
    /// the last time.
    pub(crate) fn being_compared(&self, image: &Key, held: Option<Digest>) {
        match held {
            Some(digest) => self.known().holds(image, digest),
            None => self.known().expect(image),
        }
    }

    /// The destination has this image at this digest, or does not have it.
    pub(crate) fn compared(&self, image: &Key, there: Option<Digest>) {
        let mut known = self.known();
        known.expected.remove(image);
        let is_read_now = known.reading.contains(image);
        if let Some(digest) = there.filter(|_| !is_read_now) {
            known.holds(image, digest);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What is lost costs a request or a blob that is sent again, so a panic elsewhere does not
        // spoil the collections.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first push to a registry of which it is not known what it tells.
pub(super) struct FirstPush<'c> {
    catalogue: &'c Catalogue,
    _others_wait: AsyncGuard<'c, ()>,
}

impl FirstPush<'_> {
    /// What the registry's answer says.
    pub(super) fn answered(self, tells: Tells) {
        self.catalogue.known().tells = Some(tells);
    }
}

/// What is to be done before a push.
pub(super) enum Before<'c> {
    /// Nothing: the registry tells what can be mounted, or there is nothing to mount from.
    Nothing,
    /// The blob is to be looked for.
    Look,
    /// Push, and see what the registry answers.
    Push(FirstPush<'c>),
}

/// Where blobs of one destination may be mounted from: its catalogue, and the way to its manifests.
#[derive(Debug, Clone)]
pub(crate) struct Candidates {
    pub(crate) catalogue: Catalogue,
    pub(crate) client: Client,
    pub(crate) credentials: Arc<Credentials>,
}

impl Candidates {
    /// What is to be done before the push of a blob of which nothing is known. The first push to a
    /// registry keeps others waiting until it is answered.
    pub(super) async fn before_push(&self) -> Before<'_> {
        let tells = || {
            let known = self.catalogue.known();
            (known.tells, known.is_empty())
        };
        match tells() {
            (Some(Tells::OfMounts), _) | (_, true) => return Before::Nothing,
            (Some(Tells::Nothing), _) => return Before::Look,
            (None, false) => {}
        }
        let others_wait = self.catalogue.0.first_push.lock().await;
        match tells().0 {
            Some(Tells::OfMounts) => Before::Nothing,
            Some(Tells::Nothing) => Before::Look,
            None => Before::Push(FirstPush {
                catalogue: &self.catalogue,
                _others_wait: others_wait,
            }),
        }
    }

    /// A repository that had the blob when its manifests were read. Reads what has not been read.
    pub(super) async fn find(&self, blob: &Digest) -> Option<RepositoryPath> {
        let catalogue = &self.catalogue;
        let found = catalogue.known().find(blob);
        if found.is_some() {
            return found;
        }
        // Also where nothing is left to be read: another one may be reading it.
        let _reading = catalogue.0.reading.lock().await;
        let images = {
            let mut known = catalogue.known();
            // It may have been read in the meantime.
            if let Some(found) = known.find(blob) {
                return Some(found);
            }
            known.take_unread()
        };
        let reads = images.into_iter().map(|image| self.read(image));
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        let all = async { while reads.next().await.is_some() {} };
        // Copies wait for this: a slow registry costs them no more than that.
        let is_slow = tokio::time::timeout(LONGEST, all).await.is_err();
        let mut known = catalogue.known();
        if is_slow {
            known.stop();
        }
        known.reading.clear();
        known.find(blob)
    }

    /// Takes in one image. One that cannot be read whole is read again in the next pass.
    async fn read(&self, image: Key) {
        let (path, credentials) = (image.repository.path(), self.credentials.clone());
        let client = self.client.repository(&image.repository, credentials);
        let endpoint = Endpoint::from(client);
        let ManifestRead::Whole(root) = self.read_manifest(&endpoint, image.version).await else {
            return;
        };
        let digest = root.digest();
        self.catalogue.known().take_in(path, &root);
        for child in root.children().iter().take(MOST_CHILDREN) {
            let version = Version::Digest(child.digest);
            match self.read_manifest(&endpoint, version).await {
                ManifestRead::Whole(child) => self.catalogue.known().take_in(path, &child),
                // A sparse copy.
                ManifestRead::Absent => {}
                ManifestRead::Unanswered => return,
            }
        }
        self.catalogue.known().was_read(path, &digest);
    }

    /// A registry that refuses, limits or fails is asked for no further manifest in this pass.
    async fn read_manifest(&self, endpoint: &Endpoint, version: Version) -> ManifestRead {
        if !self.catalogue.known().spend() {
            return ManifestRead::Unanswered;
        }
        match endpoint.manifest(&version).await {
            Ok(manifest) => ManifestRead::Whole(Box::new(manifest)),
            Err(error) if error.category() == Category::NotFound => ManifestRead::Absent,
            Err(error) => {
                if self.catalogue.known().stop() {
                    tracing::warn!(
                        %error,
                        "manifests at the destination cannot be read: blobs that it has in other \
                         repositories are sent again in this pass"
                    );
                }
                ManifestRead::Unanswered
            }
        }
    }
}

/// What came of the reading of a manifest.
enum ManifestRead {
    Whole(Box<Manifest>),
    /// The registry does not have it.
    Absent,
    /// There was no answer, or no question.
    Unanswered,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && !self.has_unread()
    }

    fn has_unread(&self) -> bool {
        self.spent < MOST_READ && !(self.unread.is_empty() && self.expected.is_empty())
    }

    fn expect(&mut self, image: &Key) {
        if self.expected.len() < MOST_WAITING {
            self.expected.insert(image.clone());
        }
    }

    fn holds(&mut self, image: &Key, digest: Digest) {
        let is_read = self
            .read
            .contains(&self.hash(image.repository.path(), &digest));
        let pinned = Key {
            repository: image.repository.clone(),
            version: Version::Digest(digest),
        };
        if !is_read && !self.reading.contains(&pinned) && self.unread.len() < MOST_WAITING {
            self.unread.insert(pinned);
        }
    }

    fn take_unread(&mut self) -> Vec<Key> {
        let unread = self.unread.drain().chain(self.expected.drain());
        self.reading = unread.collect();
        self.reading.iter().cloned().collect()
    }

    /// No further manifest is read in this pass. Whether that is new.
    fn stop(&mut self) -> bool {
        let is_new = self.spent < MOST_READ;
        self.spent = MOST_READ;
        is_new
    }

    /// Whether one more manifest may be read in this pass.
    fn spend(&mut self) -> bool {
        let may = self.spent < MOST_READ;
        self.spent += usize::from(may);
        may
    }

    fn take_in(&mut self, path: &RepositoryPath, manifest: &Manifest) {
        let number = self.number(path);
        // Foreign layers need not be there.
        for blob in manifest.blobs().filter(|blob| !blob.is_foreign()) {
            if self.blobs.len() >= MOST_BLOBS {
                // What is still there is read again in the next pass.
                self.blobs.clear();
                self.read.clear();
            }
            let hash = self.hashes.hash_one(blob.digest);
            self.blobs.entry(hash).or_insert(number);
        }
    }

    fn number(&mut self, path: &RepositoryPath) -> u32 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        let number = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        self.paths.push(path.clone());
        self.numbers.insert(path.clone(), number);
        number
    }

    fn was_read(&mut self, path: &RepositoryPath, digest: &Digest) {
        let hash = self.hash(path, digest);
        self.read.insert(hash);
    }

    fn find(&self, blob: &Digest) -> Option<RepositoryPath> {
        let number = *self.blobs.get(&self.hashes.hash_one(blob))?;
        self.paths.get(usize::try_from(number).ok()?).cloned()
    }

    fn hash(&self, path: &RepositoryPath, digest: &Digest) -> u64 {
        self.hashes.hash_one((path, digest))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key(path: &str, tag: &str) -> Key {
        let image = format!("registry.example/{path}:{tag}");
        let image = coral_image::ImageRef::parse(&image).unwrap();
        Key {
            repository: image.repository().clone(),
            version: image.version(),
        }
    }

    fn digest(number: usize) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    fn manifest(layers: impl Iterator<Item = usize>) -> Manifest {
        let layers: Vec<String> = layers
            .map(|layer| {
                let digest = digest(layer);
                format!(r#"{{"mediaType":"a/layer","digest":"{digest}","size":1}}"#)
            })
            .collect();
        let config = digest(usize::MAX);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"a/config","digest":"{config}","size":1}},"layers":[{}]}}"#,
            layers.join(",")
        );
        Manifest::parse(Bytes::from(text), None).unwrap()
    }

    #[test]
    fn an_image_waits_to_be_read_once_and_only_where_the_destination_may_have_it() {
        let catalogue = Catalogue::default();
        let (here, absent, held) = (key("a", "1"), key("b", "1"), key("c", "1"));
        catalogue.being_compared(&here, None);
        catalogue.being_compared(&absent, None);
        catalogue.being_compared(&held, Some(digest(3)));
        catalogue.compared(&here, Some(digest(1)));
        catalogue.compared(&absent, None);
        catalogue.compared(&held, Some(digest(3)));
        let pinned = |image: &Key, number| Key {
            version: Version::Digest(digest(number)),
            ..image.clone()
        };
        let mut known = catalogue.known();
        let unread: HashSet<Key> = known.take_unread().into_iter().collect();
        assert_eq!(unread, HashSet::from([pinned(&here, 1), pinned(&held, 3)]));
        known.was_read(here.repository.path(), &digest(1));
        known.reading.clear();
        drop(known);
        catalogue.compared(&here, Some(digest(1)));
        assert!(!catalogue.known().has_unread(), "it is read already");
        catalogue.compared(&here, Some(digest(2)));
        assert!(catalogue.known().has_unread(), "its tag has moved");
    }

    #[test]
    fn an_image_that_is_being_compared_is_asked_for_by_its_tag() {
        let catalogue = Catalogue::default();
        let image = key("a", "1");
        catalogue.being_compared(&image, None);
        assert_eq!(
            catalogue.known().take_unread(),
            std::slice::from_ref(&image)
        );
        catalogue.compared(&image, Some(digest(1)));
        assert!(!catalogue.known().has_unread(), "it is being read");
    }

    #[test]
    fn a_blob_is_found_where_a_manifest_names_it() {
        let mut known = Known::default();
        let (a, b) = (key("a", "1"), key("b", "1"));
        known.take_in(a.repository.path(), &manifest(0..3));
        known.take_in(b.repository.path(), &manifest(3..5));
        assert_eq!(known.find(&digest(1)).as_ref(), Some(a.repository.path()));
        assert_eq!(known.find(&digest(4)).as_ref(), Some(b.repository.path()));
        assert_eq!(known.find(&digest(5)), None);
    }

    #[test]
    fn what_is_kept_and_what_is_read_in_a_pass_are_bounded() {
        let catalogue = Catalogue::default();
        for number in 0..MOST_WAITING + 10 {
            let image = key(&format!("p{number}"), "1");
            catalogue.being_compared(&image, None);
            catalogue.compared(&image, Some(digest(number)));
        }
        let mut known = catalogue.known();
        assert_eq!(known.unread.len(), MOST_WAITING);
        let path = key("a", "1").repository;
        for number in 0..200 {
            known.take_in(path.path(), &manifest(number * 1000..(number + 1) * 1000));
            assert!(known.blobs.len() <= MOST_BLOBS);
        }
        assert!(known.find(&digest(199_999)).is_some(), "the last one stays");
        let may = std::iter::repeat_with(|| known.spend()).take_while(|may| *may);
        assert_eq!(may.take(2 * MOST_READ).count(), MOST_READ);
        drop(known);
        assert!(!catalogue.known().has_unread(), "none in this pass");
        catalogue.begin_pass();
        assert!(catalogue.known().has_unread());
    }
}
