//! The JSON Schema of the types: it is what checks files, and later the CRD and the field docs.

use coral_api::RegistryMirrorSpec;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// Calls `check` with the path and schema of every field.
fn each_field(schema: &Value, path: &str, check: &mut impl FnMut(&str, &Value)) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        check(&path, field);
        each_field(field, &path, check);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            each_field(inner, &format!("{path}[]"), check);
        }
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten() {
        each_field(inner, path, check);
    }
}

fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<RegistryMirrorSpec>()
        .to_value()
}

#[test]
fn every_field_is_described_and_every_list_is_bounded() {
    let mut count = 0;
    each_field(&schema(), "spec", &mut |path, field| {
        count += 1;
        let description = field["description"].as_str().unwrap_or_default();
        assert!(
            description.ends_with('.'),
            "{path}: {description:?} is a sentence"
        );
        if field["type"] == "array" {
            assert!(field["maxItems"].is_u64(), "{path} has maxItems");
        }
    });
    assert!(count > 30, "{count} fields were looked at");
}

#[test]
fn the_schema_needs_no_definitions_elsewhere() {
    let text = schema().to_string();
    assert!(!text.contains("$ref") && !text.contains("$defs"), "{text}");
}
