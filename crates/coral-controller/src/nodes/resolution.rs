//! Which digest each tag stands for, and when to ask again. Plain values, driven by `now`.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_image::{Digest, ImageRef};
use jiff::Timestamp;

use super::resolver::LookupTarget;
use crate::backoff::has_come;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(10);

/// What is known about the tags that Images name.
#[derive(Debug, Default)]
pub(crate) struct Resolutions(BTreeMap<ImageRef, Resolution>);

/// What is known about one tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// The digest that it stood for at the last successful look-up.
    pub(crate) digest: Option<Digest>,
    /// Why the last attempt failed, in words.
    pub(crate) failure: Option<String>,
    /// Failures in a row.
    attempts: u32,
    /// When to ask next.
    due: Option<Timestamp>,
    /// How often to ask.
    refresh: Duration,
    /// Whether a request is under way.
    asking: bool,
    /// What the last answer depended on.
    asked_with: LookupConditions,
}

/// The conditions that an answer depends on, apart from the registry itself. When they change, a
/// failed reference is looked up again at once; while they stay the same, its backoff continues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LookupConditions {
    /// Whether a mirror has copied the reference.
    pub(crate) mirrored: bool,
    /// Whether the Registry that is asked says that it serves the repository to every client.
    pub(crate) public: bool,
    /// Where the reference is looked up.
    pub(crate) places: Vec<LookupTarget>,
}

impl Resolution {
    /// No wait is longer than the interval or the longest wait after a failure.
    fn is_due(&self, now: Timestamp) -> bool {
        let longest = self.refresh.max(LONGEST_BACKOFF);
        self.due.is_some_and(|due| has_come(due, now, longest))
    }
}

impl Resolutions {
    /// Sets which references are named now and how often each is looked up. A reference with a
    /// digest needs no look-up. `remembered` returns the digest of a status, which a restarted
    /// controller uses until it gets another answer.
    pub(crate) fn want(
        &mut self,
        wanted: &BTreeMap<ImageRef, Duration>,
        remembered: impl Fn(&ImageRef) -> Option<Digest>,
        now: Timestamp,
    ) {
        self.0.retain(|image, _| wanted.contains_key(image));
        for (image, refresh) in wanted {
            let entry = self.0.entry(image.clone()).or_insert_with(|| {
                let pinned = image.digest().copied();
                Resolution {
                    digest: pinned.or_else(|| remembered(image)),
                    due: pinned.is_none().then_some(now),
                    ..Resolution::default()
                }
            });
            if *refresh < entry.refresh && entry.failure.is_none() {
                let sooner = later(now, *refresh);
                entry.due = entry.due.map(|due| due.min(sooner));
            }
            entry.refresh = *refresh;
        }
    }

    /// The references to look up now. They count as asked from here on, under these conditions.
    pub(crate) fn take_due(
        &mut self,
        lookup_conditions: impl Fn(&ImageRef) -> LookupConditions,
        now: Timestamp,
    ) -> Vec<ImageRef> {
        let due = self
            .0
            .iter_mut()
            .filter(|(_, entry)| !entry.asking && entry.is_due(now));
        due.map(|(image, entry)| {
            entry.asking = true;
            entry.asked_with = lookup_conditions(image);
            image.clone()
        })
        .collect()
    }

