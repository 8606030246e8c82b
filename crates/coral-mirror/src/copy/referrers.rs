//! What belongs to an image without being part of it: referrers (OCI distribution-spec, "Listing
//! Referrers") and the tags by which cosign finds its signatures.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use coral_image::{Digest, Tag, Version};
use futures::{StreamExt, stream};

use super::error::{Kind, Side};
use super::tree::Tree;
use super::{CopyError, CopyOptions, CopyRequest, Missed};

/// Deepest nesting: signatures of attestations of images; nothing known goes deeper.
const MAX_DEPTH: u8 = 3;
/// Most referrers of one image, including those of its referrers; more is an attempt to fill the
/// disk.
const MAX_REFERRERS: usize = 10_000;
/// How many requests are made at the same time.
const AT_ONCE: usize = 8;
/// Suffixes of cosign's tags `sha256-<hex>.<suffix>`.
const COSIGN_SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// How many more referrers one image may have, over all levels.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicUsize::new(MAX_REFERRERS))
    }
}

impl Budget {
    fn spend(&self, referrers: usize) -> Result<(), CopyError> {
        let left = |left: usize| left.checked_sub(referrers);
        let spent = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        spent
            .map(drop)
            .map_err(|_| Kind::TooManyReferrers(MAX_REFERRERS).into())
    }
}

/// A manifest to copy along, under its name at the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Referrer {
    version: Version,
    subject: Digest,
}

impl Referrer {
    /// The request that copies this referrer along with its subject.
    pub(super) fn request(&self, subject: &CopyRequest) -> CopyRequest {
        CopyRequest {
            source_version: self.version.clone(),
            destination_version: self.version.clone(),
            options: CopyOptions {
                // Referrers have no platform themselves.
                platforms: vec![],
                expected: None,
                // It was already looked for.
                look_first: false,
                ..subject.options.clone()
            },
            ..subject.clone()
        }
    }

    /// Its name at the source.
    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// The subject that it must name; `None` for cosign's tags, which are found by name alone.
    pub(super) fn subject(&self) -> Option<Digest> {
        self.version.digest().map(|_| self.subject)
    }
}

/// The referrers of an image that are not at the destination.
#[derive(Debug, Default)]
pub(super) struct ImageReferrers {
    pub(super) referrers: Vec<Referrer>,
    /// What could not be listed.
    pub(super) missed: Missed,
}

impl ImageReferrers {
    fn take_in(&mut self, found: Result<Option<Referrer>, CopyError>) {
        match found {
            Ok(referrer) => self.referrers.extend(referrer),
            Err(error) => self.missed.add(Missed::from_error(&error)),
        }
    }

    fn add(&mut self, other: Self) {
        self.referrers.extend(other.referrers);
        self.missed.add(other.missed);
    }
}

/// Referrers of any manifest of the tree that are not at the destination. What cannot be listed
/// counts as missed and does not keep the image from being copied.
pub(super) async fn find(
    request: &CopyRequest,
    tree: &Tree,
    depth: u8,
    budget: &Budget,
) -> ImageReferrers {
    if request.options.without_referrers || depth >= MAX_DEPTH {
        return ImageReferrers::default();
    }
    let own: HashSet<Digest> = tree.digests().iter().copied().collect();
    let questions = tree
        .digests()
        .iter()
        .map(|digest| find_for(request, *digest, &own, budget));
    let found: Vec<ImageReferrers> = stream::iter(questions.collect::<Vec<_>>())
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut all = ImageReferrers::default();
    for found in found {
        all.add(found);
    }
    let mut seen = HashSet::new();
    all.referrers.retain(|r| seen.insert(r.version.clone()));
    all
}

async fn find_for(
    request: &CopyRequest,
    subject: Digest,
    own: &HashSet<Digest>,
    budget: &Budget,
) -> ImageReferrers {
    let source = &request.source;
    let mut found = ImageReferrers::default();
    let listed = source.ask(|| source.endpoint.referrers(&subject)).await;
    let listed = listed.map_err(|e| CopyError::at(Side::Source, e));
    let listed = listed.and_then(|listed| budget.spend(listed.len()).map(|()| listed));
    let mut versions = vec![];
    match listed {
        Ok(listed) => versions.extend(listed.iter().map(|d| Version::Digest(d.digest))),
        Err(error) => found.missed.add(Missed::from_error(&error)),
    }
    versions.extend(cosign_tags(&subject));
    let questions = versions
        .into_iter()
        .map(|version| missing(request, version, subject, own));
    let questions = stream::iter(questions.collect::<Vec<_>>()).buffered(AT_ONCE);
    let answers: Vec<_> = questions.collect().await;
    for answer in answers {
        found.take_in(answer);
    }
    found
}

/// The tags under which cosign stores signatures and attestations of a manifest.
pub(crate) fn cosign_tags(subject: &Digest) -> impl Iterator<Item = Version> {
    let stem = format!("{}-{}", subject.algorithm(), subject.hex());
    // A sha512 digest makes a tag too long to exist.
    COSIGN_SUFFIXES
        .into_iter()
        .filter_map(move |s| Tag::parse(&format!("{stem}.{s}")).ok())
        .map(Version::Tag)
}

/// A referrer that the source has and the destination does not, or not at the same digest.
/// Manifests of the image itself do not count: some registries answer with the image for any tag.
async fn missing(
    request: &CopyRequest,
    version: Version,
    subject: Digest,
    own: &HashSet<Digest>,
) -> Result<Option<Referrer>, CopyError> {
    let (source, destination) = (&request.source, &request.destination.endpoint);
    let find = |e| CopyError::at(Side::Destination, e);
    let wanted = match &version {
        Version::Digest(digest) => Some(*digest),
        Version::Tag(_) => {
            let read = |e| CopyError::at(Side::Source, e);
            let head = source.ask(|| source.endpoint.head(&version)).await;
            head.map_err(read)?.map(|d| d.digest)
        }
    };
    let Some(wanted) = wanted.filter(|digest| !own.contains(digest)) else {
        return Ok(None);
    };
    let referrer = Referrer { version, subject };
    if request.options.broken.contains(&wanted) {
        return Ok(Some(referrer));
    }
    let there = destination.head(&referrer.version).await.map_err(find)?;
    Ok((there.map(|d| d.digest) != Some(wanted)).then_some(referrer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_budget_over_all_levels_and_more_is_an_error() {
        let budget = Budget::default();
        budget.spend(MAX_REFERRERS - 1).unwrap();
        budget.spend(1).unwrap();
        let error = budget.spend(1).unwrap_err();
        assert_eq!(error.category(), "too_large");
        assert!(error.to_string().contains("10000 referrers"), "{error}");
    }
}
