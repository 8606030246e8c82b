//! Manifests that clients were sent and that are not stored yet, because blobs of them are missing
//! here. Pure.

use std::collections::{HashMap, VecDeque};

use coral_image::{Descriptor, Digest, Manifest, RepositoryPath};

/// How many bytes of manifests are kept; the oldest are dropped first, and read again at the source
/// if they are asked for.
const MOST_BYTES: u64 = 64 << 20;

/// The manifests that are not stored yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    manifests: HashMap<RepositoryPath, HashMap<Digest, Entry>>,
    /// Their keys, oldest first.
    order: VecDeque<(RepositoryPath, Digest)>,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    /// Whether its missing blobs are being fetched.
    is_completing: bool,
}

impl Pending {
    pub(super) fn insert(&mut self, repository: &RepositoryPath, manifest: Manifest) {
        let (digest, size) = (manifest.digest(), manifest.size());
        let of_repository = self.manifests.entry(repository.clone()).or_default();
        if of_repository.contains_key(&digest) {
            return;
        }
        let is_completing = false;
        let entry = Entry {
            manifest,
            is_completing,
        };
        of_repository.insert(digest, entry);
        self.bytes += size;
        self.order.push_back((repository.clone(), digest));
        while self.bytes > MOST_BYTES
            && let Some((repository, digest)) = self.order.pop_front()
        {
            self.take(&repository, &digest);
        }
    }

    pub(super) fn get(&self, repository: &RepositoryPath, digest: &Digest) -> Option<Manifest> {
        let entry = self.manifests.get(repository)?.get(digest)?;
        Some(entry.manifest.clone())
    }

    /// Removes a manifest that is stored now.
    pub(super) fn remove(&mut self, repository: &RepositoryPath, digest: &Digest) {
        if self.take(repository, digest) {
            let is_other = |(of, it): &(RepositoryPath, Digest)| of != repository || it != digest;
            self.order.retain(is_other);
        }
    }

    fn take(&mut self, repository: &RepositoryPath, digest: &Digest) -> bool {
        let Some(of_repository) = self.manifests.get_mut(repository) else {
            return false;
        };
        let Some(removed) = of_repository.remove(digest) else {
            return false;
        };
        if of_repository.is_empty() {
            self.manifests.remove(repository);
        }
        self.bytes -= removed.manifest.size();
        true
    }

    /// What a manifest says about a blob of the repository.
    pub(super) fn blob(&self, repository: &RepositoryPath, digest: &Digest) -> Option<Descriptor> {
        let mut blobs = self.of_repository(repository).flat_map(Manifest::blobs);
        blobs.find(|blob| blob.digest == *digest).cloned()
    }

    /// The manifests with this blob whose other blobs nothing fetches yet. They count as being
    /// completed from now on.
    pub(super) fn begin_completing(
        &mut self,
        repository: &RepositoryPath,
        blob: &Digest,
    ) -> Vec<Manifest> {
        let mut found = vec![];
        let entries = self.manifests.get_mut(repository).into_iter().flatten();
        for (_, entry) in entries {
            let is_due =
                !entry.is_completing && entry.manifest.blobs().any(|it| it.digest == *blob);
            if is_due {
                entry.is_completing = true;
                found.push(entry.manifest.clone());
            }
        }
        found
    }

    /// The image could not be completed: the next request for one of its blobs tries again.
    pub(super) fn failed(&mut self, repository: &RepositoryPath, digest: &Digest) {
        let of_repository = self.manifests.get_mut(repository);
        if let Some(entry) = of_repository.and_then(|all| all.get_mut(digest)) {
            entry.is_completing = false;
        }
    }

    /// The indexes that list this image for a platform. An attestation has none, and is no reason
    /// to store an index.
    pub(super) fn parents(&self, repository: &RepositoryPath, child: &Digest) -> Vec<Manifest> {
        let is_it = |it: &Descriptor| it.digest == *child && !is_attestation(it);
        let all = self.of_repository(repository);
        all.filter(|manifest| manifest.children().iter().any(is_it))
            .cloned()
            .collect()
    }

    /// The same, without those that are being completed; they count as being completed from now on.
    pub(super) fn begin_completing_parents(
        &mut self,
        repository: &RepositoryPath,
        child: &Digest,
    ) -> Vec<Manifest> {
        let mut parents = self.parents(repository, child);
        let of_repository = self.manifests.get_mut(repository);
        let Some(of_repository) = of_repository else {
            return parents;
        };
        parents.retain(|parent| {
            let entry = of_repository.get_mut(&parent.digest());
            entry.is_some_and(|entry| !std::mem::replace(&mut entry.is_completing, true))
        });
        parents
    }

