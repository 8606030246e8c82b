//! The record of what builds made public in a Registry: a ConfigMap beside it. The builds part
//! writes it, and its paths join those of mirrors in the list that the Registry reads.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::Registry;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::build::Builder;
use super::observe::{ObjectOwner, owner_of};
use crate::ObjectKey;

/// The key of the paths.
const PATHS: &str = "paths.json";
/// Most paths of one record.
const MAX_PATHS: usize = 5000;
/// Most bytes of the paths of one record, with quotes and commas: a ConfigMap ends at 1 MiB.
const MAX_BYTES: usize = 768 * 1024;
/// Most paths of one namespace, so that no namespace takes the room of the others.
const MAX_OF_NAMESPACE: usize = 500;
/// The bounds, in words.
pub(crate) const BOUNDS: &str = "a Registry notes at most 500 repositories of one namespace, and 5,000 \
                                 repositories with 768 KiB of names in all";

/// The ConfigMap of a Registry's record.
pub(crate) fn key(registry: &ObjectKey) -> ObjectKey {
    ObjectKey::new(&registry.namespace, format!("{}-built", registry.name))
}

/// Whether it was made for this Registry.
pub(crate) fn belongs_to(record: &ConfigMap, registry: &Registry) -> bool {
    owner_of(record, registry) == ObjectOwner::Ours
}

/// The paths of a record. One that cannot be read has none: the next build rewrites it.
pub(crate) fn paths(record: &ConfigMap) -> BTreeSet<String> {
    let text = record.data.as_ref().and_then(|data| data.get(PATHS));
    let paths = text.and_then(|text| serde_json::from_str::<BTreeSet<String>>(text).ok());
    let mut paths = paths.unwrap_or_default();
    while paths.len() > MAX_PATHS {
        paths.pop_last();
    }
    paths
}

/// These paths and more, and how many of them do not fit.
pub(crate) fn with(
    before: &BTreeSet<String>,
    more: &BTreeSet<String>,
) -> (BTreeSet<String>, usize) {
    let mut after = before.clone();
    let mut bytes: usize = before.iter().map(|path| size(path)).sum();
    let mut by_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for path in before {
        *by_namespace.entry(namespace(path)).or_default() += 1;
    }
    let mut left_out = 0;
    for path in more.difference(before) {
        let of_namespace = by_namespace.entry(namespace(path)).or_default();
        let fits = after.len() < MAX_PATHS
            && bytes + size(path) <= MAX_BYTES
            && *of_namespace < MAX_OF_NAMESPACE;
        if fits {
            bytes += size(path);
            *of_namespace += 1;
            after.insert(path.clone());
        } else {
            left_out += 1;
        }
    }
    (after, left_out)
}

/// Bytes of a path in the record: quotes and comma are two more and one.
fn size(path: &str) -> usize {
    path.len() + 3
}

/// The namespace whose build made a path public.
fn namespace(path: &str) -> &str {
    path.split_once('/').map_or(path, |(first, _)| first)
}

/// The record of a Registry.
pub(crate) fn record(registry: &Registry, paths: &BTreeSet<String>) -> Value {
    let builder = Builder::new(registry);
    let key = key(&ObjectKey::from_object(registry));
    json!({
        "metadata": builder.metadata(&key.name),
        "data": {PATHS: json!(paths).to_string()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_of(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let registry: Registry = serde_json::from_value(json!({
            "metadata": {"name": "reg", "namespace": "a", "uid": "u"}, "spec": {},
        }))
        .unwrap();
        let noted = paths_of(&["team/a", "team/b"]);
        let written: ConfigMap = serde_json::from_value(record(&registry, &noted)).unwrap();
        assert_eq!(written.metadata.name.as_deref(), Some("reg-built"));
        assert!(belongs_to(&written, &registry));
        assert_eq!(paths(&written), noted);
        assert_eq!(paths(&ConfigMap::default()), BTreeSet::new());
    }

    #[test]
    fn a_record_that_is_full_takes_no_more_and_keeps_what_it_has() {
        let full: BTreeSet<String> = (0..MAX_PATHS)
            .map(|i| format!("team-{}/{i}", i / 100))
            .collect();
        let (after, left_out) = with(&full, &paths_of(&["team-0/0", "team-0/new"]));
        assert_eq!((after == full, left_out), (true, 1));
    }

    #[test]
    fn one_namespace_leaves_room_for_the_others() {
        let many: BTreeSet<String> = (0..MAX_PATHS).map(|i| format!("greedy/{i}")).collect();
        let (after, left_out) = with(&BTreeSet::new(), &many);
        assert_eq!((after.len(), left_out), (500, 4_500));
        let (after, left_out) = with(&after, &paths_of(&["team/new"]));
        assert_eq!((after.contains("team/new"), left_out), (true, 0));
    }

    #[test]
    fn a_record_of_long_paths_still_fits_a_config_map() {
        let long = |team: usize, i: usize| format!("team-{team}/{i:0>240}");
        let mut noted = BTreeSet::new();
        for team in 0..10 {
            let more: BTreeSet<String> = (0..500).map(|i| long(team, i)).collect();
            noted = with(&noted, &more).0;
        }
        let written = json!(noted).to_string();
        assert!(written.len() < 800 * 1024, "{}", written.len());
        assert!(noted.len() > 3_000, "{}", noted.len());
    }
}
