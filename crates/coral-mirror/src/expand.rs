//! Expands the settings of a mirror into single images.
//!
//! If the destination has a tag that the source no longer lists, and the filter would select it at
//! a source that still had it, the tag stays selected: [`Expanded::vanished`]. So even after a
//! restart it is known which images may be the last copy.

use std::collections::{BTreeSet, HashMap};

use coral_api::{Referrers, RepositorySettings};
use coral_distribution::{Category, Error};
use coral_image::select::TagFilter;
use coral_image::{Host, ImageRef, PlatformPattern, Repository, Tag, Version};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::access::MirrorAccess;
use crate::copy::CopySide;
use crate::pace::AskError;
use crate::progress::Key;
use crate::prune::companion_subject;
use crate::state::Cause;

/// How many creation times are requested at the same time.
const AT_ONCE: usize = 8;
/// How many tags of each kind are requested if a source has no list of tags.
const MAX_PROBES: usize = 32;

/// One image that a mirror wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The source.
    pub source: ImageRef,
    /// The destination.
    pub key: Key,
    /// Platforms to copy; empty means all.
    pub platforms: Vec<PlatformPattern>,
    /// Whether foreign layers are copied too.
    pub foreign_layers: bool,
    /// Whether referrers are copied too.
    pub referrers: bool,
}

/// What the settings of a repository select.
#[derive(Debug)]
pub struct Expanded {
    /// The images that the source lists, and those named one by one.
    pub wanted: Vec<Wanted>,
    /// Images at the destination that the filter would select but the source does not list.
    pub vanished: Vec<Wanted>,
    /// Why the vanished images are unknown: the destination's tags could not be listed.
    pub unlisted: Option<Error>,
    /// Why the source's tags are unknown: it has manifests but no list of tags. Then only images
    /// that are named one by one are wanted, and none counts as vanished.
    pub untold: Option<ExpandError>,
    /// If `select` matches none of the repository's tags: how many tags there are.
    pub unmatched: Option<usize>,
}

/// Why the images of a repository could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    /// Its tags could not be listed.
    #[error("its tags could not be listed")]
    List(#[source] AskError),
    /// The creation time of a tag could not be read.
    #[error("the creation time of tag {tag} could not be read")]
    Creation {
        /// The tag.
        tag: Tag,
        /// The cause.
        #[source]
        source: AskError,
    },
}

impl ExpandError {
    /// Whether the name of the source's registry does not resolve.
    pub(crate) fn is_host_unknown(&self) -> bool {
        self.category() == Category::Dns.as_str()
    }

    /// A bounded label for metrics and programs.
    pub fn category(&self) -> &'static str {
        match self {
            Self::List(source) | Self::Creation { source, .. } => source.category(),
        }
    }

    /// What has to happen before a retry can help.
    pub fn cause(&self) -> Cause {
        match self {
            Self::List(source) | Self::Creation { source, .. } => source.cause(),
        }
    }
}

/// The images that a repository's settings select at `now`. Tags are listed, at the source and at
/// the destination, only if there is a filter. If the source knows neither a list nor any tag of
/// the repository, but the destination has images of it, it counts as a repository without tags.
pub async fn expand(
    access: &MirrorAccess,
    settings: &RepositorySettings,
    now: Timestamp,
) -> Result<Expanded, ExpandError> {
    let destination = destination_repository(&access.destination, settings);
    let filtered = match &settings.filter {
        Some(filter) => filtered(access, settings, filter, &destination, now).await?,
        None => Filtered::default(),
    };
    let Filtered {
        tags: selected,
        vanished,
        unmatched,
        unlisted,
        untold,
    } = filtered;
    let named: BTreeSet<Tag> = settings.tags.iter().cloned().collect();
    let vanished = vanished.into_iter().filter(|tag| !named.contains(tag));
    let vanished = vanished.map(|tag| wanted(settings, &destination, Version::Tag(tag)));
    let vanished = vanished.collect();
    let mut tags = named;
    tags.extend(selected);
    let versions = tags
        .into_iter()
        .map(Version::Tag)
        .chain(settings.digests.iter().copied().map(Version::Digest));
    Ok(Expanded {
        wanted: versions
            .map(|version| wanted(settings, &destination, version))
            .collect(),
        vanished,
        unlisted,
        untold,
        unmatched,
    })
}

/// The result of `select` for the tags on both sides.
#[derive(Debug, Default)]
struct Filtered {
    /// Tags of the source that it selects.
    tags: Vec<Tag>,
    /// Tags of the destination that it would select if the source listed them.
    vanished: Vec<Tag>,
    /// How many tags the source has, if none is selected.
    unmatched: Option<usize>,
    /// Why the destination's tags are unknown.
    unlisted: Option<Error>,
    /// Why the source's tags are unknown, although it has some of them.
    untold: Option<ExpandError>,
}

/// The repository of these settings, at the registry that it is mirrored to.
pub(crate) fn destination_repository(registry: &Host, settings: &RepositorySettings) -> Repository {
    Repository::new(registry.clone(), settings.destination.clone())
}

/// One image of the repository of these settings.
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
        foreign_layers: settings.foreign_layers,
        referrers: settings.referrers == Referrers::Copy,
    }
}

