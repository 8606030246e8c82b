//! Which repository of a destination has a blob, as the manifests of a mirror's own images say.
//!
//! A registry mounts a blob only from a repository that the client names.
//! [`BlobSightings`](super::sightings::BlobSightings) knows what this process copied; what an earlier process
//! copied is read here from the destination, each image once, when the first blob with an unknown
//! location is needed.
//!
//! A missing entry costs a blob that is sent once more; a wrong one costs a request, since the
//! registry itself decides whether it mounts. So everything can be bounded: the images that wait to
//! be read, the manifests that are read in a pass, and the blobs that are remembered.
//!
//! A blob is found only by copies from the host that its image came from, so a source that claims
//! to have any digest gets no blob of another source.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_distribution::{Category, Client, Credentials, Endpoint};
use coral_image::{Digest, Host, Manifest, RepositoryPath, Version};
use futures::{StreamExt, stream};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard, watch};
use tokio::time::{Instant, timeout_at};

use crate::progress::Key;

/// How many images are read at the same time.
const AT_ONCE: usize = 8;
/// How many manifests of one index are read.
const MOST_CHILDREN: usize = 64;
/// Longest time that a copy waits for lists of tags and for manifests of other images.
const LONGEST: Duration = Duration::from_secs(30);
/// How many images may wait to be read; further ones are skipped.
const MOST_WAITING: usize = 4096;
/// How many manifests are read in a pass: a few seconds with a registry nearby.
const MOST_READ: usize = 4096;
/// How many blobs are remembered, at 16 bytes each.
const MOST_BLOBS: usize = 128 * 1024;

/// The blobs of a mirror's images at its destination. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Catalogue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<CatalogueState>,
    /// Whether the images of some repositories are still unknown.
    listing: watch::Sender<bool>,
    /// Held by the copy that reads; the others wait for its result.
    reading: AsyncMutex<()>,
    /// Held until the registry's first answer to a push.
    first_push: AsyncMutex<()>,
}

/// Whether a registry hints that a blob could be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MountHints {
    /// It gives hints, so no manifest has to be read.
    Given,
    /// It mounts only from a repository that the client names.
    Absent,
}

#[derive(Debug, Default)]
struct CatalogueState {
    /// Images that may be at the destination, and the hosts that they come from: their comparison
    /// is not finished.
    expected: HashMap<Key, Host>,
    /// Images at the destination that have not been read.
    unread: HashMap<Key, Host>,
    /// Images that are being read.
    reading: HashSet<Key>,
    /// Hashes of the images that were read.
    read: HashSet<u64>,
    /// Manifests that were read in this pass.
    spent: usize,
    /// Indices into `paths`, by the hash of the source's host and the blob. If two blobs have the
    /// same hash, the registry declines the mount of one of them.
    blobs: HashMap<u64, u32>,
    paths: Vec<RepositoryPath>,
    numbers: HashMap<RepositoryPath, u32>,
    hashes: RandomState,
    hints: Option<MountHints>,
    /// Whether a copy waited too long for the lists of tags, so that none waits again.
    waited_for_lists: bool,
}

impl Catalogue {
    /// Begins a pass: manifests may be read again.
    pub(crate) fn begin_pass(&self) {
        self.state().spent = 0;
    }

    /// Sets whether the first lists of tags are still being read. While they are, the first copies
    /// wait, because it is unknown what the other repositories have at the destination.
    pub(crate) fn set_listing(&self, listing: bool) {
        let listing = listing && !self.state().waited_for_lists;
        self.0.listing.send_if_modified(|before| {
            let is_new = *before != listing;
            *before = listing;
            is_new
        });
    }

    /// Records that source and destination of an image from the host `source` are being compared.
    /// `held` is what the destination had the last time.
    pub(crate) fn being_compared(&self, image: &Key, source: &Host, held: Option<Digest>) {
        match held {
            Some(digest) => self.state().holds(image, source, digest),
            None => self.state().expect(image, source),
        }
    }

    /// Records that the destination has this image from the host `source` at this digest, or does
    /// not have it.
    pub(crate) fn compared(&self, image: &Key, source: &Host, there: Option<Digest>) {
        let mut state = self.state();
        state.expected.remove(image);
        let is_read_now = state.reading.contains(image);
        if let Some(digest) = there.filter(|_| !is_read_now) {
            state.holds(image, source, digest);
        }
    }

    fn state(&self) -> MutexGuard<'_, CatalogueState> {
        // Ignores poisoning: a lost entry costs a request or a blob that is sent again, so a panic
        // elsewhere does no harm.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_listing(&self) -> bool {
        *self.0.listing.borrow()
    }

    /// Waits until the images of every repository are known, or until the deadline.
    async fn listed(&self, deadline: Instant) {
        let mut listing = self.0.listing.subscribe();
        let listed = listing.wait_for(|listing| !listing);
        // The sender is in `self`.
        if timeout_at(deadline, listed).await.is_err() {
            self.state().waited_for_lists = true;
            self.set_listing(false);
        }
    }
}

