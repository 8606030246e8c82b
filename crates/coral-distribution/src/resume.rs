//! How often an interrupted transfer is resumed, and after what wait.

use std::time::Duration;

use crate::error::{Category, Disposition, Error};

/// Attempts without enough progress in between.
const TRIES: u32 = 5;
/// Bytes of progress after which all attempts are available again.
pub(crate) const PROGRESS: u64 = 1024 * 1024;
/// The wait before the second attempt without progress; each further wait is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The attempts that are left. A transfer that makes progress between two interruptions gets all of
/// them back, so the number of interruptions that a large blob survives is limited only by its
/// size.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resumes {
    tried: u32,
    since: u64,
}

impl Resumes {
    /// The wait before resuming at `offset` after a transfer that was too slow. It takes a minute
    /// to detect that, so another attempt is worth it only if the transfer made progress before.
    /// `None` when it is time to give up.
    pub(crate) fn next_after_drip(&mut self, offset: u64) -> Option<Duration> {
        if offset.saturating_sub(self.since) < PROGRESS {
            return None;
        }
        self.next(offset)
    }

    /// The wait before resuming at `offset`; `None` when it is time to give up.
    pub(crate) fn next(&mut self, offset: u64) -> Option<Duration> {
        // The other side of a copy may have lost bytes. The number of attempts stays, but progress
        // is counted from the new offset.
        self.since = self.since.min(offset);
        if offset.saturating_sub(self.since) >= PROGRESS {
            self.tried = 0;
        }
        if self.tried == 0 {
            self.since = offset;
        }
        if self.tried == TRIES {
            return None;
        }
        self.tried += 1;
        Some(match self.tried {
            1 => Duration::ZERO,
            tried => FIRST_WAIT * 2_u32.pow(tried - 2),
        })
    }
}

/// Whether resuming at once may help. Failures that need patience (a rate limit, a requested wait)
/// are left to the code that retries whole copies.
pub(crate) fn may_resume(error: &Error) -> bool {
    use Category::{Connect, Cut, Dns, Server, Timeout};
    error.disposition() == Disposition::Retry
        && matches!(error.category(), Connect | Cut | Dns | Server | Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_stands_still_is_given_up_after_growing_waits() {
        let mut resumes = Resumes::default();
        let waits: Vec<_> = std::iter::from_fn(|| resumes.next(100)).collect();
        assert_eq!(
            waits.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [0, 100, 200, 400, 800]
        );
    }

    #[test]
    fn a_trickle_between_cuts_is_no_progress() {
        let mut resumes = Resumes::default();
        assert_eq!(
            (0..100)
                .take_while(|n| resumes.next(n * 1000).is_some())
                .count(),
            5
        );
    }

    #[test]
    fn a_drip_ends_a_transfer_that_did_not_move_before() {
        assert_eq!(Resumes::default().next_after_drip(5920), None);
        let mut resumes = Resumes::default();
        assert_eq!(resumes.next_after_drip(PROGRESS), Some(Duration::ZERO));
        assert_eq!(resumes.next_after_drip(PROGRESS + 5920), None);
    }

    #[test]
    fn a_transfer_that_begins_anew_makes_progress_from_there() {
        let mut resumes = Resumes::default();
        assert!(resumes.next(100 * PROGRESS).is_some());
        assert_eq!(resumes.next(0), Some(Duration::from_millis(100)));
        assert_eq!(resumes.next(PROGRESS), Some(Duration::ZERO));
    }

    #[test]
    fn a_transfer_that_moves_on_may_be_cut_any_number_of_times() {
        let mut resumes = Resumes::default();
        for cut in 1..1000 {
            assert_eq!(resumes.next(cut * PROGRESS), Some(Duration::ZERO), "{cut}");
        }
    }
}
