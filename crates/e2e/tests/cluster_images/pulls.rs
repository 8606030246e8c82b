//! How often nodes pull: once, and after failures at growing intervals.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use e2e::cluster::{Cluster, Namespace, OutsideRegistry, PATIENCE};
use e2e::{Layout, RegistryProgram, run, scratch, sha256, until};
use serde_json::Value;

use crate::stage::Stage;

/// Pushes an image whose layer no other has, and returns its reference by digest.
fn push(source: &OutsideRegistry, path: &str) -> String {
    let folder = scratch();
    fs::write(folder.path().join("name"), path).unwrap();
    let archive = folder.path().join("layer.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(folder.path());
    let _ = run(tar.arg("name")).succeeded();
    let layout = Layout::open(folder.path().join("layout"));
    let layer = fs::read(archive).unwrap();
    layout.tag("1", &layout.add_layered_image("amd64", &[layer]));
    source.push(&layout, "1", &format!("{path}:1"));
    let digest = sha256(source.manifest(path, "1").as_bytes());
    format!("{}/{path}@{digest}", source.host())
}

/// An Image object that places an image by its digest: the nodes ask its host themselves.
fn yaml(name: &str, reference: &str, more: &str) -> String {
    let (repository, digest) = reference.split_once('@').unwrap();
    format!(
        "apiVersion: stvz.io/v1\nkind: Image\nmetadata: {{name: {name}}}\nspec:\n{more}  \
         repositories:\n    - {{name: \"{repository}\", digests: [\"{digest}\"]}}\n"
    )
}

/// Changes an Image and the labels of the nodes.
fn disturb(cluster: &Cluster, namespace: &Namespace<'_>, name: &str, round: u32) {
    let patch = format!(
        "{{\"metadata\": {{\"annotations\": {{\"round\": \"{round}\"}}}}, \
         \"spec\": {{\"retry\": {{\"limit\": {round}}}, \"pin\": {}}}}}",
        round.is_multiple_of(2)
    );
    let image = ["-n", namespace.name(), "patch", "images.stvz.io", name];
    let how = ["--type=merge", "-p", &patch];
    let _ = cluster.kubectl(&[&image[..], &how].concat()).succeeded();
    let round = format!("round={round}");
    let label = ["label", "nodes", "--all", "--overwrite", &round];
    let _ = cluster.kubectl(&label).succeeded();
}

#[test]
#[ignore = "needs a cluster"]
fn a_node_pulls_an_image_once_however_many_events_there_are() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    source.tell_nodes(&cluster);
    let namespace = cluster.namespace("once");
    let reference = push(&source, "team/once");
    namespace.apply(&yaml("once", &reference, ""));
    for round in 1..=8 {
        disturb(&cluster, &namespace, "once", round);
    }
    namespace.apply(&yaml("twin", &reference, ""));
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "once");
    for round in 9..=16 {
        disturb(&cluster, &namespace, "once", round);
    }
    stage.delete(&namespace, "twin");
    // Controller and agents have seen all of that when they have placed what came after it.
    namespace.apply(&yaml("after", &push(&source, "team/after"), ""));
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "after");

    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for request in source.requests() {
        if request.method == "GET" && request.path.contains("/team/once/") {
            *counts.entry((request.from, request.path)).or_default() += 1;
        }
    }
    // Of each node: the manifest, the configuration and a layer.
    assert_eq!(counts.len(), 3 * cluster.nodes().len(), "{counts:#?}");
    assert!(counts.values().all(|count| *count == 1), "{counts:#?}");
    let _ = cluster.kubectl(&["label", "nodes", "--all", "round-"]);
}

/// What a node says of an image.
fn reported(cluster: &Cluster, node: &str, reference: &str) -> Value {
    let object = cluster.get(&["nodeimages", node]).unwrap_or_default();
    let mut images = object["status"]["images"].as_array().into_iter().flatten();
    let found = images.find(|image| image["reference"] == reference);
    found.cloned().unwrap_or_default()
}

/// The second of its day of a time such as `2026-11-27T01:02:03.4Z`.
fn second_of_day(time: &str) -> f64 {
    let (_, clock) = time.trim_end_matches('Z').split_once('T').unwrap();
    let parts = clock.split(':').map(|part| part.parse::<f64>().unwrap());
    parts.fold(0.0, |sum, part| sum * 60.0 + part)
}

#[test]
#[ignore = "needs a cluster"]
fn failed_pulls_are_tried_at_growing_intervals_and_end_with_the_registry_back() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let mut source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    source.tell_nodes(&cluster);
    let reference = push(&source, "team/later");
    source.stop();
    let namespace = cluster.namespace("later");
    namespace.apply(&yaml("later", &reference, "  retry: {limit: 3}\n"));
    let mut seen: BTreeMap<u64, Value> = BTreeMap::new();
    until("four failures", PATIENCE, || {
        let image = reported(&cluster, "node1", &reference);
        let attempts = image["attempts"].as_u64()?;
        seen.insert(attempts, image);
        (attempts >= 4).then_some(())
    });
    for (attempts, image) in &seen {
        let expected = if *attempts < 3 { "Pending" } else { "Error" };
        assert_eq!(image["state"], expected, "{image:#}");
    }
    let next = |image: &Value| second_of_day(image["nextAttempt"].as_str().unwrap());
    let seen: Vec<_> = seen.iter().collect();
    assert!(seen.len() > 1, "{seen:#?}");
    for pair in seen.windows(2) {
        let [(before, earlier), (attempts, later)] = pair else {
            continue;
        };
        // Waits of 1, 2, 4 and 8 seconds follow the failures, each less a fifth at most.
        let waits = 2_u32.pow(u32::try_from(**attempts).unwrap())
            - 2_u32.pow(u32::try_from(**before).unwrap());
        let grown = (next(later) - next(earlier)).rem_euclid(86_400.0);
        assert!(grown >= 0.8 * f64::from(waits), "{grown} s: {pair:#?}");
    }
    for node in cluster.nodes() {
        stage.wait_for_label(&node, &reference, Some("error"));
    }
    let object = ["-n", namespace.name(), "images.stvz.io", "later"];
    let image = cluster.wait_until("the failure told", &object, PATIENCE, |image| {
        image["status"].to_string().contains("\"PullFailed\"")
    });
    let told = crate::message(&image, "Degraded");
    assert!(
        told.contains(&reference) && told.contains("on node node"),
        "{told}"
    );

    source.start_again();
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "later");
    for node in cluster.nodes() {
        stage.wait_for_label(&node, &reference, Some("available"));
    }
}
