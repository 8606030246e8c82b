//! Checks that an image is intact at its destination, down to its blobs.

use std::collections::BTreeSet;

use coral_api::VerifyBy;
use coral_distribution::{Category, Endpoint, Error};
use coral_image::{Descriptor, Digest, Version};
use futures::{StreamExt, TryStreamExt, stream};

use crate::copy::{CopyError, Kind, Layers, Side, choose_children, cosign_tags, is_left_out};
use crate::expand::Wanted;

/// How many blobs are checked at the same time.
const AT_ONCE: usize = 4;
/// Most manifests of one image that are read; more than any copy writes.
const MAX_MANIFESTS: usize = 20_000;

/// Deepest level below the root of an image: a copy makes trees of 8 levels, and referrers of
/// referrers.
const MAX_DEPTH: usize = 32;
/// Most bytes of manifests of one image that are read; more than a copy reads.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// The parts of the image `root` that are missing or damaged: blobs, manifests, and every manifest
/// on the path to one of them, so that a copy knows what to repeat. Empty if the image is intact.
/// Referrers and cosign's tags belong to the image if they are wanted; foreign layers that are not
/// wanted do not. If `layers` states that some foreign layers are missing, a missing one is not
/// damage, but an existing one must be intact. An image larger than any copy is an error, since its
/// unread parts would count as intact.
pub(crate) async fn verify(
    destination: &Endpoint,
    root: Digest,
    wanted: &Wanted,
    layers: Layers,
    by: VerifyBy,
) -> Result<BTreeSet<Digest>, CopyError> {
    let mut walk = Walk::default();
    walk.add([root], None)?;
    while let Some(place) = walk.next.pop() {
        let digest = walk.visits[place].digest;
        let found = destination.manifest(&Version::Digest(digest)).await;
        let Some(manifest) = whole(found).map_err(at_destination)? else {
            walk.blame(place);
            continue;
        };
        walk.count(manifest.bytes().len())?;
        let belongs = |blob: &&Descriptor| !is_left_out(blob, wanted.foreign_layers);
        let blobs = manifest.blobs().filter(belongs);
        let broken = broken_blobs(destination, blobs, layers, by).await;
        let broken = broken.map_err(at_destination)?;
        if !broken.is_empty() {
            walk.blame(place);
            walk.broken.extend(broken);
        }
        // The index itself is already checked; what it lacks on purpose is not looked for.
        let children = choose_children(&manifest, &wanted.platforms).unwrap_or_default();
        walk.add(children.iter().map(|child| child.digest), Some(place))?;
        if wanted.referrers {
            let companions = companions(destination, &digest).await;
            walk.add(companions, Some(place))?;
        }
    }
    Ok(walk.broken)
}

fn at_destination(error: Error) -> CopyError {
    CopyError::at(Side::Destination, error)
}

/// A manifest that was found, and the index of its parent.
struct Visit {
    digest: Digest,
    above: Option<usize>,
    depth: usize,
}

#[derive(Default)]
struct Walk {
    visits: Vec<Visit>,
    seen: BTreeSet<Digest>,
    /// Indices of those that are still to be checked.
    next: Vec<usize>,
    bytes: usize,
    broken: BTreeSet<Digest>,
}

impl Walk {
    /// Adds the children of `above`. They are counted here and not when they are checked, because
    /// waiting ones take memory too.
    fn add(
        &mut self,
        digests: impl IntoIterator<Item = Digest>,
        above: Option<usize>,
    ) -> Result<(), CopyError> {
        let depth = above.map_or(0, |place| self.visits[place].depth + 1);
        for digest in digests {
            if !self.seen.insert(digest) {
                continue;
            }
            if depth > MAX_DEPTH {
                return Err(Kind::TooDeep(MAX_DEPTH).into());
            }
            if self.visits.len() >= MAX_MANIFESTS {
                return Err(Kind::TooMany(MAX_MANIFESTS).into());
            }
            self.next.push(self.visits.len());
            self.visits.push(Visit {
                digest,
                above,
                depth,
            });
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), CopyError> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            return Err(Kind::TooLarge(MAX_BYTES).into());
        }
        Ok(())
    }

    /// Marks a manifest and all its parents to be copied again.
    fn blame(&mut self, place: usize) {
        let mut next = Some(place);
        while let Some(place) = next {
            let visit = &self.visits[place];
            self.broken.insert(visit.digest);
            next = visit.above;
        }
    }
}

