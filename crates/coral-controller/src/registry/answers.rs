//! Answers of Registries, requested in the background: a reconcile reads the last one and never
//! waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::ObjectKey;
use crate::backoff::has_come;
use crate::changes::{Changes, Topic};

/// The state of one kind of question to one Registry.
pub(super) trait Answer: Clone + Default + Send + 'static {
    /// The outcome of one question, also without an answer.
    type Reply: Send + 'static;
    /// No wait between two questions is longer.
    const LONGEST: Duration;

    /// Records the answer to one question. Returns the wait before the next one.
    fn take_in(&mut self, said: Self::Reply) -> Duration;
}

/// The answers of all Registries to one kind of question. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(super) struct Answers<A> {
    kept: Arc<Mutex<BTreeMap<ObjectKey, Kept<A>>>>,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Kept<A> {
    answer: A,
    /// When it may be asked again.
    next: Option<Timestamp>,
    is_asked: bool,
}

impl<A: Answer> Answers<A> {
    pub(super) fn new(changes: &Changes) -> Self {
        Self {
            kept: Arc::default(),
            changes: changes.clone(),
        }
    }

    /// The recorded state of a Registry.
    pub(super) fn get(&self, key: &ObjectKey) -> A {
        let kept = self.lock();
        let kept = kept.get(key);
        kept.map(|kept| kept.answer.clone()).unwrap_or_default()
    }

    /// Forgets every Registry but these.
    pub(super) fn retain(&self, keys: &BTreeSet<ObjectKey>) {
        self.lock().retain(|key, _| keys.contains(key));
    }

    /// Records that a Registry cannot be asked now: it is asked as soon as it can be.
    pub(super) fn due(&self, key: &ObjectKey) {
        if let Some(kept) = self.lock().get_mut(key) {
            kept.next = None;
        }
    }

    /// Asks in the background, unless a request is under way or it is too soon. Returns when the
    /// part should call it again; an answer wakes the part too.
    pub(super) fn ask<F>(
        &self,
        key: &ObjectKey,
        now: Timestamp,
        question: impl FnOnce() -> F,
    ) -> Option<Timestamp>
    where
        F: Future<Output = A::Reply> + Send + 'static,
    {
        let mut all = self.lock();
        let kept = all.entry(key.clone()).or_default();
        if kept.is_asked {
            return None;
        }
        let waits = |next: &Timestamp| !has_come(*next, now, A::LONGEST);
        if let Some(next) = kept.next.filter(waits) {
            return Some(next);
        }
        kept.is_asked = true;
        drop(all);
        let (this, key, question) = (self.clone(), key.clone(), question());
        tokio::spawn(async move {
            let said = question.await;
            this.answered(&key, said, Timestamp::now());
        });
        None
    }

    fn answered(&self, key: &ObjectKey, said: A::Reply, now: Timestamp) {
        if let Some(kept) = self.lock().get_mut(key) {
            kept.is_asked = false;
            let wait = kept.answer.take_in(said);
            kept.next = now.saturating_add(wait).ok();
        }
        self.changes.notify(Topic::RegistryWorkloads);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Kept<A>>> {
        // Every change is made by single assignments: a panic leaves no half state.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// The last word, and a wait of as many seconds.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Seconds(u64);

    impl Answer for Seconds {
        type Reply = u64;
        const LONGEST: Duration = Duration::from_mins(1);

        fn take_in(&mut self, said: u64) -> Duration {
            self.0 = said;
            Duration::from_secs(said)
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn answers() -> (Answers<Seconds>, ObjectKey) {
        let key = ObjectKey::new("a", "reg");
        (Answers::new(&Changes::default()), key)
    }

    /// Asks without an answer; whether a question went out.
    fn goes_out(answers: &Answers<Seconds>, key: &ObjectKey, now: i64) -> bool {
        let mut goes_out = false;
        answers.ask(key, at(now), || {
            goes_out = true;
            pending()
        });
        goes_out
    }

    #[tokio::test]
    async fn one_question_is_on_its_way_at_a_time_and_the_next_one_waits_as_it_was_told() {
        let (answers, key) = answers();
        assert!(goes_out(&answers, &key, 1000));
        assert!(!goes_out(&answers, &key, 2000), "the first is on its way");
        answers.answered(&key, 30, at(2000));
        assert_eq!(answers.get(&key), Seconds(30));
        let next = answers.ask(&key, at(2029), pending);
        assert_eq!(next, Some(at(2030)));
        assert!(goes_out(&answers, &key, 2030));
    }

    /// Regression: a Registry that was restarted with a higher limit was full for another minute.
    #[tokio::test]
    async fn a_registry_that_could_not_be_asked_for_a_while_is_asked_at_once() {
        let (answers, key) = answers();
        assert!(goes_out(&answers, &key, 1000));
        answers.answered(&key, 30, at(1000));
        answers.due(&key);
        assert!(goes_out(&answers, &key, 1001));
    }

    /// Regression: a mirror was `NotServed` for as long as the clock had been set back.
    #[tokio::test]
    async fn a_clock_that_was_set_back_puts_no_question_off() {
        let (answers, key) = answers();
        assert!(goes_out(&answers, &key, 100_000));
        answers.answered(&key, 60, at(100_000));
        assert!(!goes_out(&answers, &key, 100_000), "it was asked just now");
        assert!(goes_out(&answers, &key, 0));
    }

    #[tokio::test]
    async fn an_answer_wakes_the_part_and_one_of_a_forgotten_registry_is_dropped() {
        let (answers, key) = answers();
        let mut woken = answers.changes.subscribe(&[Topic::RegistryWorkloads]);
        answers.ask(&key, at(0), || ready(7));
        let woken = tokio::time::timeout(Duration::from_mins(1), woken.changed());
        woken.await.expect("the part is woken");
        assert_eq!(answers.get(&key), Seconds(7));
        answers.retain(&BTreeSet::new());
        answers.answered(&key, 8, at(1));
        assert_eq!(answers.get(&key), Seconds(0));
    }
}
