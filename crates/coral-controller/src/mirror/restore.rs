//! Restores what an earlier controller knew about a mirror, from its status and its shards. Pure.

use std::collections::BTreeMap;

use coral_api::mirrored_images::MirroredImages;
use coral_api::names::annotation;
use coral_api::{PruningStatus, RegistryMirror, RegistryMirrorStatus};

use crate::ObjectKey;
use crate::store::Snapshot;

/// Whether the status is about the current spec.
pub(super) fn is_current(mirror: &RegistryMirror) -> bool {
    let observed = mirror.status.as_ref().and_then(|s| s.observed_generation);
    observed.is_some() && observed == mirror.metadata.generation
}

/// The shards of a mirror, by number.
pub(super) fn shards_of<'a>(
    mirror: &RegistryMirror,
    all: &'a Snapshot<MirroredImages>,
) -> BTreeMap<u32, &'a MirroredImages> {
    let namespace = mirror.metadata.namespace.clone().unwrap_or_default();
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    let uid = mirror.metadata.uid.as_deref();
    // Keys are ordered: those of one namespace stand together.
    let from = ObjectKey::new(namespace.clone(), "");
    let of_namespace = all
        .range(from..)
        .take_while(|(key, _)| key.namespace == namespace);
    let own = |shard: &&MirroredImages| {
        let mut owners = shard.metadata.owner_references.iter().flatten();
        shard.spec.mirror == name && owners.any(|owner| Some(owner.uid.as_str()) == uid)
    };
    let shards = of_namespace.map(|(_, shard)| shard.as_ref()).filter(own);
    shards.map(|shard| (shard.spec.shard, shard)).collect()
}

/// The restored state; `None` if the mirror never had a status.
pub(super) fn snapshot(
    mirror: &RegistryMirror,
    all: &Snapshot<MirroredImages>,
) -> Option<coral_mirror::Snapshot> {
    let status = mirror.status.as_ref()?;
    let shards = shards_of(mirror, all).into_values();
    let images = shards
        .filter_map(|shard| shard.status.as_ref())
        .flat_map(|status| status.images.iter().cloned());
    Some(coral_mirror::Snapshot {
        next_pass: status.next_sync.as_ref().map(|time| time.0),
        moved: status
            .bytes_copied
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0),
        pruned: 0,
        pruning: pruning(mirror, status),
        held_back: BTreeMap::new(),
        repositories: status.repositories.clone().unwrap_or_default(),
        is_memory: false,
        images: images.collect(),
    })
}

/// Whether tags are deleted. Only a change of what is pruned ends a pause.
fn pruning(mirror: &RegistryMirror, status: &RegistryMirrorStatus) -> PruningStatus {
    let before = status.pruning.unwrap_or_default();
    let digest = mirror.spec.prune_digest().map(|digest| digest.to_string());
    before.after_change_of_prune(status.prune_digest.as_deref(), digest.as_deref())
}

/// How many vanished images the annotation of a mirror confirms. One that is no number confirms
/// none.
pub(super) fn confirmed(mirror: &RegistryMirror) -> Option<i64> {
    let annotations = mirror.metadata.annotations.as_ref()?;
    let text = annotations.get(annotation::CONFIRM_PRUNE)?;
    Some(text.trim().parse().unwrap_or(0))
}
