//! What a mirror knows about one image.

use std::collections::BTreeSet;

use coral_image::Digest;
use jiff::Timestamp;

use crate::copy::Sparse;
use crate::expand::Wanted;
use crate::progress::Key;
use crate::state::ImageProgress;

/// What the mirror is doing about an image or a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Due to be compared or listed.
    Due,
    /// Being compared or listed.
    Looking,
    /// In the queue, or being copied.
    Copying,
    /// Nothing, until its retry or the next pass.
    Resting,
}

#[derive(Debug)]
pub(super) struct Image {
    pub(super) wanted: Wanted,
    pub(super) repository: usize,
    pub(super) status: ImageProgress,
    pub(super) phase: Phase,
    /// What it lacks at the destination on purpose.
    pub(super) sparse: Sparse,
    /// When it last succeeded or failed.
    pub(super) looked: Option<Timestamp>,
    /// The digest at which it is complete at the destination, even while a later comparison fails.
    pub(super) digest: Option<Digest>,
    /// The digest at which an earlier process mirrored it, until it is compared.
    pub(super) remembered: Option<Digest>,
    /// When its blobs at the destination were last verified.
    pub(super) verified: Option<Timestamp>,
    /// When its blobs at the destination are next verified.
    pub(super) verify_at: Option<Timestamp>,
    /// Parts that are known to be damaged at the destination.
    pub(super) broken: BTreeSet<Digest>,
    /// How many times in a row it was found damaged.
    pub(super) repairs: u32,
    /// What the tag resolves to at its source, if the mirror keeps another image.
    pub(super) drifted: Option<Digest>,
    /// What the pending copy replaces at the destination.
    pub(super) replaces: Option<Digest>,
    /// Whether it lacks some of its referrers at the destination.
    pub(super) missed: bool,
    /// When a copy last asked its source for foreign layers that the source does not have.
    pub(super) layers_asked: Option<Timestamp>,
    /// Whether wanted foreign layers could not be copied, and that was reported.
    pub(super) layers_failed: bool,
    /// The digest at which it is there, if the pending copy only adds what was missed.
    pub(super) completes: Option<Digest>,
}

/// How an image arrived at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sync) enum Arrival {
    /// It was already there.
    Present {
        /// What it lacks on purpose, as far as was checked.
        sparse: Sparse,
    },
    /// It has been copied.
    Copied {
        /// Bytes moved over the network.
        moved: u64,
        /// What was left out on purpose.
        sparse: Sparse,
        /// Whether some of its referrers were not copied.
        missed: bool,
    },
}

impl Arrival {
    /// Bytes moved, and what the image lacks on purpose.
    pub(in crate::sync) fn counted(self) -> (u64, Sparse) {
        match self {
            Self::Present { sparse } => (0, sparse),
            Self::Copied { moved, sparse, .. } => (moved, sparse),
        }
    }
}

impl Image {
    pub(super) fn new(wanted: Wanted, repository: usize) -> Self {
        Self {
            wanted,
            repository,
            status: ImageProgress::default(),
            phase: Phase::Due,
            sparse: Sparse::default(),
            looked: None,
            digest: None,
            remembered: None,
            verified: None,
            verify_at: None,
            broken: BTreeSet::new(),
            repairs: 0,
            drifted: None,
            replaces: None,
            missed: false,
            layers_asked: None,
            layers_failed: false,
            completes: None,
        }
    }
}

/// The point of the interval at which an image is verified, as a fraction from 0 to 1. It is spread
/// evenly over the images, and always the same for one image.
pub(super) fn verification_phase(key: &Key) -> f64 {
    let hash = Digest::sha256(key.to_string().as_bytes()).hex();
    let number = u32::from_str_radix(&hash[..8], 16).unwrap_or_default();
    f64::from(number) / f64::from(u32::MAX)
}
