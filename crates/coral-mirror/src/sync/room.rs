//! Waits for space at a destination that is full.

use std::time::Duration;

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};

use super::timing::shifted;
use super::{BackgroundResult, Driver};
use crate::progress::Event;
use crate::queue::Queue;

/// How often a destination that reports its free space is asked while images wait for space.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often a destination that does not report it is asked: it may have been replaced.
const LOOK_RARELY: Duration = Duration::from_mins(10);

/// When a full destination is asked for its free space.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch {
    /// `None` is at once.
    next: Option<Timestamp>,
    is_asking: bool,
    /// Whether it was reported that images wait.
    told: bool,
}

impl SpaceWatch {
    /// When the destination is asked next, while this many images wait.
    pub(super) fn next_look(&self, waiting: usize) -> Option<Timestamp> {
        let asks = waiting > 0 && !self.is_asking;
        asks.then(|| self.next.unwrap_or(Timestamp::UNIX_EPOCH))
    }

    /// Takes an answer. Returns the free space, if it was reported. A registry that does not answer
    /// may be restarting, possibly with more space.
    fn answered<E>(&mut self, room: Result<Option<u64>, E>, now: Timestamp) -> Option<u64> {
        self.is_asking = false;
        let wait = match room {
            Ok(None) => LOOK_RARELY,
            Ok(Some(_)) | Err(_) => LOOK_EVERY,
        };
        self.next = now.checked_add(wait).ok();
        room.ok().flatten()
    }

    /// Follows a change of the wall clock.
    pub(super) fn shift(&mut self, by: SignedDuration) {
        self.next = self.next.map(|at| shifted(at, by));
    }

    /// Whether waiting images were not yet reported.
    pub(super) fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

impl<Q: Queue> Driver<Q> {
    pub(super) fn ask_for_room(&mut self, now: Timestamp) {
        let waiting = self.ledger.waiting();
        if waiting == 0 {
            if std::mem::take(&mut self.room.told) {
                self.observe_as(&self.mirror.name, None, &Event::RoomAgain);
            }
            return;
        }
        if self.room.next_look(waiting).is_none_or(|at| at > now) {
            return;
        }
        self.room.is_asking = true;
        let access = self.mirror.access.clone();
        let asked = async move {
            let credentials = &access.destination_credentials;
            let room = access
                .destination_client
                .room(&access.destination, credentials);
            BackgroundResult::Room(room.await)
        };
        self.questions.push(asked.boxed());
    }

    pub(super) fn fold_in_room(&mut self, room: Result<Option<u64>, coral_distribution::Error>) {
        let now = self.now();
        if let Some(bytes) = self.room.answered(room, now) {
            self.ledger.has_room(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_registry_that_does_not_answer_is_asked_again_soon_and_one_without_room_to_tell_rarely() {
        for (answer, room, next) in [
            (Ok(Some(7)), Some(7), 1010),
            (Err(()), None, 1010),
            (Ok(None), None, 1600),
        ] {
            let mut watch = SpaceWatch::default();
            assert_eq!(watch.answered(answer, at(1000)), room);
            assert_eq!(watch.next_look(1), Some(at(next)), "{answer:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_delays_no_question() {
        let mut watch = SpaceWatch::default();
        watch.answered::<()>(Ok(Some(0)), at(100_000));
        watch.shift(SignedDuration::from_secs(-50_000));
        assert_eq!(watch.next_look(1), Some(at(50_010)));
    }
}
