//! The page of a kind: one table for each type of its JSON schema, in the order in which
//! a reader meets them.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, output};
use crate::workspace::Workspace;

pub(crate) fn page(workspace: &Workspace, kind: &str) -> Result<String> {
    let arguments = [
        "run",
        "--quiet",
        "--locked",
        "-p",
        "coral-api",
        "--example",
        "schema",
        "--",
        kind,
    ];
    let printed = output(&mut cargo(workspace, &arguments)?)?;
    let schema: Value = serde_json::from_str(&printed).context("the schema is no JSON")?;
    Ok(render(kind, &schema))
}

fn render(kind: &str, schema: &Value) -> String {
    let mut text = format!(
        "# {kind}\n\n<!-- Made by `cargo xtask generate` from the type's schema. -->\n\n\
         `apiVersion: stvz.io/v1`, `kind: {kind}`. Unknown fields are errors.\n",
    );
    let definitions = &schema["$defs"];
    text.push_str(&section(kind, schema, definitions));
    let mut waiting: VecDeque<String> = references(schema).into();
    let mut seen = Vec::new();
    while let Some(name) = waiting.pop_front() {
        if seen.contains(&name) {
            continue;
        }
        let definition = &definitions[&name];
        if definition["properties"].is_object() {
            text.push_str(&section(&name, definition, definitions));
        }
        waiting.extend(references(definition));
        seen.push(name);
    }
    text
}

/// The heading, the description and the table of one object type.
fn section(name: &str, definition: &Value, definitions: &Value) -> String {
    let mut text = format!("\n## {name}\n\n{}\n", described(definition));
    text.push_str("\n| field | type | |\n|---|---|---|\n");
    let required = definition["required"].as_array();
    for (field, schema) in definition["properties"].as_object().into_iter().flatten() {
        let is_required = required.is_some_and(|names| names.iter().any(|name| name == field));
        let mark = if is_required { " **Required.**" } else { "" };
        let row = format!(
            "| `{field}` | {} | {}{mark} |\n",
            type_of(schema, definitions),
            described(schema)
        );
        text.push_str(&row);
    }
    text
}

/// The description as one line that fits into a table.
fn described(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn type_of(schema: &Value, definitions: &Value) -> String {
    if let Some(name) = reference(schema) {
        let definition = &definitions[name];
        // A choice of values is shown where it is used; it has no table of its own.
        if !definition["properties"].is_object() {
            return type_of(definition, definitions);
        }
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = schema["const"].as_str() {
        return format!("`{value}`");
    }
    if let Some(choices) = schema["anyOf"]
        .as_array()
        .or_else(|| schema["oneOf"].as_array())
    {
        let named = choices
            .iter()
            .filter(|choice| choice["type"] != "null")
            .map(|choice| type_of(choice, definitions));
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
        Some("array") => format!("list of {}", type_of(&schema["items"], definitions)),
        Some("object") => format!(
            "map to {}",
            type_of(&schema["additionalProperties"], definitions)
        ),
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

/// `#/$defs/Name` → `Name`.
fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// The types that the fields of this one lead to, in order.
fn references(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(&definition["properties"], &mut found);
    found
}

fn collect(value: &Value, found: &mut Vec<String>) {
    if let Some(name) = reference(value) {
        found.push(name.to_owned());
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_type_gets_a_table_in_the_order_of_the_fields() {
        let schema = json!({
            "description": "A mirror.",
            "properties": {
                "spec": {"$ref": "#/$defs/Spec"},
                "mode": {"anyOf": [{"$ref": "#/$defs/Mode"}, {"type": "null"}]},
            },
            "required": ["spec"],
            "$defs": {
                "Spec": {"description": "A\nwish.", "properties": {
                    "tags": {"type": "array", "items": {"type": "string"}, "description": "a|b"},
                    "port": {"type": ["integer", "null"]},
                }},
                "Mode": {"oneOf": [{"const": "On"}, {"const": "Off"}]},
            },
        });
        let page = render("RegistryMirror", &schema);
        assert!(
            page.contains("| `spec` | [Spec](#spec) |  **Required.** |\n"),
            "{page}"
        );
        assert!(page.contains("| `mode` | `On` or `Off` |  |\n"), "{page}");
        assert!(page.contains("## Spec\n\nA wish.\n"), "{page}");
        assert!(
            page.contains("| `tags` | list of string | a\\|b |\n"),
            "{page}"
        );
        assert!(page.contains("| `port` | integer |  |\n"), "{page}");
    }
}
