//! The bounds of the schema: lengths of lists and texts, and patterns of texts. The API server
//! enforces the same ones. `settings()` reports most violations in better words; this module finds
//! those that `settings()` does not check.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value as Json;

use super::check::{joined, property, without_null};
use super::finding::Findings;
use super::node::{Node, Value};
use super::suggestion::shown;

/// Largest spec, in bytes of JSON. A cluster stores objects of up to 1.5 MB, and the status needs
/// room beside the spec.
const MAX_SPEC: usize = 1_000_000;

/// Checks `spec`, which was deserialised as `read`, against the bounds of `schema`. A path that
/// already has a finding gets no second one.
pub(super) fn check(
    spec: &Node,
    schema: &'static Json,
    read: &impl serde::Serialize,
    findings: &mut Findings,
) {
    let size = serde_json::to_vec(read).map_or(0, |json| json.len());
    if size > MAX_SPEC {
        let message = format!(
            "has {size} bytes as JSON, at most {MAX_SPEC} are allowed: split it into several objects"
        );
        findings.at(spec.line, "spec", message);
    }
    let mut bounds = Bounds {
        patterns: BTreeMap::new(),
        findings,
    };
    bounds.walk(spec, schema, "spec");
}

struct Bounds<'a> {
    /// Compiled patterns: compiling one takes longer than matching a thousand texts.
    patterns: BTreeMap<&'static str, Option<Regex>>,
    findings: &'a mut Findings,
}

impl Bounds<'_> {
    fn walk(&mut self, node: &Node, schema: &'static Json, path: &str) {
        let schema = without_null(schema);
        match &node.value {
            Value::Text(text) => self.text(node.line, text, schema, path),
            Value::List(items) => {
                self.count(
                    node.line,
                    items.len(),
                    "element",
                    ["minItems", "maxItems"],
                    schema,
                    path,
                );
                let Some(schema) = schema.get("items") else {
                    return;
                };
                for (i, item) in items.iter().enumerate() {
                    self.walk(item, schema, &format!("{path}[{i}]"));
                }
            }
            Value::Map(entries) => {
                let bounds = ["minProperties", "maxProperties"];
                self.count(node.line, entries.len(), "entry", bounds, schema, path);
                let further = schema.get("additionalProperties");
                for entry in entries {
                    if let Some(schema) = property(schema, &entry.key).or(further) {
                        self.walk(&entry.value, schema, &joined(path, &entry.key));
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(..) => {}
        }
    }

    fn text(&mut self, line: usize, text: &str, schema: &'static Json, path: &str) {
        let count = text.chars().count();
        self.count(
            line,
            count,
            "letter",
            ["minLength", "maxLength"],
            schema,
            path,
        );
        let Some(pattern) = schema.get("pattern").and_then(Json::as_str) else {
            return;
        };
        let compiled = self.patterns.entry(pattern);
        let compiled = compiled.or_insert_with(|| Regex::new(pattern).ok());
        if compiled.as_ref().is_some_and(|regex| !regex.is_match(text)) {
            let message = format!("{:?} does not have the form {pattern}", shown(text));
            self.say(line, path, &message);
        }
    }

    fn count(
        &mut self,
        line: usize,
        count: usize,
        what: &str,
        bounds: [&str; 2],
        schema: &Json,
        path: &str,
    ) {
        let bound = |name| schema.get(name).and_then(Json::as_u64);
        let [min, max] = bounds.map(bound);
        let count = count as u64;
        if let Some(min) = min.filter(|min| count < *min) {
            let message = match count {
                0 => "is empty".to_owned(),
                _ => format!("has {count} of at least {min} {}", plural(what, min)),
            };
            self.say(line, path, &message);
        }
        if let Some(max) = max.filter(|max| count > *max) {
            let what = plural(what, count);
            self.say(
                line,
                path,
                &format!("has {count} {what}, at most {max} are allowed"),
            );
        }
    }

    fn say(&mut self, line: usize, path: &str, message: &str) {
        if !self.findings.overlaps(path) {
            self.findings.at(line, path, message);
        }
    }
}

fn plural(word: &str, count: u64) -> String {
    match (count, word.strip_suffix('y')) {
        (1, _) => word.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        (_, None) => format!("{word}s"),
    }
}
