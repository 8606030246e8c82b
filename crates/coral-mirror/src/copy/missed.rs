//! Referrers and signature tags that a copy did without.

use super::CopyError;
use crate::progress::chain;
use crate::state::Cause;

/// What belongs to an image and was not copied with it. An image is complete without: its tag is
/// set, and these are told and tried again by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many: lists that could not be read, and referrers that could not be copied.
    pub count: usize,
    /// Why the first one was not copied, with all causes, in one line.
    pub first: Option<String>,
    /// Whether any of them may pass by itself.
    may_pass: bool,
}

impl Missed {
    pub(super) fn of(error: &CopyError) -> Self {
        Self {
            count: 1,
            first: Some(chain(error)),
            may_pass: error.cause() != Cause::Refusal,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
        self.may_pass |= other.may_pass;
    }

    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether another try may help without anything being changed.
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }
}
