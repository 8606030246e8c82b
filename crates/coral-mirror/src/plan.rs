//! Computes what a pass would do, without doing it.

use std::collections::{BTreeSet, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use coral_api::mirrored_images::{MirroredImage, MirroredState};
use coral_api::{Drift, PruneSettings, RepositorySettings};
use coral_image::{Digest, Repository, Tag, Version, error_chain};
use futures::{StreamExt, stream};
use jiff::Timestamp;

use crate::access::MirrorAccess;
use crate::compare::{Depth, Difference, compare};
use crate::copy::{CopyOptions, CopyRequest, Layers, Side, read_tree};
use crate::expand::{ExpandError, Expanded, Wanted, expand};
use crate::mirror::Mirror;
use crate::progress::Key;
use crate::prune::{Claims, CombinedClaims, PruneError, tags_to_delete};
use crate::state::{Absence, pinned};
use crate::sync::would_pause;

/// How many images are compared at the same time.
const AT_ONCE: usize = 8;

/// The planned action for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The source; for a repository that could not be listed, its name.
    pub source: String,
    /// The destination.
    pub key: Option<Key>,
    /// The action.
    pub action: PlannedAction,
}

/// What would happen to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedAction {
    /// It would be copied.
    Copy {
        /// Bytes of blobs that the destination's repository does not have; a blob of several images
        /// counts for the first of them.
        bytes: u64,
        /// Number of those blobs.
        blobs: usize,
    },
    /// The destination has it.
    Skip(Digest),
    /// The destination has it, and it is gone at its source.
    SourceGone(Digest),
    /// The destination has it, the tag has moved at its source, and the mirror keeps the image.
    Keep {
        /// At the destination.
        digest: Digest,
        /// At the source.
        at_source: Digest,
    },
    /// Its tag would be deleted at the destination, since no mirror selects it any more.
    Delete,
    /// The same, if it were not for `dryRun`.
    DeleteButForDryRun,
    /// It cannot be determined.
    Fail(String),
}

impl Planned {
    /// The current state of the image; `None` for a repository, and for a tag that is no longer
    /// selected.
    pub fn image(&self) -> Option<MirroredImage> {
        let destination = self.key.as_ref()?.to_string();
        let image = |state| MirroredImage::new(&self.source, &destination, state);
        match &self.action {
            PlannedAction::Copy { .. } => Some(image(MirroredState::Pending)),
            PlannedAction::Skip(digest) => Some(MirroredImage {
                digest: Some(digest.to_string()),
                ..image(MirroredState::Mirrored)
            }),
            PlannedAction::Keep { digest, at_source } => Some(MirroredImage {
                digest: Some(digest.to_string()),
                message: Some(pinned(at_source)),
                ..image(MirroredState::Mirrored)
            }),
            PlannedAction::SourceGone(digest) => Some(MirroredImage {
                digest: Some(digest.to_string()),
                message: Some(Absence::Tag.to_string()),
                ..image(MirroredState::SourceGone)
            }),
            PlannedAction::Fail(error) => Some(MirroredImage {
                message: Some(error.clone()),
                ..image(MirroredState::Failing)
            }),
            PlannedAction::Delete | PlannedAction::DeleteButForDryRun => None,
        }
    }
}

/// What a pass of a mirror would do now; nothing if the mirror is suspended. `counted` holds the
/// blobs that were already counted, across several calls for one destination.
pub async fn plan<S: BuildHasher>(
    mirror: &Mirror,
    now: Timestamp,
    counted: &mut HashSet<Digest, S>,
) -> Vec<Planned> {
    let (access, drift) = (&mirror.access, mirror.settings.drift);
    let mut planned = vec![];
    if mirror.settings.suspend {
        return planned;
    }
    for settings in &mirror.settings.repositories {
        match expand(access, settings, now).await {
            Ok(Expanded {
                mut wanted,
                vanished,
                unlisted,
                untold,
                unmatched,
            }) => {
                wanted.extend(vanished);
                planned.extend(untold.map(|error| unknown(settings, &error)));
                if let Some(error) = unlisted {
                    let error = error_chain(&PruneError::List(error));
                    tracing::warn!(repository = %settings.repository, error);
                }
                if let Some(tags) = unmatched {
                    tracing::warn!(repository = %settings.repository, tags, "select matches none of its tags");
                }
                planned.extend(plan_images(access, drift, wanted, counted).await);
            }
            Err(error) => planned.push(unknown(settings, &error)),
        }
    }
    planned
}

