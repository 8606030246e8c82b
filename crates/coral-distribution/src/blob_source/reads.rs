//! Counts the failures of the reads of one blob. Pure.

use std::time::Duration;

use crate::error::{Category, Error};
use crate::resume::{PROGRESS, Resumes};

/// The attempts that are left, and the failure that kept the other side waiting.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    resumes: Resumes,
    /// The last failure due to slowness after which reading resumed, and its offset. It is kept
    /// until enough bytes have arrived.
    slowness: Option<(Error, u64)>,
}

impl Reads {
    /// Records a failure. Returns the wait before the read resumes at `offset`, or the error if it
    /// is time to give up.
    pub(super) fn failed(&mut self, error: Error, offset: u64) -> Result<Duration, Error> {
        let next = if error.is_too_slow() {
            self.resumes.next_after_drip(offset)
        } else {
            self.resumes.next(offset)
        };
        let Some(wait) = next else {
            return Err(error);
        };
        if error.category() == Category::Timeout {
            self.slowness = Some((error, offset));
        }
        Ok(wait)
    }

    /// Records that bytes have arrived up to `offset`.
    pub(super) fn moved_to(&mut self, offset: u64) {
        if let Some((_, since)) = &self.slowness
            && offset.saturating_sub(*since) >= PROGRESS
        {
            self.slowness = None;
        }
    }

    /// Takes the last failure due to slowness, unless enough bytes have arrived since.
    pub(super) fn take_slowness(&mut self) -> Option<Error> {
        self.slowness.take().map(|(error, _)| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Problem;

    fn stalled() -> Error {
        let problem = Problem::Stalled(Duration::from_mins(1));
        Error::new("quay.io", "reading a blob", problem)
    }

    #[test]
    fn the_tries_of_all_reads_are_counted_together() {
        let mut reads = Reads::default();
        let tries = std::iter::from_fn(|| reads.failed(stalled(), 100).ok());
        assert_eq!(tries.count(), 5);
    }

    #[test]
    fn a_slow_source_stays_to_blame_until_enough_has_moved() {
        let mut reads = Reads::default();
        assert!(reads.take_slowness().is_none());
        reads.failed(stalled(), 100).unwrap();
        reads.moved_to(PROGRESS);
        let blamed = reads.take_slowness().map(|error| error.category());
        assert_eq!(blamed, Some(Category::Timeout));
        reads.failed(stalled(), 100).unwrap();
        reads.moved_to(PROGRESS + 100);
        assert!(reads.take_slowness().is_none());
    }

    #[test]
    fn a_drip_is_given_up_after_its_first_minute() {
        let problem = Problem::Slow {
            moved: 5920,
            window: Duration::from_mins(1),
        };
        let drip = Error::new("quay.io", "reading a blob", problem);
        assert!(Reads::default().failed(drip, 5920).is_err());
    }
}
