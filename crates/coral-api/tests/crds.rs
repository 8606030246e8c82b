//! The definitions of custom resources that the types make.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

use std::path::Path;

use coral_api::crds::{crds, to_yaml};
use serde_json::Value;

fn json() -> Vec<Value> {
    let all = crds();
    all.iter()
        .map(|crd| serde_json::to_value(crd).unwrap())
        .collect()
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for crd in crds() {
        let file = folder.join(format!("{}.yaml", crd.spec.names.plural));
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        let printed = to_yaml(std::slice::from_ref(&crd)).unwrap();
        assert!(
            committed.ends_with(&printed),
            "{} is not current: `cargo xtask generate` writes it anew",
            file.display()
        );
    }
}

#[test]
fn what_is_printed_is_read_back_as_the_same() {
    for crd in crds() {
        let text = to_yaml(std::slice::from_ref(&crd)).unwrap();
        let read: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition =
            serde_saphyr::from_str(text.trim_start_matches("---\n")).unwrap();
        assert_eq!(read, crd);
    }
}

#[test]
fn every_kind_has_a_status_a_short_name_columns_and_the_category() {
    for crd in json() {
        let names = &crd["spec"]["names"];
        let kind = names["kind"].as_str().unwrap();
        let version = &crd["spec"]["versions"][0];
        assert_eq!(names["categories"], serde_json::json!(["coral"]), "{kind}");
        assert!(names["shortNames"][0].is_string(), "{kind}");
        assert!(version["subresources"]["status"].is_object(), "{kind}");
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        assert_eq!(columns.last().unwrap()["name"], "Age", "{kind}");
        let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"];
        // The spec of MirroredImages never changes.
        let has_generation = status["properties"]["observedGeneration"].is_object();
        assert!(has_generation || kind == "MirroredImages", "{kind}");
    }
}

/// Calls `check` with the path and schema of everything below `schema`.
fn each(schema: &Value, path: &str, check: &mut impl FnMut(&str, &Value)) {
    check(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        each(field, &format!("{path}.{name}"), check);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            each(&schema[inner], &format!("{path}[]"), check);
        }
    }
}

/// Schemas that Kubernetes' own types bring along.
fn is_kubernetes_own(path: &str) -> bool {
    path.contains("conditions[]") || path.contains("Selector.match")
}

#[test]
fn lists_are_bounded_and_numbers_have_a_format_that_the_api_server_knows() {
    let mut wrong = Vec::new();
    for crd in json() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        each(schema, kind, &mut |path, schema| {
            let own = !is_kubernetes_own(path);
            if own && schema["type"] == "array" && !schema["maxItems"].is_u64() {
                wrong.push(format!("{path}: a list without maxItems"));
            }
            if schema["type"] == "integer"
                && !matches!(schema["format"].as_str(), Some("int32" | "int64"))
            {
                wrong.push(format!("{path}: format {}", schema["format"]));
            }
            if schema.get("x-kubernetes-validations").is_some()
                && schema["type"] == "string"
                && !schema["maxLength"].is_u64()
            {
                wrong.push(format!("{path}: a rule on text without maxLength"));
            }
        });
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_value_of_a_newer_version_does_not_hide_the_object() {
    let mirror = serde_json::json!({
        "apiVersion": "stvz.io/v1", "kind": "RegistryMirror",
        "metadata": {"name": "newer"},
        "spec": {
            "registry": {"name": "main", "newer": 1},
            "repositories": [{"name": "debian", "tags": ["12"], "referrers": "Later"}],
            "verifyBy": "Smell",
        },
        "status": {"repositories": [{"name": "docker.io/library/debian", "visibility": "Half"}]},
    });
    let mirror: coral_api::RegistryMirror = serde_json::from_value(mirror).unwrap();
    let problems: Vec<String> = mirror.validate().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "spec.repositories[0].referrers: has a value that this version of Coral does not know",
            "spec.verifyBy: has a value that this version of Coral does not know",
        ]
    );
}
