//! The state of one mirrored image, and when it is retried. Pure: `now` is an argument.

use std::time::Duration;

use coral_distribution::{Disposition, Error};
use coral_image::{Amount, Digest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// First wait after a failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait, whatever is configured.
const MAX_BACKOFF: Duration = Duration::from_mins(10);
/// First pause of an image if the destination reports free space but refuses it; doubled each time.
const ROOM_PAUSE: Duration = Duration::from_secs(10);

/// Longest wait that a registry may ask of a single pass; for longer waits, the caller should come
/// back later.
const LONGEST_OF_ONCE: Duration = Duration::from_mins(1);

/// How failures are retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After this many failures in a row the image is in state `Error`.
    pub limit: u32,
    /// Longest wait between two attempts, at most ten minutes.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            limit: 5,
            max_backoff: MAX_BACKOFF,
        }
    }
}

impl RetryPolicy {
    /// Limits the time of a retry, which may come from another wall clock.
    pub(crate) fn bounded(next_try: Timestamp, now: Timestamp) -> Timestamp {
        now.checked_add(MAX_BACKOFF)
            .map_or(next_try, |latest| next_try.min(latest))
    }

    /// The wait after the `attempts`-th failure in a row: doubling from one second, of which the
    /// second half is scaled by `jitter` (0 to 1), so that many failures are not retried at once.
    pub fn backoff(&self, attempts: u32, jitter: f64) -> Duration {
        let ceiling = self.max_backoff.min(MAX_BACKOFF);
        let exponent = attempts.saturating_sub(1).min(20);
        let full = FIRST_BACKOFF.saturating_mul(1 << exponent).min(ceiling);
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
            .min(ceiling)
    }
}

/// When a mirror is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After one pass: every image is copied, has failed for good, or has failed as often as the
    /// limit.
    OnePass,
    /// When it is stopped.
    Stopped,
}

/// What has to happen before a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It is transient.
    Transient,
    /// It is transient, and the other side stated when to ask again.
    After(Duration),
    /// The destination is full: space has to be freed there.
    NoRoom {
        /// Bytes that are known to be needed; 0 if unknown.
        needed: u64,
    },
    /// Only a change of spec, credential or tag can help.
    Refusal,
}

impl Cause {
    /// Whether a single pass ends at the first failure of this cause: neither a refusal nor a full
    /// destination is resolved meanwhile, and a wait of more than a minute is too long.
    pub fn ends_at_once(self) -> bool {
        match self {
            Self::Transient => false,
            Self::After(asked) => asked > LONGEST_OF_ONCE,
            Self::NoRoom { .. } | Self::Refusal => true,
        }
    }
}

/// When something that failed is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTry {
    /// Automatically, after this long.
    In(Duration),
    /// Not automatically: the caller should come back after this long.
    ComeBackIn(Duration),
    /// Not before the next pass.
    NextPass,
}

impl NextTry {
    /// When the next attempt is, after a failure of this cause at `now`.
    pub fn after_failure(status: &ImageProgress, cause: Cause, now: Timestamp) -> Self {
        match (status.next_try, cause) {
            (Some(at), _) => Self::In(at.duration_since(now).unsigned_abs()),
            (None, Cause::After(asked)) => Self::ComeBackIn(asked),
            (None, _) => Self::NextPass,
        }
    }
}

/// Whether failures in a row have reached the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureLevel {
    /// Fewer times in a row than the limit.
    Failing,
    /// As often as the limit, or more.
    InError,
}

/// The state of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// Not yet compared, or waiting to be copied.
    Pending,
    /// Complete at the destination, at this digest.
    Mirrored(Digest),
    /// Failed, fewer times in a row than the limit.
    Failing(String),
    /// Failed as often as the limit, or more.
    Error(String),
    /// The destination has no space for it now, which is not a failure.
    Waiting(MissingSpace),
    /// Complete at the destination, and gone at its source.
    SourceGone(Absence),
}

/// The space that an image lacks at a full destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingSpace {
    /// Bytes that are known to be needed; 0 if unknown.
    pub needed: u64,
    /// Free bytes, if the destination reports them.
    pub free: Option<u64>,
}

impl std::fmt::Display for MissingSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("waiting for space at the destination")?;
        if self.needed > 0 {
            write!(f, ": {} needed", Amount(self.needed))?;
            if let Some(free) = self.free {
                write!(f, ", {} free", Amount(free))?;
            }
        }
        Ok(())
    }
}

/// How an image is gone at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// The registry answers that it has no such tag or repository.
    Tag,
    /// The host name of the registry no longer resolves.
    Host,
}

impl std::fmt::Display for Absence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tag => "it is gone at its source; the mirrored image is kept",
            Self::Host => {
                "the host name of its source no longer resolves; the mirrored image is kept"
            }
        })
    }
}

