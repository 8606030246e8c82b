//! Reports events of a mirror to the observer.

use super::Driver;
use crate::expand::Wanted;
use crate::outcome::Failure;
use crate::progress::{Event, Key, Subject};
use crate::queue::Queue;
use crate::state::{ImageState, NextTry};

impl<Q: Queue> Driver<Q> {
    pub(super) fn image_failed(&mut self, key: &Key, failure: Failure) {
        let now = self.now();
        let (error, category, cause) = (
            failure.error.clone(),
            failure.category.clone(),
            failure.cause,
        );
        let Some((wanted, status)) = self.ledger.image_failed(key, failure, now, rand::random())
        else {
            return;
        };
        if matches!(status.state, ImageState::Waiting(_)) {
            // One line for all of them.
            if self.room.is_news() {
                self.observe_as(
                    &self.mirror.name,
                    None,
                    &Event::WaitsForRoom { error: &error },
                );
            }
            return;
        }
        let event = Event::Failed {
            error: &error,
            category: &category,
            attempts: status.attempts,
            level: status.level(),
            next: NextTry::after_failure(&status, cause, now),
        };
        self.observe(&wanted, &event);
    }

    /// Reports that an image failed because the host name of its source does not resolve.
    pub(super) fn host_failed(&mut self, key: &Key, failure: Failure) {
        let was_gone = self.ledger.is_gone(key);
        if was_gone {
            // That is known already.
            let now = self.now();
            self.ledger.image_failed(key, failure, now, rand::random());
        } else {
            self.image_failed(key, failure);
        }
        let news = self.ledger.host_unknown(key);
        if let Some(wanted) = news.filter(|_| !was_gone) {
            self.observe_gone(&wanted);
        }
    }

    pub(super) fn repository_failed(&mut self, repository: usize, failure: Failure) {
        let now = self.now();
        let (error, category, cause) = (
            failure.error.clone(),
            failure.category.clone(),
            failure.cause,
        );
        let status = self
            .ledger
            .repository_failed(repository, failure, now, rand::random());
        let source = self.mirror.settings.repositories[repository]
            .repository
            .to_string();
        let event = Event::Failed {
            error: &error,
            category: &category,
            attempts: status.attempts,
            level: status.level(),
            next: NextTry::after_failure(&status, cause, now),
        };
        self.observe_as(&source, None, &event);
    }

    pub(super) fn observe(&self, wanted: &Wanted, event: &Event<'_>) {
        self.observe_as(&wanted.source.to_string(), Some(&wanted.key), event);
    }

    pub(super) fn observe_as(&self, source: &str, key: Option<&Key>, event: &Event<'_>) {
        let subject = Subject {
            mirror: Some(&self.mirror.name),
            source,
            key,
        };
        self.wiring.observer.observe(&subject, event);
    }
}
