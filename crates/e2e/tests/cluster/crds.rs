//! The definitions of Coral's kinds on a real API server: it accepts the definitions, refuses the
//! objects that the reader of files refuses, and accepts the files that people have.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::cluster::{Cluster, has_condition};
use e2e::{Finished, coral, run, scratch};
use serde_json::{Value, json};

const KINDS: [&str; 8] = [
    "imagebuilds",
    "images",
    "injectionpolicies",
    "mirroredimages",
    "nodeimages",
    "registries",
    "registrymirrors",
    "registryroutes",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Hands a text to kubectl as a file.
fn with_file(cluster: &Cluster, arguments: &[&str], text: &str) -> Finished {
    let folder = scratch();
    let file = folder.path().join("objects.yaml");
    fs::write(&file, text).expect("scratch is writable");
    let file = file.to_string_lossy().into_owned();
    cluster.kubectl(&[arguments, &["-f", &file]].concat())
}

/// Applies what `coral crds` prints, and waits until the API server serves it.
fn install(cluster: &Cluster) -> Finished {
    let printed = run(coral().arg("crds")).succeeded();
    let applied = with_file(
        cluster,
        &["apply", "--server-side", "--force-conflicts"],
        &printed.stdout,
    );
    let applied = applied.succeeded();
    for kind in KINDS {
        let name = format!("{kind}.stvz.io");
        let arguments = ["customresourcedefinition", &name];
        cluster.wait_until(&name, &arguments, Duration::from_mins(2), |definition| {
            has_condition(definition, "Established", "True")
        });
    }
    applied
}

/// Makes an object without keeping it, unknown fields refused.
fn try_create(cluster: &Cluster, object: &Value) -> Finished {
    let arguments = ["create", "--dry-run=server", "--validate=strict"];
    with_file(cluster, &arguments, &object.to_string())
}

#[test]
#[ignore = "needs a cluster"]
fn the_definitions_are_accepted_without_a_warning() {
    let cluster = Cluster::connect();
    let applied = install(&cluster);
    assert!(!applied.stderr.contains("Warning"), "{applied}");
    let known = cluster.kubectl(&["api-resources", "--categories=coral", "-o", "name"]);
    let known = known.succeeded();
    for kind in KINDS {
        assert!(known.stdout.contains(&format!("{kind}.stvz.io")), "{known}");
    }
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
        let Value::Object(target) = &mut *target else {
            return;
        };
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// The table that the reader of files and the rules are tested with too.
#[test]
#[ignore = "needs a cluster"]
fn what_files_refuse_is_refused_here_in_the_same_words() {
    let cluster = Cluster::connect();
    let _ = install(&cluster);
    let file = root().join("crates/coral-api/tests/data/bad-objects.json");
    let text = fs::read_to_string(file).expect("the table is there");
    let table: Value = serde_json::from_str(&text).expect("the table is JSON");
    let mut wrong = Vec::new();
    for entry in table["objects"].as_array().expect("a list of objects") {
        let kind = entry["kind"].as_str().unwrap_or_default();
        let mut spec = table["base"][kind].clone();
        merge(&mut spec, &entry["patch"]);
        let metadata = json!({"name": "object"});
        let object = json!({
            "apiVersion": "stvz.io/v1", "kind": kind, "metadata": metadata, "spec": spec,
        });
        let finished = try_create(&cluster, &object);
        let as_said = match entry["cluster"].as_str() {
            Some(words) => finished.code != 0 && finished.stderr.contains(words),
            // Only the controller knows what is wrong with these, and says so in a condition.
            None => finished.code == 0,
        };
        if !as_said {
            wrong.push(format!("{}: {finished}", entry["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const OLDER_IMAGE: &str = "apiVersion: stvz.io/v1
kind: Image
metadata:
  name: web
spec:
  selector:
    - key: node-role.kubernetes.io/worker
      operator: exists
    - key: zone
      operator: in
      values: [a, b]
  repositories:
    - name: debian
      tags: [bookworm-slim, bullseye-slim]
    - name: quay.io/prometheus/node-exporter
      tags: [v1.8.0]
  imagePullSecrets:
    - name: regcred
";

#[test]
#[ignore = "needs a cluster"]
fn an_image_of_the_older_coral_applies_unchanged() {
    let cluster = Cluster::connect();
    let _ = install(&cluster);
    let arguments = ["apply", "--dry-run=server", "--validate=strict"];
    let _ = with_file(&cluster, &arguments, OLDER_IMAGE).succeeded();
    let without = OLDER_IMAGE.replace("    - name: regcred\n", "");
    let null = without.replace("imagePullSecrets:", "imagePullSecrets: null");
    let _ = with_file(&cluster, &arguments, &null).succeeded();
    let everywhere = json!({
        "apiVersion": "stvz.io/v1", "kind": "Image", "metadata": {"name": "everywhere"},
        "spec": {"selector": null, "repositories": [{"name": "debian", "tags": ["12"]}]},
    });
    let _ = try_create(&cluster, &everywhere).succeeded();
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            found.extend(yaml_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    found
}

#[test]
#[ignore = "needs a cluster"]
fn every_example_applies_unchanged() {
    let cluster = Cluster::connect();
    let _ = install(&cluster);
    let files = yaml_files(&root().join("examples"));
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        for mode in [&["--validate=strict"][..], &["--server-side"]] {
            let file = file.to_string_lossy();
            let arguments = [&["apply", "--dry-run=server", "-f", &file], mode].concat();
            let _ = cluster.kubectl(&arguments).succeeded();
        }
    }
}
