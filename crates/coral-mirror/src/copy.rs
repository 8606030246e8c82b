//! The copy engine: copies one image from a source to a destination, everything that it needs
//! before the name that makes it visible.
//!
//! Order per image: blobs, child manifests, index, referrers, tag. An interrupted copy leaves
//! content at the destination that nothing points to, never a name that points to something
//! incomplete; a retry skips what is already there.

mod blobs;
mod catalogue;
mod error;
mod missed;
mod mount;
mod platform;
mod referrers;
mod side;
mod sightings;
mod sparse;
mod tree;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coral_image::{Digest, Manifest, ManifestKind, PlatformPattern, Version};
use futures::{StreamExt, TryStreamExt, stream};

pub(crate) use catalogue::Candidates;
pub use catalogue::Catalogue;
pub use error::CopyError;
pub(crate) use error::{Kind, Side};
pub use missed::Missed;
pub use platform::check_platforms;
pub(crate) use platform::is_for_another;
pub(crate) use referrers::cosign_tags;
pub use side::CopySide;
pub(crate) use sparse::is_left_out;
pub use sparse::{Layers, Sparse};
pub(crate) use tree::choose_children;

use crate::progress::Event;
use blobs::Blobs;
use referrers::{Budget, ImageReferrers};
use tree::Tree;

/// Limits on concurrency.
#[derive(Debug, Clone, Copy)]
pub struct CopyLimits {
    /// Blobs moved at the same time, over all images.
    pub transfers: usize,
    /// The most of these from one source, so that a slow source delays only itself.
    pub transfers_per_source: usize,
    /// Blobs checked or moved at the same time for one image.
    pub blobs_per_image: usize,
    /// Manifests read or written at the same time for one image.
    pub manifests_per_image: usize,
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self {
            transfers: 16,
            transfers_per_source: 8,
            blobs_per_image: 6,
            manifests_per_image: 8,
        }
    }
}

/// Which parts of an image are copied, and what else.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Platforms to copy; empty means all.
    pub platforms: Vec<PlatformPattern>,
    /// Also copies foreign layers, where the source has them. Otherwise layers that must not be
    /// redistributed stay at the URLs that they name.
    pub foreign_layers: bool,
    /// Does not copy signatures, attestations and other referrers.
    pub without_referrers: bool,
    /// Blobs and manifests that are damaged at the destination: they are sent again even if the
    /// destination claims to have them.
    pub broken: BTreeSet<Digest>,
    /// What the destination's name must resolve to in the end; anything else is refused before it
    /// is written. A digest as destination version has the same effect.
    pub expected: Option<Digest>,
    /// Checks first whether the destination's name already resolves to the image. If it does, only
    /// missing content is written, and the name is left alone.
    pub look_first: bool,
}

/// Receives the progress of a copy.
pub type Report = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// One image to copy.
#[derive(Clone)]
pub struct CopyRequest {
    /// The source.
    pub source: CopySide,
    /// The tag or digest at the source.
    pub source_version: Version,
    /// The destination.
    pub destination: CopySide,
    /// The tag or digest at the destination.
    pub destination_version: Version,
    /// What to copy of it.
    pub options: CopyOptions,
    /// Receives the progress.
    pub report: Report,
}

/// What was copied.
#[derive(Debug, Clone)]
pub struct Copied {
    /// What the destination's name resolves to now.
    pub digest: Digest,
    /// Bytes of blobs moved over the network.
    pub moved: u64,
    /// Bytes of blobs that the destination already had or mounted.
    pub spared: u64,
    /// Referrers and signature tags copied with it.
    pub referrers: usize,
    /// Referrers and signature tags that were not copied.
    pub missed: Missed,
    /// Whether the destination already had everything.
    pub up_to_date: bool,
    /// What was left out on purpose.
    pub sparse: Sparse,
    /// How long the copy took.
    pub elapsed: Duration,
}

