//! What belongs to an image without being part of it: referrers (OCI distribution-spec, "Listing
//! Referrers") and the tags by which cosign finds its signatures.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use coral_image::{Digest, Tag, Version};
use futures::{StreamExt, TryStreamExt, stream};

use super::error::{Kind, Side};
use super::tree::Tree;
use super::{CopyError, CopyOptions, CopyRequest};

/// Signatures of attestations of images; nothing known goes deeper.
const MAX_DEPTH: u8 = 3;
/// Referrers of one image with those of its referrers; beyond, somebody is filling disks.
const MAX_REFERRERS: usize = 10_000;
/// Questions asked at the same time.
const AT_ONCE: usize = 8;
/// Suffixes of cosign's tags `sha256-<hex>.<suffix>`.
const COSIGN_SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// What is left of the referrers that one image may have, over all levels.
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

/// A manifest to copy along, under the name it has at the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Referrer(Version);

impl Referrer {
    /// The copy of this referrer that goes with the copy of its subject.
    pub(super) fn request(&self, subject: &CopyRequest) -> CopyRequest {
        CopyRequest {
            source_version: self.0.clone(),
            destination_version: self.0.clone(),
            // What refers to an image is not itself for a platform.
            options: CopyOptions {
                platforms: vec![],
                ..subject.options.clone()
            },
            ..subject.clone()
        }
    }
}

/// What refers to any manifest of the tree and is not at the destination.
pub(super) async fn find(
    request: &CopyRequest,
    tree: &Tree,
    depth: u8,
    budget: &Budget,
) -> Result<Vec<Referrer>, CopyError> {
    if request.options.without_referrers || depth >= MAX_DEPTH {
        return Ok(vec![]);
    }
    let questions = tree
        .digests()
        .iter()
        .map(|digest| find_for(request, *digest, budget));
    let found: Vec<Vec<Referrer>> = stream::iter(questions.collect::<Vec<_>>())
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut seen = HashSet::new();
    let distinct = found
        .into_iter()
        .flatten()
        .filter(|r| seen.insert(r.clone()));
    Ok(distinct.collect())
}

async fn find_for(
    request: &CopyRequest,
    subject: Digest,
    budget: &Budget,
) -> Result<Vec<Referrer>, CopyError> {
    let source = &request.source;
    let failed = |e| CopyError::at(Side::Source, e);
    let descriptors = source.ask(|| source.endpoint.referrers(&subject)).await;
    let descriptors = descriptors.map_err(failed)?;
    budget.spend(descriptors.len())?;
    let mut versions: Vec<Version> = descriptors
        .iter()
        .map(|d| Version::Digest(d.digest))
        .collect();
    versions.extend(cosign_tags(&subject));
    let questions = versions
        .into_iter()
        .map(|version| missing(request, version));
    let missing: Vec<Option<Referrer>> = stream::iter(questions.collect::<Vec<_>>())
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(missing.into_iter().flatten().collect())
}

/// The tags under which cosign keeps what it says of a manifest.
pub(crate) fn cosign_tags(subject: &Digest) -> impl Iterator<Item = Version> {
    let stem = format!("{}-{}", subject.algorithm(), subject.hex());
    // A sha512 digest makes a tag too long to exist.
    COSIGN_SUFFIXES
        .into_iter()
        .filter_map(move |s| Tag::parse(&format!("{stem}.{s}")).ok())
        .map(Version::Tag)
}

/// A referrer that the source has and the destination has not, or not at the same digest.
async fn missing(request: &CopyRequest, version: Version) -> Result<Option<Referrer>, CopyError> {
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
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    if request.options.broken.contains(&wanted) {
        return Ok(Some(Referrer(version)));
    }
    let there = destination.head(&version).await.map_err(find)?;
    Ok((there.map(|d| d.digest) != Some(wanted)).then_some(Referrer(version)))
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
