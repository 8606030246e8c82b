//! Numbers and contents that a seed repeats.

/// A sequence of numbers (`SplitMix64`).
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn shown(&self) -> u64 {
        self.0
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// Content of some length, never the same twice.
    pub(crate) fn content(&mut self, lengths: std::ops::Range<u64>) -> Vec<u8> {
        let length = usize::try_from(self.within(lengths)).expect("tests push small blobs");
        let mut content = Vec::with_capacity(length + 8);
        while content.len() < length {
            content.extend_from_slice(&self.next().to_le_bytes());
        }
        content.truncate(length);
        content
    }
}
