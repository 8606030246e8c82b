//! Images made from a seed: the same seed gives the same bytes, everywhere.

mod builder;
mod index;
mod json;
mod seed;

use std::collections::BTreeMap;

use bytes::Bytes;
use coral_image::Digest;

pub use builder::ImageBuilder;
pub use index::IndexBuilder;
pub use seed::{Kind, Seed};

/// A manifest of a [`Built`], as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltManifest {
    /// What it is sent as.
    pub media_type: String,
    /// Its digest, of whatever algorithm it was built with.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Blobs, manifests and tags of one repository, ready to be loaded into a registry.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// Configurations and layers.
    pub blobs: BTreeMap<Digest, Bytes>,
    /// Manifests in the order they can be pushed: children first, the root last.
    pub manifests: Vec<BuiltManifest>,
    /// What the tags name.
    pub tags: BTreeMap<String, Digest>,
}

impl Built {
    /// The manifest that everything else hangs from.
    pub fn root(&self) -> &BuiltManifest {
        self.manifests.last().expect("a built image has a manifest")
    }

    /// Digest of the root.
    pub fn digest(&self) -> Digest {
        self.root().digest
    }

    /// Names the root.
    #[must_use]
    pub fn tagged(mut self, tag: &str) -> Self {
        self.tags.insert(tag.to_owned(), self.digest());
        self
    }

    /// Adds the blobs and manifests of another image, whose root becomes the root.
    #[must_use]
    pub fn with(mut self, other: Built) -> Self {
        self.blobs.extend(other.blobs);
        for manifest in other.manifests {
            self.manifests.retain(|m| m.digest != manifest.digest);
            self.manifests.push(manifest);
        }
        self.tags.extend(other.tags);
        self
    }

    /// Bytes of all blobs together.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.values().map(|blob| blob.len() as u64).sum()
    }

    /// The tag under which cosign, and the referrers fallback, look for things about the root:
    /// `sha256-<hex>`.
    pub fn fallback_tag(&self) -> String {
        let digest = self.digest();
        format!("{}-{}", digest.algorithm(), digest.hex())
    }
}

/// `size` bytes that look random and follow from the seed alone.
pub fn pseudo_random(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x0C0A_12A1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

#[cfg(test)]
mod tests;