/// Why a mirror keeps an image whose tag has moved at its source.
pub(crate) fn pinned(at_source: &Digest) -> String {
    format!("the tag is {at_source} at its source; driftPolicy Pin keeps the mirrored image")
}

/// State, failures in a row, and the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageProgress {
    /// Its state.
    pub state: ImageState,
    /// Failures in a row.
    pub attempts: u32,
    /// When it is retried before the next scheduled pass.
    pub next_try: Option<Timestamp>,
}

impl Default for ImageProgress {
    fn default() -> Self {
        Self {
            state: ImageState::Pending,
            attempts: 0,
            next_try: None,
        }
    }
}

impl ImageProgress {
    /// Records that the image is complete at the destination.
    pub fn succeeded(&mut self, digest: Digest) {
        *self = Self {
            state: ImageState::Mirrored(digest),
            attempts: 0,
            next_try: None,
        };
    }

    /// Records that the image is gone at its source while the destination has it. A host that no
    /// longer resolves is asked again when its next attempt is due, anything else in the next pass.
    pub fn source_gone(&mut self, absence: Absence) {
        let (attempts, next_try) = match absence {
            Absence::Tag => (0, None),
            // At least one: in a record, attempts mark a host that no longer resolves.
            Absence::Host => (self.attempts.max(1), self.next_try),
        };
        *self = Self {
            state: ImageState::SourceGone(absence),
            attempts,
            next_try,
        };
    }

    /// Records that the image failed at `now`. Below the limit it is retried with backoff, whatever
    /// the cause; from the limit on, a transient failure is still retried at the longest backoff,
    /// while a refusal waits for a change. A full destination is retried at the longest backoff
    /// from the beginning. A wait that the other side asked for is never shortened, except to ten
    /// minutes, the longest wait of all.
    pub fn failed(
        &mut self,
        error: String,
        cause: Cause,
        policy: RetryPolicy,
        now: Timestamp,
        jitter: f64,
    ) {
        self.attempts = self.attempts.saturating_add(1);
        let at_limit = self.attempts >= policy.limit.max(1);
        let wait = match cause {
            Cause::Refusal if at_limit => None,
            Cause::NoRoom { .. } => Some(policy.max_backoff.min(MAX_BACKOFF)),
            Cause::Transient if at_limit => Some(policy.max_backoff.min(MAX_BACKOFF)),
            Cause::After(asked) => Some(
                asked
                    .max(policy.backoff(self.attempts, jitter))
                    .min(MAX_BACKOFF),
            ),
            Cause::Transient | Cause::Refusal => Some(policy.backoff(self.attempts, jitter)),
        };
        self.next_try = wait.and_then(|w| now.checked_add(w).ok());
        self.state = if at_limit {
            ImageState::Error(error)
        } else {
            ImageState::Failing(error)
        };
    }

    /// Records that the destination had no space for the image. It is retried once the destination
    /// reports enough space; if the destination reports nothing, after the longest wait of all.
    /// Attempts count refusals by a destination that had reported enough space.
    pub fn wait_for_space(&mut self, lack: MissingSpace, now: Timestamp) {
        let attempts = match self.state {
            ImageState::Waiting(_) => self.attempts.saturating_add(1),
            _ => 0,
        };
        *self = Self {
            attempts,
            ..Self::default()
        };
        self.keep_waiting(lack, now);
    }

    /// Records that the destination was asked and still has no space.
    pub fn keep_waiting(&mut self, lack: MissingSpace, now: Timestamp) {
        self.state = ImageState::Waiting(lack);
        self.next_try = now.checked_add(MAX_BACKOFF).ok();
    }

    /// How long an image that waits for space is left alone after its last attempt: a disk may lack
    /// something that is not counted in bytes.
    pub(crate) fn pause_of_waiting(&self) -> Duration {
        let Some(doublings) = self.attempts.checked_sub(1) else {
            return Duration::ZERO;
        };
        let pause = ROOM_PAUSE.saturating_mul(1 << doublings.min(10));
        pause.min(MAX_BACKOFF)
    }

    /// Whether it is due at `now`.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.next_try.is_some_and(|at| at <= now)
    }

    /// Whether it has a retry that is not yet due.
    pub fn waits(&self, now: Timestamp) -> bool {
        self.next_try.is_some_and(|at| at > now)
    }

    /// Whether failures in a row have reached the limit.
    pub fn level(&self) -> FailureLevel {
        match self.state {
            ImageState::Error(_) => FailureLevel::InError,
            _ => FailureLevel::Failing,
        }
    }

    /// Whether it is complete.
    pub fn is_mirrored(&self) -> bool {
        matches!(self.state, ImageState::Mirrored(_))
    }
}

