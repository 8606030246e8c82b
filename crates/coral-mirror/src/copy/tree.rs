//! The manifests of an image: an index with everything below it, or one manifest alone.

use std::collections::{HashMap, HashSet};

use coral_image::{Descriptor, Digest, Manifest, ManifestKind, Platform, PlatformPattern, Version};
use futures::{StreamExt, TryStreamExt, stream};

use super::error::{Kind, Side};
use super::sparse::{self, Layers, Sparse};
use super::{CopyError, CopyRequest, platform};

/// Deepest nesting of indexes; no known image nests deeper than two.
const MAX_DEPTH: usize = 8;
/// Most manifests of one image; the largest known indexes have a few hundred.
const MAX_MANIFESTS: usize = 10_000;
/// Most bytes of manifests of one image that are held in memory.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Docker's annotation on attestation manifests: the digest of their image.
const ATTESTATION_SUBJECT: &str = "vnd.docker.reference.digest";

/// What has to be written to the destination, children before parents and the root last; and what
/// it already has.
#[derive(Debug)]
pub(crate) struct Tree {
    manifests: Vec<Manifest>,
    /// Children that the destination has and that name foreign layers, which it may lack.
    there: Vec<Manifest>,
    /// Every image and index of the tree, including those that the destination has.
    digests: Vec<Digest>,
    /// Children with an unknown media type that the source stores as manifests.
    not_blobs: HashSet<Digest>,
    /// Foreign layers that are not copied.
    left_out: HashSet<Digest>,
    sparse: Sparse,
}

impl Tree {
    pub(super) fn root(&self) -> &Manifest {
        self.manifests.last().expect("a tree is made from its root")
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests[..self.manifests.len() - 1].iter()
    }

    pub(super) fn digests(&self) -> &[Digest] {
        &self.digests
    }

    pub(super) fn sparse(&self) -> Sparse {
        self.sparse
    }

