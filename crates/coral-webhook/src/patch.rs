//! JSON patches (RFC 6902): the few operations that the webhook makes.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::pod::Pod;

/// One operation of a JSON patch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// `add` or `replace`.
    pub op: &'static str,
    /// The target, as a JSON pointer.
    pub path: String,
    /// The new value.
    pub value: Value,
}

impl Operation {
    /// Replaces the value at `path`, which must exist.
    pub(crate) fn replace(path: String, value: impl Into<Value>) -> Self {
        let value = value.into();
        let op = "replace";
        Self { op, path, value }
    }

    /// Sets the value at `path`, whether or not it exists; its parent must exist.
    pub(crate) fn add(path: String, value: impl Into<Value>) -> Self {
        let value = value.into();
        let op = "add";
        Self { op, path, value }
    }
}

/// Sets string entries of the map at `pointer`, and creates the map if it does not exist. Entries
/// that already have their value need no operation. A value that is not a map is left unchanged.
pub(crate) fn set_entries(
    pod: Pod<'_>,
    pointer: &str,
    entries: impl IntoIterator<Item = (String, String)>,
) -> Vec<Operation> {
    let Some(current) = pod.at(pointer) else {
        let map: Map<String, Value> = entries
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)))
            .collect();
        let is_empty = map.is_empty();
        let add = Operation::add(pointer.to_owned(), Value::Object(map));
        return if is_empty { vec![] } else { vec![add] };
    };
    let Some(current) = current.as_object() else {
        return vec![];
    };
    let missing = entries
        .into_iter()
        .filter(|(key, value)| current.get(key).and_then(Value::as_str) != Some(value.as_str()));
    missing
        .map(|(key, value)| Operation::add(format!("{pointer}/{}", escaped(&key)), value))
        .collect()
}

/// The weight of each preference. The scheduler adds up the weights of all preferences of a node.
const WEIGHT: u8 = 50;

/// Prefers nodes that have these labels, one preference for each that the pod does not have yet.
pub(crate) fn prefer_nodes(pod: Pod<'_>, labels: &[(String, String)]) -> Vec<Operation> {
    const AFFINITY: &str = "/spec/affinity";
    const NODE: &str = "/spec/affinity/nodeAffinity";
    const PREFERRED: &str =
        "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    let present = pod.at(PREFERRED).and_then(Value::as_array);
    let wanted: Vec<Value> = labels
        .iter()
        .map(|(key, value)| preference(key, value))
        .filter(|wanted| !present.is_some_and(|present| present.contains(wanted)))
        .collect();
    if wanted.is_empty() {
        return vec![];
    }
    let field = "preferredDuringSchedulingIgnoredDuringExecution";
    if present.is_some() {
        let path = format!("{PREFERRED}/-");
        let append = |wanted| Operation::add(path.clone(), wanted);
        wanted.into_iter().map(append).collect()
    } else if pod.map(NODE).is_some() {
        vec![Operation::add(PREFERRED.to_owned(), wanted)]
    } else if pod.map(AFFINITY).is_some() {
        vec![Operation::add(NODE.to_owned(), json!({ field: wanted }))]
    } else {
        let value = json!({"nodeAffinity": { field: wanted }});
        vec![Operation::add(AFFINITY.to_owned(), value)]
    }
}

fn preference(key: &str, value: &str) -> Value {
    json!({
        "weight": WEIGHT,
        "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]},
    })
}

/// A key as a part of a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