/// Bytes of the blobs of a copy.
#[derive(Debug, Clone, Copy, Default)]
struct ByteCounts {
    moved: u64,
    spared: u64,
}

impl std::ops::AddAssign for ByteCounts {
    fn add_assign(&mut self, other: Self) {
        // Sizes come from manifests and may be wrong, so the sum must not overflow.
        self.moved = self.moved.saturating_add(other.moved);
        self.spared = self.spared.saturating_add(other.spared);
    }
}

/// Copies images. Cheap to clone; all clones share the state of running copies.
/// ```no_run
/// use std::sync::Arc;
///
/// use coral_distribution::{Client, ClientOptions, Credentials};
/// use coral_image::ImageRef;
/// use coral_mirror::{Copier, CopyOptions, CopyRequest, CopySide};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(ClientOptions::default())?;
/// let site = |image: &ImageRef| {
///     let repository = client.repository(image.repository(), Credentials::none().into());
///     CopySide::new(repository.into(), image.repository())
/// };
/// let source = ImageRef::parse("debian:bookworm-slim")?;
/// let destination = ImageRef::parse("registry.example/docker.io/library/debian:bookworm-slim")?;
/// let request = CopyRequest {
///     source: site(&source),
///     source_version: source.version(),
///     destination: site(&destination),
///     destination_version: destination.version(),
///     options: CopyOptions::default(),
///     report: Arc::new(|event| println!("{event:?}")),
/// };
/// let copied = Copier::default().copy(&request).await?;
/// println!("{}: {} bytes sent, {} spared", copied.digest, copied.moved, copied.spared);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Copier {
    blobs: Arc<Blobs>,
    limits: CopyLimits,
}

impl Default for Copier {
    fn default() -> Self {
        Self::new(CopyLimits::default())
    }
}

impl Copier {
    /// A copier with its own limits.
    pub fn new(limits: CopyLimits) -> Self {
        Self {
            blobs: Arc::new(Blobs::new(limits)),
            limits,
        }
    }

    /// Copies one image with everything that belongs to it. If referrers or signature tags cannot
    /// be copied, the image is still tagged: see [`Copied::missed`].
    pub async fn copy(&self, request: &CopyRequest) -> Result<Copied, CopyError> {
        self.copy_at_depth(request, None, 0, &Budget::default())
            .await
    }

    /// `depth` is 0 for an image, 1 for its referrers, 2 for theirs; a referrer has a `subject`.
    async fn copy_at_depth(
        &self,
        request: &CopyRequest,
        subject: Option<Digest>,
        depth: u8,
        budget: &Budget,
    ) -> Result<Copied, CopyError> {
        let start = Instant::now();
        let tree = tree::read(request, self.limits.manifests_per_image).await?;
        check_root(request, tree.root(), subject)?;
        let is_named = request.options.look_first && names_already(request, tree.root()).await;
        (request.report)(&Event::Sized {
            bytes: tree.blob_bytes(),
        });
        let (bytes, mut found) = futures::join!(
            self.copy_blobs(request, &tree, is_named),
            referrers::find(request, &tree, depth, budget),
        );
        let mut bytes = bytes?;
        let copied = async {
            self.put_children(request, &tree).await?;
            self.put_root(request, &tree, is_named, &mut found, (depth, budget))
                .await
        };
        let arrived = match copied.await {
            Ok(arrived) => arrived,
            Err(error) => {
                // The destination may lack blobs that were believed to be there: the next attempt
                // checks each of them.
                self.blobs.forget(&request.destination.registry);
                return Err(error);
            }
        };
        let is_new = !is_named || bytes.moved > 0 || tree.children().next().is_some();
        bytes += arrived.bytes;
        Ok(Copied {
            digest: tree.root().digest(),
            moved: bytes.moved,
            spared: bytes.spared,
            referrers: arrived.count,
            up_to_date: !is_new && arrived.count == 0 && found.missed.is_empty(),
            missed: found.missed,
            sparse: tree.sparse(),
            elapsed: start.elapsed(),
        })
    }

