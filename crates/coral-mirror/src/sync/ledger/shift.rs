//! Shifts due times after the wall clock was changed.

use jiff::{SignedDuration, Timestamp};

use super::Ledger;
use crate::sync::timing::shifted;

impl Ledger {
    /// Shifts all due times, so that everything waits for as long as before.
    pub(in crate::sync) fn shift(&mut self, by: SignedDuration) {
        let later = |at: &mut Option<Timestamp>| *at = at.map(|at| shifted(at, by));
        for repository in &mut self.repositories {
            later(&mut repository.status.next_try);
        }
        for key in self.images.keys().cloned().collect::<Vec<_>>() {
            self.change(&key, |image| {
                later(&mut image.status.next_try);
                later(&mut image.looked);
                later(&mut image.layers_asked);
                later(&mut image.verified);
                later(&mut image.verify_at);
            });
        }
    }
}
