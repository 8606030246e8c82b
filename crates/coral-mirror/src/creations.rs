//! When images were created, according to their configurations.

use std::sync::Arc;

use coral_distribution::Error;
use coral_image::{Descriptor, Digest, Manifest, Repository, Tag, Version};
use futures::TryStreamExt;
use jiff::Timestamp;
use quick_cache::sync::Cache;

use crate::copy::CopySide;
use crate::pace::AskError;

/// Larger configurations are not read for their creation time.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;
/// How many creation times are remembered; one that is dropped is read again.
const MAX_REMEMBERED: usize = 100_000;

/// Creation times by tag, with the digest that they belong to: once read, each costs only a `HEAD`,
/// which registries do not count. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Creations(Arc<Cache<(Repository, Tag), Creation>>);

#[derive(Debug, Clone, Copy)]
struct Creation {
    digest: Digest,
    time: Option<Timestamp>,
}

impl Default for Creations {
    fn default() -> Self {
        Self(Arc::new(Cache::new(MAX_REMEMBERED)))
    }
}

impl Creations {
    /// When the image of a tag was created, if it states that.
    pub(crate) async fn time(
        &self,
        source: &CopySide,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<Timestamp>, AskError> {
        let image = (repository.clone(), tag.clone());
        let version = Version::Tag(tag.clone());
        if let Some(known) = self.0.get(&image) {
            let now = source.check(|| source.endpoint.head(&version)).await?;
            if now.is_some_and(|now| now.digest == known.digest) {
                return Ok(known.time);
            }
        }
        let creation = created(source, &version).await?;
        self.0.insert(image, creation);
        Ok(creation.time)
    }
}

/// When an image was created, according to its configuration; for an index, its first image. `None`
/// for artifacts and images that do not state a time.
async fn created(source: &CopySide, version: &Version) -> Result<Creation, AskError> {
    let mut manifest = source.check(|| source.endpoint.manifest(version)).await?;
    let digest = manifest.digest();
    if let Some(child) = first_image(&manifest) {
        let child = Version::Digest(child.digest);
        manifest = source.check(|| source.endpoint.manifest(&child)).await?;
    }
    let config = manifest.body().config.as_ref();
    let Some(config) = config.filter(|c| c.size <= MAX_CONFIG) else {
        return Ok(Creation { digest, time: None });
    };
    let config = source.check(|| read_small(source, config)).await?;
    Ok(Creation {
        digest,
        time: created_in(&config),
    })
}

async fn read_small(source: &CopySide, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    let chunks: Vec<bytes::Bytes> = source.endpoint.blob(blob, 0).await?.try_collect().await?;
    Ok(chunks.concat())
}

fn first_image(manifest: &Manifest) -> Option<&Descriptor> {
    let is_image = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.os != "unknown");
    manifest.children().iter().find(is_image)
}

fn created_in(config: &[u8]) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Created {
        created: Option<String>,
    }
    serde_json::from_slice::<Created>(config)
        .ok()?
        .created?
        .parse()
        .ok()
}