    fn of_repository(&self, repository: &RepositoryPath) -> impl Iterator<Item = &Manifest> {
        let all = self.manifests.get(repository).into_iter().flatten();
        all.map(|(_, entry)| &entry.manifest)
    }
}

/// Whether an index lists this for no platform, as builders list attestations.
pub(super) fn is_attestation(child: &Descriptor) -> bool {
    let platform = child.platform.as_ref();
    platform.is_some_and(|platform| platform.os == "unknown")
}

#[cfg(test)]
mod tests {
    use coral_image::media_type;
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> RepositoryPath {
        RepositoryPath::parse(text).unwrap()
    }

    fn manifest(value: &serde_json::Value) -> Manifest {
        let bytes = serde_json::to_vec(value).unwrap();
        Manifest::parse(bytes.into(), None).unwrap()
    }

    fn descriptor(content: &[u8]) -> serde_json::Value {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": Digest::sha256(content),
            "size": content.len(),
        })
    }

    fn image(layers: &[&[u8]]) -> Manifest {
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
        manifest(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(b"{}"),
            "layers": layers,
        }))
    }

    #[test]
    fn an_image_is_completed_once_one_of_its_blobs_is_asked_for() {
        let (a, b) = (path("docker.io/a"), path("docker.io/b"));
        let (one, two) = (image(&[b"1", b"shared"]), image(&[b"2", b"shared"]));
        let mut pending = Pending::default();
        pending.insert(&a, one.clone());
        pending.insert(&a, two.clone());
        pending.insert(&b, one.clone());
        let layer = Digest::sha256(b"1");
        assert_eq!(pending.blob(&a, &layer).unwrap().size, 1);
        assert_eq!(pending.blob(&a, &Digest::sha256(b"other")), None);
        assert_eq!(
            pending.begin_completing(&a, &layer),
            std::slice::from_ref(&one)
        );
        // It already is, but not so the other one.
        assert!(pending.begin_completing(&a, &layer).is_empty());
        let shared = Digest::sha256(b"shared");
        assert_eq!(pending.begin_completing(&a, &shared), [two]);
        pending.failed(&a, &one.digest());
        assert_eq!(
            pending.begin_completing(&a, &shared),
            std::slice::from_ref(&one)
        );
        pending.remove(&a, &one.digest());
        assert_eq!(pending.get(&a, &one.digest()), None);
        assert_eq!(pending.get(&b, &one.digest()), Some(one));
    }

    #[test]
    fn the_indexes_of_an_image_are_found() {
        let a = path("docker.io/a");
        let one = image(&[b"1"]);
        let index = manifest(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": [{
                "mediaType": media_type::OCI_MANIFEST,
                "digest": one.digest(),
                "size": one.size(),
            }],
        }));
        let mut pending = Pending::default();
        pending.insert(&a, index.clone());
        assert_eq!(pending.parents(&a, &one.digest()), [index]);
        assert!(pending.parents(&a, &Digest::sha256(b"x")).is_empty());
        assert!(pending.parents(&path("b"), &one.digest()).is_empty());
        let begun = pending.begin_completing_parents(&a, &one.digest());
        assert_eq!(begun.len(), 1);
        let again = pending.begin_completing_parents(&a, &one.digest());
        assert!(again.is_empty(), "it is being completed");
        let attestation = image(&[b"attestation"]);
        let other = manifest(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": [{
                "mediaType": media_type::OCI_MANIFEST,
                "digest": attestation.digest(),
                "size": attestation.size(),
                "platform": {"os": "unknown", "architecture": "unknown"},
            }],
        }));
        pending.insert(&a, other);
        assert!(pending.parents(&a, &attestation.digest()).is_empty());
        // What it lists is no blob.
        assert!(pending.begin_completing(&a, &one.digest()).is_empty());
    }

    #[test]
    fn the_bytes_of_manifests_are_bounded() {
        let a = path("docker.io/a");
        let large = |n: u32| {
            let text = "x".repeat(1 << 20);
            manifest(&json!({
                "schemaVersion": 2,
                "mediaType": media_type::OCI_MANIFEST,
                "config": descriptor(b"{}"),
                "layers": [],
                "annotations": {"n": n.to_string(), "text": text},
            }))
        };
        let mut pending = Pending::default();
        let first = large(0).digest();
        for n in 0..65 {
            pending.insert(&a, large(n));
        }
        assert!(pending.bytes <= MOST_BYTES);
        assert_eq!(pending.get(&a, &first), None);
        assert!(pending.get(&a, &large(64).digest()).is_some());
        assert_eq!(pending.order.len(), pending.of_repository(&a).count());
    }
}
