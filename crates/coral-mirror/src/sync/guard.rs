//! When a mirror stops deleting tags: pure.
//!
//! A source that loses many images at once is more often broken, or taken over, than tidied up.
//! What vanished before was taken note of and does not count again.

use coral_api::PruningStatus;

/// A mirror deletes nothing once more than one image of this many vanished.
const FRACTION: usize = 5;

/// Whether tags are deleted, and how many vanished images were taken note of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard {
    paused: bool,
    /// `None` takes note of whatever vanished when it is asked first.
    accepted: Option<usize>,
    /// While paused: how many images had vanished when everything was last looked at.
    counted: usize,
}

/// What became of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Tags are deleted.
    Open,
    /// From now on none is.
    Pauses {
        /// How many images vanished in this pass.
        vanished: usize,
    },
    /// None is, since an earlier pass.
    Paused,
}

impl Guard {
    /// As an earlier process left it; with no knowledge of one, nothing was taken note of.
    pub(super) fn restored(before: Option<PruningStatus>) -> Self {
        let before = before.unwrap_or_default();
        Self {
            paused: before.paused,
            accepted: usize::try_from(before.accepted).ok(),
            counted: usize::try_from(before.counted).unwrap_or_default(),
        }
    }

    /// A person has looked: deletions go on, whatever vanished until now.
    pub(super) fn confirmed() -> Self {
        Self::restored(Some(PruningStatus::CONFIRMED))
    }

    /// Everything was looked at: so many of a mirror's images are not at their sources.
    pub(super) fn judge(&mut self, vanished: usize, images: usize) -> Judgement {
        if self.paused {
            self.counted = vanished;
            return Judgement::Paused;
        }
        let accepted = self.accepted.unwrap_or(vanished);
        let new = vanished.saturating_sub(accepted);
        if new.saturating_mul(FRACTION) > images {
            self.accepted = Some(accepted);
            self.paused = true;
            self.counted = vanished;
            return Judgement::Pauses { vanished: new };
        }
        self.accepted = Some(vanished);
        Judgement::Open
    }

    pub(super) fn status(self) -> PruningStatus {
        let accepted = self.accepted.and_then(|count| i64::try_from(count).ok());
        PruningStatus {
            paused: self.paused,
            accepted: accepted.unwrap_or(PruningStatus::CONFIRMED.accepted),
            counted: i64::try_from(self.counted).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_fifth_that_vanish_in_one_pass_stop_deletions_until_a_person_has_looked() {
        let mut guard = Guard::restored(None);
        assert_eq!(guard.judge(20, 100), Judgement::Open);
        assert_eq!(guard.judge(40, 100), Judgement::Open, "20 more");
        assert_eq!(guard.judge(61, 100), Judgement::Pauses { vanished: 21 });
        assert_eq!(guard.judge(61, 100), Judgement::Paused);
        assert_eq!(guard.judge(0, 100), Judgement::Paused, "they came back");
        guard = Guard::confirmed();
        assert_eq!(guard.judge(61, 100), Judgement::Open);
        assert_eq!(guard.judge(61, 100), Judgement::Open);
        assert_eq!(guard.judge(82, 100), Judgement::Pauses { vanished: 21 });
    }

    /// Regression: what vanished after the change was deleted with what had been counted.
    #[test]
    fn a_change_of_the_spec_confirms_what_the_last_pass_counted_and_no_more() {
        let mut guard = Guard::restored(None);
        assert_eq!(guard.judge(25, 100), Judgement::Pauses { vanished: 25 });
        assert_eq!(guard.judge(30, 100), Judgement::Paused);
        let kept = Guard::restored(Some(guard.status())).status();
        assert_eq!((kept.paused, kept.accepted, kept.counted), (true, 0, 30));
        let changed = || Guard::restored(Some(kept.after_change_of_spec()));
        assert_eq!(changed().judge(30, 100), Judgement::Open);
        assert_eq!(changed().judge(50, 100), Judgement::Open, "20 more");
        let everything = changed().judge(100, 100);
        assert_eq!(everything, Judgement::Pauses { vanished: 70 });
    }

    #[test]
    fn an_image_that_came_back_counts_anew_when_it_vanishes_again() {
        let mut guard = Guard::restored(None);
        for (vanished, judgement) in [
            (20, Judgement::Open),
            (0, Judgement::Open),
            (21, Judgement::Pauses { vanished: 21 }),
        ] {
            assert_eq!(guard.judge(vanished, 100), judgement, "{vanished}");
        }
    }

    #[test]
    fn a_pause_and_what_was_taken_note_of_survive_a_restart() {
        let mut guard = Guard::restored(None);
        guard.judge(15, 100);
        let mut again = Guard::restored(Some(guard.status()));
        assert_eq!(again.judge(35, 100), Judgement::Open);
        again.judge(100, 100);
        assert!(again.status().paused);
        let mut after = Guard::restored(Some(again.status()));
        assert_eq!(after.judge(0, 100), Judgement::Paused);
        let confirmed = Guard::confirmed().status();
        assert_eq!(
            Guard::restored(Some(confirmed)).judge(90, 100),
            Judgement::Open
        );
    }
}
