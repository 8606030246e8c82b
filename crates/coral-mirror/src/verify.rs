//! Whether an image is whole at its destination, down to its blobs.

use std::collections::BTreeSet;

use coral_api::VerifyBy;
use coral_distribution::{Category, Endpoint, Error};
use coral_image::{Descriptor, Digest, Manifest, PlatformPattern, Version};
use futures::{StreamExt, TryStreamExt, stream};

use crate::copy::{choose_children, is_foreign};

/// Blobs looked at at the same time.
const AT_ONCE: usize = 4;
/// Manifests of one image that are walked; more than any copy makes.
const MAX_MANIFESTS: usize = 20_000;

/// What is gone or broken of the image `root`: blobs, manifests, and every manifest on the way to
/// one of them, so that a copy knows what to do again. Empty if all is well.
pub(crate) async fn verify(
    destination: &Endpoint,
    root: Digest,
    platforms: &[PlatformPattern],
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
        let children = choose_children(&manifest, platforms).unwrap_or_default();
        let referrers = destination.referrers(&digest).await?;
        let below = children.into_iter().chain(&referrers);
        walk.next
            .extend(below.map(|child| (child.digest, path.clone())));
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