/// The first push to a registry, while it is unknown whether the registry gives hints.
pub(super) struct FirstPush<'c> {
    catalogue: &'c Catalogue,
    _others_wait: AsyncGuard<'c, ()>,
}

impl FirstPush<'_> {
    /// Records what the registry's answer shows.
    pub(super) fn answered(self, hints: MountHints) {
        self.catalogue.state().hints = Some(hints);
    }
}

/// What to do before a push.
pub(super) enum PushPreparation<'c> {
    /// Nothing: the registry gives hints, or there is nothing to mount from.
    Nothing,
    /// Look for the blob.
    SearchCatalogue,
    /// Push, and record how the registry answers.
    Push(FirstPush<'c>),
}

/// Where blobs of one destination may be mounted from: its catalogue, and access to its manifests.
#[derive(Debug, Clone)]
pub(crate) struct Candidates {
    pub(crate) catalogue: Catalogue,
    pub(crate) client: Client,
    pub(crate) credentials: Arc<Credentials>,
}

impl Candidates {
    /// What to do before the push of a blob with an unknown location. The first push to a registry
    /// keeps others waiting until it is answered.
    pub(super) async fn before_push(&self) -> PushPreparation<'_> {
        let known = || {
            let state = self.catalogue.state();
            (state.hints, state.is_empty())
        };
        let is_listing = self.catalogue.is_listing();
        match known() {
            (Some(MountHints::Given), _) => return PushPreparation::Nothing,
            (_, true) if !is_listing => return PushPreparation::Nothing,
            (Some(MountHints::Absent), _) => return PushPreparation::SearchCatalogue,
            (None, _) => {}
        }
        let others_wait = self.catalogue.0.first_push.lock().await;
        match known().0 {
            Some(MountHints::Given) => PushPreparation::Nothing,
            Some(MountHints::Absent) => PushPreparation::SearchCatalogue,
            None => PushPreparation::Push(FirstPush {
                catalogue: &self.catalogue,
                _others_wait: others_wait,
            }),
        }
    }

    /// A repository that had the blob from the host `source` when its manifests were read. Reads
    /// images that have not been read.
    pub(super) async fn find(&self, source: &str, blob: &Digest) -> Option<RepositoryPath> {
        let catalogue = &self.catalogue;
        let found = catalogue.state().find(source, blob);
        if found.is_some() {
            return found;
        }
        // Also if nothing is left to read: another copy may be reading it.
        let _reading = catalogue.0.reading.lock().await;
        // Copies wait for both, each with its own time limit, so slow registries cost them no more
        // than that.
        catalogue.listed(Instant::now() + LONGEST).await;
        let deadline = Instant::now() + LONGEST;
        let images = {
            let mut state = catalogue.state();
            // It may have been read in the meantime.
            if let Some(found) = state.find(source, blob) {
                return Some(found);
            }
            state.take_unread()
        };
        let reads = images
            .into_iter()
            .map(|(image, source)| self.read(image, source));
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        let all = async { while reads.next().await.is_some() {} };
        let is_slow = timeout_at(deadline, all).await.is_err();
        let mut state = catalogue.state();
        if is_slow {
            state.stop();
        }
        state.reading.clear();
        state.find(source, blob)
    }

    /// Reads one image. If it cannot be read completely, it is read again in the next pass.
    async fn read(&self, image: Key, source: Host) {
        let (path, credentials) = (image.repository.path(), self.credentials.clone());
        let client = self.client.repository(&image.repository, credentials);
        let endpoint = Endpoint::from(client);
        let ManifestRead::Whole(root) = self.read_manifest(&endpoint, image.version).await else {
            return;
        };
        let digest = root.digest();
        self.catalogue.state().take_in(path, &source, &root);
        for child in root.children().iter().take(MOST_CHILDREN) {
            let version = Version::Digest(child.digest);
            match self.read_manifest(&endpoint, version).await {
                ManifestRead::Whole(child) => {
                    self.catalogue.state().take_in(path, &source, &child);
                }
                // A sparse copy.
                ManifestRead::Absent => {}
                ManifestRead::Unanswered => return,
            }
        }
        self.catalogue.state().was_read(path, &digest);
    }

    /// Reads a manifest. If the registry refuses, limits or fails, no further manifest is read in
    /// this pass.
    async fn read_manifest(&self, endpoint: &Endpoint, version: Version) -> ManifestRead {
        if !self.catalogue.state().spend() {
            return ManifestRead::Unanswered;
        }
        match endpoint.manifest(&version).await {
            Ok(manifest) => ManifestRead::Whole(Box::new(manifest)),
            Err(error) if error.category() == Category::NotFound => ManifestRead::Absent,
            Err(error) => {
                if self.catalogue.state().stop() {
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

/// The result of reading a manifest.
enum ManifestRead {
    Whole(Box<Manifest>),
    /// The registry does not have it.
    Absent,
    /// There was no answer, or no request.
    Unanswered,
}

impl CatalogueState {
    /// Whether there is nothing to mount from. Images that another copy is reading right now may
    /// have any blob.
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.reading.is_empty() && !self.has_unread()
    }

    fn has_unread(&self) -> bool {
        self.spent < MOST_READ && !(self.unread.is_empty() && self.expected.is_empty())
    }

    fn expect(&mut self, image: &Key, source: &Host) {
        if self.expected.len() < MOST_WAITING {
            self.expected.insert(image.clone(), source.clone());
        }
    }

    fn holds(&mut self, image: &Key, source: &Host, digest: Digest) {
        let is_read = self
            .read
            .contains(&self.hash(image.repository.path(), &digest));
        let pinned = Key {
            repository: image.repository.clone(),
            version: Version::Digest(digest),
        };
        if !is_read && !self.reading.contains(&pinned) && self.unread.len() < MOST_WAITING {
            self.unread.insert(pinned, source.clone());
        }
    }

    fn take_unread(&mut self) -> Vec<(Key, Host)> {
        let unread = self.unread.drain().chain(self.expected.drain());
        let unread: Vec<(Key, Host)> = unread.collect();
        self.reading = unread.iter().map(|(image, _)| image.clone()).collect();
        unread
    }

    /// Reads no further manifest in this pass. Returns whether that is new.
    fn stop(&mut self) -> bool {
        let is_new = self.spent < MOST_READ;
        self.spent = MOST_READ;
        is_new
    }

    /// Whether one more manifest may be read in this pass; counts it.
    fn spend(&mut self) -> bool {
        let may = self.spent < MOST_READ;
        self.spent += usize::from(may);
        may
    }

    fn take_in(&mut self, path: &RepositoryPath, source: &Host, manifest: &Manifest) {
        let number = self.number(path);
        // Foreign layers need not be there.
        for blob in manifest.blobs().filter(|blob| !blob.is_foreign()) {
            if self.blobs.len() >= MOST_BLOBS {
                // Images that are still there are read again in the next pass.
                self.blobs.clear();
                self.read.clear();
            }
            let hash = self.hashes.hash_one((source.as_str(), blob.digest));
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

    fn find(&self, source: &str, blob: &Digest) -> Option<RepositoryPath> {
        let number = *self.blobs.get(&self.hashes.hash_one((source, *blob)))?;
        self.paths.get(usize::try_from(number).ok()?).cloned()
    }

    fn hash(&self, path: &RepositoryPath, digest: &Digest) -> u64 {
        self.hashes.hash_one((path, digest))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coral_distribution::{ClientOptions, HostOptions};
    use coral_testkit::{FaultRegistry, ImageBuilder};

    use super::*;

    fn key(path: &str, tag: &str) -> Key {
        let image = format!("registry.example/{path}:{tag}");
        let image = coral_image::ImageRef::parse(&image).unwrap();
        Key {
            repository: image.repository().clone(),
            version: image.version(),
        }
    }

    fn host() -> Host {
        Host::parse("quay.io").unwrap()
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
        catalogue.being_compared(&here, &host(), None);
        catalogue.being_compared(&absent, &host(), None);
        catalogue.being_compared(&held, &host(), Some(digest(3)));
        catalogue.compared(&here, &host(), Some(digest(1)));
        catalogue.compared(&absent, &host(), None);
        catalogue.compared(&held, &host(), Some(digest(3)));
        let pinned = |image: &Key, number| Key {
            version: Version::Digest(digest(number)),
            ..image.clone()
        };
        let mut state = catalogue.state();
        let unread: HashMap<Key, Host> = state.take_unread().into_iter().collect();
        let expected = [pinned(&here, 1), pinned(&held, 3)].map(|image| (image, host()));
        assert_eq!(unread, HashMap::from(expected));
        state.was_read(here.repository.path(), &digest(1));
        state.reading.clear();
        drop(state);
        catalogue.compared(&here, &host(), Some(digest(1)));
        assert!(!catalogue.state().has_unread(), "it is read already");
        catalogue.compared(&here, &host(), Some(digest(2)));
        assert!(catalogue.state().has_unread(), "its tag has moved");
    }

    #[test]
    fn an_image_that_is_being_compared_is_asked_for_by_its_tag() {
        let catalogue = Catalogue::default();
        let image = key("a", "1");
        catalogue.being_compared(&image, &host(), None);
        assert_eq!(catalogue.state().take_unread(), [(image.clone(), host())]);
        catalogue.compared(&image, &host(), Some(digest(1)));
        assert!(!catalogue.state().has_unread(), "it is being read");
    }

    /// Regression: a copy that came while another one read the first manifests sent its blobs.
    #[tokio::test]
    async fn a_copy_waits_for_the_manifests_that_another_copy_is_reading() {
        let candidates = Candidates {
            catalogue: Catalogue::default(),
            client: Client::new(ClientOptions::default()).unwrap(),
            credentials: Arc::default(),
        };
        let catalogue = &candidates.catalogue;
        catalogue.state().hints = Some(MountHints::Absent);
        let before = candidates.before_push().await;
        assert!(
            matches!(before, PushPreparation::Nothing),
            "there is no image"
        );
        catalogue.compared(&key("a", "1"), &host(), Some(digest(1)));
        let read = catalogue.state().take_unread();
        assert_eq!(read.len(), 1);
        let before = candidates.before_push().await;
        assert!(
            matches!(before, PushPreparation::SearchCatalogue),
            "it is being read"
        );
        catalogue.state().reading.clear();
        let before = candidates.before_push().await;
        assert!(matches!(before, PushPreparation::Nothing), "it had no blob");
    }

    /// Regression: lists of tags that took all of the time left none to the manifests.
    #[tokio::test(start_paused = true)]
    async fn manifests_have_their_time_after_lists_that_took_all_of_theirs() {
        let registry = FaultRegistry::start().await;
        let built = ImageBuilder::new(1).layer_of(1000).tag("1").build();
        registry.load("team/old", &built);
        let mut options = ClientOptions::default();
        let plain = HostOptions {
            plain_http: true,
            ..HostOptions::default()
        };
        let here = Host::parse(&registry.host()).unwrap();
        options.hosts.insert(here, plain);
        let candidates = Candidates {
            catalogue: Catalogue::default(),
            client: Client::new(options).unwrap(),
            credentials: Arc::default(),
        };
        let catalogue = &candidates.catalogue;
        let image = format!("{}/team/old:1", registry.host());
        let image = coral_image::ImageRef::parse(&image).unwrap();
        let key = Key {
            repository: image.repository().clone(),
            version: image.version(),
        };
        catalogue.compared(&key, &host(), Some(built.digest()));
        catalogue.set_listing(true);
        let mut listing = catalogue.0.listing.subscribe();
        // The clock is paused, and is advanced only while nothing can make progress: to the end of
        // the wait for lists. From then on it runs, so that the test waits for a real registry.
        let clock = async {
            listing.wait_for(|listing| !listing).await.unwrap();
            tokio::time::resume();
        };
        let blob = *built.blobs.keys().next().unwrap();
        let (found, ()) = tokio::join!(candidates.find("quay.io", &blob), clock);
        assert_eq!(found.as_ref(), Some(image.repository().path()));
    }

    #[test]
    fn a_blob_is_found_where_a_manifest_names_it() {
        let mut state = CatalogueState::default();
        let (a, b) = (key("a", "1"), key("b", "1"));
        state.take_in(a.repository.path(), &host(), &manifest(0..3));
        state.take_in(b.repository.path(), &host(), &manifest(3..5));
        let found = |number| state.find("quay.io", &digest(number));
        assert_eq!(found(1).as_ref(), Some(a.repository.path()));
        assert_eq!(found(4).as_ref(), Some(b.repository.path()));
        assert_eq!(found(5), None);
        let of_another = state.find("liar.example", &digest(1));
        assert_eq!(of_another, None, "another host never sent it");
    }

    #[test]
    fn what_is_kept_and_what_is_read_in_a_pass_are_bounded() {
        let catalogue = Catalogue::default();
        for number in 0..MOST_WAITING + 10 {
            let image = key(&format!("p{number}"), "1");
            catalogue.being_compared(&image, &host(), None);
            catalogue.compared(&image, &host(), Some(digest(number)));
        }
        let mut state = catalogue.state();
        assert_eq!(state.unread.len(), MOST_WAITING);
        let path = key("a", "1").repository;
        for number in 0..200 {
            let manifest = manifest(number * 1000..(number + 1) * 1000);
            state.take_in(path.path(), &host(), &manifest);
            assert!(state.blobs.len() <= MOST_BLOBS);
        }
        let last = state.find("quay.io", &digest(199_999));
        assert!(last.is_some(), "the last one stays");
        let may = std::iter::repeat_with(|| state.spend()).take_while(|may| *may);
        assert_eq!(may.take(2 * MOST_READ).count(), MOST_READ);
        drop(state);
        assert!(!catalogue.state().has_unread(), "none in this pass");
        catalogue.begin_pass();
        assert!(catalogue.state().has_unread());
    }
}
