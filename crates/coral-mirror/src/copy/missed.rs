//! Referrers and signature tags that a copy could not include.

use coral_distribution::Category;

use super::CopyError;
use crate::state::Cause;
use coral_image::error_chain;

/// What belongs to an image and was not copied with it. An image is complete without it: its tag is
/// set, and these are reported and retried separately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// The number of lists that could not be read, and of referrers that could not be copied.
    pub count: usize,
    /// Why the first one was not copied, with all causes, in one line.
    pub first: Option<String>,
    /// Whether any of the failures is transient.
    may_pass: bool,
    /// Whether any of them was refused because of too many requests.
    is_rate_limited: bool,
}

impl Missed {
    pub(super) fn from_error(error: &CopyError) -> Self {
        Self {
            count: 1,
            first: Some(error_chain(error)),
            may_pass: !matches!(error.cause(), Cause::NoRoom { .. } | Cause::Refusal),
            is_rate_limited: error.category() == Category::RateLimited.as_str(),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
        self.may_pass |= other.may_pass;
        self.is_rate_limited |= other.is_rate_limited;
    }

    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a retry may help without any change.
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// Whether an immediate retry is worth it. It is not if the registry wants fewer requests: each
    /// refusal delays everything that is read from there, images too.
    pub(crate) fn may_pass_soon(&self) -> bool {
        self.may_pass && !self.is_rate_limited
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::copy::Side;
    use crate::pace::AskError;

    #[test]
    fn a_registry_that_wants_fewer_requests_is_not_asked_again_at_once() {
        let closed = AskError::Closed {
            host: "quay.io".to_owned(),
            wait: Duration::from_secs(5),
        };
        let limited = Missed::from_error(&CopyError::at(Side::Source, closed));
        assert!(limited.may_pass() && !limited.may_pass_soon());
        let cut = Missed {
            count: 1,
            may_pass: true,
            ..Missed::default()
        };
        assert!(cut.may_pass_soon());
        let mut both = cut;
        both.add(limited);
        assert!(both.may_pass() && !both.may_pass_soon());
    }
}
