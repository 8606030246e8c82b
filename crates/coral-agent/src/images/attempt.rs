//! Failed pulls, and when they are retried.

use coral_api::image::ImageTagState;
use coral_api::node_images::{NodeImage, NodeImageStatus, YIELDED};
use coral_cri::{Disposition, RuntimeError};
use jiff::{SignedDuration, Timestamp};

use crate::backoff;

/// Failures in a row after which an image is in error, if the spec does not say.
const LIMIT: u32 = 5;
/// Longest wait between attempts, if the spec does not say, and in any case.
pub(crate) const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// Attempts at one image that failed or were ended, without a success since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The digest and generation that were tried: another one is tried at once.
    digest: String,
    generation: Option<i64>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// How often it was ended in favour of others, which is not a failure.
    pub(crate) yields: u32,
    /// When it is tried again; `None` means only after a change.
    pub(crate) next: Option<Timestamp>,
    /// The reason of the condition, in one word.
    pub(crate) reason: String,
    /// The message.
    pub(crate) message: String,
}

impl Attempt {
    /// Records another failure. A refusal waits for a change. A refusal by a registry of this
    /// cluster is retried up to the limit first, because its content follows the mirrors a moment
    /// later.
    pub(crate) fn failed(
        image: &NodeImage,
        before: Option<&Self>,
        error: &RuntimeError,
        is_inside: bool,
        now: Timestamp,
        random: f64,
    ) -> Self {
        let before = before.filter(|attempt| attempt.is_about(image));
        let failures = before
            .map_or(0, |attempt| attempt.failures)
            .saturating_add(1);
        let waits_for_change = match error.disposition() {
            Disposition::Transient => false,
            Disposition::Refusal => !is_inside || failures >= limit(image),
        };
        let next = now + backoff::wait(failures, longest(image), random);
        Self {
            digest: image.digest.clone(),
            generation: image.generation,
            failures,
            yields: before.map_or(0, |attempt| attempt.yields),
            next: (!waits_for_change).then_some(next),
            reason: error.category().to_string(),
            message: error.to_string(),
        }
    }

    /// Records another pull that was cancelled in favour of others. An earlier failure is still
    /// reported.
    pub(crate) fn yielded(
        image: &NodeImage,
        before: Option<&Self>,
        now: Timestamp,
        random: f64,
    ) -> Self {
        let before = before.filter(|attempt| attempt.is_about(image));
        let mut attempt = before.cloned().unwrap_or_else(|| Self {
            digest: image.digest.clone(),
            generation: image.generation,
            failures: 0,
            yields: 0,
            next: None,
            reason: YIELDED.to_owned(),
            message: "the pull took long while other images or a removal waited: it is repeated \
                      later, with more time"
                .to_owned(),
        });
        attempt.yields = attempt.yields.saturating_add(1);
        attempt.next = Some(now + backoff::wait(attempt.yields, longest(image), random));
        attempt
    }

    /// A reference or digest that can never be pulled.
    pub(crate) fn malformed(image: &NodeImage, message: String) -> Self {
        Self {
            digest: image.digest.clone(),
            generation: image.generation,
            failures: 1,
            yields: 0,
            next: None,
            reason: "InvalidReference".to_owned(),
            message,
        }
    }

    /// The attempts that a previous agent recorded.
    pub(crate) fn restored(status: &NodeImageStatus) -> Option<Self> {
        Some(Self {
            digest: status.digest.clone(),
            generation: status.observed_generation,
            failures: status.attempts.filter(|attempts| *attempts > 0)?,
            yields: 0,
            next: status.next_attempt.as_ref().and_then(|at| at.parse().ok()),
            reason: status.reason.clone().unwrap_or_default(),
            message: status.message.clone().unwrap_or_default(),
        })
    }

    /// Whether the attempt was for this image, and not for another one with the same name.
    pub(crate) fn is_about(&self, image: &NodeImage) -> bool {
        self.digest == image.digest && self.generation == image.generation
    }

    /// Whether the image may be tried now. A wait beyond the longest comes from a clock that was
    /// set back.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.next
            .is_some_and(|next| next <= now || next > now + LONGEST)
    }

    /// The state that the image is in after these failures.
    pub(crate) fn state(&self, image: &NodeImage) -> ImageTagState {
        if self.next.is_none() || self.failures >= limit(image) {
            ImageTagState::Error
        } else {
            ImageTagState::Pending
        }
    }
}

/// Longest wait between attempts at the image.
fn longest(image: &NodeImage) -> SignedDuration {
    image.max_backoff_seconds.map_or(LONGEST, |seconds| {
        SignedDuration::from_secs(seconds.into()).min(LONGEST)
    })
}

fn limit(image: &NodeImage) -> u32 {
    image.retry_limit.unwrap_or(LIMIT)
}
