//! Whether an image is whole at its destination, down to its blobs.

use std::collections::BTreeSet;

use coral_api::VerifyBy;
use coral_distribution::{Category, Endpoint, Error};
use coral_image::{Descriptor, Digest, Manifest, Version};
use futures::{StreamExt, TryStreamExt, stream};

use crate::copy::{choose_children, cosign_tags, is_foreign};
use crate::expand::Wanted;

/// Blobs looked at at the same time.
const AT_ONCE: usize = 4;
/// Manifests of one image that are walked; more than any copy makes.
const MAX_MANIFESTS: usize = 20_000;

/// What is gone or broken of the image `root`: blobs, manifests, and every manifest on the way to
/// one of them, so that a copy knows what to do again. Empty if all is well. What goes with the
/// image, referrers and cosign's tags, belongs to it where it is wanted.
pub(crate) async fn verify(
    destination: &Endpoint,
    root: Digest,
    wanted: &Wanted,
    by: VerifyBy,
) -> Result<BTreeSet<Digest>, Error> {
    let mut walk = Walk::default();
    walk.next.push((root, vec![]));
    while let Some((digest, above)) = walk.next.pop() {
        if !walk.seen.insert(digest) {
            continue;
        }
        let found = destination.manifest(&Version::Digest(digest)).await;
        let Some(manifest) = whole(found)? else {
            walk.blame(&above, digest);
            continue;
        };
        let path = [&above[..], &[digest]].concat();
        for blob in broken_blobs(destination, &manifest, by).await? {
            walk.blame(&path, blob);
        }
        // The index itself is checked by now; what it lacks on purpose is not looked for.
        let children = choose_children(&manifest, &wanted.platforms).unwrap_or_default();
        let mut below: Vec<Digest> = children.into_iter().map(|child| child.digest).collect();
        if wanted.referrers {
            below.extend(companions(destination, &digest).await?);
        }
        walk.next
            .extend(below.into_iter().map(|digest| (digest, path.clone())));
        if walk.seen.len() > MAX_MANIFESTS {
            break;
        }
    }
    Ok(walk.broken)
}

#[derive(Default)]
struct Walk {
    /// Manifests to look at, each with those above it.
    next: Vec<(Digest, Vec<Digest>)>,
    seen: BTreeSet<Digest>,
    broken: BTreeSet<Digest>,
}

impl Walk {
    fn blame(&mut self, above: &[Digest], digest: Digest) {
        self.broken.insert(digest);
        self.broken.extend(above);
    }
}

/// What the destination has that goes with a manifest.
async fn companions(destination: &Endpoint, subject: &Digest) -> Result<Vec<Digest>, Error> {
    let referrers = destination.referrers(subject).await?;
    let mut found: Vec<Digest> = referrers.iter().map(|referrer| referrer.digest).collect();
    for tag in cosign_tags(subject) {
        found.extend(destination.head(&tag).await?.map(|there| there.digest));
    }
    Ok(found)
}

async fn broken_blobs(
    destination: &Endpoint,
    manifest: &Manifest,
    by: VerifyBy,
) -> Result<Vec<Digest>, Error> {
    let blobs = manifest.blobs().filter(|b| !is_foreign(b));
    let questions = blobs.map(|blob| async move {
        let is_whole = match by {
            VerifyBy::Size => destination.blob_size(&blob.digest).await? == Some(blob.size),
            VerifyBy::Content => whole(read(destination, blob).await)?.is_some(),
        };
        Ok((!is_whole).then_some(blob.digest))
    });
    let looked = stream::iter(questions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let looked: Vec<Option<Digest>> = looked.try_collect().await?;
    Ok(looked.into_iter().flatten().collect())
}

async fn read(destination: &Endpoint, blob: &Descriptor) -> Result<(), Error> {
    let mut stream = destination.blob(blob, 0).await?;
    while let Some(chunk) = stream.next().await {
        chunk?;
    }
    Ok(())
}

/// What was read, `None` where that shows it to be gone or broken; other failures say nothing.
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
