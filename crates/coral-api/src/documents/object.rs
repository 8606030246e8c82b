//! Reads one object.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value as Json, json};

use super::check::{check, duplicates, unknown};
use super::finding::Findings;
use super::node::{Entry, Node, Value};
use super::suggestion::{hint, nearest, shown};
use super::{Object, bounds};
use crate::image_build::{ImageBuild, ImageBuildSpec};
use crate::names::{API_VERSION, GROUP, kind};
use crate::older;
use crate::problem::{Problem, Problems};
use crate::registry::{Registry, RegistrySpec};
use crate::registry_mirror::{RegistryMirror, RegistryMirrorSpec};
use crate::secret::{Secret, SecretBytes};

/// The top-level fields of an object of Coral's kinds.
const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
const SECRET_TOP: [&str; 7] = [
    "apiVersion",
    "kind",
    "metadata",
    "type",
    "data",
    "stringData",
    "immutable",
];

/// Fields of a `RegistryMirror` that are planned and do not work yet.
const PLANNED_FOR_MIRRORS: &[&str] = &["spec.fromPods"];

/// Fields of `metadata` that Kubernetes writes and files have no use for: accepted, not kept.
const IGNORED_META: [&str; 13] = [
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "initializers",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The fields of `metadata` that files may have: fewer than Kubernetes' type has.
static META: LazyLock<Json> = LazyLock::new(|| {
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": texts,
            "annotations": texts,
        },
        "x-kubernetes-preserve-unknown-fields": true,
    })
});
static MIRROR_SPEC: LazyLock<Json> = LazyLock::new(schema::<RegistryMirrorSpec>);
static REGISTRY_SPEC: LazyLock<Json> = LazyLock::new(schema::<RegistrySpec>);
static BUILD_SPEC: LazyLock<Json> = LazyLock::new(schema::<ImageBuildSpec>);

fn schema<T: JsonSchema>() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Kind and name, as far as they are there: `RegistryMirror "web"`.
pub(super) fn title(node: &Node) -> Option<String> {
    let kind = node.get("kind").and_then(Node::text)?;
    let name = node
        .get("metadata")
        .and_then(|meta| meta.get("name"))
        .and_then(Node::text);
    Some(match name {
        Some(name) => format!("{} {:?}", shown(kind), shown(name)),
        None => shown(kind),
    })
}

/// Reads an object; `None` only with a finding.
pub(super) fn read(
    node: &Node,
    findings: &mut Findings,
    warnings: &mut Vec<String>,
) -> Option<Object> {
    if !matches!(node.value, Value::Map(_)) {
        findings.add(
            node.line,
            "",
            "not an object: a document begins with apiVersion and kind, such as \
             \"apiVersion: stvz.io/v1\" and \"kind: RegistryMirror\"",
        );
        return None;
    }
    if is_no_object(node) {
        let reason = "it is no Kubernetes object: it has no kind, metadata or spec".to_owned();
        return Some(skipped(node, "", reason));
    }
    if let Some(kind) = kind_of_another_program(node) {
        let reason = "it has no apiVersion, and its kind is not one of Coral's".to_owned();
        return Some(skipped(node, kind, reason));
    }
    let kind_given = header(node, "kind", "kind: RegistryMirror", findings);
    let example = match kind_given {
        Some(known) if !kind::ALL.contains(&known) => "apiVersion: v1",
        _ => "apiVersion: stvz.io/v1",
    };
    let version = header(node, "apiVersion", example, findings);
    let (kind_given, version) = (kind_given?, version?);
    match (version, kind_given) {
        (API_VERSION, kind::REGISTRY_MIRROR) => mirror(node, findings).map(Object::RegistryMirror),
        (API_VERSION, kind::REGISTRY) => registry(node, findings),
        (API_VERSION, kind::IMAGE_BUILD) => build(node, findings),
        (API_VERSION, kind::MIRROR) => {
            let mut mirror = mirror(node, findings)?;
            warnings.push(older::convert(&mut mirror));
            Some(Object::RegistryMirror(mirror))
        }
        ("v1", "Secret") => secret(node, findings).map(Box::new).map(Object::Secret),
        (API_VERSION, known) if kind::ALL.contains(&known) => Some(needs_cluster(node, known)),
        (API_VERSION, other) => {
            let hint = match nearest(other, &kind::ALL) {
                None if other == "Secret" => ": a Secret has apiVersion v1".to_owned(),
                None => format!(" (known: {})", kind::ALL.join(", ")),
                meant => hint(meant),
            };
            let message = format!("unknown kind {:?} of {GROUP}{hint}", shown(other));
            findings.add(node.line_of("kind"), "kind", message);
            None
        }
        (version, kind) => foreign(node, version, kind, findings),
    }
}

