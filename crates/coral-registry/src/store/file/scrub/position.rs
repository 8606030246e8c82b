//! The position of the scrub, kept across restarts in `coral-scrub.json` in the store's root.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coral_image::{Algorithm, Digest};
use serde::{Deserialize, Serialize};

use crate::store::file::Files;
use crate::store::file::collect::ALGORITHMS;
use crate::store::file::records;
use crate::store::{RoundEnd, ScrubState, StoreError};

/// `coral-scrub.json`. Times are seconds since 1970, by the wall clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Position {
    /// When the round began.
    began: Option<u64>,
    /// Whether the round is unfinished.
    is_open: bool,
    /// The content that was read last; the round continues after it.
    after: Option<Digest>,
    /// Whether the last round was given up at `after` because too much was bad.
    is_doubtful: bool,
    /// Whether the round began where an earlier one was given up.
    is_part: bool,
    /// When a round last read all content to its end.
    completed: Option<u64>,
}

impl Position {
    /// A new round, or the unfinished one. A round that was given up is followed by one over the
    /// rest, so that a folder that the disk has lost does not keep the rest from being read.
    pub(super) fn begin(mut self, now: SystemTime) -> Self {
        if !self.is_open {
            self.began = Some(seconds(now));
            self.is_open = true;
            self.is_part = std::mem::take(&mut self.is_doubtful) && self.after.is_some();
            if !self.is_part {
                self.after = None;
            }
        }
        self
    }

    /// Whether the round is just beginning.
    pub(super) fn is_new(&self) -> bool {
        !self.is_open || self.after.is_none()
    }

    pub(super) fn has_read(&mut self, digest: &Digest) {
        self.after = Some(*digest);
    }

    pub(super) fn end(&mut self, end: RoundEnd, now: SystemTime) {
        self.is_open = end == RoundEnd::Stopped;
        self.is_doubtful = end == RoundEnd::Doubtful;
        if end == RoundEnd::Complete && !self.is_part {
            self.completed = Some(seconds(now));
        }
    }

    /// Whether all content of this shelf was read.
    pub(super) fn is_behind_shelf(&self, algorithm: Algorithm, name: &str) -> bool {
        self.after.is_some_and(|after| {
            let at = (place(after.algorithm()), &after.hex()[..2]);
            (place(algorithm), name) < at
        })
    }

    /// Whether this content was read.
    pub(super) fn is_behind(&self, digest: &Digest) -> bool {
        self.after.is_some_and(|after| {
            let of = |digest: &Digest| (place(digest.algorithm()), digest.hex());
            of(digest) <= of(&after)
        })
    }

    pub(super) fn state(&self, missing: u64) -> ScrubState {
        let time = |at: u64| UNIX_EPOCH.checked_add(Duration::from_secs(at));
        ScrubState {
            began: self.began.and_then(time),
            is_open: self.is_open,
            completed: self.completed.and_then(time),
            percent: self.percent(),
            missing,
        }
    }

    /// Digests are evenly distributed, so the first digits of the last one show how much was read.
    /// Hardly any content has a digest of the second algorithm.
    fn percent(&self) -> u8 {
        let Some(after) = self.after.filter(|_| self.is_open) else {
            return 0;
        };
        if place(after.algorithm()) > Some(0) {
            return 99;
        }
        let first = u32::from_str_radix(&after.hex()[..2], 16).unwrap_or(0);
        u8::try_from(first * 100 / 256).unwrap_or(99)
    }
}

impl Files {
    /// The position of the scrub. If the file cannot be read, a new round begins.
    pub(super) fn scrub_position(&self) -> Position {
        let read = records::read(&self.layout.scrub_position());
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "the scrub starts over");
            None
        })
        .unwrap_or_default()
    }

    pub(super) fn save_scrub_position(&self, position: &Position) -> Result<(), StoreError> {
        let bytes = records::write(position);
        self.durable.write(&self.layout.scrub_position(), &bytes)
    }
}

/// The order of the algorithms in a round.
fn place(algorithm: Algorithm) -> Option<usize> {
    ALGORITHMS.iter().position(|it| *it == algorithm)
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn digest(text: &str) -> Digest {
        Digest::parse(text).unwrap()
    }

    #[test]
    fn a_round_that_was_stopped_goes_on_behind_what_was_read() {
        let last = digest(&format!("sha256:{}", "a1".repeat(32)));
        let mut position = Position::default().begin(NOW);
        position.has_read(&last);
        position.end(RoundEnd::Stopped, NOW);
        let position = position.begin(NOW);
        assert!(position.is_behind_shelf(Algorithm::Sha256, "a0"));
        assert!(!position.is_behind_shelf(Algorithm::Sha256, "a1"));
        assert!(!position.is_behind_shelf(Algorithm::Sha512, "00"));
        assert!(position.is_behind(&last));
        assert!(position.is_behind(&digest(&format!("sha256:{}", "a0".repeat(32)))));
        assert!(!position.is_behind(&digest(&format!("sha256:{}", "a2".repeat(32)))));
        assert!(!position.is_behind(&digest(&format!("sha512:{}", "00".repeat(64)))));
    }

    #[test]
    fn the_digits_of_the_last_content_say_how_far_a_round_is() {
        let mut position = Position::default();
        assert_eq!(position.state(0).percent, 0);
        position = position.begin(NOW);
        for (hex, percent) in [("00", 0), ("80", 50), ("ff", 99)] {
            position.has_read(&digest(&format!("sha256:{}", hex.repeat(32))));
            assert_eq!(position.state(0).percent, percent, "{hex}");
        }
        position.has_read(&digest(&format!("sha512:{}", "00".repeat(64))));
        assert_eq!(position.state(0).percent, 99);
        position.end(RoundEnd::Complete, NOW);
        assert_eq!(position.state(0).percent, 0);
    }

    #[test]
    fn a_round_that_ended_is_followed_by_a_whole_one() {
        let mut position = Position::default().begin(NOW);
        position.has_read(&Digest::sha256(b""));
        position.end(RoundEnd::Complete, NOW);
        assert!(!position.state(0).is_open);
        let later = NOW + Duration::from_mins(1);
        let position = position.begin(later);
        assert_eq!(position.state(0).began, Some(later));
        assert_eq!(position.state(0).completed, Some(NOW));
        assert!(!position.is_behind(&Digest::sha256(b"")));
    }

    #[test]
    fn one_that_was_given_up_is_followed_by_the_rest_and_then_by_a_whole_one() {
        let read = Digest::sha256(b"");
        let mut position = Position::default().begin(NOW);
        position.has_read(&read);
        position.end(RoundEnd::Doubtful, NOW);
        assert!(!position.state(0).is_open);
        let mut position = position.begin(NOW);
        assert!(position.is_behind(&read));
        position.end(RoundEnd::Complete, NOW);
        // Not all content was read.
        assert_eq!(position.state(0).completed, None);
        let mut position = position.begin(NOW);
        assert!(!position.is_behind(&read));
        position.end(RoundEnd::Complete, NOW);
        assert_eq!(position.state(0).completed, Some(NOW));
    }
}