/// Images that vanished at their sources: so many that a pass deletes no tag of their mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vanished {
    /// How many vanished.
    pub images: usize,
    /// How many images the mirror has, including those.
    pub of: usize,
}

/// Why the next pass of a mirror would delete no tags, unless a person has confirmed it.
pub fn vanished(mirror: &Mirror, planned: &[Planned]) -> Option<Vanished> {
    mirror.settings.prune.as_ref()?;
    let is_gone = |p: &&Planned| matches!(p.action, PlannedAction::SourceGone(_));
    let images = planned.iter().filter(is_gone).count();
    let of = planned.iter().filter(|p| p.key.is_some()).count();
    would_pause(images, of).then_some(Vanished { images, of })
}

/// The entry of a repository whose images are unknown.
fn unknown(settings: &RepositorySettings, error: &ExpandError) -> Planned {
    Planned {
        source: settings.repository.to_string(),
        key: None,
        action: PlannedAction::Fail(error_chain(error)),
    }
}

async fn plan_images<S: BuildHasher>(
    access: &MirrorAccess,
    drift: Drift,
    wanted: Vec<Wanted>,
    counted: &mut HashSet<Digest, S>,
) -> Vec<Planned> {
    let looks = wanted.into_iter().map(|wanted| async move {
        let missing = Box::pin(missing(access, drift, &wanted)).await;
        (wanted, missing)
    });
    let mut looked = stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE);
    let mut planned = vec![];
    while let Some((wanted, missing)) = looked.next().await {
        let action = match missing {
            Ok(Missing::Nothing(digest)) => PlannedAction::Skip(digest),
            Ok(Missing::Source(digest)) => PlannedAction::SourceGone(digest),
            Ok(Missing::Pinned { there, source }) => PlannedAction::Keep {
                digest: there,
                at_source: source,
            },
            Ok(Missing::Blobs(blobs)) => {
                let new: Vec<_> = blobs
                    .into_iter()
                    .filter(|(d, _)| counted.insert(*d))
                    .collect();
                PlannedAction::Copy {
                    // Sizes come from manifests and may be wrong, so the sum must not overflow.
                    bytes: new.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n)),
                    blobs: new.len(),
                }
            }
            Err(error) => PlannedAction::Fail(error),
        };
        planned.push(Planned {
            source: wanted.source.to_string(),
            key: Some(wanted.key),
            action,
        });
    }
    planned
}

/// The tags that the mirrors would delete at their destinations, given the plan of each; with the
/// index of the mirror.
pub async fn plan_prune(mirrors: &[Mirror], planned: &[Vec<Planned>]) -> Vec<(usize, Planned)> {
    let mut claims = Claims::default();
    for (mirror, planned) in mirrors.iter().zip(planned) {
        claim(&mut claims, mirror, planned);
    }
    let mut deletions = vec![];
    for (number, mirror) in mirrors.iter().enumerate() {
        let Some(prune) = &mirror.settings.prune else {
            continue;
        };
        let mut seen = BTreeSet::new();
        for (settings, place) in mirror.settings.repositories.iter().zip(mirror.places()) {
            let selected = planned[number]
                .iter()
                .any(|p| p.key.as_ref().is_some_and(|k| k.repository == place));
            let CombinedClaims::Known(wanted) = claims.combined(&mirror.destination(), &place)
            else {
                continue;
            };
            if selected && seen.insert(place.clone()) {
                let found = planned_deletions(mirror, settings, &place, &wanted, prune).await;
                deletions.extend(found.into_iter().map(|planned| (number, planned)));
            }
        }
    }
    deletions
}

