//! Decides whether so much is bad that the disk or the memory is to blame, not the files.

/// This many bad files in a row end a round.
const IN_A_ROW: u32 = 8;
/// This many bad files end a round if they are more than a tenth of all that were read.
const AT_LEAST: u64 = 20;

/// The results of a round so far.
#[derive(Debug, Default)]
pub(super) struct Streak {
    in_a_row: u32,
    looked: u64,
    bad: u64,
}

impl Streak {
    /// Records that a file was sound.
    pub(super) fn good(&mut self) {
        self.in_a_row = 0;
        self.looked += 1;
    }

    /// Records that a file was damaged, or could not be read.
    pub(super) fn bad(&mut self) {
        self.in_a_row += 1;
        self.looked += 1;
        self.bad += 1;
    }

    /// Whether readings on this machine cannot be trusted now.
    pub(super) fn is_doubtful(&self) -> bool {
        self.in_a_row >= IN_A_ROW || (self.bad >= AT_LEAST && self.bad * 10 > self.looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_suspected_and_single_damages_are_not() {
        let mut streak = Streak::default();
        for number in 0..10_000 {
            if number % 100 == 0 {
                streak.bad();
            } else {
                streak.good();
            }
            assert!(!streak.is_doubtful(), "{number}");
        }
        for _ in 1..IN_A_ROW {
            streak.bad();
            assert!(!streak.is_doubtful());
        }
        streak.bad();
        assert!(streak.is_doubtful());
    }

    #[test]
    fn every_other_file_bad_is_suspected_too() {
        let mut streak = Streak::default();
        let mut bad = 0;
        while !streak.is_doubtful() {
            streak.good();
            streak.bad();
            bad += 1;
        }
        assert_eq!(bad, AT_LEAST);
    }
}
