//! Holds a tree against the JSON Schema of a type: every unknown, missing or ill-typed field is
//! found with its line, where serde would stop at the first. The schema comes from the type
//! itself, so that there is one truth; of JSON Schema only what schemars writes for our types is
//! understood.

use serde_json::Value as Json;

use super::node::{Entry, Node, Value};

/// Something found, before it is known which object it belongs to.
pub(super) struct Finding {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Findings of one object.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, line: usize, message: impl Into<String>) {
        self.0.push(Finding {
            line,
            message: message.into(),
        });
    }

    pub(super) fn at(&mut self, line: usize, path: &str, message: impl std::fmt::Display) {
        self.add(line, format!("{path}: {message}"));
    }
}

/// Fields that the design has but that do not work yet, with the path of what they belong to.
const NOT_YET: [(&str, &str); 5] = [
    ("spec", "verify"),
    ("spec", "prune"),
    ("spec", "limits"),
    ("spec", "fromPods"),
    ("spec", "allowFrom"),
];

/// Checks `node`, which stands at `path`, against `schema`.
pub(super) fn check(node: &Node, schema: &Json, path: &str, findings: &mut Findings) {
    let schema = without_null(schema);
    if let Some(allowed) = variants(schema) {
        return check_variant(node, &allowed, path, findings);
    }
    match schema.get("type").map(first_type) {
        Some("object") => check_object(node, schema, path, findings),
        Some("array") => check_list(node, schema, path, findings),
        Some("string") => check_text(node, path, findings),
        Some("boolean") => check_bool(node, path, findings),
        Some("integer") => check_integer(node, schema, path, findings),
        _ => {}
    }
}

/// An optional field's schema is `anyOf: [it, null]`; null is looked at by [`check_object`].
fn without_null(schema: &Json) -> &Json {
    let Some(alternatives) = schema.get("anyOf").and_then(Json::as_array) else {
        return schema;
    };
    let is_null = |s: &&Json| s.get("type").and_then(Json::as_str) == Some("null");
    alternatives.iter().find(|s| !is_null(s)).unwrap_or(schema)
}

/// `"string"`, or the first of `["string", "null"]`.
fn first_type(value: &Json) -> &str {
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

fn check_variant(node: &Node, allowed: &[&str], path: &str, findings: &mut Findings) {
    let list = allowed.join(", ");
    let must = if allowed.len() == 1 {
        "must be"
    } else {
        "must be one of"
    };
    match node.text() {
        Some(text) if allowed.contains(&text) => {}
        Some(text) => {
            let found = shown(text);
            let hint = suggestion(text, allowed);
            findings.at(
                node.line,
                path,
                format_args!("{must} {list}, not {found:?}{hint}"),
            );
        }
        None => findings.at(
            node.line,
            path,
            format_args!("{must} {list}, not {}", described(node)),
        ),
    }
}

fn check_object(node: &Node, schema: &Json, path: &str, findings: &mut Findings) {
    let Value::Map(entries) = &node.value else {
        let found = described(node);
        return findings.at(
            node.line,
            path,
            format_args!("must be a mapping, not {found}"),
        );
    };
    duplicates(entries, path, findings);
    let required = required(schema);
    for name in &required {
        if !entries.iter().any(|entry| entry.key == *name) {
            findings.at(node.line, path, format_args!("field {name:?} is missing"));
        }
    }
    let properties = schema.get("properties").and_then(Json::as_object);
    let further = schema.get("additionalProperties").filter(|s| s.is_object());
    let closed = schema.get("additionalProperties") == Some(&Json::Bool(false));
    for entry in entries {
        let known = properties.and_then(|p| p.get(&entry.key)).or(further);
        match known {
            Some(_) if entry.value.is_null() && !required.contains(&entry.key.as_str()) => {}
            Some(schema) => check(&entry.value, schema, &joined(path, &entry.key), findings),
            None if closed => {
                let known = properties
                    .into_iter()
                    .flat_map(|p| p.keys().map(String::as_str));
                let known: Vec<&str> = known.collect();
                unknown(entry, path, &known, findings);
            }
            None => {}
        }
    }
}

fn required(schema: &Json) -> Vec<&str> {
    let list = schema.get("required").and_then(Json::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect()
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Reports keys that stand twice in one mapping.
pub(super) fn duplicates(entries: &[Entry], path: &str, findings: &mut Findings) {
    let mut seen = std::collections::BTreeMap::new();
    for entry in entries {
        if let Some(first) = seen.insert(&entry.key, entry.line) {
            let field = shown(&joined(path, &entry.key));
            findings.add(
                entry.line,
                format!("field {field:?} is there twice, first at line {first}"),
            );
        }
    }
}

/// Reports a field that the type does not have.
pub(super) fn unknown(entry: &Entry, path: &str, known: &[&str], findings: &mut Findings) {
    let key = entry.key.as_str();
    if NOT_YET.contains(&(path, key)) {
        return findings.add(entry.line, format!("field {key:?} is not supported yet"));
    }
    let hint = suggestion(key, known);
    let hint = if hint.is_empty() {
        format!(" (known here: {})", known.join(", "))
    } else {
        hint
    };
    let place = if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    };
    findings.add(
        entry.line,
        format!("{place}unknown field {:?}{hint}", shown(key)),
    );
}

fn check_list(node: &Node, schema: &Json, path: &str, findings: &mut Findings) {
    let Value::List(items) = &node.value else {
        let found = described(node);
        return findings.at(node.line, path, format_args!("must be a list, not {found}"));
    };
    let Some(schema) = schema.get("items") else {
        return;
    };
    for (i, item) in items.iter().enumerate() {
        check(item, schema, &format!("{path}[{i}]"), findings);
    }
}

fn check_text(node: &Node, path: &str, findings: &mut Findings) {
    let quoted = match &node.value {
        Value::Text(_) => return,
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
}

fn check_bool(node: &Node, path: &str, findings: &mut Findings) {
    if !matches!(node.value, Value::Bool(_)) {
        let found = described(node);
        findings.at(
            node.line,
            path,
            format_args!("must be true or false, not {found}"),
        );
    }
}

fn check_integer(node: &Node, schema: &Json, path: &str, findings: &mut Findings) {
    let bound = |name| schema.get(name).and_then(Json::as_i64);
    let number = match &node.value {
        Value::Number(number, _) => number.as_i64(),
        _ => None,
    };
    let fits =
        |n: i64| bound("minimum").is_none_or(|m| n >= m) && bound("maximum").is_none_or(|m| n <= m);
    if number.is_some_and(fits) {
        return;
    }
    let range = match (bound("minimum"), bound("maximum")) {
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
}

/// What a value is, for a message. Texts are shown, shortened.
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

pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `, did you mean "x"?`, if one of `known` is near to `text`.
pub(super) fn suggestion(text: &str, known: &[&str]) -> String {
    if text.len() > 100 {
        return String::new();
    }
    let folded = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let wanted = folded(text);
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(&wanted, &folded(candidate));
    let best = known.iter().min_by_key(distance);
    // One mistake in four letters, or the beginning of the word.
    let near = |candidate: &&&str| {
        let begun = wanted.len() >= 4 && folded(candidate).starts_with(&wanted);
        begun || distance(candidate) <= (candidate.len().max(3) / 3).min(3)
    };
    best.filter(near)
        .or_else(|| {
            known
                .iter()
                .find(|k| wanted.len() >= 4 && folded(k).starts_with(&wanted))
        })
        .map_or_else(String::new, |best| format!(", did you mean {best:?}?"))
}
