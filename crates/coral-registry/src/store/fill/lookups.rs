//! What tags named at their sources when they were last looked up. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coral_image::{Digest, RepositoryPath, Tag};

use crate::pull_through::UpstreamError;
use crate::store::ManifestRecord;

/// How long the answer to a lookup is used.
const LOOKUP_TTL: Duration = Duration::from_mins(1);
/// How long an image that is completed gets the tags that named it. Later, the tags may have been
/// moved by a mirror; then they are set when they are next looked up.
const PENDING_TAG_TTL: Duration = Duration::from_hours(1);
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
    at: Instant,
    /// When the source failed to send what it had named.
    failed: Option<Instant>,
}

impl Answer {
    fn is_fresh(&self, now: Instant) -> bool {
        is_recent(self.at, now)
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < LOOKUP_TTL
}

/// What is remembered of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remembered {
    /// What it named less than a minute ago; `None` if there was no such tag.
    Named(Option<ManifestRecord>),
    /// The source failed less than a minute ago, after it had named an image: what is stored is
    /// better than an image that cannot be fetched.
    Failed,
}

impl Lookups {
    /// What is remembered of the tag, if that is recent enough.
    pub(super) fn recent(
        &self,
        repository: &RepositoryPath,
        tag: &Tag,
        now: Instant,
    ) -> Option<Remembered> {
        let answer = self.answers.get(repository)?.get(tag)?;
        if answer.failed.is_some_and(|failed| is_recent(failed, now)) {
            return Some(Remembered::Failed);
        }
        let named = || Remembered::Named(answer.named.clone());
        answer.is_fresh(now).then(named)
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
        let answer = Answer {
            named,
            at: now,
            failed: None,
        };
        self.count += usize::from(tags.insert(tag.clone(), answer).is_none());
    }

    /// The tags that named a manifest when they were last looked up, unless that is too long ago.
    pub(super) fn tags_of(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        now: Instant,
    ) -> Vec<Tag> {
        let tags = self.answers.get(repository).into_iter().flatten();
        let names = |answer: &Answer| {
            let named = answer.named.as_ref();
            named.is_some_and(|named| named.digest == *digest)
                && now.saturating_duration_since(answer.at) < PENDING_TAG_TTL
        };
        let mut found: Vec<Tag> = tags
            .filter(|(_, answer)| names(answer))
            .map(|(tag, _)| tag.clone())
            .collect();
        found.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        found
    }

