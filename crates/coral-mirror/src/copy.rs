//! The copy engine: one image from one place to another, everything it needs before the name that
//! makes it visible.
//!
//! Order per image: blobs, child manifests, index, referrers, tag. A copy that is cut anywhere
//! leaves the destination with content that nothing points at, never with a name that points at
//! something incomplete; doing it again spares what is there.

mod arrived;
mod blobs;
mod error;
mod referrers;
mod site;
mod tree;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coral_image::{Digest, Manifest, ManifestKind, PlatformPattern, Version};
use futures::{StreamExt, TryStreamExt, stream};

pub use error::CopyError;
pub(crate) use error::{Kind, Side, cause_of};
pub(crate) use referrers::cosign_tags;
pub use site::Site;
pub use tree::check_platforms;
pub(crate) use tree::{choose_children, is_foreign};

use crate::progress::Event;
use blobs::Blobs;
use referrers::{Budget, Referrer};
use tree::Tree;

/// How much is done at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Blobs moved at the same time, over all images.
    pub transfers: usize,
    /// Of these, so many from one source: one that hardly sends anything holds up itself only.
    pub transfers_per_source: usize,
    /// Blobs looked at or moved at the same time for one image.
    pub blobs_per_image: usize,
    /// Manifests read or written at the same time for one image.
    pub manifests_per_image: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfers: 16,
            transfers_per_source: 8,
            blobs_per_image: 6,
            manifests_per_image: 8,
        }
    }
}

/// What is copied besides the image itself, and which parts of it.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Platforms to copy; empty means all.
    pub platforms: Vec<PlatformPattern>,
    /// Leaves signatures, attestations and other referrers behind.
    pub without_referrers: bool,
    /// Blobs and manifests that are broken at the destination, whatever it says of them: they are
    /// sent again.
    pub broken: BTreeSet<Digest>,
}

/// Who is told of the progress.
pub type Report = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// One image to copy.
#[derive(Clone)]
pub struct CopyRequest {
    /// Where from.
    pub source: Site,
    /// The tag or digest at the source.
    pub source_version: Version,
    /// Where to.
    pub destination: Site,
    /// The tag or digest at the destination.
    pub destination_version: Version,
    /// What of it.
    pub options: CopyOptions,
    /// Who is told.
    pub report: Report,
}

/// What was copied.
#[derive(Debug, Clone)]
pub struct Copied {
    /// What the destination's name resolves to now.
    pub digest: Digest,
    /// Bytes of blobs moved over the network.
    pub moved: u64,
    /// Bytes of blobs that the destination had, or mounted.
    pub spared: u64,
    /// Referrers and signature tags copied with it.
    pub referrers: usize,
    /// Whether some platforms of an index were left out.
    pub sparse: bool,
    /// Time it took.
    pub elapsed: Duration,
}

/// Bytes of the blobs of a copy.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes {
    moved: u64,
    spared: u64,
}

impl std::ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        // Sizes are what manifests say.
        self.moved = self.moved.saturating_add(other.moved);
        self.spared = self.spared.saturating_add(other.spared);
    }
}

/// Copies images. Cheap to clone; all clones share the knowledge of running copies.
#[derive(Debug, Clone)]
pub struct Copier {
    blobs: Arc<Blobs>,
    limits: Limits,
}

impl Default for Copier {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Copier {
    /// A copier with its own bounds.
    pub fn new(limits: Limits) -> Self {
        Self {
            blobs: Arc::new(Blobs::new(limits)),
            limits,
        }
    }

    /// Copies one image with all that belongs to it.
    pub async fn copy(&self, request: &CopyRequest) -> Result<Copied, CopyError> {
        self.copy_at_depth(request, 0, &Budget::default()).await
    }

