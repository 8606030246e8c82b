//! The scrub of a Registry: from its report to its status.

use coral_api::metadata::time;
use coral_api::{Quantity, RegistryScrubStatus};
use jiff::Timestamp;
use serde::Deserialize;

/// Progress in a status, in percent: a status is not written for every blob.
const STEP: u8 = 10;

/// The report of a Registry about its scrub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scrub {
    /// When a round last read all content, in seconds since 1970.
    completed: Option<i64>,
    /// Whether an unfinished round is to be continued.
    open: bool,
    /// The progress of that round.
    percent: u8,
    /// What that round, or else the last one, has read and found damaged since the registry
    /// started.
    read_bytes: u64,
    damaged: u64,
    /// Blobs and manifests that are damaged and not back.
    missing: u64,
}

impl Scrub {
    /// The next status after the one `before`.
    pub(super) fn status(&self, before: Option<&RegistryScrubStatus>) -> RegistryScrubStatus {
        let before = before.cloned().unwrap_or_default();
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let progress = self.open.then(|| i64::from(self.percent / STEP * STEP));
        let completed = self
            .completed
            .and_then(|at| Timestamp::from_second(at).ok());
        let is_same_step = self.open && before.progress == progress && before.checked.is_some();
        let checked = Quantity::from_bytes(self.read_bytes).rounded();
        // A registry that was restarted knows what is missing, but not what its last round read.
        let knows = self.open || self.read_bytes > 0;
        RegistryScrubStatus {
            last_completed: completed.map(time),
            progress,
            checked: if knows && !is_same_step {
                Some(checked)
            } else {
                before.checked
            },
            damaged: if knows {
                Some(count(self.damaged))
            } else {
                before.damaged
            },
            missing: Some(count(self.missing)),
        }
    }

    /// Why a person should act, if that is necessary.
    pub(super) fn complaint(&self) -> Option<String> {
        let what = match self.missing {
            0 => return None,
            1 => "1 blob or manifest was damaged by the disk and has not been restored".to_owned(),
            count => {
                format!(
                    "{count} blobs and manifests were damaged by the disk and have not been \
                         restored"
                )
            }
        };
        Some(format!(
            "{what}: a mirror copies its images again, everything else has to be pushed again; the \
             registry's log names them"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(percent: u8, read_bytes: u64) -> Scrub {
        Scrub {
            open: true,
            percent,
            read_bytes,
            ..Scrub::default()
        }
    }

    #[test]
    fn the_progress_of_a_round_changes_a_status_ten_times_at_most() {
        let first = open(11, 5000).status(None);
        assert_eq!(first.progress, Some(10));
        assert_eq!(first.checked.as_deref(), Some("5000"));
        assert_eq!(open(19, 9000).status(Some(&first)), first);
        let next = open(20, 9500).status(Some(&first));
        assert_eq!(next.progress, Some(20));
        assert_eq!(next.checked.as_deref(), Some("9500"));
    }

    #[test]
    fn what_the_last_round_read_stays_after_a_restart() {
        let done = Scrub {
            completed: Some(1000),
            read_bytes: 7000,
            damaged: 2,
            missing: 2,
            ..Scrub::default()
        };
        let status = done.status(None);
        assert_eq!(status.progress, None);
        assert_eq!(status.checked.as_deref(), Some("7000"));
        assert_eq!((status.damaged, status.missing), (Some(2), Some(2)));
        let restarted = Scrub {
            read_bytes: 0,
            damaged: 0,
            missing: 1,
            ..done
        };
        let after = restarted.status(Some(&status));
        assert_eq!(after.checked, status.checked);
        assert_eq!((after.damaged, after.missing), (Some(2), Some(1)));
        assert_eq!(after.last_completed.unwrap().0.as_second(), 1000);
    }

    #[test]
    fn only_content_that_is_not_back_needs_a_person() {
        assert_eq!(Scrub::default().complaint(), None);
        let missing = Scrub {
            missing: 3,
            ..Scrub::default()
        };
        assert!(
            missing
                .complaint()
                .unwrap()
                .starts_with("3 blobs and manifests")
        );
    }
}
