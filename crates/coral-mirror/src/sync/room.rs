//! Waiting for room at a destination that is full.

use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;

use super::{Driver, Found};
use crate::progress::Event;
use crate::queue::Queue;

/// How often a destination that says how much room it has is asked while images wait for it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often one is asked that does not say so: it may have been replaced.
const LOOK_RARELY: Duration = Duration::from_mins(10);

/// When a destination that is full is asked for its room.
#[derive(Debug, Default)]
pub(super) struct RoomWatch {
    /// `None`: at once.
    next: Option<Timestamp>,
    is_asking: bool,
    /// Whether it was told that images wait.
    told: bool,
}

impl RoomWatch {
    /// When the destination is asked next, while so many images wait.
    pub(super) fn next_look(&self, waiting: usize) -> Option<Timestamp> {
        let asks = waiting > 0 && !self.is_asking;
        asks.then(|| self.next.unwrap_or(Timestamp::UNIX_EPOCH))
    }

    /// Whether it is news that an image waits.
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
            // What cannot be asked says nothing.
            Found::Room(room.await.unwrap_or_default())
        };
        self.questions.push(asked.boxed());
    }

    pub(super) fn fold_in_room(&mut self, room: Option<u64>) {
        let now = self.now();
        self.room.is_asking = false;
        let wait = if room.is_some() {
            LOOK_EVERY
        } else {
            LOOK_RARELY
        };
        self.room.next = now.checked_add(wait).ok();
        if let Some(bytes) = room {
            self.ledger.has_room(bytes, now);
        }
    }
}
