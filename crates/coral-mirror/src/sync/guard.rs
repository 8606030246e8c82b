//! When a mirror stops deleting tags: pure.
//!
//! A source that loses many images at once has more likely failed, or been taken over, than been
//! tidied up. Images that vanished earlier were accepted and do not count again.

use coral_api::PruningStatus;

use crate::inspect::Confirmation;
use crate::status::count;

/// A mirror deletes nothing if more than one in this many images vanished.
const FRACTION: i64 = 5;

/// Whether a pass that knows nothing about earlier ones would pause deletions.
pub(crate) fn would_pause(vanished: usize, images: usize) -> bool {
    Guard::restored(None).judge(vanished, images) != GuardVerdict::Open
}

/// Whether deletions are paused, and how many vanished images were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard(PruningStatus);

/// The verdict of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuardVerdict {
    /// Tags are deleted.
    Open,
    /// From now on deletions are paused.
    Pauses {
        /// How many images vanished in this pass.
        vanished: usize,
    },
    /// Deletions were already paused, and more images have vanished than were counted then.
    Grows,
    /// Deletions were already paused.
    Paused,
}

impl Guard {
    /// The state that an earlier process left; without one, nothing was accepted.
    pub(super) fn restored(before: Option<PruningStatus>) -> Self {
        Self(before.unwrap_or_default())
    }

    /// Applies a person's confirmation. Returns whether that ended a pause.
    pub(super) fn confirm(&mut self, confirmation: Confirmation) -> bool {
        let before = self.0;
        self.0 = match confirmation {
            Confirmation::Command(number) => before.after_confirmation(number),
            Confirmation::Annotation(number) => before.after_annotation(number),
        };
        before.paused && !self.0.paused
    }

    /// Judges a complete pass in which this many of a mirror's images are gone at their sources.
    pub(super) fn judge(&mut self, vanished: usize, images: usize) -> GuardVerdict {
        let (now, images) = (count(vanished), count(images));
        let before = self.0;
        if before.paused {
            self.0.counted = now;
            return if now > before.counted {
                GuardVerdict::Grows
            } else {
                GuardVerdict::Paused
            };
        }
        let new = now.saturating_sub(before.accepted.max(0)).max(0);
        if new.saturating_mul(FRACTION) > images {
            self.0.paused = true;
            self.0.counted = now;
            let vanished = usize::try_from(new).unwrap_or(usize::MAX);
            return GuardVerdict::Pauses { vanished };
        }
        self.0.accepted = now;
        GuardVerdict::Open
    }

    pub(super) fn status(self) -> PruningStatus {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_fifth_that_vanish_in_one_pass_stop_deletions_until_a_person_has_looked() {
        let mut guard = Guard::restored(None);
        assert_eq!(guard.judge(20, 100), GuardVerdict::Open);
        assert_eq!(guard.judge(40, 100), GuardVerdict::Open, "20 more");
        assert_eq!(guard.judge(61, 100), GuardVerdict::Pauses { vanished: 21 });
        assert_eq!(guard.judge(61, 100), GuardVerdict::Paused);
        assert_eq!(guard.judge(0, 100), GuardVerdict::Paused, "they came back");
        assert_eq!(guard.judge(61, 100), GuardVerdict::Grows);
        assert!(guard.confirm(Confirmation::Command(61)));
        assert_eq!(guard.judge(61, 100), GuardVerdict::Open);
        assert_eq!(guard.judge(61, 100), GuardVerdict::Open);
        assert_eq!(guard.judge(82, 100), GuardVerdict::Pauses { vanished: 21 });
    }

    /// Regression: the number grew while deletions were stopped, in silence, and a confirmation of
    /// the number that was seen accepted the larger one.
    #[test]
    fn a_number_that_grows_while_paused_is_told_and_needs_a_confirmation_of_its_own() {
        let mut guard = Guard::restored(None);
        assert_eq!(guard.judge(25, 100), GuardVerdict::Pauses { vanished: 25 });
        assert_eq!(guard.judge(100, 100), GuardVerdict::Grows);
        assert_eq!(guard.judge(100, 100), GuardVerdict::Paused, "told once");
        assert!(!guard.confirm(Confirmation::Command(25)));
        assert!(!guard.confirm(Confirmation::Annotation(Some(25))));
        assert_eq!(guard.judge(100, 100), GuardVerdict::Paused);
        assert!(guard.confirm(Confirmation::Annotation(Some(100))));
        assert_eq!(guard.judge(100, 100), GuardVerdict::Open);
    }

    /// Regression: what vanished after the change was deleted with what had been counted.
    #[test]
    fn a_change_of_prune_confirms_what_the_last_pass_counted_and_no_more() {
        let mut guard = Guard::restored(None);
        assert_eq!(guard.judge(25, 100), GuardVerdict::Pauses { vanished: 25 });
        assert_eq!(guard.judge(30, 100), GuardVerdict::Grows);
        let kept = Guard::restored(Some(guard.status())).status();
        assert_eq!((kept.paused, kept.accepted, kept.counted), (true, 0, 30));
        let changed = || Guard::restored(Some(kept.after_change_of_prune(Some("a"), Some("b"))));
        assert_eq!(changed().judge(30, 100), GuardVerdict::Open);
        assert_eq!(changed().judge(50, 100), GuardVerdict::Open, "20 more");
        let everything = changed().judge(100, 100);
        assert_eq!(everything, GuardVerdict::Pauses { vanished: 70 });
    }

    #[test]
    fn an_image_that_came_back_counts_anew_when_it_vanishes_again() {
        let mut guard = Guard::restored(None);
        for (vanished, judgement) in [
            (20, GuardVerdict::Open),
            (0, GuardVerdict::Open),
            (21, GuardVerdict::Pauses { vanished: 21 }),
        ] {
            assert_eq!(guard.judge(vanished, 100), judgement, "{vanished}");
        }
    }

    #[test]
    fn a_pause_and_what_was_accepted_survive_a_restart() {
        let mut guard = Guard::restored(None);
        guard.judge(15, 100);
        let mut again = Guard::restored(Some(guard.status()));
        assert_eq!(again.judge(35, 100), GuardVerdict::Open);
        again.judge(100, 100);
        assert!(again.status().paused);
        let mut after = Guard::restored(Some(again.status()));
        assert_eq!(after.judge(0, 100), GuardVerdict::Paused);
    }

    /// An older version wrote -1 for "accepts whatever is found next".
    #[test]
    fn a_number_below_zero_accepts_nothing() {
        let mut guard = Guard::restored(Some(PruningStatus::accepting(-1)));
        assert_eq!(guard.judge(21, 100), GuardVerdict::Pauses { vanished: 21 });
        let mut any = Guard::restored(Some(PruningStatus::accepting(i64::MAX)));
        assert_eq!(any.judge(100, 100), GuardVerdict::Open);
        assert_eq!(any.status().accepted, 100);
    }
}