/// Whether a document is a file of another program, such as a compose file or the values of a Helm
/// chart: no key in it is, or is similar to, one of a Kubernetes object or of a mirror without its
/// head.
fn is_no_object(node: &Node) -> bool {
    const OBJECT: [&str; 5] = ["kind", "metadata", "spec", "status", "repositories"];
    let has_version = node.get("apiVersion").is_some();
    let belongs = |entry: &Entry| match entry.key.as_str() {
        // Charts have values of this name too, with an empty text or a mapping.
        "kind" if !has_version => entry.value.text().is_some_and(|kind| !kind.is_empty()),
        key => OBJECT.contains(&key) || nearest(key, &OBJECT).is_some(),
    };
    let version = node.get("apiVersion").and_then(Node::text);
    let is_ours = version.is_some_and(|version| version.contains(GROUP));
    !node.entries().is_empty() && !is_ours && !node.entries().iter().any(belongs)
}

/// The kind of a document without an `apiVersion`, if it is neither one that Coral reads nor similar
/// to one, and nothing else in the document is a mirror's. The values of a Helm chart often say
/// `kind: Deployment`.
fn kind_of_another_program(node: &Node) -> Option<&str> {
    const READ: [&str; 2] = ["Secret", "List"];
    let is_version = |key: &str| key == "apiVersion" || nearest(key, &TOP) == Some("apiVersion");
    let kind = node.get("kind").and_then(Node::text)?;
    let is_ours = kind.is_empty()
        || [&kind::ALL[..], &READ]
            .iter()
            .any(|kinds| nearest(kind, kinds).is_some())
        || node.entries().iter().any(|entry| is_version(&entry.key))
        || [Some(node), node.get("spec")]
            .into_iter()
            .flatten()
            .flat_map(Node::entries)
            .any(|entry| nearest(&entry.key, &["repositories"]).is_some());
    (!is_ours).then_some(kind)
}

/// The text of `apiVersion` or `kind`, which every object has.
fn header<'a>(
    node: &'a Node,
    field: &str,
    example: &str,
    findings: &mut Findings,
) -> Option<&'a str> {
    match node.get(field).map(|value| (value, value.text())) {
        Some((_, Some(text))) if !text.is_empty() => return Some(text),
        Some((value, _)) if !value.is_null() => {
            findings.add(
                value.line,
                field,
                format_args!("{field} must be text, such as {example:?}"),
            );
        }
        _ => {
            let slip = node
                .entries()
                .iter()
                .find(|e| nearest(&e.key, &TOP) == Some(field));
            if let Some(slip) = slip.filter(|slip| slip.key != field) {
                unknown(slip, "", &TOP, findings);
            } else {
                let message = format!("{field} is missing: write {example:?}");
                findings.add(node.line, field, message);
            }
        }
    }
    None
}

