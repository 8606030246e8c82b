//! Files and cluster refuse the same. One table of bad objects goes through the reader of files
//! and through the CEL rules of the CRDs, here; and to a real API server, in the end-to-end tests.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

use std::path::Path;
use std::sync::LazyLock;

use coral_api::crds::crds;
use coral_api::documents::{self, Object};
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde_json::{Value, json};

fn table() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad-objects.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        let target = target.as_object_mut().unwrap();
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn object(table: &Value, kind: &str, patch: &Value) -> Value {
    let mut spec = table["base"][kind].clone();
    merge(&mut spec, patch);
    json!({
        "apiVersion": "stvz.io/v1", "kind": kind, "metadata": {"name": "object"}, "spec": spec,
    })
}

/// What the reader of files says; JSON is YAML.
fn read(object: &Value) -> String {
    let errors = documents::read("f.yaml", &object.to_string()).err();
    let lines = errors.into_iter().flatten().map(|error| error.to_string());
    lines.collect::<Vec<_>>().join("\n")
}

/// The rules of a kind; compiling them takes longer than what the tests do with them.
fn compiled(kind: &str) -> CompiledSchema {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind);
    let schema = crd.unwrap().spec.versions[0].schema.clone().unwrap();
    compile_schema(&serde_json::to_value(schema.open_api_v3_schema).unwrap())
}

static MIRROR: LazyLock<CompiledSchema> = LazyLock::new(|| compiled("RegistryMirror"));
static REGISTRY: LazyLock<CompiledSchema> = LazyLock::new(|| compiled("Registry"));
static BUILD: LazyLock<CompiledSchema> = LazyLock::new(|| compiled("ImageBuild"));

/// What the CEL rules of a kind say.
fn rules(kind: &str, object: &Value) -> String {
    let compiled = match kind {
        "Registry" => &REGISTRY,
        "ImageBuild" => &BUILD,
        _ => &MIRROR,
    };
    match Validator::new().validate_compiled(compiled, object, None) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn every_bad_object_is_refused_by_the_reader_and_by_the_rules_that_can_be_written() {
    let table = table();
    let mut wrong = Vec::new();
    for entry in table["objects"].as_array().unwrap() {
        let text = |field: &str| entry[field].as_str();
        let (name, kind) = (text("name").unwrap(), text("kind").unwrap());
        let object = object(&table, kind, &entry["patch"]);
        let said = read(&object);
        if !said.contains(text("file").unwrap()) {
            wrong.push(format!("{name}: the reader says {said:?}"));
        }
        let said = rules(kind, &object);
        match (entry["rule"] == true, text("cluster")) {
            (true, Some(cluster)) if !said.contains(cluster) => {
                wrong.push(format!("{name}: the rules say {said:?}"));
            }
            (false, None) if !said.is_empty() => {
                wrong.push(format!(
                    "{name}: taken by the API server, but a rule says {said:?}"
                ));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_objects_that_the_table_begins_with_are_taken() {
    let table = table();
    for kind in ["RegistryMirror", "Registry", "ImageBuild"] {
        let object = object(&table, kind, &json!({}));
        assert_eq!(read(&object), "");
        assert_eq!(rules(kind, &object), "");
    }
}

#[test]
fn durations_and_sizes_have_one_form_in_rules_and_reader() {
    let table = table();
    let agree = |kind: &str, patch: Value| {
        let object = object(&table, kind, &patch);
        let (reader, rules) = (read(&object), rules(kind, &object));
        assert_eq!(
            reader.is_empty(),
            rules.is_empty(),
            "{patch}: {reader:?}, {rules:?}"
        );
    };
    for text in [
        "1h",
        "1h30m",
        "90s",
        "1.5h",
        "+1h",
        "1000ms",
        ".5h",
        "1.h",
        "1000000us",
        "0",
        "0s",
        "1",
        "",
        "h",
        "1h ",
        "1 h",
        "1H",
        "1h30",
        "876000h",
        "876001h",
        "1e3s",
        "1..5h",
    ] {
        agree("RegistryMirror", json!({"interval": text}));
        agree("RegistryMirror", json!({"verify": text}));
        agree("RegistryMirror", json!({"retry": {"maxBackoff": text}}));
        agree("ImageBuild", json!({"timeout": text}));
    }
    for text in [
        "64k", "63999", "64000", "1M", "1Mi", "20G", "1T", "1Ti", "1P", "1K", "1m", "1.5G", "-1M",
        "", "M", "1 M", "100e3",
    ] {
        agree("RegistryMirror", json!({"limits": {"bandwidth": text}}));
        agree("Registry", json!({"limits": {"blobSize": text}}));
        agree("Registry", json!({"storage": {"size": text}}));
        agree("ImageBuild", json!({"output": {"limit": text}}));
    }
}

#[test]
fn every_example_is_taken_by_the_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for file in [
        "registry.yaml",
        "tags.yaml",
        "versions.yaml",
        "private.yaml",
        "external-registry.yaml",
    ] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        for document in documents::read(file, &text).unwrap() {
            let (kind, object) = match &document.object {
                Object::RegistryMirror(mirror) => ("RegistryMirror", serde_json::to_value(mirror)),
                Object::Registry(registry) => ("Registry", serde_json::to_value(registry)),
                _ => continue,
            };
            assert_eq!(rules(kind, &object.unwrap()), "", "{file}");
            count += 1;
        }
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn bounds_of_the_schema_are_those_of_the_reader() {
    let table = table();
    let many = |count: usize, text: &str| vec![text.to_owned(); count];
    for (kind, patch, expected) in [
        (
            "RegistryMirror",
            json!({"repositories": [{"name": "debian", "tags": many(101, "12")}]}),
            "spec.repositories[0].tags: has 101 elements, at most 100 are allowed",
        ),
        (
            "RegistryMirror",
            json!({"registry": {"name": "a".repeat(254)}}),
            "spec.registry.name: ",
        ),
        (
            "RegistryMirror",
            json!({"prune": {"enabled": true, "keep": many(101, "v*")}}),
            "spec.prune.keep: has 101",
        ),
        (
            "RegistryMirror",
            json!({"allowFrom": {"matchLabels": {"team": "x".repeat(64)}}}),
            "spec.allowFrom.matchLabels.team: has 64 letters, at most 63 are allowed",
        ),
        (
            "Registry",
            json!({"auth": {"htpasswd": {"secretName": "u"}, "pull": [{"paths": [""]}]}}),
            "spec.auth.pull[0].paths[0]: is empty",
        ),
        (
            "Registry",
            json!({"auth": {"htpasswd": {"secretName": "u"}, "pull": [{"users": ["a".repeat(256)]}]}}),
            "spec.auth.pull[0].users[0]: has 256 letters, at most 255 are allowed",
        ),
    ] {
        let said = read(&object(&table, kind, &patch));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn an_object_that_a_cluster_cannot_store_is_refused() {
    let table = table();
    let tag = "t".repeat(120);
    let tags: Vec<String> = (0..100).map(|i| format!("{tag}{i}")).collect();
    let repositories: Vec<Value> = (0..100)
        .map(|i| json!({"name": format!("registry.example/r{i}"), "tags": tags}))
        .collect();
    let said = read(&object(
        &table,
        "RegistryMirror",
        &json!({"repositories": repositories}),
    ));
    assert!(
        said.contains("bytes as JSON, at most 1000000 are allowed"),
        "{said}"
    );
}