    /// All distinct blobs that are copied.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        let own = || self.manifests.iter().flat_map(Manifest::blobs);
        let there = self.there.iter().flat_map(Manifest::blobs);
        // A layer that is foreign in one manifest and ordinary in another counts as ordinary.
        let ordinary = own().filter(|b| !b.is_foreign());
        let foreign = own().chain(there).filter(|b| b.is_foreign());
        let all = ordinary.chain(foreign);
        all.filter(|b| !self.not_blobs.contains(&b.digest) && !self.left_out.contains(&b.digest))
            .filter(|b| seen.insert(b.digest))
            .collect()
    }

    async fn leave_out(&mut self, request: &CopyRequest, at_once: usize) -> Result<(), CopyError> {
        let found = sparse::left_out(request, &self.blobs(), at_once).await?;
        (self.left_out, self.sparse.layers) = found;
        Ok(())
    }

    pub(super) fn blob_bytes(&self) -> u64 {
        self.blobs()
            .iter()
            .fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

/// Reads the tree of a request's image, level by level.
pub(super) async fn read(request: &CopyRequest, at_once: usize) -> Result<Tree, CopyError> {
    let root = read_manifest(request, &request.source_version).await?;
    platform::check(&request.source, &root, &request.options.platforms).await?;
    let mut levels = Levels::default();
    let odd = odd_manifests(request, std::slice::from_ref(&root)).await?;
    let mut next = levels.take_in(vec![root], odd, &request.options.platforms)?;
    while !next.is_empty() {
        let children = next
            .into_iter()
            .map(|child| read_child(request, child.digest));
        let found: Vec<Child> = stream::iter(children.collect::<Vec<_>>())
            .buffered(at_once.max(1))
            .try_collect()
            .await?;
        let level = levels.take_new(found)?;
        let odd = odd_manifests(request, &level).await?;
        next = levels.take_in(level, odd, &request.options.platforms)?;
    }
    let mut tree = levels.into_tree();
    tree.leave_out(request, at_once).await?;
    Ok(tree)
}

/// The media type of a child decides whether it is a manifest or a blob. An unknown type counts as
/// a blob, unless the source has no such blob: registries store manifests of any type.
async fn odd_manifests(
    request: &CopyRequest,
    level: &[Manifest],
) -> Result<Vec<Descriptor>, CopyError> {
    let source = &request.source;
    let mut odd = vec![];
    let indexes = level.iter().filter(|m| m.kind() == ManifestKind::Index);
    for leaf in indexes.flat_map(Manifest::blobs) {
        if is_layer(&leaf.media_type) || leaf.is_foreign() {
            continue;
        }
        let size = source.ask(|| source.endpoint.blob_size(&leaf.digest)).await;
        if size.map_err(|e| CopyError::at(Side::Source, e))?.is_none() {
            odd.push(leaf.clone());
        }
    }
    Ok(odd)
}

/// Whether this is the media type of a layer: there may be many, and they are certainly blobs.
fn is_layer(media_type: &str) -> bool {
    media_type.contains(".layer.") || media_type.contains(".diff.")
}

async fn read_manifest(request: &CopyRequest, version: &Version) -> Result<Manifest, CopyError> {
    let source = &request.source;
    let read = source.ask(|| source.endpoint.manifest(version)).await;
    read.map_err(|e| CopyError::at(Side::Source, e))
}

/// A manifest below the root.
enum Child {
    /// To be copied.
    New(Manifest),
    /// The destination has it; with its content there, if that could be read.
    There(Option<Manifest>),
}

/// Reads a child. If the destination has it, it is complete there with everything below it except
/// foreign layers, unless parts of it are known to be damaged.
async fn read_child(request: &CopyRequest, digest: Digest) -> Result<Child, CopyError> {
    let version = Version::Digest(digest);
    if request.options.broken.contains(&digest) {
        return read_manifest(request, &version).await.map(Child::New);
    }
    let endpoint = &request.destination.endpoint;
    let there = endpoint.head(&version).await;
    match there.map_err(|e| CopyError::at(Side::Destination, e))? {
        Some(_) => Ok(Child::There(endpoint.manifest(&version).await.ok())),
        None => read_manifest(request, &version).await.map(Child::New),
    }
}

#[derive(Default)]
struct Levels {
    manifests: Vec<Vec<Manifest>>,
    there: Vec<Manifest>,
    digests: HashSet<Digest>,
    order: Vec<Digest>,
    not_blobs: HashSet<Digest>,
    bytes: usize,
    sparse: bool,
}

impl Levels {
    /// The children that have to be copied. Of the others, only foreign layers may be missing.
    fn take_new(&mut self, children: Vec<Child>) -> Result<Vec<Manifest>, CopyError> {
        let mut new = vec![];
        for child in children {
            match child {
                Child::New(manifest) => new.push(manifest),
                Child::There(Some(manifest)) if manifest.blobs().any(Descriptor::is_foreign) => {
                    self.count(&manifest)?;
                    self.there.push(manifest);
                }
                Child::There(_) => {}
            }
        }
        Ok(new)
    }

    fn count(&mut self, manifest: &Manifest) -> Result<(), CopyError> {
        self.bytes += manifest.bytes().len();
        if self.bytes > MAX_BYTES {
            return Err(Kind::TooLarge(MAX_BYTES).into());
        }
        Ok(())
    }

    /// Adds a level. Returns the children that were not seen before, including those with an
    /// unknown type (`odd`).
    fn take_in(
        &mut self,
        level: Vec<Manifest>,
        odd: Vec<Descriptor>,
        platforms: &[PlatformPattern],
    ) -> Result<Vec<Descriptor>, CopyError> {
        if self.manifests.len() > MAX_DEPTH {
            return Err(Kind::TooDeep(MAX_DEPTH).into());
        }
        self.not_blobs.extend(odd.iter().map(|d| d.digest));
        let mut children: Vec<Descriptor> =
            odd.into_iter().filter(|d| self.see(d.digest)).collect();
        for manifest in &level {
            self.count(manifest)?;
            self.see(manifest.digest());
            let chosen = choose_children(manifest, platforms)?;
            self.sparse |= chosen.len() < manifest.children().len();
            children.extend(chosen.into_iter().filter(|c| self.see(c.digest)).cloned());
        }
        if self.digests.len() > MAX_MANIFESTS {
            return Err(Kind::TooMany(MAX_MANIFESTS).into());
        }
        self.manifests.push(level);
        Ok(children)
    }

    fn see(&mut self, digest: Digest) -> bool {
        let new = self.digests.insert(digest);
        if new {
            self.order.push(digest);
        }
        new
    }

    fn into_tree(self) -> Tree {
        let manifests = self.manifests.into_iter().rev().flatten().collect();
        Tree {
            manifests,
            there: self.there,
            digests: self.order,
            not_blobs: self.not_blobs,
            left_out: HashSet::new(),
            sparse: Sparse {
                platforms: self.sparse,
                layers: Layers::Complete,
            },
        }
    }
}

/// The children of `manifest` that `platforms` selects; all if it is empty. Attestations follow
/// their image, and children without a platform are always included.
pub(crate) fn choose_children<'a>(
    manifest: &'a Manifest,
    platforms: &[PlatformPattern],
) -> Result<Vec<&'a Descriptor>, CopyError> {
    let children = manifest.children();
    if platforms.is_empty() || manifest.kind() == ManifestKind::Image {
        return Ok(children.iter().collect());
    }
    let known = |d: &Descriptor| d.platform.as_ref().is_some_and(|p| p.os != "unknown");
    let asked = |d: &Descriptor| {
        d.platform
            .as_ref()
            .is_some_and(|have| platforms.iter().any(|want| want.accepts(have)))
    };
    let images: HashMap<String, bool> = children
        .iter()
        .filter(|d| known(d))
        .map(|d| (d.digest.to_string(), asked(d)))
        .collect();
    if !images.is_empty() && !images.values().any(|&asked| asked) {
        return Err(no_platform(children, platforms).into());
    }
    let about = |d: &Descriptor| {
        d.annotations
            .as_ref()
            .and_then(|a| a.get(ATTESTATION_SUBJECT))
            .cloned()
    };
    let chosen = |d: &&Descriptor| match (known(d), about(d)) {
        (true, _) => asked(d),
        (false, Some(image)) => images.get(&image).copied().unwrap_or(true),
        (false, None) => true,
    };
    Ok(children.iter().filter(chosen).collect())
}

fn no_platform(children: &[Descriptor], wanted: &[PlatformPattern]) -> Kind {
    let names = |platforms: &mut dyn Iterator<Item = String>| {
        platforms.take(20).collect::<Vec<_>>().join(", ")
    };
    let available = children.iter().filter_map(|d| d.platform.as_ref());
    let available = names(&mut available.map(Platform::to_string));
    Kind::NoPlatform {
        wanted: names(&mut wanted.iter().map(PlatformPattern::to_string)),
        available,
    }
}