    /// When the next reference is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let waiting = self.0.values().filter(|entry| !entry.asking);
        waiting.filter_map(|entry| entry.due).min()
    }

    /// Records an answer. `jitter` is 0 to 1 and shortens waits by up to half.
    pub(crate) fn answer(
        &mut self,
        image: &ImageRef,
        answer: Result<Digest, String>,
        now: Timestamp,
        jitter: f64,
    ) {
        let Some(entry) = self.0.get_mut(image) else {
            return;
        };
        entry.asking = false;
        match answer {
            Ok(digest) => {
                entry.digest = Some(digest);
                entry.failure = None;
                entry.attempts = 0;
                entry.due = Some(later(now, entry.refresh.mul_f64(1.0 - jitter / 10.0)));
            }
            Err(why) => {
                entry.failure = Some(why);
                entry.attempts = entry.attempts.saturating_add(1);
                let wait = backoff(entry.attempts).mul_f64(1.0 - jitter / 2.0);
                entry.due = Some(later(now, wait));
            }
        }
    }

    /// Records on the references that are due why nothing can be looked up now. They stay due, and the
    /// text stays until an answer arrives.
    pub(crate) fn hinder(&mut self, why: &str, now: Timestamp) {
        let due = self.0.values_mut().filter(|entry| !entry.asking);
        for entry in due.filter(|entry| entry.is_due(now)) {
            entry.failure = Some(why.to_owned());
        }
    }

    /// Makes references due at once that failed under other conditions than the current ones.
    pub(crate) fn retry(
        &mut self,
        lookup_conditions: impl Fn(&ImageRef) -> LookupConditions,
        now: Timestamp,
    ) {
        let failed = self.0.iter_mut();
        for (image, entry) in failed.filter(|(_, e)| e.failure.is_some() && !e.asking) {
            let lookup_conditions = lookup_conditions(image);
            if lookup_conditions != entry.asked_with {
                entry.asked_with = lookup_conditions;
                // A mirrored image becomes public a moment later: the waits start over.
                entry.attempts = 0;
                entry.due = Some(now);
            }
        }
    }

    /// What is known about a reference.
    pub(crate) fn get(&self, image: &ImageRef) -> Option<&Resolution> {
        self.0.get(image)
    }

    /// The digests that are known, by reference.
    pub(crate) fn digests(&self) -> BTreeMap<String, Digest> {
        let known = self.0.iter();
        known
            .filter_map(|(image, entry)| Some((image.to_string(), entry.digest?)))
            .collect()
    }
}

fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(10);
    (FIRST_BACKOFF * 2_u32.pow(doublings)).min(LONGEST_BACKOFF)
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::digest;
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn image(text: &str) -> ImageRef {
        ImageRef::parse(text).unwrap()
    }

    fn wanting(references: &[&str]) -> Resolutions {
        let mut resolutions = Resolutions::default();
        let wanted = references.iter().map(|r| (image(r), HOUR)).collect();
        resolutions.want(&wanted, |_| None, at(0));
        resolutions
    }

    /// Prospects where one reference is mirrored.
    fn mirrored(reference: &'static str) -> impl Fn(&ImageRef) -> LookupConditions {
        move |image| LookupConditions {
            mirrored: image.to_string() == reference,
            ..LookupConditions::default()
        }
    }

    fn due(resolutions: &mut Resolutions, seconds: i64) -> Vec<ImageRef> {
        resolutions.take_due(|_| LookupConditions::default(), at(seconds))
    }

    #[test]
    fn a_tag_is_asked_once_and_again_after_its_refresh() {
        let mut resolutions = wanting(&["a/b:1"]);
        assert_eq!(due(&mut resolutions, 0), [image("a/b:1")]);
        assert_eq!(due(&mut resolutions, 0), [], "an answer is waited for");
        resolutions.answer(&image("a/b:1"), Ok(digest("x")), at(1), 0.0);
        assert_eq!(resolutions.next_due(), Some(at(3601)));
        assert_eq!(resolutions.digests().len(), 1);
    }

    /// Regression: no tag was followed for as long as the clock had been set back.
    #[test]
    fn a_clock_that_was_set_back_puts_no_question_off() {
        const DAY: i64 = 86_400;
        for answer in [Ok(digest("x")), Err("down".to_owned())] {
            let mut resolutions = wanting(&["a/b:1"]);
            resolutions.answer(&image("a/b:1"), answer, at(DAY), 0.0);
            assert_eq!(due(&mut resolutions, DAY), []);
            assert_eq!(due(&mut resolutions, 0), [image("a/b:1")]);
        }
    }

    #[test]
    fn what_hinders_look_ups_is_told_and_costs_no_time() {
        let mut resolutions = wanting(&["a/b:1"]);
        resolutions.hinder("no addresses", at(0));
        let failure = |r: &Resolutions| r.get(&image("a/b:1")).unwrap().failure.clone();
        assert_eq!(failure(&resolutions).as_deref(), Some("no addresses"));
        assert_eq!(due(&mut resolutions, 1), [image("a/b:1")]);
        resolutions.answer(&image("a/b:1"), Ok(digest("x")), at(1), 0.0);
        assert_eq!(failure(&resolutions), None);
        resolutions.hinder("no addresses", at(2));
        assert_eq!(failure(&resolutions), None, "nothing is due");
    }

    #[test]
    fn a_digest_is_never_asked_for() {
        let pinned = format!("a/b@{}", digest("x"));
        let mut resolutions = wanting(&[&pinned]);
        assert_eq!(due(&mut resolutions, 0), []);
        assert_eq!(resolutions.next_due(), None);
        assert_eq!(resolutions.digests().len(), 1);
    }

    #[test]
    fn failures_are_tried_again_ever_more_slowly_and_keep_the_known_digest() {
        let mut resolutions = wanting(&["a/b:1"]);
        resolutions.answer(&image("a/b:1"), Ok(digest("x")), at(0), 0.0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            resolutions.answer(&image("a/b:1"), Err("down".into()), at(0), 0.0);
            waits.push(resolutions.next_due().unwrap().as_second());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(resolutions.digests().len(), 1);
    }

    #[test]
    fn what_was_missing_and_is_mirrored_now_is_asked_for_at_once() {
        let mut resolutions = wanting(&["quay.io/a/b:1", "quay.io/a/c:1"]);
        for reference in ["quay.io/a/b:1", "quay.io/a/c:1"] {
            resolutions.answer(&image(reference), Err("missing".into()), at(0), 0.0);
        }
        resolutions.retry(mirrored("quay.io/a/b:1"), at(0));
        assert_eq!(due(&mut resolutions, 0), [image("quay.io/a/b:1")]);
    }

    #[test]
    fn a_mirrored_reference_that_cannot_be_resolved_is_asked_ever_more_slowly() {
        let mut resolutions = wanting(&["quay.io/a/b:1"]);
        let lookup_conditions = mirrored("quay.io/a/b:1");
        let mut asked = 0;
        // A pass every 50 ms for a minute: each answer makes one.
        for tick in 0..1200 {
            let now = Timestamp::from_millisecond(tick * 50).unwrap();
            resolutions.retry(&lookup_conditions, now);
            for image in resolutions.take_due(&lookup_conditions, now) {
                asked += 1;
                let text = format!("private, for the {asked}. time");
                resolutions.answer(&image, Err(text), now, 0.0);
            }
        }
        assert!(asked <= 7, "{asked} questions in a minute");
    }

    #[test]
    fn what_changes_while_an_answer_is_waited_for_is_asked_again() {
        let mut resolutions = wanting(&["quay.io/a/b:1"]);
        assert_eq!(due(&mut resolutions, 0).len(), 1);
        let lookup_conditions = mirrored("quay.io/a/b:1");
        resolutions.retry(&lookup_conditions, at(0));
        resolutions.answer(&image("quay.io/a/b:1"), Err("missing".into()), at(0), 0.0);
        resolutions.retry(&lookup_conditions, at(0));
        assert_eq!(due(&mut resolutions, 0).len(), 1);
    }

    #[test]
    fn a_restarted_controller_goes_on_with_the_digest_of_the_status() {
        let mut resolutions = Resolutions::default();
        let wanted = BTreeMap::from([(image("a/b:1"), HOUR)]);
        resolutions.want(&wanted, |_| Some(digest("old")), at(0));
        let known = resolutions.digests();
        assert_eq!(known["docker.io/a/b:1"], digest("old"));
        assert_eq!(due(&mut resolutions, 0).len(), 1, "and asks all the same");
    }

    #[test]
    fn what_is_no_longer_named_is_forgotten() {
        let mut resolutions = wanting(&["a/b:1"]);
        resolutions.want(&BTreeMap::new(), |_| None, at(0));
        resolutions.answer(&image("a/b:1"), Ok(digest("x")), at(0), 0.0);
        assert!(resolutions.digests().is_empty());
    }
}
