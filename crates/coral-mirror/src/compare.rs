//! Source and destination, compared by digest, cheapest way first.

use coral_distribution::{Category, Error};
use coral_image::{Digest, PlatformPattern, Version};
use futures::{StreamExt, stream};

use crate::copy::{Site, cause_of, choose_children, is_for_another};
use crate::pace::AskError;
use crate::state::Cause;

/// Children of a sparse index asked for at the same time.
const AT_ONCE: usize = 8;

/// What comparing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The destination has what the source has.
    None {
        /// What both names resolve to.
        digest: Digest,
        /// Whether its index names platforms that were left out; not known from `HEAD` alone,
        /// and then `false`.
        sparse: bool,
    },
    /// Something is to be copied.
    Missing {
        /// What the tag resolves to at the source; `None` of a digest, which never moves.
        source: Option<Digest>,
        /// What the tag resolves to at the destination.
        there: Option<Digest>,
    },
    /// The source has no such tag, and the destination holds one.
    SourceGone {
        /// What the tag resolves to at the destination.
        digest: Digest,
    },
}

impl Difference {
    /// Something is to be copied, and no tag moved.
    const MISSING: Self = Self::Missing {
        source: None,
        there: None,
    };
}

/// Why nothing could be found out.
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

    /// A bounded label for metrics and machines.
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
            Self::Destination(error) => cause_of(error),
        }
    }
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// One `HEAD` per side; a digest is only looked for at the destination.
    Head,
    /// The children of an index at the destination too: with named platforms, equal digests do
    /// not say that the children are there.
    Children,
}

pub(crate) async fn compare(
    source: &Site,
    destination: &Site,
    version: &Version,
    platforms: &[PlatformPattern],
    depth: Depth,
) -> Result<Difference, CompareError> {
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
            let wanted = source.check(|| source.endpoint.head(version));
            let wanted = async { wanted.await.map_err(CompareError::Source) };
            let (wanted, there) = futures::try_join!(wanted, there)?;
            let not_there = || CompareError::NotThere {
                place: source.endpoint.to_string(),
                version: version.clone(),
            };
            let there = there.map(|there| there.digest);
            let wanted = match (wanted, there) {
                (Some(wanted), _) => wanted.digest,
                (None, Some(digest)) => return Ok(Difference::SourceGone { digest }),
                (None, None) => return Err(not_there()),
            };
            if there != Some(wanted) {
                let source = Some(wanted);
                return Ok(Difference::Missing { source, there });
            }
            wanted
        }
    };
    match depth {
        Depth::Head => Ok(Difference::None {
            digest,
            sparse: false,
        }),
        Depth::Children => compare_children(destination, digest, platforms).await,
    }
}

async fn compare_children(
    destination: &Site,
    digest: Digest,
    platforms: &[PlatformPattern],
) -> Result<Difference, CompareError> {
    let version = Version::Digest(digest);
    let destination = &destination.endpoint;
    let index = destination
        .manifest(&version)
        .await
        .map_err(CompareError::Destination)?;
    let Ok(children) = choose_children(&index, platforms) else {
        return Ok(Difference::MISSING);
    };
    // What was copied before platforms were looked at is asked for again, and refused.
    if is_for_another(destination, &index, platforms).await {
        return Ok(Difference::MISSING);
    }
    let sparse = children.len() < index.children().len();
    let questions = children.into_iter().map(|child| {
        let version = Version::Digest(child.digest);
        async move {
            destination
                .head(&version)
                .await
                .map_err(CompareError::Destination)
        }
    });
    let mut found = stream::iter(questions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    while let Some(child) = found.next().await {
        if child?.is_none() {
            return Ok(Difference::MISSING);
        }
    }
    Ok(Difference::None { digest, sparse })
}