/// Referrers and tags that belong to a manifest at the destination. If the destination does not
/// list them, they are skipped: the image itself is intact without them.
async fn companions(destination: &Endpoint, subject: &Digest) -> Vec<Digest> {
    let untold = |error: &Error| {
        tracing::warn!(%subject, %error, "referrers at the destination were not verified");
    };
    let referrers = destination.referrers(subject).await;
    let referrers = referrers.inspect_err(untold).unwrap_or_default();
    let mut found: Vec<Digest> = referrers.iter().map(|referrer| referrer.digest).collect();
    for tag in cosign_tags(subject) {
        let there = destination.head(&tag).await.inspect_err(untold);
        found.extend(there.ok().flatten().map(|there| there.digest));
    }
    found
}

async fn broken_blobs(
    destination: &Endpoint,
    blobs: impl Iterator<Item = &Descriptor>,
    layers: Layers,
    by: VerifyBy,
) -> Result<Vec<Digest>, Error> {
    let questions = blobs.map(|blob| async move {
        let is_sound = match look(destination, blob, by).await? {
            Blob::Whole => true,
            Blob::Missing => blob.is_foreign() && layers != Layers::Complete,
            Blob::Broken => false,
        };
        Ok((!is_sound).then_some(blob.digest))
    });
    let looked = stream::iter(questions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let looked: Vec<Option<Digest>> = looked.try_collect().await?;
    Ok(looked.into_iter().flatten().collect())
}

/// The state of a blob at the destination.
enum Blob {
    Whole,
    Missing,
    Broken,
}

async fn look(destination: &Endpoint, blob: &Descriptor, by: VerifyBy) -> Result<Blob, Error> {
    match by {
        VerifyBy::Size => Ok(match destination.blob_size(&blob.digest).await? {
            Some(size) if size == blob.size => Blob::Whole,
            Some(_) => Blob::Broken,
            None => Blob::Missing,
        }),
        VerifyBy::Content => match read(destination, blob).await {
            Err(error) if error.category() == Category::NotFound => Ok(Blob::Missing),
            read => Ok(whole(read)?.map_or(Blob::Broken, |()| Blob::Whole)),
        },
    }
}

async fn read(destination: &Endpoint, blob: &Descriptor) -> Result<(), Error> {
    let mut stream = destination.blob(blob, 0).await?;
    while let Some(chunk) = stream.next().await {
        chunk?;
    }
    Ok(())
}

/// The value that was read; `None` if it is missing or damaged. Other failures are errors.
fn whole<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    let damage = |error: &Error| {
        use Category::{Digest, NotFound, Protocol, TooLarge};
        matches!(error.category(), NotFound | Digest | TooLarge | Protocol)
    };
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::sha256(&n.to_le_bytes())
    }

    #[test]
    fn what_is_above_a_broken_manifest_is_to_be_copied_again_and_nothing_beside_it() {
        let mut walk = Walk::default();
        walk.add([digest(0)], None).unwrap();
        walk.add([digest(1), digest(2)], Some(0)).unwrap();
        walk.add([digest(3), digest(1)], Some(2)).unwrap();
        walk.blame(3);
        let expected = [0, 2, 3].map(digest);
        assert_eq!(walk.broken, BTreeSet::from(expected));
        assert_eq!(walk.visits.len(), 4);
    }

    #[test]
    fn a_chain_without_end_a_crowd_and_large_manifests_end_in_an_error() {
        let mut chain = Walk::default();
        chain.add([digest(0)], None).unwrap();
        for n in 1..=MAX_DEPTH {
            chain.add([digest(n)], Some(n - 1)).unwrap();
        }
        let refused = chain.add([digest(MAX_DEPTH + 1)], Some(MAX_DEPTH));
        assert_eq!(refused.unwrap_err().category(), "too_large");
        let mut crowd = Walk::default();
        crowd.add([digest(0)], None).unwrap();
        crowd.add((1..MAX_MANIFESTS).map(digest), Some(0)).unwrap();
        // What was met before is no more than it was.
        crowd.add((1..MAX_MANIFESTS).map(digest), Some(1)).unwrap();
        assert!(crowd.add([digest(MAX_MANIFESTS)], Some(1)).is_err());
        assert_eq!(crowd.next.len(), MAX_MANIFESTS);
        crowd.count(MAX_BYTES).unwrap();
        assert!(crowd.count(1).is_err());
    }
}
