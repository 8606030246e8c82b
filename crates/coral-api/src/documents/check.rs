//! Checks a tree against the JSON Schema of a type. It finds every unknown, missing or ill-typed
//! field with its line, where serde would stop at the first. The schema is made from the type, so
//! the two cannot differ. Only the part of JSON Schema is supported that schemars writes for our
//! types.
//!
//! The result is the tree as JSON, repaired so that it can always be deserialised as the type. The
//! values of the well-formed fields are therefore checked in the same run.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::finding::Findings;
use super::node::{Entry, Node, Value};
use super::suggestion::{hint, nearest, shown};

/// Checks `node` at `path` against `schema`. `None` if it cannot be repaired.
pub(super) fn check(
    node: &Node,
    schema: &Json,
    path: &str,
    findings: &mut Findings,
) -> Option<Json> {
    let schema = without_null(schema);
    if let Some(allowed) = variants(schema) {
        return check_variant(node, &allowed, path, findings);
    }
    match type_of(schema) {
        "object" => check_object(node, schema, path, findings),
        "array" => check_list(node, schema, path, findings),
        "string" => check_text(node, schema, path, findings),
        "boolean" => check_bool(node, path, findings),
        "integer" => check_integer(node, schema, path, findings),
        _ => Some(node.to_json()),
    }
}

/// An optional field's schema is `anyOf: [it, null]`; [`check_object`] handles null.
pub(super) fn without_null(schema: &Json) -> &Json {
    let alternatives = schema.get("anyOf").and_then(Json::as_array);
    let mut values = alternatives
        .into_iter()
        .flatten()
        .filter(|s| type_of(s) != "null");
    values.next().unwrap_or(schema)
}

/// `"string"`, or the first of `["string", "null"]`.
fn type_of(schema: &Json) -> &str {
    let Some(value) = schema.get("type") else {
        return "";
    };
    let first = value
        .as_array()
        .and_then(|types| types.first())
        .unwrap_or(value);
    first.as_str().unwrap_or_default()
}

/// The texts that an enumeration allows.
fn variants(schema: &Json) -> Option<Vec<&str>> {
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().filter_map(Json::as_str).collect());
    }
    let alternatives = schema.get("oneOf").and_then(Json::as_array)?;
    let texts = |s| variants(s).or_else(|| Some(vec![Json::get(s, "const")?.as_str()?]));
    Some(alternatives.iter().filter_map(texts).flatten().collect())
}

/// The placeholder for a required value that cannot be used. Findings about it are suppressed.
fn stand_in(schema: &Json) -> Json {
    let schema = without_null(schema);
    if let Some(allowed) = variants(schema) {
        return json!(allowed.first());
    }
    match type_of(schema) {
        "object" => {
            let of = |name: &str| Some((name.to_owned(), stand_in(property(schema, name)?)));
            Json::Object(required(schema).into_iter().filter_map(of).collect())
        }
        "array" => json!([]),
        "string" => json!(""),
        "boolean" => json!(false),
        "integer" => schema.get("minimum").cloned().unwrap_or(json!(0)),
        _ => Json::Null,
    }
}

pub(super) fn property<'a>(schema: &'a Json, name: &str) -> Option<&'a Json> {
    schema.get("properties")?.get(name)
}

fn check_variant(
    node: &Node,
    allowed: &[&str],
    path: &str,
    findings: &mut Findings,
) -> Option<Json> {
    let text = node.text();
    if let Some(text) = text.filter(|text| allowed.contains(text)) {
        return Some(json!(text));
    }
    let must = if allowed.len() == 1 {
        "must be"
    } else {
        "must be one of"
    };
    let (list, found) = (allowed.join(", "), described(node));
    let hint = hint(text.and_then(|text| nearest(text, allowed)));
    findings.at(
        node.line,
        path,
        format_args!("{must} {list}, not {found}{hint}"),
    );
    None
}

