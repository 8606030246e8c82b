//! What the registry has acknowledged, and what was on its way when it was killed.

use std::collections::{BTreeMap, BTreeSet};

/// A repository and a digest.
pub(crate) type ContentKey = (String, String);

#[derive(Default)]
pub(crate) struct Ledger {
    /// Blobs that were acknowledged.
    pub(crate) blobs: BTreeSet<ContentKey>,
    /// Those of the running round, which are read whole when it has ended.
    pub(crate) fresh: BTreeSet<ContentKey>,
    /// Blobs whose acknowledgement had not come: there whole, or not at all.
    pub(crate) doubtful: BTreeSet<ContentKey>,
    /// Manifests that were acknowledged, with the blobs that they need.
    pub(crate) manifests: BTreeMap<ContentKey, Vec<String>>,
    /// Repository and tag: what it points at, and what it may point at too.
    pub(crate) tags: BTreeMap<ContentKey, Pointer>,
    /// Subject and referrer, by repository.
    pub(crate) referrers: BTreeSet<(String, String, String)>,
    /// Uploads that were not ended, by their path.
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// How many uploads went on after a restart.
    pub(crate) resumed: u64,
}

/// One writer at a time moves a tag: at most one move is not acknowledged.
#[derive(Default)]
pub(crate) struct Pointer {
    pub(crate) acknowledged: Option<String>,
    pub(crate) attempted: Option<String>,
}

/// An upload on its way.
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    /// How many bytes were acknowledged.
    pub(crate) acknowledged: u64,
}
