//! Conflicts between mirrors that would copy different sources to the same path: the older mirror
//! wins. Pure.

use std::collections::BTreeMap;

use coral_api::RegistryMirror;
use coral_image::{Host, Repository, RepositoryPath, destination_path_below};
use jiff::Timestamp;

use super::verdict::{Verdict, Verdicts, has_run};
use super::{destination, prefix, sources};
use crate::ObjectKey;
use crate::store::Snapshot;

/// A repository that is not copied because an older mirror copies another one to the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The source.
    pub(super) source: Repository,
    /// The place at the destination.
    pub(super) place: Repository,
    /// The older mirror.
    pub(super) older: ObjectKey,
    /// What that copies there.
    pub(super) other: Repository,
}

/// Removes from every mirror the repositories whose places an older mirror has. A mirror that does
/// not run now keeps the places of what it has copied.
pub(super) fn settle(verdicts: &mut Verdicts, mirrors: &Snapshot<RegistryMirror>) {
    let mut by_age: Vec<ObjectKey> = verdicts.keys().cloned().collect();
    by_age.sort_by_cached_key(|key| (age(&mirrors[key]), key.clone()));
    let mut taken: BTreeMap<Repository, (Repository, ObjectKey)> = BTreeMap::new();
    for key in by_age {
        let Some(Verdict::Run {
            prepared,
            conflicts,
        }) = verdicts.get_mut(&key)
        else {
            let mirror = &mirrors[&key];
            if let Some(host) = destination(&key, mirror).filter(|_| has_run(mirror)) {
                let place = |source| place(source, &host, prefix(mirror).as_ref());
                for (source, place) in sources(mirror).filter_map(place) {
                    let first = (source, key.clone());
                    taken.entry(place).or_insert(first);
                }
            }
            continue;
        };
        for settings in &prepared.settings.repositories {
            let source = settings.repository.clone();
            let place = Repository::new(prepared.destination.clone(), settings.destination.clone());
            let first = || (source.clone(), key.clone());
            let (other, older) = taken.entry(place.clone()).or_insert_with(first);
            if *other != source {
                conflicts.push(Conflict {
                    source,
                    place,
                    older: older.clone(),
                    other: other.clone(),
                });
            }
        }
        let is_free = |source: &Repository| !conflicts.iter().any(|c| c.source == *source);
        prepared.retain_repositories(|settings| is_free(&settings.repository));
    }
}

/// Where a source is copied to at this host, below this prefix.
fn place(
    source: Repository,
    host: &Host,
    prefix: Option<&RepositoryPath>,
) -> Option<(Repository, Repository)> {
    let path = destination_path_below(prefix, &source).ok()?;
    Some((source, Repository::new(host.clone(), path)))
}

/// When the object was made; one without a time is the youngest.
fn age(mirror: &RegistryMirror) -> Timestamp {
    let created = mirror.metadata.creation_timestamp.as_ref();
    created.map_or(Timestamp::MAX, |created| created.0)
}
