//! What a mirror selects: from its settings to single images.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use coral_api::{Referrers, RepositorySettings};
use coral_distribution::Error;
use coral_image::{
    Descriptor, Digest, Host, ImageRef, Manifest, PlatformPattern, Repository, Tag, Version,
    destination_path,
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::access::Access;
use crate::copy::Site;
use crate::pace::AskError;
use crate::progress::Key;
use crate::state::Cause;

/// Creation times asked for at the same time.
const AT_ONCE: usize = 8;
/// A configuration larger than this is not read for its time of creation.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;
/// Times of creation that are remembered; past it, memory is given back and they are read again.
const MAX_REMEMBERED: usize = 100_000;

/// One image that a mirror wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where from.
    pub source: ImageRef,
    /// Where to.
    pub key: Key,
    /// Platforms to copy; empty means all.
    pub platforms: Vec<PlatformPattern>,
    /// Whether referrers come along.
    pub referrers: bool,
}

/// What the settings of a repository select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The images.
    pub wanted: Vec<Wanted>,
    /// Where `select` fits none of the repository's tags: how many these are.
    pub unmatched: Option<usize>,
}

/// Why the images of a repository could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    /// It has no name at the destination.
    #[error(transparent)]
    Destination(#[from] coral_image::DestinationError),
    /// Its tags could not be listed.
    #[error("its tags could not be listed")]
    List(#[source] AskError),
    /// The time of creation of a tag could not be read.
    #[error("the time of creation of tag {tag} could not be read")]
    Creation {
        /// The tag.
        tag: Tag,
        /// What went wrong.
        #[source]
        source: AskError,
    },
}

impl ExpandError {
    /// A bounded label for metrics and machines.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Destination(_) => "name",
            Self::List(source) | Self::Creation { source, .. } => source.category(),
        }
    }

    /// What the failure asks for.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Destination(_) => Cause::Refusal,
            Self::List(source) | Self::Creation { source, .. } => source.cause(),
        }
    }
}

/// The images that a repository's settings select at `now`. Only a filter lists the repository.
pub async fn expand(
    access: &Access,
    settings: &RepositorySettings,
    now: Timestamp,
) -> Result<Expanded, ExpandError> {
    let mut tags: BTreeSet<Tag> = settings.tags.iter().cloned().collect();
    let filtered = filtered(access, settings, now).await?;
    let unmatched = filtered.as_ref().and_then(Filtered::unmatched);
    tags.extend(filtered.into_iter().flat_map(|filtered| filtered.tags));
    let destination = destination_repository(&access.destination, &settings.repository)?;
    let versions = tags
        .into_iter()
        .map(Version::Tag)
        .chain(settings.digests.iter().copied().map(Version::Digest));
    Ok(Expanded {
        wanted: versions
            .map(|version| wanted(settings, &destination, version))
            .collect(),
        unmatched,
    })
}

/// What `select` leaves of a list of tags.
struct Filtered {
    tags: Vec<Tag>,
    listed: usize,
}

impl Filtered {
    fn unmatched(&self) -> Option<usize> {
        self.tags.is_empty().then_some(self.listed)
    }
}

/// The repository that `source` is mirrored to.
pub(crate) fn destination_repository(
    registry: &Host,
    source: &Repository,
) -> Result<Repository, coral_image::DestinationError> {
    Ok(Repository::new(registry.clone(), destination_path(source)?))
}

/// One image of the repository that these settings are about.
pub(crate) fn wanted(
    settings: &RepositorySettings,
    destination: &Repository,
    version: Version,
) -> Wanted {
    let source = match &version {
        Version::Tag(tag) => settings.repository.tagged(tag.clone()),
        Version::Digest(digest) => settings.repository.pinned(*digest).into(),
    };
    Wanted {
        source,
        key: Key {
            repository: destination.clone(),
            version,
        },
        platforms: settings.platforms.clone(),
        referrers: settings.referrers == Referrers::Copy,
    }
}

async fn filtered(
    access: &Access,
    settings: &RepositorySettings,
    now: Timestamp,
) -> Result<Option<Filtered>, ExpandError> {
    let Some(filter) = &settings.filter else {
        return Ok(None);
    };
    let source = access.source(&settings.repository);
    let tags = source.check(|| source.endpoint.tags()).await;
    let tags = tags.map_err(ExpandError::List)?;
    let listed = tags.len();
    let of = |tags| Some(Filtered { tags, listed });
    if !filter.needs_creation() {
        return Ok(of(filter.select(&tags, now, |_| None)));
    }
    let questions = filter
        .candidates(&tags)
        .into_iter()
        .map(|tag| dated(access, &source, &settings.repository, tag));
    let created: HashMap<Tag, Option<Timestamp>> = stream::iter(questions.collect::<Vec<_>>())
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let select = |tag: &Tag| created.get(tag).copied().flatten();
    Ok(of(filter.select(&tags, now, select)))
}

/// Times of creation by tag, with the digest that they belong to: what was read once costs a
/// `HEAD` from then on, which registries do not count. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Creations(Arc<Mutex<HashMap<(Repository, Tag), Creation>>>);

#[derive(Debug, Clone, Copy)]
struct Creation {
    digest: Digest,
    time: Option<Timestamp>,
}

impl Creations {
    fn get(&self, image: &(Repository, Tag)) -> Option<Creation> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(image).copied()
    }

    fn remember(&self, image: (Repository, Tag), creation: Creation) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(image, creation);
    }
}

async fn dated(
    access: &Access,
    source: &Site,
    repository: &Repository,
    tag: Tag,
) -> Result<(Tag, Option<Timestamp>), ExpandError> {
    let image = (repository.clone(), tag.clone());
    let read = async {
        let version = Version::Tag(tag.clone());
        if let Some(known) = access.creations.get(&image) {
            let now = source.check(|| source.endpoint.head(&version)).await?;
            if now.is_some_and(|now| now.digest == known.digest) {
                return Ok(known.time);
            }
        }
        let creation = created(source, &version).await?;
        access.creations.remember(image, creation);
        Ok(creation.time)
    };
    match read.await {
        Ok(time) => Ok((tag, time)),
        Err(source) => Err(ExpandError::Creation { tag, source }),
    }
}

/// When an image was created, as its configuration says; of an index, its first image. Artifacts
/// and images that do not say have no time.
async fn created(source: &Site, version: &Version) -> Result<Creation, AskError> {
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

async fn read_small(source: &Site, blob: &Descriptor) -> Result<Vec<u8>, Error> {
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
