//! Asks Registries which list of public repositories they have loaded.
//!
//! A ConfigMap reaches a pod when kubelet gets to it; only the Registry knows when it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::question;
use crate::ObjectKey;
use crate::backoff::{Growth, has_come};
use crate::changes::{Changes, Topic};

/// Between questions to one Registry that has not loaded the list yet.
const GROWTH: Growth = Growth {
    first: Duration::from_millis(300),
    longest: Duration::from_secs(10),
};

/// What Registries answered. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(super) struct Loaded {
    answers: Arc<Mutex<BTreeMap<ObjectKey, Answer>>>,
    changes: Changes,
}

/// One Registry's last answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The generation that it has loaded, if it ever said one.
    pub(super) generation: Option<i64>,
    /// Questions in a row whose answer was not the wanted generation.
    pub(super) questions: u32,
    /// When it may be asked again.
    next: Option<Timestamp>,
    is_asked: bool,
}

#[derive(Deserialize)]
struct Said {
    generation: i64,
}

impl Loaded {
    pub(super) fn new(changes: &Changes) -> Self {
        Self {
            answers: Arc::default(),
            changes: changes.clone(),
        }
    }

    /// The last answer of a Registry.
    pub(super) fn answer(&self, key: &ObjectKey) -> Answer {
        self.lock().get(key).cloned().unwrap_or_default()
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
        wanted: i64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let mut answers = self.lock();
        let answer = answers.entry(key.clone()).or_default();
        if answer.is_asked {
            return None;
        }
        let waits = |next: &Timestamp| !has_come(*next, now, GROWTH.longest);
        if let Some(next) = answer.next.filter(waits) {
            return Some(next);
        }
        answer.is_asked = true;
        drop(answers);
        let (this, key) = (self.clone(), key.clone());
        let (url, bundle) = (format!("{endpoint}/coral/v1/public"), bundle.to_owned());
        tokio::spawn(async move {
            let said = question::ask::<Said>(&url, &bundle).await;
            if let Err(why) = &said {
                tracing::debug!(registry = %key, %why, "the registry does not say what it has loaded");
            }
            let said = said.ok().map(|said| said.generation);
            this.answered(&key, said, wanted, Timestamp::now());
        });
        None
    }

    fn answered(&self, key: &ObjectKey, said: Option<i64>, wanted: i64, now: Timestamp) {
        let mut answers = self.lock();
        let Some(answer) = answers.get_mut(key) else {
            return;
        };
        answer.is_asked = false;
        answer.generation = said.or(answer.generation);
        answer.questions = match said {
            Some(generation) if generation == wanted => 0,
            _ => answer.questions.saturating_add(1),
        };
        let wait = GROWTH.after(answer.questions.max(1));
        answer.next = now.saturating_add(wait).ok();
        drop(answers);
        self.changes.notify(Topic::RegistryWorkloads);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Answer>> {
        // Every change is made by single assignments: a panic leaves no half state.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a mirror was `NotServed` for as long as the clock had been set back.
    #[tokio::test]
    async fn a_clock_that_was_set_back_puts_no_question_off() {
        let (loaded, key) = (Loaded::new(&Changes::default()), ObjectKey::new("a", "reg"));
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        loaded.lock().entry(key.clone()).or_default();
        loaded.answered(&key, None, 1, at(100_000));
        // No certificate: the question itself goes nowhere.
        let ask = |now| loaded.ask(&key, "https://reg.invalid", "", 1, at(now));
        assert!(ask(100_000).is_some(), "it was asked just now");
        assert_eq!(ask(0), None);
        assert!(loaded.answer(&key).is_asked);
    }
}
