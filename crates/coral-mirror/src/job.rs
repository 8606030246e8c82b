//! One image to copy, as it travels through a queue.

use std::collections::BTreeSet;

use coral_image::{Digest, Host, ImageRef, PlatformPattern};
use serde::{Deserialize, Serialize};

use crate::progress::Key;

/// One image to copy. It holds no credential: the worker asks for the access of `mirror`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The destination: at most one job is in flight for each.
    pub key: Key,
    /// The source.
    pub source: ImageRef,
    /// The mirror that it belongs to, as `namespace/name`.
    pub mirror: String,
    /// Platforms to copy; empty means all.
    pub platforms: Vec<PlatformPattern>,
    /// Whether foreign layers are copied too.
    #[serde(default)]
    pub foreign_layers: bool,
    /// Whether referrers and cosign's tags are copied too.
    pub referrers: bool,
    /// Manifests and blobs that are damaged at the destination: they are sent again even if the
    /// destination claims to have them.
    pub broken: BTreeSet<Digest>,
    /// If set, the image is at the destination with this digest and lacks only referrers or foreign
    /// layers: only what is missing is written.
    #[serde(default)]
    pub completes: Option<Digest>,
}

impl Job {
    /// The registry that the image is read from.
    pub(crate) fn host(&self) -> &Host {
        self.source.repository().host()
    }
}