    /// `depth` counts from an image to its referrers to theirs.
    async fn copy_at_depth(
        &self,
        request: &CopyRequest,
        depth: u8,
        budget: &Budget,
    ) -> Result<Copied, CopyError> {
        let start = Instant::now();
        let tree = tree::read(request, self.limits.manifests_per_image).await?;
        (request.report)(&Event::Sized {
            bytes: tree.blob_bytes(),
        });
        let (mut bytes, referrers) = futures::try_join!(
            self.copy_blobs(request, &tree),
            referrers::find(request, &tree, depth, budget),
        )?;
        let copied = async {
            self.put_children(request, &tree).await?;
            bytes += self
                .put_root(request, &tree, &referrers, (depth, budget))
                .await?;
            Ok(())
        };
        if let Err(error) = copied.await {
            // Whatever was believed to be there may not be: the next try asks for each blob.
            self.blobs.forget(&request.destination.registry);
            return Err(error);
        }
        Ok(Copied {
            digest: tree.root().digest(),
            moved: bytes.moved,
            spared: bytes.spared,
            referrers: referrers.len(),
            sparse: tree.is_sparse(),
            elapsed: start.elapsed(),
        })
    }

    async fn copy_blobs(&self, request: &CopyRequest, tree: &Tree) -> Result<Bytes, CopyError> {
        let blobs = tree
            .blobs()
            .into_iter()
            .map(|blob| self.blobs.ensure(request, blob));
        stream::iter(blobs.collect::<Vec<_>>())
            .buffer_unordered(self.limits.blobs_per_image.max(1))
            .try_fold(Bytes::default(), |mut total, bytes| async move {
                total += bytes;
                Ok(total)
            })
            .await
    }

    /// Writes every manifest but the root: images first, then the indexes that need them.
    async fn put_children(&self, request: &CopyRequest, tree: &Tree) -> Result<(), CopyError> {
        let images = tree.children().filter(|m| m.kind() == ManifestKind::Image);
        let images = images.map(|image| put(request, Version::Digest(image.digest()), image));
        stream::iter(images.collect::<Vec<_>>())
            .buffer_unordered(self.limits.manifests_per_image.max(1))
            .try_collect::<()>()
            .await?;
        for index in tree.children().filter(|m| m.kind() == ManifestKind::Index) {
            put(request, Version::Digest(index.digest()), index).await?;
        }
        Ok(())
    }

    /// Writes the root and its referrers. With referrers the root is there by digest before
    /// anything refers to it, and gets its tag only after them: whoever finds the tag finds the
    /// signatures.
    async fn put_root(
        &self,
        request: &CopyRequest,
        tree: &Tree,
        referrers: &[Referrer],
        (depth, budget): (u8, &Budget),
    ) -> Result<Bytes, CopyError> {
        let root = tree.root();
        let by_digest = Version::Digest(root.digest());
        let mut bytes = Bytes::default();
        if !referrers.is_empty() && request.destination_version != by_digest {
            put(request, by_digest, root).await?;
        }
        if referrers.is_empty() || request.destination_version.digest().is_some() {
            put(request, request.destination_version.clone(), root).await?;
        }
        for referrer in referrers {
            let copied =
                Box::pin(self.copy_at_depth(&referrer.request(request), depth + 1, budget)).await?;
            bytes += Bytes {
                moved: copied.moved,
                spared: copied.spared,
            };
        }
        if !referrers.is_empty() && request.destination_version.digest().is_none() {
            put(request, request.destination_version.clone(), root).await?;
        }
        Ok(bytes)
    }
}

async fn put(
    request: &CopyRequest,
    version: Version,
    manifest: &Manifest,
) -> Result<(), CopyError> {
    let endpoint = &request.destination.endpoint;
    match endpoint.put_manifest(&version, manifest).await {
        Ok(_) => Ok(()),
        Err(error) => Err(CopyError::at(Side::Destination, error)),
    }
}

/// The manifests that a copy would need, for a plan.
pub(crate) async fn read_tree(request: &CopyRequest) -> Result<Tree, CopyError> {
    tree::read(request, Limits::default().manifests_per_image).await
}
