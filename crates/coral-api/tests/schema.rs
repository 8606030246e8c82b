//! The JSON Schema of the types: it is what checks files, and later the CRD and the field docs.

use coral_api::image_build::ImageBuildSpec;
use coral_api::{RegistryMirrorSpec, RegistrySpec};
use schemars::JsonSchema;
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

fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

#[test]
fn every_field_is_described_and_every_list_is_bounded() {
    let mut count = 0;
    let mut check = |path: &str, field: &Value| {
        count += 1;
        let description = field["description"].as_str().unwrap_or_default();
        assert!(
            description.ends_with('.'),
            "{path}: {description:?} is a sentence"
        );
        if field["type"] == "array" {
            assert!(field["maxItems"].is_u64(), "{path} has maxItems");
        }
    };
    each_field(&schema::<RegistryMirrorSpec>(), "spec", &mut check);
    each_field(&schema::<RegistrySpec>(), "spec", &mut check);
    each_field(&schema::<ImageBuildSpec>(), "spec", &mut check);
    assert!(count > 45, "{count} fields were looked at");
}

/// Every text that a rule of a CRD may look at has a bound, or the API server refuses its cost.
fn unbounded_texts(schema: &Value, path: &str, found: &mut Vec<String>) {
    let is_text = match &schema["type"] {
        Value::Array(types) => types.iter().any(|kind| kind == "string"),
        kind => kind == "string",
    };
    if is_text && !schema["maxLength"].is_u64() && schema.get("enum").is_none() {
        found.push(path.to_owned());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        unbounded_texts(field, &format!("{path}.{name}"), found);
    }
    if let Some(items) = schema.get("items") {
        unbounded_texts(items, &format!("{path}[]"), found);
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten() {
        unbounded_texts(inner, path, found);
    }
}

#[test]
fn every_text_of_a_registry_and_of_a_build_is_bounded() {
    let mut found = Vec::new();
    unbounded_texts(&schema::<RegistrySpec>(), "spec", &mut found);
    unbounded_texts(&schema::<ImageBuildSpec>(), "spec", &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_schema_needs_no_definitions_elsewhere() {
    for schema in [
        schema::<RegistryMirrorSpec>(),
        schema::<RegistrySpec>(),
        schema::<ImageBuildSpec>(),
    ] {
        let text = schema.to_string();
        assert!(!text.contains("$ref") && !text.contains("$defs"), "{text}");
    }
}
