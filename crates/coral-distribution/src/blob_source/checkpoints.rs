//! Intermediate states of a blob's digest, so that reading can restart in the middle.

use coral_image::Hasher;

/// Bytes between two states, until there are too many states.
const FIRST_STEP: u64 = 4 * 1024 * 1024;
/// Most states that are kept. Beyond that, every other state is dropped and the step doubles.
const MOST: usize = 64;

/// The states so far, by offset in bytes.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    states: Vec<(u64, Hasher)>,
    step: u64,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            states: Vec::new(),
            step: FIRST_STEP,
        }
    }
}

impl Checkpoints {
    /// Whether a state at `offset` should be kept.
    pub(crate) fn wants(&self, offset: u64) -> bool {
        let last = self.states.last().map_or(0, |(at, _)| *at);
        offset >= last + self.step
    }

    /// Keeps a state.
    pub(crate) fn note(&mut self, offset: u64, hasher: &Hasher) {
        if !self.wants(offset) {
            return;
        }
        self.states.push((offset, hasher.clone()));
        if self.states.len() > MOST {
            self.step *= 2;
            let mut keep = false;
            self.states.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// The last state at or before `offset`.
    pub(crate) fn before(&self, offset: u64) -> Option<(u64, Hasher)> {
        let found = self.states.iter().rev().find(|(at, _)| *at <= offset);
        found.cloned()
    }
}

#[cfg(test)]
mod tests {
    use coral_image::Algorithm;

    use super::*;

    #[test]
    fn states_are_few_however_large_a_blob_is_and_never_far_apart() {
        let mut checkpoints = Checkpoints::default();
        let hasher = Algorithm::Sha256.hasher();
        let end = 100 * 1024 * 1024 * 1024;
        for offset in (0..end).step_by(1024 * 1024) {
            checkpoints.note(offset, &hasher);
        }
        assert!(checkpoints.states.len() <= MOST);
        for offset in [5 * 1024 * 1024 * 1024, end / 2, end] {
            let (at, _) = checkpoints.before(offset).unwrap();
            assert!(at <= offset && offset - at <= end / 16, "{at} {offset}");
        }
        assert!(checkpoints.before(1000).is_none());
    }
}
