//! Where blobs have arrived at a registry, as far as this process saw.
//!
//! What is forgotten costs a request, or a blob that is sent once more. What is kept is bounded:
//! the memory of a mirror must not grow with all that it has ever copied.

use std::collections::HashMap;

use coral_image::{Digest, RepositoryPath};

/// Blobs in one generation, as many as a table of 2,048 places takes: with those that most images
/// share among them, some hundred images.
const GENERATION: usize = 1792;
/// A blob is mounted from any of its paths, so few are enough.
const MOST_PATHS: usize = 8;

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It is where it is wanted.
    Here,
    /// It is at another path of the same registry.
    At(RepositoryPath),
    /// Nothing.
    Unknown,
}

/// The blobs at one registry, in two generations: what is used moves to the young one; when that
/// is full, it becomes the old one, and what is left in the old one is forgotten.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    young: HashMap<Digest, Vec<RepositoryPath>>,
    old: HashMap<Digest, Vec<RepositoryPath>>,
}

impl Arrived {
    /// Where a blob is, for who wants it at `path`; a layout has no paths.
    pub(super) fn find(&mut self, blob: &Digest, path: Option<&RepositoryPath>) -> Whereabouts {
        if let Some(paths) = self.old.remove(blob) {
            self.keep(*blob, paths);
        }
        match (self.young.get(blob), path) {
            (None, _) => Whereabouts::Unknown,
            (Some(_), None) => Whereabouts::Here,
            (Some(paths), Some(path)) if paths.contains(path) => Whereabouts::Here,
            (Some(paths), Some(_)) => paths
                .first()
                .map_or(Whereabouts::Unknown, |other| Whereabouts::At(other.clone())),
        }
    }

    /// A blob was seen or put there.
    pub(super) fn remember(&mut self, blob: &Digest, path: Option<&RepositoryPath>) {
        let known = self.young.remove(blob).or_else(|| self.old.remove(blob));
        let mut paths = known.unwrap_or_default();
        if let Some(path) = path
            && !paths.contains(path)
        {
            // The latest are the likeliest to be there still.
            if paths.len() == MOST_PATHS {
                paths.remove(0);
            }
            paths.push(path.clone());
        }
        self.keep(*blob, paths);
    }

    fn keep(&mut self, blob: Digest, paths: Vec<RepositoryPath>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(blob, paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepositoryPath {
        RepositoryPath::parse(text).unwrap()
    }

    fn blob(number: usize) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    #[test]
    fn a_blob_is_here_at_another_path_or_nowhere() {
        let mut arrived = Arrived::default();
        let (a, b) = (path("a"), path("b"));
        assert_eq!(arrived.find(&blob(0), Some(&a)), Whereabouts::Unknown);
        arrived.remember(&blob(0), Some(&a));
        assert_eq!(arrived.find(&blob(0), Some(&a)), Whereabouts::Here);
        assert_eq!(arrived.find(&blob(0), Some(&b)), Whereabouts::At(a.clone()));
        arrived.remember(&blob(0), Some(&b));
        assert_eq!(arrived.find(&blob(0), Some(&b)), Whereabouts::Here);
        assert_eq!(arrived.find(&blob(0), None), Whereabouts::Here);
    }

    #[test]
    fn however_much_arrives_what_is_kept_is_bounded_and_what_is_used_stays() {
        let mut arrived = Arrived::default();
        let a = path("a");
        arrived.remember(&blob(0), Some(&a));
        for number in 1..20_000 {
            arrived.remember(&blob(number), Some(&a));
            if number % 1000 == 0 {
                assert_eq!(arrived.find(&blob(0), Some(&a)), Whereabouts::Here);
            }
            assert!(arrived.young.len() + arrived.old.len() <= 2 * GENERATION);
        }
        assert_eq!(arrived.find(&blob(1), Some(&a)), Whereabouts::Unknown);
        for number in 0..1000 {
            arrived.remember(&blob(0), Some(&path(&format!("p{number}"))));
        }
        assert_eq!(arrived.young[&blob(0)].len(), MOST_PATHS);
        assert_eq!(
            arrived.find(&blob(0), Some(&path("p999"))),
            Whereabouts::Here
        );
    }
}
