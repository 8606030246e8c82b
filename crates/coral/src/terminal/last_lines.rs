//! What was last printed about each image, so that nothing is printed twice in a row.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

/// How many images one generation holds. An image that is not mentioned while that many others are
/// is forgotten.
const PER_GENERATION: usize = 1_000_000;

/// What was last printed about each image, as hashes: 16 bytes per image, however long its name.
///
/// A full generation is not forgotten at once: it becomes the older one, and images that are still
/// mentioned move from there to the new one. As long as all images fit into one generation, none is
/// repeated.
pub(super) struct LastLines {
    hasher: RandomState,
    per_generation: usize,
    recent: HashMap<u64, u64>,
    older: HashMap<u64, u64>,
}

impl Default for LastLines {
    fn default() -> Self {
        Self::with_generations_of(PER_GENERATION)
    }
}

impl LastLines {
    fn with_generations_of(per_generation: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            per_generation,
            recent: HashMap::new(),
            older: HashMap::new(),
        }
    }

    /// Whether this differs from the last line about the image. Remembers it as the last.
    pub(super) fn is_new(&mut self, image: &(impl Hash + ?Sized), gist: &str) -> bool {
        let (image, gist) = (self.hasher.hash_one(image), self.hasher.hash_one(gist));
        let is_full = self.recent.len() >= self.per_generation;
        if is_full && !self.recent.contains_key(&image) {
            self.older = std::mem::take(&mut self.recent);
        }
        let before = self.recent.insert(image, gist);
        let before = before.or_else(|| self.older.get(&image).copied());
        before != Some(gist)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: with 10,000 images or more, what was said was forgotten whole, and every pass
    /// told of every image.
    #[test]
    fn a_pass_in_which_nothing_changed_is_silent_at_any_number_of_images() {
        let mut said = LastLines::default();
        let pass = |said: &mut LastLines| {
            let images = (0..25_000).map(|n| format!("quay.io/a:{n}"));
            images.filter(|image| said.is_new(image, "digest")).count()
        };
        assert_eq!(
            [pass(&mut said), pass(&mut said), pass(&mut said)],
            [25_000, 0, 0]
        );
    }

    #[test]
    fn what_is_spoken_of_outlives_a_full_memory() {
        let mut said = LastLines::with_generations_of(10);
        said.is_new("kept", "one");
        for n in 0..100 {
            assert!(said.is_new(&n, "one"));
            assert!(!said.is_new("kept", "one"), "{n}");
        }
        assert!(said.is_new("kept", "two"));
        assert!(said.recent.len() + said.older.len() <= 20);
    }
}
