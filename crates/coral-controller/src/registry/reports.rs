//! Asks Registries from time to time what they store and how their scrub is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::question;
use super::scrub::Scrub;
use super::space::Space;
use crate::ObjectKey;
use crate::backoff::has_come;
use crate::changes::{Changes, Topic};

/// Between questions to one Registry.
const ASK_EVERY: Duration = Duration::from_mins(1);
/// The same before it has said what it stores: it is about to start.
const ASK_FIRST_EVERY: Duration = Duration::from_secs(5);

/// What Registries said. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(super) struct Reports {
    answers: Arc<Mutex<BTreeMap<ObjectKey, Answer>>>,
    changes: Changes,
}

/// What one Registry said last; an older one says nothing of some of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) space: Option<Space>,
    pub(super) scrub: Option<Scrub>,
}

#[derive(Debug, Default)]
struct Answer {
    report: Report,
    /// When it may be asked again.
    next: Option<Timestamp>,
    is_asked: bool,
}

impl Reports {
    pub(super) fn new(changes: &Changes) -> Self {
        Self {
            answers: Arc::default(),
            changes: changes.clone(),
        }
    }

    /// The last answers of a Registry.
    pub(super) fn of(&self, key: &ObjectKey) -> Report {
        self.lock()
            .get(key)
            .map(|answer| answer.report)
            .unwrap_or_default()
    }

    /// Forgets every Registry but these.
    pub(super) fn retain(&self, keys: &BTreeSet<ObjectKey>) {
        self.lock().retain(|key, _| keys.contains(key));
    }

    /// Asks in the background, unless a question is on its way or it is too soon. Returns when the
    /// part should look again; an answer wakes it too.
    pub(super) fn ask(
        &self,
        key: &ObjectKey,
        endpoint: &str,
        bundle: &str,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let mut answers = self.lock();
        let answer = answers.entry(key.clone()).or_default();
        let waits = |next: &Timestamp| !has_come(*next, now, ASK_EVERY);
        if let Some(next) = answer.next.filter(waits) {
            return Some(next);
        }
        if std::mem::replace(&mut answer.is_asked, true) {
            return None;
        }
        drop(answers);
        let (this, key) = (self.clone(), key.clone());
        let (endpoint, bundle) = (endpoint.to_owned(), bundle.to_owned());
        tokio::spawn(async move {
            let report = Report {
                space: ask(&key, &endpoint, "storage", &bundle).await,
                scrub: ask(&key, &endpoint, "scrub", &bundle).await,
            };
            this.answered(&key, report, Timestamp::now());
        });
        None
    }

    fn answered(&self, key: &ObjectKey, report: Report, now: Timestamp) {
        if let Some(answer) = self.lock().get_mut(key) {
            answer.is_asked = false;
            answer.report.space = report.space.or(answer.report.space);
            answer.report.scrub = report.scrub.or(answer.report.scrub);
            let has_said = answer.report.space.is_some();
            let pause = if has_said { ASK_EVERY } else { ASK_FIRST_EVERY };
            answer.next = now.saturating_add(pause).ok();
        }
        self.changes.notify(Topic::RegistryWorkloads);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Answer>> {
        // Every change is made by single assignments: a panic leaves no half state.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask<T: DeserializeOwned>(
    key: &ObjectKey,
    endpoint: &str,
    what: &str,
    bundle: &str,
) -> Option<T> {
    let url = format!("{endpoint}/coral/v1/{what}");
    let said = question::ask(&url, bundle).await;
    let said = said.inspect_err(|why| {
        tracing::debug!(registry = %key, what, %why, "the registry does not say how it is");
    });
    said.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registry_is_asked_once_a_minute_and_its_last_word_stays() {
        let (reports, key) = (
            Reports::new(&Changes::default()),
            ObjectKey::new("a", "reg"),
        );
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let report = Report {
            space: Some(Space::default()),
            scrub: None,
        };
        reports.lock().entry(key.clone()).or_default();
        reports.answered(&key, report, at(1000));
        assert_eq!(reports.of(&key), report);
        // No certificate: the question itself goes nowhere.
        let ask = |now| reports.ask(&key, "https://reg.invalid", "", at(now));
        assert_eq!(ask(1001), Some(at(1060)));
        assert_eq!(ask(1060), None);
        assert!(reports.lock()[&key].is_asked);
        reports.answered(&key, Report::default(), at(1061));
        assert_eq!(reports.of(&key), report);
    }

    #[test]
    fn a_registry_that_has_said_nothing_yet_is_asked_again_soon() {
        let (reports, key) = (
            Reports::new(&Changes::default()),
            ObjectKey::new("a", "reg"),
        );
        let now = Timestamp::from_second(1000).unwrap();
        reports.lock().entry(key.clone()).or_default();
        reports.answered(&key, Report::default(), now);
        let next = reports.ask(&key, "https://reg.invalid", "", now);
        assert_eq!(next, Timestamp::from_second(1005).ok());
    }
}