    /// Marks all tags of the repository: the source failed to send content of it. An image that is
    /// completed later gets its tags nevertheless.
    pub(super) fn failed(&mut self, repository: &RepositoryPath, now: Instant) {
        for (_, answer) in self.answers.get_mut(repository).into_iter().flatten() {
            answer.failed = Some(now);
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

/// How many repositories with too many requests at their sources are remembered.
const MOST_LIMITED: usize = 1000;

/// Repositories whose sources asked to wait: until then they are not asked again.
#[derive(Debug, Default)]
pub(super) struct RateLimits(HashMap<RepositoryPath, (UpstreamError, Instant)>);

impl RateLimits {
    /// The error that is still in effect.
    pub(super) fn get(&self, repository: &RepositoryPath, now: Instant) -> Option<UpstreamError> {
        let (error, until) = self.0.get(repository)?;
        (now < *until).then(|| error.clone())
    }

    /// Remembers an error that asks to wait, for a minute at most.
    pub(super) fn record(
        &mut self,
        repository: &RepositoryPath,
        error: &UpstreamError,
        now: Instant,
    ) {
        let Some(wait) = error.retry_after else {
            return;
        };
        self.0.retain(|_, (_, until)| now < *until);
        if self.0.len() < MOST_LIMITED {
            let until = now + wait.min(LOOKUP_TTL);
            self.0.insert(repository.clone(), (error.clone(), until));
        }
    }
}

/// How many lists of tags are kept, and how many tags of all of them.
const MOST_LISTS: usize = 64;
const MOST_LISTED: usize = 500_000;

/// Lists of the tags at their sources, so that not every page of a list reads all of it there.
#[derive(Debug, Default)]
pub(super) struct TagLists(HashMap<RepositoryPath, (Arc<Vec<Tag>>, Instant)>);

impl TagLists {
    pub(super) fn get(&self, repository: &RepositoryPath, now: Instant) -> Option<Arc<Vec<Tag>>> {
        let (tags, at) = self.0.get(repository)?;
        is_recent(*at, now).then(|| Arc::clone(tags))
    }

    pub(super) fn record(
        &mut self,
        repository: &RepositoryPath,
        tags: Arc<Vec<Tag>>,
        now: Instant,
    ) {
        self.0.retain(|_, (_, at)| is_recent(*at, now));
        let listed: usize = self.0.values().map(|(tags, _)| tags.len()).sum();
        let has_room = self.0.is_empty() || listed + tags.len() <= MOST_LISTED;
        if has_room && self.0.len() < MOST_LISTS {
            self.0.insert(repository.clone(), (tags, now));
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
        let named = |record| Some(Remembered::Named(record));
        assert_eq!(
            lookups.recent(&a, &tag("v1"), soon),
            named(Some(record(b"1")))
        );
        assert_eq!(lookups.recent(&a, &tag("gone"), soon), named(None));
        assert_eq!(lookups.recent(&path("docker.io/b"), &tag("v1"), soon), None);
        let later = now + Duration::from_mins(1);
        assert_eq!(lookups.recent(&a, &tag("v1"), later), None);
        let one = Digest::sha256(b"1");
        assert_eq!(lookups.tags_of(&a, &one, later), [tag("v1")]);
        let much_later = now + Duration::from_hours(1);
        assert!(lookups.tags_of(&a, &one, much_later).is_empty());
    }

    #[test]
    fn a_tag_that_moved_no_longer_names_the_image_before() {
        let (now, a) = (Instant::now(), path("docker.io/a"));
        let mut lookups = Lookups::default();
        for name in ["v1", "latest"] {
            lookups.record(&a, &tag(name), Some(record(b"1")), now);
        }
        lookups.record(&a, &tag("latest"), Some(record(b"2")), now);
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        assert_eq!(lookups.tags_of(&a, &one, now), [tag("v1")]);
        assert_eq!(lookups.tags_of(&a, &two, now), [tag("latest")]);
    }

    #[test]
    fn an_image_that_the_source_does_not_send_is_not_named_for_a_minute() {
        let (now, a) = (Instant::now(), path("docker.io/a"));
        let mut lookups = Lookups::default();
        lookups.record(&a, &tag("v1"), Some(record(b"1")), now);
        let failed = now + Duration::from_secs(90);
        lookups.failed(&a, failed);
        let soon = failed + Duration::from_secs(59);
        let recent = |lookups: &Lookups, now| lookups.recent(&a, &tag("v1"), now);
        assert_eq!(recent(&lookups, soon), Some(Remembered::Failed));
        // What was named is completed nevertheless.
        let one = Digest::sha256(b"1");
        assert_eq!(lookups.tags_of(&a, &one, soon), [tag("v1")]);
        assert_eq!(recent(&lookups, failed + Duration::from_mins(1)), None);
        lookups.record(&a, &tag("v1"), None, soon);
        assert_eq!(recent(&lookups, soon), Some(Remembered::Named(None)));
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let (now, a) = (Instant::now(), path("docker.io/a"));
        let mut lookups = Lookups::default();
        for n in 0..MOST {
            lookups.record(&a, &tag(&format!("old{n}")), None, now);
        }
        let later = now + LOOKUP_TTL;
        lookups.record(&a, &tag("new"), None, later);
        assert_eq!(lookups.count, 1);
        for n in 0..=MOST {
            lookups.record(&path(&format!("docker.io/{n}")), &tag("new"), None, later);
        }
        assert!(lookups.count <= MOST);
        let kept: usize = lookups.answers.values().map(HashMap::len).sum();
        assert_eq!(lookups.count, kept);
    }

    #[test]
    fn lists_are_used_for_a_minute_and_bounded() {
        let now = Instant::now();
        let mut lists = TagLists::default();
        for n in 0..2 * MOST_LISTS {
            lists.record(&path(&format!("docker.io/{n}")), Arc::default(), now);
        }
        assert_eq!(lists.0.len(), MOST_LISTS);
        let first = path("docker.io/0");
        assert!(lists.get(&first, now + Duration::from_secs(59)).is_some());
        let later = now + Duration::from_mins(1);
        assert!(lists.get(&first, later).is_none());
        let many = Arc::new(vec![tag("a"); MOST_LISTED]);
        lists.record(&first, many.clone(), later);
        assert_eq!(lists.0.len(), 1);
        lists.record(&path("docker.io/1"), many, later);
        assert_eq!(lists.0.len(), 1, "there are too many tags");
    }
}
