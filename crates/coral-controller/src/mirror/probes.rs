//! Asks sources whether a repository is public, once in each pass of its mirror.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_api::Visibility;
use coral_image::ImageRef;
use coral_mirror::{MirrorAccess, visibility};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::ObjectKey;
use crate::backoff::{Backoff, BackoffBounds};
use crate::changes::{Changes, Topic};

/// Sources that are asked at the same time.
const AT_ONCE: usize = 4;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Waits while nothing is known of a repository and its source does not say.
const BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_secs(5),
    longest: Duration::from_mins(10),
};

/// A mirror, and one of its sources.
type ProbeKey = (ObjectKey, String);

/// What sources answered. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(super) struct Probes {
    state: Arc<Mutex<State>>,
    slots: Arc<Semaphore>,
    changes: Changes,
}

struct State {
    entries: BTreeMap<ProbeKey, Entry>,
    backoff: Backoff<ProbeKey>,
}

#[derive(Debug, Default)]
struct Entry {
    visibility: Option<Visibility>,
    /// The pass in which it was asked last. A pass is identified by the time of the next one.
    pass: Option<Timestamp>,
    is_asked: bool,
    /// When it may be asked again, while nothing is known.
    retry: Option<Timestamp>,
}

/// The state of a repository according to the status, before this process has asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredVisibility {
    pub(super) visibility: Option<Visibility>,
    /// The pass that the status speaks of.
    pub(super) pass: Option<Timestamp>,
}

impl Probes {
    pub(super) fn new(changes: &Changes) -> Self {
        let state = State {
            entries: BTreeMap::new(),
            backoff: Backoff::new(BACKOFF),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            changes: changes.clone(),
        }
    }

    /// What this process learned of a repository.
    pub(super) fn known(&self, mirror: &ObjectKey, source: &str) -> Option<Visibility> {
        let name = (mirror.clone(), source.to_owned());
        self.state().entries.get(&name)?.visibility
    }

    /// Whether the source was asked and gave no answer, so that none is to be expected soon.
    pub(super) fn is_unclear(&self, mirror: &ObjectKey, source: &str) -> bool {
        let name = (mirror.clone(), source.to_owned());
        let state = self.state();
        let entry = state.entries.get(&name);
        entry.is_some_and(|entry| entry.retry.is_some())
    }

    /// Whether a repository is to be asked about. `pass` is the pass that has ended, if one has.
    pub(super) fn is_due(
        &self,
        mirror: &ObjectKey,
        source: &str,
        stored: StoredVisibility,
        pass: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let name = (mirror.clone(), source.to_owned());
        let state = self.state();
        let entry = state.entries.get(&name);
        if entry.is_some_and(|entry| entry.is_asked) {
            return false;
        }
        let known = entry.and_then(|entry| entry.visibility);
        if known.or(stored.visibility).is_none() {
            return state.backoff.may_try(&name, now);
        }
        let asked = entry.and_then(|entry| entry.pass).or(stored.pass);
        pass.is_some() && seconds(pass) != seconds(asked)
    }

    /// Asks in the background; an answer wakes the part.
    pub(super) fn ask(
        &self,
        mirror: &ObjectKey,
        source: &str,
        pass: Option<Timestamp>,
        access: MirrorAccess,
        image: ImageRef,
    ) {
        let name = (mirror.clone(), source.to_owned());
        let mut state = self.state();
        let entry = state.entries.entry(name.clone()).or_default();
        entry.is_asked = true;
        entry.pass = pass.or(entry.pass);
        drop(state);
        let probes = self.clone();
        tokio::spawn(async move {
            let _slot = probes.slots.acquire().await;
            let answer = tokio::time::timeout(PATIENCE, visibility(&access, &image)).await;
            probes.answered(&name, answer.ok().flatten(), Timestamp::now());
        });
    }

    fn answered(&self, name: &ProbeKey, answer: Option<Visibility>, now: Timestamp) {
        let mut state = self.state();
        let State { entries, backoff } = &mut *state;
        // A mirror that is gone is not remembered.
        if let Some(entry) = entries.get_mut(name) {
            entry.is_asked = false;
            // What was known stays while the source does not say.
            entry.visibility = answer.or(entry.visibility);
            entry.retry = None;
            if entry.visibility.is_none() {
                entry.retry = Some(backoff.failed(name, now).next);
            } else {
                backoff.succeeded(name);
            }
        }
        drop(state);
        self.changes.notify(Topic::MirrorProgress);
    }

    /// When to ask a source again about which nothing is known yet: never in the past, because that
    /// would wake the part in a loop, and never later than the longest wait.
    pub(super) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state();
        let retries = state.entries.values().filter_map(|entry| entry.retry);
        let next = retries.filter(|retry| *retry > now).min()?;
        let last = now.saturating_add(BACKOFF.longest);
        Some(last.map_or(next, |last| next.min(last)))
    }

    /// Forgets the mirrors of which `keep` is false.
    pub(super) fn retain(&self, keep: impl Fn(&ObjectKey) -> bool) {
        let mut state = self.state();
        state.entries.retain(|(mirror, _), _| keep(mirror));
        state.backoff.retain(|(mirror, _)| keep(mirror));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the maps consistent, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Statuses hold whole seconds.
fn seconds(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "quay.io/a/b";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn stored(visibility: Option<Visibility>, pass: i64) -> StoredVisibility {
        StoredVisibility {
            visibility,
            pass: Some(at(pass)),
        }
    }

    #[test]
    fn a_known_repository_is_asked_about_once_in_each_pass_and_not_at_a_restart() {
        let (probes, key) = (Probes::new(&Changes::default()), ObjectKey::new("a", "m"));
        let public = stored(Some(Visibility::Public), 100);
        let due = |pass| probes.is_due(&key, SOURCE, public, pass, at(1000));
        assert!(!due(None), "a pass runs");
        assert!(!due(Some(at(100))), "the pass that the status speaks of");
        assert!(due(Some(at(200))));
    }

    #[test]
    fn a_clock_that_was_set_back_puts_no_question_off() {
        let (probes, key) = (Probes::new(&Changes::default()), ObjectKey::new("a", "m"));
        let name = (key.clone(), SOURCE.to_owned());
        probes.state().entries.entry(name.clone()).or_default();
        probes.answered(&name, None, at(100_000));
        assert!(!probes.is_due(&key, SOURCE, stored(None, 100), None, at(100_000)));
        assert!(probes.is_due(&key, SOURCE, stored(None, 100), None, at(0)));
        assert_eq!(probes.next(at(0)), Some(at(600)));
    }

    #[test]
    fn an_unreachable_source_loses_nothing_and_an_unknown_one_is_asked_again() {
        let (probes, key) = (Probes::new(&Changes::default()), ObjectKey::new("a", "m"));
        let name = (key.clone(), SOURCE.to_owned());
        let unknown = stored(None, 100);
        assert!(probes.is_due(&key, SOURCE, unknown, None, at(0)));
        probes.state().entries.entry(name.clone()).or_default();
        probes.answered(&name, None, at(0));
        assert!(probes.next(at(0)).is_some_and(|next| next > at(0)));
        assert_eq!(probes.next(at(10)), None, "no wake in the past");
        assert!(!probes.is_due(&key, SOURCE, unknown, None, at(0)));
        assert!(probes.is_due(&key, SOURCE, unknown, None, at(10)));
        probes.answered(&name, Some(Visibility::Public), at(10));
        probes.answered(&name, None, at(20));
        assert_eq!(probes.known(&key, SOURCE), Some(Visibility::Public));
        assert_eq!(probes.next(at(20)), None);
    }
}
