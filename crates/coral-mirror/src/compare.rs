//! Compares source and destination by digest, in the cheapest way first.

use coral_distribution::{Category, Endpoint, Error};
use coral_image::{Digest, Manifest, Version};
use futures::{StreamExt, stream};

use crate::copy::{CopySide, Layers, Sparse, choose_children, is_for_another, is_left_out};
use crate::expand::Wanted;
use crate::pace::AskError;
use crate::state::{Cause, retry_cause};

/// How many children of a sparse index are requested at the same time.
const AT_ONCE: usize = 8;

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The destination has what the source has.
    None {
        /// The digest that both names resolve to.
        digest: Digest,
        /// What it lacks on purpose, as far as was checked.
        sparse: Sparse,
    },
    /// Something has to be copied.
    Missing {
        /// What the tag resolves to at the source; `None` for a digest, which never moves.
        source: Option<Digest>,
        /// What the tag resolves to at the destination.
        there: Option<Digest>,
    },
    /// The source has no such tag, but the destination has.
    SourceGone {
        /// What the tag resolves to at the destination.
        digest: Digest,
    },
}

impl Difference {
    /// Something has to be copied, and no tag moved.
    const MISSING: Self = Self::Missing {
        source: None,
        there: None,
    };

    /// The digest at the destination.
    pub(crate) fn there(&self) -> Option<Digest> {
        match self {
            Self::None { digest, .. } | Self::SourceGone { digest } => Some(*digest),
            Self::Missing { there, .. } => *there,
        }
    }
}

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error("source: {place} has no {}", named(.version))]
    NotThere { place: String, version: Version },
    #[error("source")]
    Source(#[source] AskError),
    #[error("destination")]
    Destination(#[source] Error),
}

fn named(version: &Version) -> String {
    match version {
        Version::Tag(tag) => format!("tag {tag}"),
        Version::Digest(digest) => format!("manifest {digest}"),
    }
}

impl CompareError {
    /// Whether the name of the source's registry does not resolve.
    pub(crate) fn is_host_unknown(&self) -> bool {
        matches!(self, Self::Source(error) if error.category() == Category::Dns.as_str())
    }

    /// A bounded label for metrics and programs.
    pub(crate) fn category(&self) -> &'static str {
        match self {
            Self::NotThere { .. } => Category::NotFound.as_str(),
            Self::Source(error) => error.category(),
            Self::Destination(error) => error.category().as_str(),
        }
    }

    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::NotThere { .. } => Cause::Refusal,
            Self::Source(error) => error.cause(),
            Self::Destination(error) => retry_cause(error),
        }
    }
}

/// How deep to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// One `HEAD` per side; a digest is requested only at the destination.
    Head,
    /// Also the children of an index at the destination, and foreign layers if they are wanted:
    /// equal digests do not prove that these exist.
    Children,
}

impl Depth {
    /// The least depth for an image.
    pub(crate) fn for_image(wanted: &Wanted) -> Self {
        if wanted.platforms.is_empty() && !wanted.foreign_layers {
            Self::Head
        } else {
            Self::Children
        }
    }
}

pub(crate) async fn compare(
    source: &CopySide,
    destination: &CopySide,
    wanted: &Wanted,
    depth: Depth,
) -> Result<Difference, CompareError> {
    let version = &wanted.key.version;
    let there = async {
        let there = destination.endpoint.head(version).await;
        there.map_err(CompareError::Destination)
    };
    let digest = match version {
        Version::Digest(digest) => match there.await? {
            Some(_) => *digest,
            None => return Ok(Difference::MISSING),
        },
        Version::Tag(_) => {
            let named = source.check(|| source.endpoint.head(version));
            let named = async { named.await.map_err(CompareError::Source) };
            let (named, there) = futures::try_join!(named, there)?;
            let not_there = || CompareError::NotThere {
                place: source.endpoint.to_string(),
                version: version.clone(),
            };
            let there = there.map(|there| there.digest);
            let named = match (named, there) {
                (Some(named), _) => named.digest,
                (None, Some(digest)) => return Ok(Difference::SourceGone { digest }),
                (None, None) => return Err(not_there()),
            };
            if there != Some(named) {
                let source = Some(named);
                return Ok(Difference::Missing { source, there });
            }
            named
        }
    };
    match depth {
        Depth::Head => Ok(Difference::None {
            digest,
            sparse: Sparse::default(),
        }),
        Depth::Children => compare_children(destination, digest, wanted).await,
    }
}

async fn compare_children(
    destination: &CopySide,
    digest: Digest,
    wanted: &Wanted,
) -> Result<Difference, CompareError> {
    let version = Version::Digest(digest);
    let destination = &destination.endpoint;
    let root = destination
        .manifest(&version)
        .await
        .map_err(CompareError::Destination)?;
    let Ok(children) = choose_children(&root, &wanted.platforms) else {
        return Ok(Difference::MISSING);
    };
    // Images that were copied before platforms were checked are requested again, and refused.
    if is_for_another(destination, &root, &wanted.platforms).await {
        return Ok(Difference::MISSING);
    }
    let platforms = children.len() < root.children().len();
    let mut lacks_layers = lacks_layers(destination, &root, wanted.foreign_layers).await?;
    let questions = children
        .into_iter()
        .map(|child| compare_child(destination, child.digest, wanted.foreign_layers));
    let mut found = stream::iter(questions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    while let Some(child) = found.next().await {
        match child? {
            Child::Missing => return Ok(Difference::MISSING),
            Child::Sparse => lacks_layers = true,
            Child::There => {}
        }
    }
    let layers = if lacks_layers {
        Layers::LeftOut
    } else {
        Layers::Complete
    };
    let sparse = Sparse { platforms, layers };
    Ok(Difference::None { digest, sparse })
}

enum Child {
    Missing,
    /// Without some of its foreign layers.
    Sparse,
    There,
}

/// Checks a child; it is read only if its foreign layers matter.
async fn compare_child(
    destination: &Endpoint,
    digest: Digest,
    foreign_layers: bool,
) -> Result<Child, CompareError> {
    let version = Version::Digest(digest);
    let there = destination.head(&version).await;
    if there.map_err(CompareError::Destination)?.is_none() {
        return Ok(Child::Missing);
    }
    if !foreign_layers {
        return Ok(Child::There);
    }
    let child = destination.manifest(&version).await;
    let child = child.map_err(CompareError::Destination)?;
    let lacks_layers = lacks_layers(destination, &child, foreign_layers).await?;
    Ok(if lacks_layers {
        Child::Sparse
    } else {
        Child::There
    })
}

/// Whether foreign layers of a manifest are missing at the destination. If they are not wanted,
/// layers that are never copied count as missing without a request.
async fn lacks_layers(
    destination: &Endpoint,
    manifest: &Manifest,
    foreign_layers: bool,
) -> Result<bool, CompareError> {
    for blob in manifest.blobs().filter(|blob| blob.is_foreign()) {
        if is_left_out(blob, foreign_layers) {
            return Ok(true);
        }
        if !foreign_layers {
            continue;
        }
        let size = destination.blob_size(&blob.digest).await;
        if size.map_err(CompareError::Destination)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
