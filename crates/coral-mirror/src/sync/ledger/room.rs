//! Images that wait for space at the destination.

use jiff::Timestamp;

use super::{Ledger, Phase};
use crate::progress::Key;
use crate::state::{ImageState, MissingSpace};

/// Bytes that are assumed to be needed if that is unknown; a manifest has less.
const UNKNOWN: u64 = 64 << 10;

impl Ledger {
    /// How many images wait for space.
    pub(in crate::sync) fn waiting(&self) -> usize {
        self.agenda.counts.waiting
    }

    /// Records how many bytes the destination has space for. As many images as fit are due; the
    /// others continue to wait, since each attempt costs requests to their sources.
    pub(in crate::sync) fn has_room(&mut self, bytes: u64, now: Timestamp) {
        let waits = self.images.iter().filter_map(|(key, image)| {
            let ImageState::Waiting(lack) = image.status.state else {
                return None;
            };
            let rests = image.phase == Phase::Resting;
            let pause = image.status.pause_of_waiting();
            let left_alone = image.looked.and_then(|at| at.checked_add(pause).ok());
            let has_rested = left_alone.is_none_or(|until| until <= now);
            (rests && has_rested).then(|| (key.clone(), lack.needed))
        });
        let waits: Vec<(Key, u64)> = waits.collect();
        let mut left = bytes;
        for (key, needed) in waits {
            let takes = if needed == 0 { UNKNOWN } else { needed };
            let fits = takes <= left;
            if fits {
                left -= takes;
            }
            self.change(&key, |image| {
                if fits {
                    image.phase = Phase::Due;
                } else {
                    let free = Some(bytes);
                    image
                        .status
                        .keep_waiting(MissingSpace { needed, free }, now);
                }
            });
        }
    }
}