fn check_object(node: &Node, schema: &Json, path: &str, findings: &mut Findings) -> Option<Json> {
    let Value::Map(entries) = &node.value else {
        let found = described(node);
        findings.at(
            node.line,
            path,
            format_args!("must be a mapping, not {found}"),
        );
        return None;
    };
    duplicates(entries, path, findings);
    let needed = required(schema);
    let further = schema.get("additionalProperties").filter(|s| s.is_object());
    let closed = schema.get("properties").is_some()
        && schema.get("x-kubernetes-preserve-unknown-fields") != Some(&Json::Bool(true));
    let known: Vec<&str> = schema
        .get("properties")
        .and_then(Json::as_object)
        .map(|properties| properties.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let mut meant = Vec::new();
    let mut mended = Map::new();
    for entry in entries {
        let key = entry.key.as_str();
        match property(schema, key).or(further) {
            Some(_) if entry.value.is_null() && !needed.contains(&key) => {}
            Some(schema) => {
                let value = check(&entry.value, schema, &joined(path, key), findings);
                mended.extend(value.map(|value| (key.to_owned(), value)));
            }
            None if closed => {
                if let Some(name) = unknown(entry, path, &known, findings) {
                    meant.push(name);
                    findings.mark_mentioned(joined(path, name));
                }
            }
            None => {}
        }
    }
    for name in needed {
        if !meant.contains(&name) && !entries.iter().any(|entry| entry.key == name) {
            let message = format!("{path}: field {name:?} is missing");
            findings.add(node.line, &joined(path, name), message);
        }
        if let Some(schema) = property(schema, name) {
            mended.entry(name).or_insert_with(|| stand_in(schema));
        }
    }
    Some(Json::Object(mended))
}

fn required(schema: &Json) -> Vec<&str> {
    let list = schema.get("required").and_then(Json::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect()
}

pub(super) fn joined(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Reports keys that occur twice in one mapping.
pub(super) fn duplicates(entries: &[Entry], path: &str, findings: &mut Findings) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries {
        let Some(first) = seen.get(entry.key.as_str()) else {
            seen.insert(&entry.key, entry.line);
            continue;
        };
        let field = joined(path, &entry.key);
        let message = format!(
            "field {:?} occurs twice, first at line {first}",
            shown(&field)
        );
        findings.add(entry.line, &field, message);
    }
}

/// Reports a field that the type does not have. Returns the field that was probably meant.
pub(super) fn unknown<'a>(
    entry: &Entry,
    path: &str,
    known: &[&'a str],
    findings: &mut Findings,
) -> Option<&'a str> {
    let key = entry.key.as_str();
    let full_path = joined(path, key);
    if findings.planned.contains(&full_path.as_str()) {
        findings.add(
            entry.line,
            &full_path,
            format_args!("field {key:?} is not supported yet"),
        );
        return None;
    }
    let meant = nearest(key, known);
    let hint = match meant {
        Some(_) => hint(meant),
        None => format!(" (known here: {})", known.join(", ")),
    };
    let place = if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    };
    let message = format!("{place}unknown field {:?}{hint}", shown(key));
    findings.add(entry.line, &full_path, message);
    meant
}

fn check_list(node: &Node, schema: &Json, path: &str, findings: &mut Findings) -> Option<Json> {
    let Value::List(items) = &node.value else {
        let found = described(node);
        findings.at(node.line, path, format_args!("must be a list, not {found}"));
        return None;
    };
    let schema = schema.get("items").unwrap_or(&Json::Null);
    let mut item = |(i, item)| {
        check(item, schema, &format!("{path}[{i}]"), findings).unwrap_or_else(|| stand_in(schema))
    };
    Some(items.iter().enumerate().map(&mut item).collect())
}

/// Whether the rules of a text say that it is a duration.
fn is_duration(schema: &Json) -> bool {
    let rules = schema.get("x-kubernetes-validations");
    let mut rules = rules.and_then(Json::as_array).into_iter().flatten();
    rules.any(|rule| {
        let message = rule.get("message").and_then(Json::as_str);
        message.is_some_and(|message| message.contains("must be a duration"))
    })
}

fn check_text(node: &Node, schema: &Json, path: &str, findings: &mut Findings) -> Option<Json> {
    let quoted = match &node.value {
        Value::Text(text) => return Some(json!(text)),
        Value::Number(_, Some(written)) if is_duration(schema) => {
            format!(": write it with a unit, \"{written}s\"")
        }
        Value::Number(_, Some(written)) => format!(": write it in quotes, \"{written}\""),
        Value::Bool(value) => format!(": write it in quotes, \"{value}\""),
        _ => String::new(),
    };
    let found = described(node);
    findings.at(
        node.line,
        path,
        format_args!("must be text, not {found}{quoted}"),
    );
    None
}

fn check_bool(node: &Node, path: &str, findings: &mut Findings) -> Option<Json> {
    if let Value::Bool(value) = node.value {
        return Some(json!(value));
    }
    let found = described(node);
    findings.at(
        node.line,
        path,
        format_args!("must be true or false, not {found}"),
    );
    None
}

fn check_integer(node: &Node, schema: &Json, path: &str, findings: &mut Findings) -> Option<Json> {
    let bound = |name| schema.get(name).and_then(Json::as_i64);
    let (min, max) = (bound("minimum"), bound("maximum"));
    let number = match &node.value {
        Value::Number(number, _) => number.as_i64(),
        _ => None,
    };
    let fits = |n: &i64| min.is_none_or(|min| *n >= min) && max.is_none_or(|max| *n <= max);
    if let Some(number) = number.filter(fits) {
        return Some(json!(number));
    }
    let range = match (min, max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of at least {min}"),
        _ => String::new(),
    };
    let found = described(node);
    findings.at(
        node.line,
        path,
        format_args!("must be a whole number{range}, not {found}"),
    );
    None
}

/// Describes a value in a message. Texts are shown, shortened.
fn described(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number, written) => {
            format!(
                "the number {}",
                written.clone().unwrap_or_else(|| number.to_string())
            )
        }
        Value::Text(text) => format!("{:?}", shown(text)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}