fn claim(claims: &mut Claims, mirror: &Mirror, planned: &[Planned]) {
    let places = mirror.places();
    claims.announce(&mirror.name, mirror.destination(), places.clone());
    for (number, (settings, place)) in mirror.settings.repositories.iter().zip(places).enumerate() {
        let source = settings.repository.to_string();
        let has_failed = |p: &Planned| p.key.is_none() && p.source == source;
        if mirror.settings.suspend || planned.iter().any(has_failed) {
            claims.unknown(&mirror.name, number);
            continue;
        }
        let prune = mirror.settings.prune.as_ref();
        let goes = |planned: &&Planned| {
            let is_gone = matches!(planned.action, PlannedAction::SourceGone(_));
            is_gone && prune.is_some_and(|prune| prune.delete_gone)
        };
        let stay = planned.iter().filter(|planned| !goes(planned));
        let keys = stay.filter_map(|p| p.key.as_ref());
        let wanted = keys
            .filter(|k| k.repository == place)
            .map(|k| k.version.clone());
        claims.known(&mirror.name, number, wanted.collect());
    }
}

async fn planned_deletions(
    mirror: &Mirror,
    settings: &RepositorySettings,
    place: &Repository,
    wanted: &BTreeSet<Version>,
    prune: &PruneSettings,
) -> Vec<Planned> {
    let destination = mirror.access.destination(place).endpoint;
    match tags_to_delete(&destination, wanted, &prune.keep).await {
        Ok(tags) => {
            let planned = |tag: Tag| Planned {
                source: settings.repository.tagged(tag.clone()).to_string(),
                key: Some(Key {
                    repository: place.clone(),
                    version: Version::Tag(tag),
                }),
                action: if prune.dry_run {
                    PlannedAction::DeleteButForDryRun
                } else {
                    PlannedAction::Delete
                },
            };
            tags.into_iter().map(planned).collect()
        }
        Err(error) => vec![Planned {
            source: settings.repository.to_string(),
            key: None,
            action: PlannedAction::Fail(error_chain(&error)),
        }],
    }
}

enum Missing {
    Nothing(Digest),
    Source(Digest),
    Pinned { there: Digest, source: Digest },
    Blobs(Vec<(Digest, u64)>),
}

async fn missing(access: &MirrorAccess, drift: Drift, wanted: &Wanted) -> Result<Missing, String> {
    let request = CopyRequest {
        source: access.source(wanted.source.repository()),
        source_version: wanted.source.version(),
        destination: access.destination(&wanted.key.repository),
        destination_version: wanted.key.version.clone(),
        options: CopyOptions {
            platforms: wanted.platforms.clone(),
            foreign_layers: wanted.foreign_layers,
            without_referrers: !wanted.referrers,
            ..CopyOptions::default()
        },
        report: Arc::new(|_| {}),
    };
    let (from, to) = (&request.source, &request.destination);
    let found = Box::pin(compare(from, to, wanted, Depth::for_image(wanted))).await;
    let mut named = None;
    match found.map_err(|e| error_chain(&e))? {
        // The source may have its foreign layers.
        Difference::None { digest, sparse }
            if wanted.foreign_layers && sparse.layers != Layers::Complete =>
        {
            named = Some(digest);
        }
        Difference::None { digest, .. } => return Ok(Missing::Nothing(digest)),
        Difference::SourceGone { digest } => return Ok(Missing::Source(digest)),
        Difference::Missing {
            source: Some(source),
            there: Some(there),
        } if drift == Drift::Pin && source != there => {
            return Ok(Missing::Pinned { there, source });
        }
        Difference::Missing { .. } => {}
    }
    let tree = read_tree(&request).await.map_err(|e| error_chain(&e))?;
    let mut blobs = vec![];
    for blob in tree.blobs() {
        let there = to.endpoint.blob_size(&blob.digest).await;
        let failed = |e| error_chain(&crate::copy::CopyError::at(Side::Destination, e));
        if there.map_err(failed)?.is_none() {
            blobs.push((blob.digest, blob.size));
        }
    }
    match named {
        Some(digest) if blobs.is_empty() => Ok(Missing::Nothing(digest)),
        _ => Ok(Missing::Blobs(blobs)),
    }
}
