//! Finds the repositories that have a piece of content, and the images that need it.

use std::collections::HashMap;
use std::path::Path;

use coral_image::{Digest, MAX_MANIFEST_SIZE, Manifest, RepositoryPath, Tag};
use tokio_util::sync::CancellationToken;

use crate::store::StoreError;
use crate::store::file::Files;
use crate::store::file::lookup::names_in;
use crate::store::file::records::{self, TagEntry};

/// How many repositories are searched for images, and how many images are named.
const MOST_REPOSITORIES: usize = 5;
const MOST_IMAGES: usize = 20;
/// How many tags of one repository are read.
const MOST_TAGS: usize = 1000;
/// Deepest nesting that is followed: an index of indexes of images.
const MOST_DEPTH: u32 = 4;

impl Files {
    /// The repositories that have these blobs or manifests, in the order of `digests`: one walk
    /// for all of them.
    pub(super) fn holders(
        &self,
        digests: &[Digest],
        stop: &CancellationToken,
    ) -> Result<Vec<Vec<RepositoryPath>>, StoreError> {
        let mut found = vec![Vec::new(); digests.len()];
        if !digests.is_empty() {
            let root = self.layout.repositories();
            self.holders_below(&root, "", digests, &mut found, stop)?;
        }
        for found in &mut found {
            found.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        }
        Ok(found)
    }

    fn holders_below(
        &self,
        folder: &Path,
        prefix: &str,
        digests: &[Digest],
        found: &mut [Vec<RepositoryPath>],
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        for name in names_in(folder)? {
            let path = format!("{prefix}{name}");
            let Ok(repository) = RepositoryPath::parse(&path) else {
                continue;
            };
            if stop.is_cancelled() {
                return Ok(());
            }
            for (digest, found) in digests.iter().zip(&mut *found) {
                let link = self.layout.blob_link(&repository, digest);
                if link.exists() || self.layout.manifest(&repository, digest).exists() {
                    found.push(repository.clone());
                }
            }
            let below = folder.join(&name);
            self.holders_below(&below, &format!("{path}/"), digests, found, stop)?;
        }
        Ok(())
    }

    /// Images of these repositories that need the content, within bounds: unreadable manifests are
    /// skipped.
    pub(super) fn images_with(&self, holders: &[RepositoryPath], digest: &Digest) -> Vec<String> {
        let mut images = Vec::new();
        for repository in holders.iter().take(MOST_REPOSITORIES) {
            let mut known = HashMap::new();
            let mut tags = names_in(&self.layout.tags(repository)).unwrap_or_default();
            tags.sort();
            for name in tags.into_iter().take(MOST_TAGS) {
                let Ok(tag) = Tag::parse(&name) else { continue };
                let entry = records::read::<TagEntry>(&self.layout.tag(repository, &tag));
                let Ok(Some(entry)) = entry else { continue };
                if self.needs(&entry.digest, digest, MOST_DEPTH, &mut known) {
                    images.push(format!("{repository}:{tag}"));
                }
                if images.len() >= MOST_IMAGES {
                    return images;
                }
            }
        }
        images
    }

    /// Whether a manifest is the content or names it, directly or through another manifest.
    fn needs(
        &self,
        root: &Digest,
        digest: &Digest,
        depth: u32,
        known: &mut HashMap<Digest, bool>,
    ) -> bool {
        if root == digest {
            return true;
        }
        if let Some(needs) = known.get(root) {
            return *needs;
        }
        // A manifest that names itself ends here.
        known.insert(*root, false);
        let path = self.layout.blob(root);
        // An index may list anything as a child; what is too large is not a manifest.
        let is_small =
            std::fs::metadata(&path).is_ok_and(|it| it.len() <= MAX_MANIFEST_SIZE as u64);
        let bytes = is_small.then(|| std::fs::read(&path).ok());
        let bytes = bytes.flatten().unwrap_or_default();
        let Ok(manifest) = Manifest::parse(bytes.into(), None) else {
            return false;
        };
        let needs = manifest.blobs().any(|it| it.digest == *digest)
            || (depth > 0
                && manifest
                    .entries()
                    .any(|it| self.needs(&it.digest, digest, depth - 1, known)));
        known.insert(*root, needs);
        needs
    }
}
