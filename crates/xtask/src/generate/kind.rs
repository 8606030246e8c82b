//! The page of a kind: one table for each object in its JSON schema, headed by its path, in the
//! order in which a reader meets them.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, output, program};
use crate::workspace::Workspace;

pub(crate) fn page(workspace: &Workspace, kind: &str) -> Result<String> {
    let arguments = [
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--example",
        "schema",
    ];
    output(&mut cargo(workspace, &arguments)?)?;
    let printed = output(program(workspace, workspace.example("schema"))?.arg(kind))?;
    let schema: Value = serde_json::from_str(&printed).context("the schema is no JSON")?;
    Ok(render(kind, &schema))
}

fn render(kind: &str, schema: &Value) -> String {
    let mut text = format!(
        "# {kind}\n\n<!-- Made by `cargo xtask generate` from the type's schema. -->\n\n\
         `apiVersion: stvz.io/v1`, `kind: {kind}`. Unknown fields are errors in files, and in a \
         cluster with `kubectl apply --server-side` or `--validate=strict`.\n\n{}\n",
        described(schema)
    );
    for part in ["spec", "status"] {
        let mut waiting = VecDeque::from([(part.to_owned(), &schema["properties"][part])]);
        while let Some((path, object)) = waiting.pop_front() {
            text.push_str(&section(&path, object));
            for (field, schema) in object["properties"].as_object().into_iter().flatten() {
                let (suffix, inner) = object_in(schema);
                if inner["properties"].is_object() {
                    waiting.push_back((format!("{path}.{field}{suffix}"), inner));
                }
            }
        }
    }
    text
}

/// The heading, the description and the table of one object.
fn section(path: &str, object: &Value) -> String {
    let object = not_null(object);
    let mut text = format!(
        "\n## `{path}`\n\n{}\n\n| field | type | |\n|---|---|---|\n",
        described(object)
    );
    let required = object["required"].as_array();
    for (field, schema) in object["properties"].as_object().into_iter().flatten() {
        let is_required = required.is_some_and(|names| names.iter().any(|name| name == field));
        let mark = if is_required { " **Required.**" } else { "" };
        let row = format!(
            "| `{field}` | {} | {}{mark} |\n",
            type_of(schema, &format!("{path}.{field}")),
            described(schema)
        );
        text.push_str(&row);
    }
    text
}

/// The description as one line that fits into a table. Its first paragraph is enough where an
/// example follows.
fn described(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    let text = text.split("\n\n```").next().unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

/// The schema of an optional value is a choice of it and null.
fn not_null(schema: &Value) -> &Value {
    let choices = schema["anyOf"].as_array();
    let mut values = choices
        .into_iter()
        .flatten()
        .filter(|s| s["type"] != "null");
    values.next().unwrap_or(schema)
}

/// The object that a field holds, with what its path ends in.
fn object_in(schema: &Value) -> (&'static str, &Value) {
    let schema = not_null(schema);
    if schema["items"].is_object() {
        return ("[]", not_null(&schema["items"]));
    }
    ("", schema)
}

fn type_of(schema: &Value, path: &str) -> String {
    let schema = not_null(schema);
    if schema["properties"].is_object() {
        return format!("[object](#{})", anchor(path));
    }
    if let Some(value) = schema["const"].as_str() {
        return format!("`{value}`");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let named = choices.iter().map(|choice| type_of(choice, path));
        return named.collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        let shown = values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"));
        return shown.collect::<Vec<_>>().join(" or ");
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect(),
    };
    match names.into_iter().find(|name| *name != "null") {
        Some("array") => format!("list of {}", type_of(&schema["items"], path)),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&schema["additionalProperties"], path))
        }
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

/// The anchor of a heading, as mdBook makes it.
fn anchor(path: &str) -> String {
    let letters = path.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_object_gets_a_table_in_the_order_of_the_fields() {
        let schema = json!({
            "description": "A mirror.\n\n```yaml\nkind: X\n```",
            "properties": {
                "spec": {"description": "A\nwish.", "required": ["target"], "properties": {
                    "tags": {"type": "array", "items": {"type": "string"}, "description": "a|b"},
                    "port": {"type": ["integer", "null"]},
                    "target": {"type": "object", "properties": {"Host": {"type": "string"}}},
                    "mode": {"anyOf": [{"oneOf": [{"const": "On"}, {"const": "Off"}]}, {"type": "null"}]},
                    "rules": {"type": "array", "items": {"properties": {"users": {"type": "object"}}}},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                }},
                "status": {"type": ["object", "null"], "properties": {}},
            },
        });
        let page = render("RegistryMirror", &schema);
        for expected in [
            "\n\nA mirror.\n\n## `spec`\n\nA wish.\n",
            "| `tags` | list of string | a\\|b |\n",
            "| `port` | integer |  |\n",
            "| `target` | [object](#spectarget) |  **Required.** |\n",
            "| `mode` | `On` or `Off` |  |\n",
            "| `rules` | list of [object](#specrules) |  |\n",
            "| `labels` | map to string |  |\n",
            "## `spec.target`\n",
            "## `spec.rules[]`\n",
            "| `users` | object |  |\n",
            "## `status`\n",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
    }
}
