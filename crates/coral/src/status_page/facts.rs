//! Facts about an image in the registry: its size, its platforms, when it was built. They depend on
//! the digest alone, so they are read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use coral_image::{
    Descriptor, Digest, Manifest, ManifestKind, Platform, RepositoryPath, media_type,
};
use jiff::Timestamp;
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::api::{Api, ApiError, Reader};

/// How many images are remembered.
const MOST_REMEMBERED: usize = 4096;
/// How many children of an index are read; no image on Docker Hub has as many.
const MOST_CHILDREN: usize = 64;
/// Largest configuration that is read.
const MAX_CONFIG: u64 = 1024 * 1024;

/// The facts about an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ImageFacts {
    /// Bytes of all its content that is here, each blob once.
    pub(super) size: u64,
    /// Its platforms; empty if it is not a container image.
    pub(super) platforms: Vec<Platform>,
    /// Platforms that its index names but that are not here.
    pub(super) absent: Vec<Platform>,
    /// The kind of artifact, if it is not an image.
    pub(super) artifact: Option<String>,
    /// When it was built, according to its configuration.
    pub(super) created: Option<Timestamp>,
}

/// The facts found so far.
pub(super) struct FactsCache(Cache<Digest, Arc<ImageFacts>>);

impl Default for FactsCache {
    fn default() -> Self {
        Self(Cache::new(MOST_REMEMBERED))
    }
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<Timestamp>,
}

impl FactsCache {
    /// The facts about an image that the reader may read.
    pub(super) async fn get(
        &self,
        api: &Api,
        reader: &Reader,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Arc<ImageFacts>, ApiError> {
        if let Some(known) = self.0.get(digest) {
            return Ok(known);
        }
        let facts_reader = FactsReader {
            api,
            reader,
            repository,
        };
        let facts = Arc::new(facts_reader.facts(digest).await?);
        // A child that is missing may still arrive, so this is not remembered.
        if facts.absent.is_empty() {
            self.0.insert(*digest, facts.clone());
        }
        Ok(facts)
    }
}

struct FactsReader<'a> {
    api: &'a Api,
    reader: &'a Reader,
    repository: &'a RepositoryPath,
}

impl FactsReader<'_> {
    async fn facts(&self, digest: &Digest) -> Result<ImageFacts, ApiError> {
        let manifest = self.manifest(digest).await?;
        match manifest.kind() {
            ManifestKind::Image => self.image(&manifest).await,
            ManifestKind::Index => self.index(&manifest).await,
        }
    }

    async fn manifest(&self, digest: &Digest) -> Result<Manifest, ApiError> {
        self.api
            .manifest(self.reader, self.repository, digest)
            .await
    }

    async fn image(&self, manifest: &Manifest) -> Result<ImageFacts, ApiError> {
        let mut parts = BlobSizes::default();
        parts.add(manifest);
        let config = self.config(manifest).await;
        let platform = Platform::parse(&config.text()).ok();
        let artifact = manifest.artifact_type().filter(|_| platform.is_none());
        // An image whose configuration names no platform is still an image, not an artifact.
        let artifact = artifact.filter(|kind| !media_type::is_image_config(kind));
        Ok(ImageFacts {
            size: parts.size(),
            platforms: platform.into_iter().collect(),
            absent: vec![],
            artifact: artifact.map(str::to_owned),
            created: config.created.filter(|time| is_a_time(*time)),
        })
    }

    async fn index(&self, index: &Manifest) -> Result<ImageFacts, ApiError> {
        let mut parts = BlobSizes::default();
        parts.add(index);
        let mut facts = ImageFacts {
            artifact: index.artifact_type().map(str::to_owned),
            ..ImageFacts::default()
        };
        for child in index.children().iter().take(MOST_CHILDREN) {
            let platform = child.platform.clone().filter(is_of_a_system);
            match self.manifest(&child.digest).await {
                Ok(manifest) => {
                    parts.add(&manifest);
                    if platform.is_some() && facts.created.is_none() {
                        let created = self.config(&manifest).await.created;
                        facts.created = created.filter(|time| is_a_time(*time));
                    }
                    facts.platforms.extend(platform);
                }
                Err(_) => facts.absent.extend(platform),
            }
        }
        facts.size = parts.size();
        Ok(facts)
    }

    /// The configuration; an empty one if none can be read.
    async fn config(&self, manifest: &Manifest) -> Config {
        let Some(config) = &manifest.body().config else {
            return Config::default();
        };
        if config.size > MAX_CONFIG {
            return Config::default();
        }
        let read = self
            .api
            .json_blob(self.reader, self.repository, &config.digest);
        read.await.unwrap_or_default()
    }
}

impl Config {
    fn text(&self) -> String {
        let variant = self
            .variant
            .as_deref()
            .filter(|variant| !variant.is_empty());
        let variant = variant
            .map(|variant| format!("/{variant}"))
            .unwrap_or_default();
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// Whether a platform is a real one: attestations are listed in an index with the platform
/// `unknown`.
fn is_of_a_system(platform: &Platform) -> bool {
    platform.to_string() != "unknown/unknown"
}

/// Whether a time is meaningful: reproducible builds use 1970, 1980 or year 0 as a placeholder.
fn is_a_time(time: Timestamp) -> bool {
    let first_container: i64 = 1_300_000_000;
    time.as_second() > first_container
}

/// Sizes by digest, so that a blob shared by several children counts once.
#[derive(Default)]
struct BlobSizes(BTreeMap<Digest, u64>);

impl BlobSizes {
    fn add(&mut self, manifest: &Manifest) {
        self.0.insert(manifest.digest(), manifest.size());
        let blob = |blob: &Descriptor| (blob.digest, blob.size);
        self.0.extend(manifest.blobs().map(blob));
    }

    fn size(&self) -> u64 {
        self.0
            .values()
            .fold(0, |sum, size| sum.saturating_add(*size))
    }
}
