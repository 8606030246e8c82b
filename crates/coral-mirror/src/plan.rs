//! What a pass would do, without doing it.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use coral_api::RepositorySettings;
use coral_image::Digest;
use futures::{StreamExt, stream};
use jiff::Timestamp;

use crate::access::Access;
use crate::compare::{Depth, Difference, compare};
use crate::copy::{CopyOptions, CopyRequest, Side, read_tree};
use crate::expand::{Wanted, expand};
use crate::progress::{Key, chain};

/// Images looked at at the same time.
const AT_ONCE: usize = 8;

/// What would happen to one image.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Where from; for a repository that could not be looked at, its name.
    pub source: String,
    /// Where to.
    pub key: Option<Key>,
    /// What would happen.
    pub action: PlannedAction,
}

/// What would happen to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedAction {
    /// It would be copied.
    Copy {
        /// Bytes of blobs that the destination's repository does not have; a blob of several
        /// images is counted with the first.
        bytes: u64,
        /// Number of those blobs.
        blobs: usize,
    },
    /// The destination has it.
    Skip(Digest),
    /// It cannot be found out.
    Fail(String),
}

/// What a pass over these repositories would do now. `counted` remembers the blobs that were
/// counted, over several calls for one destination.
pub async fn plan<S: BuildHasher>(
    access: &Access,
    repositories: &[RepositorySettings],
    now: Timestamp,
    counted: &mut HashSet<Digest, S>,
) -> Vec<Planned> {
    let mut planned = vec![];
    for settings in repositories {
        match expand(access, settings, now).await {
            Ok(wanted) => planned.extend(plan_images(access, wanted, counted).await),
            Err(error) => planned.push(Planned {
                source: settings.repository.to_string(),
                key: None,
                action: PlannedAction::Fail(chain(&error)),
            }),
        }
    }
    planned
}

async fn plan_images<S: BuildHasher>(
    access: &Access,
    wanted: Vec<Wanted>,
    counted: &mut HashSet<Digest, S>,
) -> Vec<Planned> {
    let looks = wanted.into_iter().map(|wanted| async move {
        let missing = missing(access, &wanted).await;
        (wanted, missing)
    });
    let mut looked = stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE);
    let mut planned = vec![];
    while let Some((wanted, missing)) = looked.next().await {
        let action = match missing {
            Ok(Missing::Nothing(digest)) => PlannedAction::Skip(digest),
            Ok(Missing::Blobs(blobs)) => {
                let new: Vec<_> = blobs
                    .into_iter()
                    .filter(|(d, _)| counted.insert(*d))
                    .collect();
                PlannedAction::Copy {
                    // Sizes are what manifests say.
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

enum Missing {
    Nothing(Digest),
    Blobs(Vec<(Digest, u64)>),
}

async fn missing(access: &Access, wanted: &Wanted) -> Result<Missing, String> {
    let request = CopyRequest {
        source: access.source(wanted.source.repository()),
        source_version: wanted.source.version(),
        destination: access.destination(&wanted.key.repository),
        destination_version: wanted.key.version.clone(),
        options: CopyOptions {
            platforms: wanted.platforms.clone(),
            without_referrers: !wanted.referrers,
        },
        report: Arc::new(|_| {}),
    };
    let (from, to) = (&request.source.endpoint, &request.destination.endpoint);
    let depth = if wanted.platforms.is_empty() {
        Depth::Head
    } else {
        Depth::Children
    };
    let found = compare(from, to, &wanted.key.version, &wanted.platforms, depth).await;
    if let Difference::None(digest) = found.map_err(|e| chain(&e))? {
        return Ok(Missing::Nothing(digest));
    }
    let tree = read_tree(&request).await.map_err(|e| chain(&e))?;
    let mut blobs = vec![];
    for blob in tree.blobs() {
        let there = to.blob_size(&blob.digest).await;
        let failed = |e| chain(&crate::copy::CopyError::at(Side::Destination, e));
        if there.map_err(failed)?.is_none() {
            blobs.push((blob.digest, blob.size));
        }
    }
    Ok(Missing::Blobs(blobs))
}