    /// `asks_first` checks each blob at the destination first, because the blobs of an image that
    /// already has its name are most likely there.
    async fn copy_blobs(
        &self,
        request: &CopyRequest,
        tree: &Tree,
        asks_first: bool,
    ) -> Result<ByteCounts, CopyError> {
        let blobs = tree
            .blobs()
            .into_iter()
            .map(|blob| self.blobs.ensure(request, blob, asks_first));
        stream::iter(blobs.collect::<Vec<_>>())
            .buffer_unordered(self.limits.blobs_per_image.max(1))
            .try_fold(ByteCounts::default(), |mut total, bytes| async move {
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
    /// anything refers to it, and gets its tag only after them: a client that finds the tag also
    /// finds the signatures that could be copied.
    async fn put_root(
        &self,
        request: &CopyRequest,
        tree: &Tree,
        is_named: bool,
        found: &mut ImageReferrers,
        (depth, budget): (u8, &Budget),
    ) -> Result<CopiedReferrers, CopyError> {
        let root = tree.root();
        let name = &request.destination_version;
        let by_digest = Version::Digest(root.digest());
        let has_referrers = !found.referrers.is_empty();
        if !is_named {
            if has_referrers && *name != by_digest {
                put(request, by_digest, root).await?;
            }
            if !has_referrers || name.digest().is_some() {
                put(request, name.clone(), root).await?;
            }
        }
        let mut arrived = CopiedReferrers::default();
        for referrer in &found.referrers {
            let (of, own) = (referrer.subject(), referrer.request(request));
            let copied = Box::pin(self.copy_at_depth(&own, of, depth + 1, budget)).await;
            match copied {
                Ok(copied) => {
                    arrived.count += 1;
                    arrived.bytes += ByteCounts {
                        moved: copied.moved,
                        spared: copied.spared,
                    };
                    found.missed.add(copied.missed);
                }
                Err(error) if error.is_no_referrer() => {
                    tracing::info!(referrer = %referrer.version(), reason = %error, "left out");
                }
                Err(error) => found.missed.add(Missed::from_error(&error)),
            }
        }
        if !is_named && has_referrers && name.digest().is_none() {
            put(request, name.clone(), root).await?;
        }
        Ok(arrived)
    }
}

/// The referrers that were copied: their number and their bytes.
#[derive(Debug, Default)]
struct CopiedReferrers {
    count: usize,
    bytes: ByteCounts,
}

/// Checks that the image is the requested one: it has the digest that is expected at the
/// destination and, if it is a referrer, the right subject.
fn check_root(
    request: &CopyRequest,
    root: &Manifest,
    subject: Option<Digest>,
) -> Result<(), CopyError> {
    let names = [
        request.options.expected.as_ref(),
        request.destination_version.digest(),
    ];
    for expected in names.into_iter().flatten() {
        let actual = expected.algorithm().digest(root.bytes());
        if actual != *expected {
            let (expected, actual) = (Box::new(*expected), Box::new(actual));
            return Err(Kind::OtherDigest { expected, actual }.into());
        }
    }
    match subject {
        Some(subject) if root.subject().map(|s| s.digest) != Some(subject) => {
            Err(Kind::NoReferrer(Box::new(subject)).into())
        }
        _ => Ok(()),
    }
}

/// Whether the destination's name already resolves to the image. If the destination does not
/// answer, the image is written, which reveals what is wrong.
async fn names_already(request: &CopyRequest, root: &Manifest) -> bool {
    let name = &request.destination_version;
    let there = request.destination.endpoint.head(name).await;
    let digest = there.ok().flatten().map(|there| there.digest);
    let is_root = |digest: Digest| digest.algorithm().digest(root.bytes()) == digest;
    digest.is_some_and(is_root) && !request.options.broken.contains(&root.digest())
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
    tree::read(request, CopyLimits::default().manifests_per_image).await
}