/// Skips an object of another API group, unless the group looks like a typing error.
fn foreign(node: &Node, version: &str, kind: &str, findings: &mut Findings) -> Option<Object> {
    let (group, _) = version.split_once('/').unwrap_or(("", version));
    let ours_alone =
        kind::ALL.contains(&kind) && !matches!(kind, kind::IMAGE | kind::REGISTRY | kind::MIRROR);
    let near = strsim::damerau_levenshtein(&shown(group).to_lowercase(), GROUP) <= 2;
    let wanted = match kind {
        "Secret" if group.is_empty() || near => "v1",
        _ if near || ours_alone => API_VERSION,
        _ => return Some(skipped(node, kind, "not one of Coral's kinds".to_owned())),
    };
    let message = format!(
        "apiVersion {:?} is not known for kind {kind}: write {wanted}",
        shown(version)
    );
    findings.add(node.line_of("apiVersion"), "apiVersion", message);
    None
}

fn skipped(node: &Node, kind: &str, reason: String) -> Object {
    let name = node
        .get("metadata")
        .and_then(|meta| meta.get("name"))
        .and_then(Node::text);
    Object::Skipped {
        kind: shown(kind),
        name: shown(name.unwrap_or_default()),
        reason,
    }
}

fn needs_cluster(node: &Node, kind: &str) -> Object {
    skipped(node, kind, format!("{kind} objects need a cluster"))
}

/// Checks a build like the kinds that are used, although nothing is built without a cluster.
fn build(node: &Node, findings: &mut Findings) -> Option<Object> {
    top(node, &TOP, findings);
    let metadata = metadata(node, findings);
    let spec = part::<ImageBuildSpec>(node, "spec", &BUILD_SPEC, findings);
    let build = ImageBuild {
        metadata: metadata.unwrap_or_default(),
        spec: spec?,
        status: None,
    };
    report(node, build.validate(), findings);
    if let Some(spec) = node.get("spec") {
        bounds::check(spec, &BUILD_SPEC, &build.spec, findings);
    }
    Some(needs_cluster(node, kind::IMAGE_BUILD))
}

fn mirror(node: &Node, findings: &mut Findings) -> Option<Box<RegistryMirror>> {
    findings.planned = PLANNED_FOR_MIRRORS;
    top(node, &TOP, findings);
    let metadata = metadata(node, findings);
    let spec = part::<RegistryMirrorSpec>(node, "spec", &MIRROR_SPEC, findings);
    let mirror = RegistryMirror {
        metadata: metadata.unwrap_or_default(),
        spec: spec?,
        status: None,
    };
    report(node, mirror.validate(), findings);
    if let Some(spec) = node.get("spec") {
        bounds::check(spec, &MIRROR_SPEC, &mirror.spec, findings);
    }
    Some(Box::new(mirror))
}

fn registry(node: &Node, findings: &mut Findings) -> Option<Object> {
    top(node, &TOP, findings);
    let metadata = metadata(node, findings);
    let spec = part::<RegistrySpec>(node, "spec", &REGISTRY_SPEC, findings);
    let registry = Registry {
        metadata: metadata.unwrap_or_default(),
        spec: spec?,
        status: None,
    };
    report(node, registry.validate(), findings);
    if let Some(spec) = node.get("spec") {
        bounds::check(spec, &REGISTRY_SPEC, &registry.spec, findings);
    }
    Some(Object::Registry(Box::new(registry)))
}

/// Adds semantic problems, except for those that may only follow from earlier findings.
fn report(node: &Node, problems: Vec<Problem>, findings: &mut Findings) {
    let new_problems: Vec<_> = problems
        .into_iter()
        .filter(|p| !findings.overlaps(&p.path))
        .collect();
    for problem in new_problems {
        findings.at(node.line_of(&problem.path), &problem.path, &problem.message);
    }
}

fn top(node: &Node, known: &[&str], findings: &mut Findings) {
    duplicates(node.entries(), "", findings);
    for entry in node
        .entries()
        .iter()
        .filter(|entry| !known.contains(&entry.key.as_str()))
    {
        unknown(entry, "", known, findings);
    }
}

