//! Where blobs have arrived at a registry, as far as this process knows.
//!
//! A forgotten blob costs a request, or is sent once more. The memory is bounded: it must not grow
//! with everything that a mirror has ever copied.
//!
//! A blob is offered for a mount only to copies from the host that its bytes came from. Any source
//! can claim to have a blob with any digest; a source that never sent the bytes is not believed,
//! and cannot get a blob of another source into its own repository.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use coral_image::{Digest, RepositoryPath};

/// Blobs in one generation, as many as fit into a table of 2,048 slots: with the layers that most
/// images share, a few hundred images.
const GENERATION: usize = 1792;
/// A blob is mounted from any of its paths, so few are enough.
const MOST_PATHS: usize = 8;

/// How long a blob is assumed to be where it was seen. Registries delete unreferenced blobs, some
/// of them after a minute.
const CERTAIN: Duration = Duration::from_secs(30);

/// What is known about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlobLocationHint {
    /// It is where it is wanted.
    Here,
    /// It is at another path of the same registry, and came from the same source host.
    At(RepositoryPath),
    /// Its location is unknown.
    Unknown,
}

/// A path that has a blob, the host from which the blob came, and when it was last seen there.
#[derive(Debug)]
struct Sighting {
    path: RepositoryPath,
    source: String,
    at: Instant,
}

/// The blobs at one registry, in two generations: a used one moves to the young generation; when
/// that is full, it becomes the old one, and what was left in the old one is forgotten.
#[derive(Debug, Default)]
pub(super) struct BlobSightings {
    young: HashMap<Digest, Vec<Sighting>>,
    old: HashMap<Digest, Vec<Sighting>>,
}

impl BlobSightings {
    /// Where a blob is, for a copy from the host `source` that needs it at `path`; a layout has no
    /// paths. A sighting that is too old counts as unknown.
    pub(super) fn find(
        &mut self,
        blob: &Digest,
        source: &str,
        path: Option<&RepositoryPath>,
        now: Instant,
    ) -> BlobLocationHint {
        if let Some(paths) = self.old.remove(blob) {
            self.keep(*blob, paths);
        }
        match (self.young.get(blob), path) {
            (None, _) => BlobLocationHint::Unknown,
            (Some(_), None) => BlobLocationHint::Here,
            (Some(paths), Some(path)) => match paths.iter().find(|known| known.path == *path) {
                Some(known) if now.saturating_duration_since(known.at) < CERTAIN => {
                    BlobLocationHint::Here
                }
                Some(_) => BlobLocationHint::Unknown,
                None => {
                    let other = paths.iter().find(|known| known.source == source);
                    other.map_or(BlobLocationHint::Unknown, |other| {
                        BlobLocationHint::At(other.path.clone())
                    })
                }
            },
        }
    }

    /// Records that a blob from the host `source` was seen or put there.
    pub(super) fn remember(
        &mut self,
        blob: &Digest,
        source: &str,
        path: Option<&RepositoryPath>,
        now: Instant,
    ) {
        let known = self.young.remove(blob).or_else(|| self.old.remove(blob));
        let mut paths = known.unwrap_or_default();
        if let Some(path) = path {
            paths.retain(|known| known.path != *path);
            // The latest are most likely still there.
            if paths.len() == MOST_PATHS {
                paths.remove(0);
            }
            paths.push(Sighting {
                path: path.clone(),
                source: source.to_owned(),
                at: now,
            });
        }
        self.keep(*blob, paths);
    }

    fn keep(&mut self, blob: Digest, paths: Vec<Sighting>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(blob, paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "quay.io";

    fn path(text: &str) -> RepositoryPath {
        RepositoryPath::parse(text).unwrap()
    }

    fn blob(number: usize) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    #[test]
    fn a_blob_is_here_at_another_path_or_nowhere() {
        let (mut arrived, now) = (BlobSightings::default(), Instant::now());
        let (a, b) = (path("a"), path("b"));
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&a), now),
            BlobLocationHint::Unknown
        );
        arrived.remember(&blob(0), SOURCE, Some(&a), now);
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&a), now),
            BlobLocationHint::Here
        );
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&b), now),
            BlobLocationHint::At(a.clone())
        );
        arrived.remember(&blob(0), SOURCE, Some(&b), now);
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&b), now),
            BlobLocationHint::Here
        );
        assert_eq!(
            arrived.find(&blob(0), SOURCE, None, now),
            BlobLocationHint::Here
        );
    }

    #[test]
    fn a_blob_is_mounted_only_for_copies_from_the_host_that_sent_it() {
        let (mut arrived, now) = (BlobSightings::default(), Instant::now());
        let (a, b, c) = (path("a"), path("b"), path("c"));
        arrived.remember(&blob(0), SOURCE, Some(&a), now);
        let mut find = |source, path| arrived.find(&blob(0), source, Some(path), now);
        assert_eq!(find("liar.example", &b), BlobLocationHint::Unknown);
        assert_eq!(find(SOURCE, &b), BlobLocationHint::At(a.clone()));
        assert_eq!(find("liar.example", &a), BlobLocationHint::Here);
        arrived.remember(&blob(0), "ghcr.io", Some(&b), now);
        let mut find = |source| arrived.find(&blob(0), source, Some(&c), now);
        assert_eq!(find("ghcr.io"), BlobLocationHint::At(b));
        assert_eq!(find(SOURCE), BlobLocationHint::At(a));
    }

    #[test]
    fn however_much_arrives_what_is_kept_is_bounded_and_what_is_used_stays() {
        let (mut arrived, now) = (BlobSightings::default(), Instant::now());
        let a = path("a");
        arrived.remember(&blob(0), SOURCE, Some(&a), now);
        for number in 1..20_000 {
            arrived.remember(&blob(number), SOURCE, Some(&a), now);
            if number % 1000 == 0 {
                assert_eq!(
                    arrived.find(&blob(0), SOURCE, Some(&a), now),
                    BlobLocationHint::Here
                );
            }
            assert!(arrived.young.len() + arrived.old.len() <= 2 * GENERATION);
        }
        assert_eq!(
            arrived.find(&blob(1), SOURCE, Some(&a), now),
            BlobLocationHint::Unknown
        );
        for number in 0..1000 {
            arrived.remember(&blob(0), SOURCE, Some(&path(&format!("p{number}"))), now);
        }
        assert_eq!(arrived.young[&blob(0)].len(), MOST_PATHS);
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&path("p999")), now),
            BlobLocationHint::Here
        );
    }

    #[test]
    fn a_blob_that_was_seen_long_ago_is_asked_for_again() {
        let (mut arrived, seen) = (BlobSightings::default(), Instant::now());
        let (a, b) = (path("a"), path("b"));
        arrived.remember(&blob(0), SOURCE, Some(&a), seen);
        let now = seen + CERTAIN;
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&a), now),
            BlobLocationHint::Unknown
        );
        let other = BlobLocationHint::At(a.clone());
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&b), now),
            other,
            "to mount"
        );
        arrived.remember(&blob(0), SOURCE, Some(&a), now);
        assert_eq!(
            arrived.find(&blob(0), SOURCE, Some(&a), now),
            BlobLocationHint::Here
        );
    }
}
