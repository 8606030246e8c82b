//! The record of what builds made public in a Registry: a ConfigMap beside it. The builds part
//! writes it, and its paths join those of mirrors in the list that the Registry reads.

use std::collections::BTreeSet;

use coral_api::Registry;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::build::Builder;
use super::observe::{Whose, whose};
use crate::ObjectKey;

/// The key of the paths.
const PATHS: &str = "paths.json";
/// Most paths of one record.
const MAX_PATHS: usize = 5000;

/// The ConfigMap of a Registry's record.
pub(crate) fn key(registry: &ObjectKey) -> ObjectKey {
    ObjectKey::new(&registry.namespace, format!("{}-built", registry.name))
}

/// Whether it was made for this Registry.
pub(crate) fn is_of(record: &ConfigMap, registry: &Registry) -> bool {
    whose(record, registry) == Whose::Ours
}

/// The paths of a record. One that cannot be read has none: the next build writes it anew.
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
    let mut left_out = 0;
    for path in more {
        if after.len() < MAX_PATHS || after.contains(path) {
            after.insert(path.clone());
        } else {
            left_out += 1;
        }
    }
    (after, left_out)
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
        assert!(is_of(&written, &registry));
        assert_eq!(paths(&written), noted);
        assert_eq!(paths(&ConfigMap::default()), BTreeSet::new());
    }

    #[test]
    fn a_record_that_is_full_takes_no_more_and_keeps_what_it_has() {
        let full: BTreeSet<String> = (0..MAX_PATHS).map(|i| format!("team/{i}")).collect();
        let (after, left_out) = with(&full, &paths_of(&["team/0", "team/new"]));
        assert_eq!((after == full, left_out), (true, 1));
    }
}