/// What has to happen before a retry of a failed request can help.
pub(crate) fn retry_cause(error: &Error) -> Cause {
    match error.disposition() {
        Disposition::Retry => Cause::Transient,
        Disposition::RetryAfter(wait) => Cause::After(wait),
        Disposition::WaitForRoom => Cause::NoRoom { needed: 0 },
        Disposition::WaitForChange => Cause::Refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn failed_times(n: u32, cause: Cause) -> ImageProgress {
        let policy = RetryPolicy {
            limit: 3,
            max_backoff: Duration::from_mins(1),
        };
        let mut status = ImageProgress::default();
        (0..n).for_each(|_| status.failed("broken".into(), cause, policy, at(1000), 1.0));
        status
    }

    #[test]
    fn waits_double_from_one_second_up_to_the_longest() {
        let policy = RetryPolicy {
            limit: 5,
            max_backoff: Duration::from_secs(10),
        };
        let waits: Vec<_> = (1..=6).map(|n| policy.backoff(n, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.backoff(3, 0.0), Duration::from_secs(2));
    }

    #[test]
    fn no_wait_is_longer_than_ten_minutes_whatever_is_configured_or_asked_for() {
        let policy = RetryPolicy {
            limit: 5,
            max_backoff: Duration::from_hours(24),
        };
        assert_eq!(policy.backoff(u32::MAX, 1.0), Duration::from_mins(10));
        let status = failed_times(1, Cause::After(Duration::from_secs(100_000)));
        assert_eq!(status.next_try, Some(at(1600)));
    }

    #[test]
    fn below_the_limit_a_refusal_is_tried_again() {
        let status = failed_times(2, Cause::Refusal);
        assert_eq!(status.state, ImageState::Failing("broken".into()));
        assert_eq!(status.next_try, Some(at(1002)));
    }

    #[test]
    fn at_the_limit_a_refusal_waits_for_a_change() {
        let status = failed_times(3, Cause::Refusal);
        assert_eq!(status.state, ImageState::Error("broken".into()));
        assert_eq!(status.next_try, None);
    }

    #[test]
    fn at_the_limit_a_transient_failure_is_tried_again_at_the_longest_wait() {
        let waits = (1..=4).map(|n| {
            let next = failed_times(n, Cause::Transient).next_try.unwrap();
            next.as_second() - 1000
        });
        assert_eq!(waits.collect::<Vec<_>>(), [1, 2, 60, 60]);
        let status = failed_times(3, Cause::Transient);
        assert_eq!(status.state, ImageState::Error("broken".into()));
        assert!(!status.is_due(at(1059)));
        assert!(status.is_due(at(1060)));
    }

    #[test]
    fn a_full_destination_is_tried_at_the_longest_wait_from_the_beginning() {
        let full = Cause::NoRoom { needed: 0 };
        let status = failed_times(1, full);
        assert_eq!(status.state, ImageState::Failing("broken".into()));
        assert_eq!(status.next_try, Some(at(1060)));
        assert!(full.ends_at_once());
    }

    #[test]
    fn what_waits_for_room_has_not_failed_and_says_what_it_lacks() {
        let mut status = failed_times(2, Cause::Transient);
        let lack = |needed, free| MissingSpace { needed, free };
        status.wait_for_space(lack(3 << 30, Some(1 << 20)), at(1000));
        assert_eq!((status.attempts, status.next_try), (0, Some(at(1600))));
        let ImageState::Waiting(said) = status.state else {
            panic!("{status:?}");
        };
        let said = said.to_string();
        assert_eq!(
            said,
            "waiting for space at the destination: 3.0 GiB needed, 1.0 MiB free"
        );
        let said = lack(0, Some(1)).to_string();
        assert_eq!(said, "waiting for space at the destination");
    }

    #[test]
    fn what_the_other_side_asked_for_is_waited() {
        let status = failed_times(1, Cause::After(Duration::from_secs(90)));
        assert_eq!(status.next_try, Some(at(1090)));
    }

    #[test]
    fn a_failure_says_when_it_is_tried_again_or_when_to_come_back() {
        let hour = Cause::After(Duration::from_hours(1));
        let mut status = failed_times(1, hour);
        let told = |status: &ImageProgress, cause| NextTry::after_failure(status, cause, at(1000));
        assert_eq!(told(&status, hour), NextTry::In(Duration::from_mins(10)));
        status.next_try = None;
        let back = NextTry::ComeBackIn(Duration::from_hours(1));
        assert_eq!(told(&status, hour), back);
        assert_eq!(told(&status, Cause::Refusal), NextTry::NextPass);
    }

    #[test]
    fn success_forgets_all_failures() {
        let mut status = failed_times(5, Cause::Transient);
        status.succeeded(Digest::sha256(b"x"));
        assert_eq!((status.attempts, status.next_try), (0, None));
        assert!(status.is_mirrored());
    }
}