async fn filtered(
    access: &MirrorAccess,
    settings: &RepositorySettings,
    filter: &TagFilter,
    destination: &Repository,
    now: Timestamp,
) -> Result<Filtered, ExpandError> {
    let source = access.source(&settings.repository);
    let listed = source.check(|| source.endpoint.tags()).await;
    let there = access.destination(destination).endpoint.tags().await;
    let (there, unlisted) = match there {
        Ok(tags) => (tags, None),
        Err(error) if error.category() == Category::NotFound => (vec![], None),
        Err(error) => (vec![], Some(error)),
    };
    let (listed, missing) = match listed {
        Ok(tags) => (tags, None),
        Err(error) if error.category() == Category::NotFound.as_str() => (vec![], Some(error)),
        Err(error) => return Err(ExpandError::List(error)),
    };
    let tags = selected(access, settings, filter, &source, &listed, now).await?;
    let vanished = vanished(filter, &listed, &there);
    if let Some(error) = missing {
        if vanished.is_empty() {
            return Err(ExpandError::List(error));
        }
        if !lacks_all(&source, &settings.tags, &vanished).await {
            return Ok(Filtered {
                untold: Some(ExpandError::List(error)),
                ..Filtered::default()
            });
        }
    }
    let unmatched = (tags.is_empty() && vanished.is_empty()).then_some(listed.len());
    Ok(Filtered {
        tags,
        vanished,
        unmatched,
        unlisted,
        untold: None,
    })
}

/// Whether a source without a list of tags also denies having the tags themselves: those that are
/// named, and a sample of the others.
async fn lacks_all(source: &CopySide, named: &[Tag], others: &[Tag]) -> bool {
    let named = named.iter().take(MAX_PROBES);
    let others = others
        .iter()
        .step_by(others.len().div_ceil(MAX_PROBES).max(1));
    let questions = named.chain(others).map(|tag| {
        let version = Version::Tag(tag.clone());
        async move { source.check(|| source.endpoint.head(&version)).await }
    });
    let mut answers = stream::iter(questions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        if !matches!(answer, Ok(None)) {
            return false;
        }
    }
    true
}

/// The tags of the source that the filter selects.
async fn selected(
    access: &MirrorAccess,
    settings: &RepositorySettings,
    filter: &TagFilter,
    source: &CopySide,
    listed: &[Tag],
    now: Timestamp,
) -> Result<Vec<Tag>, ExpandError> {
    if !filter.needs_creation() {
        return Ok(filter.select(listed, now, |_| None));
    }
    let questions = filter
        .candidates(listed)
        .into_iter()
        .map(|tag| dated(access, source, &settings.repository, tag));
    let created: HashMap<Tag, Option<Timestamp>> = stream::iter(questions.collect::<Vec<_>>())
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let created = |tag: &Tag| created.get(tag).copied().flatten();
    Ok(filter.select(listed, now, created))
}

/// The tags that only the destination has and that the filter would select at a source that had
/// them. `newerThan` and `latest` are ignored: the creation time of a missing tag is unknown, and
/// newer tags do not make a last copy any less valuable. Signatures belong to their images. Pure.
fn vanished(filter: &TagFilter, listed: &[Tag], there: &[Tag]) -> Vec<Tag> {
    let at_source: BTreeSet<&Tag> = listed.iter().collect();
    let gone = there.iter().filter(|tag| !at_source.contains(tag));
    let gone = gone.filter(|tag| companion_subject(tag).is_none());
    let gone: Vec<Tag> = gone.cloned().collect();
    filter.candidates(&gone)
}

async fn dated(
    access: &MirrorAccess,
    source: &CopySide,
    repository: &Repository,
    tag: Tag,
) -> Result<(Tag, Option<Timestamp>), ExpandError> {
    match access.creations.time(source, repository, &tag).await {
        Ok(time) => Ok((tag, time)),
        Err(source) => Err(ExpandError::Creation { tag, source }),
    }
}

#[cfg(test)]
mod tests {
    use coral_image::select::{LatestBy, TagSelection};

    use super::*;

    fn tags(names: &[&str]) -> Vec<Tag> {
        names.iter().map(|name| Tag::parse(name).unwrap()).collect()
    }

    fn of(selection: &TagSelection, listed: &[&str], there: &[&str]) -> Vec<Tag> {
        let filter = TagFilter::compile(selection).unwrap();
        let (listed, there) = (tags(listed), tags(there));
        vanished(&filter, &listed, &there)
    }

    #[test]
    fn a_tag_that_only_the_destination_has_vanished_if_the_filter_would_take_it() {
        let glob = || TagSelection {
            glob: Some("v*".to_owned()),
            ..TagSelection::default()
        };
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        let there = ["v1", "v2", "other", &signature];
        assert_eq!(of(&glob(), &["v2", "v3"], &there), tags(&["v1"]));
        assert_eq!(of(&glob(), &["v1", "v2"], &there), tags(&[]));
        let every = TagSelection {
            all: true,
            ..TagSelection::default()
        };
        let all = of(&every, &["v2"], &there);
        assert_eq!(all, tags(&["other", "v1"]));
    }

    #[test]
    fn a_tag_that_is_gone_vanished_also_where_newer_ones_took_its_place() {
        let latest = |latest_by| TagSelection {
            latest: Some(2),
            latest_by,
            ..TagSelection::default()
        };
        let there = ["1.0", "1.1", "1.2"];
        for by in [LatestBy::Semver, LatestBy::Creation] {
            let older_are_gone = of(&latest(by), &["1.3", "1.2"], &there);
            assert_eq!(older_are_gone, tags(&["1.0", "1.1"]));
            let newest_is_gone = of(&latest(by), &["1.1", "1.0"], &there);
            assert_eq!(newest_is_gone, tags(&["1.2"]));
            // Newer ones replaced it, and the source has it.
            assert_eq!(of(&latest(by), &["1.2", "1.1", "1.0"], &there), tags(&[]));
        }
        let range = TagSelection {
            semver: Some(">=1.1".to_owned()),
            ..latest(LatestBy::Semver)
        };
        assert_eq!(of(&range, &["1.3", "1.2"], &there), tags(&["1.1"]));
    }
}
