//! What tags named at their sources when they were last looked up. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use coral_image::{Digest, RepositoryPath, Tag};

use crate::store::ManifestRecord;

/// How long the answer to a lookup is used.
const FRESH: Duration = Duration::from_mins(1);
/// How many answers are kept. Older ones are still needed by downloads that are running: they say
/// which tags name an image once it is complete.
const MOST: usize = 10_000;

/// The answers to lookups of tags.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    answers: HashMap<RepositoryPath, HashMap<Tag, Answer>>,
    count: usize,
}

#[derive(Debug)]
struct Answer {
    named: Option<ManifestRecord>,
    /// When the source gave it; `None` if the source failed since.
    at: Option<Instant>,
}

impl Answer {
    fn is_fresh(&self, now: Instant) -> bool {
        let age = self.at.map(|at| now.saturating_duration_since(at));
        age.is_some_and(|age| age < FRESH)
    }
}

impl Lookups {
    /// What the tag named less than a minute ago; `Some(None)` if there was no such tag.
    pub(super) fn fresh(
        &self,
        repository: &RepositoryPath,
        tag: &Tag,
        now: Instant,
    ) -> Option<Option<ManifestRecord>> {
        let answer = self.answers.get(repository)?.get(tag)?;
        answer.is_fresh(now).then(|| answer.named.clone())
    }

    pub(super) fn record(
        &mut self,
        repository: &RepositoryPath,
        tag: &Tag,
        named: Option<ManifestRecord>,
        now: Instant,
    ) {
        if self.count >= MOST {
            self.shrink(now);
        }
        let tags = self.answers.entry(repository.clone()).or_default();
        let at = Some(now);
        let answer = Answer { named, at };
        self.count += usize::from(tags.insert(tag.clone(), answer).is_none());
    }

    /// The tags that named a manifest when they were last looked up.
    pub(super) fn tags_of(&self, repository: &RepositoryPath, digest: &Digest) -> Vec<Tag> {
        let tags = self.answers.get(repository).into_iter().flatten();
        let names = |answer: &Answer| {
            let named = answer.named.as_ref();
            named.is_some_and(|named| named.digest == *digest)
        };
        let mut found: Vec<Tag> = tags
            .filter(|(_, answer)| names(answer))
            .map(|(tag, _)| tag.clone())
            .collect();
        found.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        found
    }

    /// Looks the tags of a repository up again when they are next asked for: its source failed
    /// after it had named them, and what is stored may still be served. An image that is completed
    /// later gets its tags nevertheless.
    pub(super) fn expire(&mut self, repository: &RepositoryPath) {
        for answer in self.answers.get_mut(repository).into_iter().flatten() {
            answer.1.at = None;
        }
    }

    /// Removes what is no longer fresh; everything, if that is not enough.
    fn shrink(&mut self, now: Instant) {
        for tags in self.answers.values_mut() {
            tags.retain(|_, answer| answer.is_fresh(now));
        }
        self.answers.retain(|_, tags| !tags.is_empty());
        self.count = self.answers.values().map(HashMap::len).sum();
        if self.count >= MOST {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &[u8]) -> ManifestRecord {
        ManifestRecord {
            digest: Digest::sha256(content),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: content.len() as u64,
        }
    }

    fn path(text: &str) -> RepositoryPath {
        RepositoryPath::parse(text).unwrap()
    }

    fn tag(text: &str) -> Tag {
        Tag::parse(text).unwrap()
    }

    #[test]
    fn an_answer_is_used_for_a_minute_and_names_tags_for_longer() {
        let (now, a) = (Instant::now(), path("docker.io/a"));
        let mut lookups = Lookups::default();
        lookups.record(&a, &tag("v1"), Some(record(b"1")), now);
        lookups.record(&a, &tag("gone"), None, now);
        let soon = now + Duration::from_secs(59);
        assert_eq!(
            lookups.fresh(&a, &tag("v1"), soon),
            Some(Some(record(b"1")))
        );
        assert_eq!(lookups.fresh(&a, &tag("gone"), soon), Some(None));
        assert_eq!(lookups.fresh(&path("docker.io/b"), &tag("v1"), soon), None);
        let later = now + Duration::from_secs(60);
        assert_eq!(lookups.fresh(&a, &tag("v1"), later), None);
        assert_eq!(lookups.tags_of(&a, &Digest::sha256(b"1")), [tag("v1")]);
    }

    #[test]
    fn a_tag_that_moved_no_longer_names_the_image_before() {
        let (now, a) = (Instant::now(), path("docker.io/a"));
        let mut lookups = Lookups::default();
        for name in ["v1", "latest"] {
            lookups.record(&a, &tag(name), Some(record(b"1")), now);
        }
        lookups.record(&a, &tag("latest"), Some(record(b"2")), now);
        assert_eq!(lookups.tags_of(&a, &Digest::sha256(b"1")), [tag("v1")]);
        assert_eq!(lookups.tags_of(&a, &Digest::sha256(b"2")), [tag("latest")]);
        lookups.expire(&a);
        assert_eq!(lookups.fresh(&a, &tag("v1"), now), None);
        assert_eq!(lookups.tags_of(&a, &Digest::sha256(b"1")), [tag("v1")]);
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let (now, a) = (Instant::now(), path("docker.io/a"));
        let mut lookups = Lookups::default();
        for n in 0..MOST {
            lookups.record(&a, &tag(&format!("old{n}")), None, now);
        }
        let later = now + FRESH;
        lookups.record(&a, &tag("new"), None, later);
        assert_eq!(lookups.count, 1);
        for n in 0..=MOST {
            lookups.record(&path(&format!("docker.io/{n}")), &tag("new"), None, later);
        }
        assert!(lookups.count <= MOST);
        let kept: usize = lookups.answers.values().map(HashMap::len).sum();
        assert_eq!(lookups.count, kept);
    }
}