/// Reads a part of an object as its type. Mistakes are recorded, and the type is made from the rest.
fn part<T: serde::de::DeserializeOwned>(
    node: &Node,
    field: &str,
    schema: &Json,
    findings: &mut Findings,
) -> Option<T> {
    let Some(part) = node.get(field).filter(|part| !part.is_null()) else {
        let meant = node
            .entries()
            .iter()
            .any(|e| nearest(&e.key, &TOP) == Some(field));
        if !meant || node.get(field).is_some() {
            findings.add(
                node.line_of(field),
                field,
                format_args!("field {field:?} is missing"),
            );
        }
        return None;
    };
    let found_before = findings.list.len();
    let mended = check(part, schema, field, findings)?;
    let read = serde_json::from_value(mended);
    if let (Err(error), true) = (&read, findings.list.len() == found_before) {
        // The schema misses little, and serde's message is good enough for that.
        findings.at(part.line, field, error);
    }
    read.ok()
}

fn metadata(node: &Node, findings: &mut Findings) -> Option<ObjectMeta> {
    const KNOWN: [&str; 4] = ["name", "namespace", "labels", "annotations"];
    let metadata = part::<ObjectMeta>(node, "metadata", &META, findings);
    let entries = node.get("metadata").map(Node::entries).unwrap_or_default();
    for entry in entries {
        let key = entry.key.as_str();
        if !KNOWN.contains(&key) && !IGNORED_META.contains(&key) {
            unknown(entry, "metadata", &KNOWN, findings);
        }
    }
    metadata.map(|mut metadata| {
        // kubectl stores the whole object there, including the values of a Secret.
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        metadata
    })
}

fn secret(node: &Node, findings: &mut Findings) -> Option<Secret> {
    top(node, &SECRET_TOP, findings);
    let metadata = metadata(node, findings)?;
    let mut problems = Problems::default();
    crate::registry_mirror::object_name(
        &mut problems,
        "metadata.name",
        crate::metadata::name(&metadata),
    );
    report(
        node,
        problems.into_result(None::<()>).err().unwrap_or_default(),
        findings,
    );
    let secret_type = node.get("type").filter(|t| !t.is_null()).and_then(|node| {
        let text = node.text().map(ToOwned::to_owned);
        if text.is_none() {
            findings.at(node.line, "type", "must be text");
        }
        text
    });
    let mut values = BTreeMap::new();
    secret_values(node, "data", &mut values, findings);
    secret_values(node, "stringData", &mut values, findings);
    let secret = Secret {
        metadata,
        secret_type,
        values,
    };
    if let Some(key) = secret.missing_key() {
        let message = format!("type asks for the key {key:?} in data or stringData");
        findings.add(node.line_of("type"), "type", message);
    }
    Some(secret)
}

/// Reads the values of one field into `values`. No value is ever part of a message.
fn secret_values(
    node: &Node,
    field: &str,
    values: &mut BTreeMap<String, SecretBytes>,
    findings: &mut Findings,
) {
    let Some(part) = node.get(field).filter(|part| !part.is_null()) else {
        return;
    };
    let Value::Map(entries) = &part.value else {
        return findings.at(part.line, field, "must be a mapping");
    };
    duplicates(entries, field, findings);
    for entry in entries {
        let path = format!("{field}[{:?}]", shown(&entry.key));
        let value = match (&entry.value.value, field) {
            (Value::Null, _) => Vec::new(),
            (Value::Text(text), "stringData") => text.clone().into_bytes(),
            (Value::Text(text), _) => {
                let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                let Ok(bytes) = STANDARD.decode(text) else {
                    let hint = "is not base64: put plain text under stringData";
                    findings.at(entry.line, &path, hint);
                    continue;
                };
                bytes
            }
            _ => {
                findings.at(entry.line, &path, "must be text");
                continue;
            }
        };
        values.insert(entry.key.clone(), SecretBytes::new(value));
    }
}
