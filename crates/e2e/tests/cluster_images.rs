//! Images on nodes: placed, labelled, counted, removed. Each known fault of the older Coral has a
//! test that is named after it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster_images/joins.rs"]
mod joins;
#[path = "cluster_images/pulls.rs"]
mod pulls;
#[path = "cluster_images/stage.rs"]
mod stage;

use e2e::cluster::{Cluster, PATIENCE};
use e2e::until;
use serde_json::Value;

use stage::Stage;

#[test]
#[ignore = "needs a cluster"]
fn deleting_an_image_and_applying_it_again_works_ten_times_in_a_row() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("again");
    let reference = stage.reference("web");
    for round in 0..10 {
        namespace.apply(&stage.yaml("web", "web", ""));
        if round % 4 == 1 {
            stage.kill_the_controller();
        }
        cluster.wait_for_ready(namespace.name(), "images.stvz.io", "web");
        for node in cluster.nodes() {
            stage.wait_for_label(&node, &reference, Some("available"));
        }
        stage.delete(&namespace, "web");
        if round % 4 == 3 {
            stage.kill_the_controller();
        }
    }
    for node in cluster.nodes() {
        stage.wait_for_label(&node, &reference, None);
    }
}

#[test]
#[ignore = "needs a cluster"]
fn nothing_of_a_deleted_image_keeps_running() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("gone");
    let reference = stage.reference("placed");
    namespace.apply(&stage.yaml("placed", "placed", "  onDelete: Remove\n"));
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "placed");
    assert!(stage.on_node("node1", &reference));
    stage.delete(&namespace, "placed");
    for node in cluster.nodes() {
        stage.wait_for_label(&node, &reference, None);
        until("the image removed", PATIENCE, || {
            (!stage.on_node(&node, &reference)).then_some(())
        });
        let what = "nothing left of it in NodeImages";
        cluster.wait_until(what, &["nodeimages", &node], PATIENCE, |object| {
            !object["spec"].to_string().contains(&reference)
                && !object["status"].to_string().contains(&reference)
        });
    }
}

#[test]
#[ignore = "needs a cluster"]
fn finalizers_requeue_and_end() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("final");
    let older = stage.yaml("older", "web", "").replace(
        "metadata: {name: older}",
        "metadata: {name: older, finalizers: [image.stvz.io/finalizer]}",
    );
    namespace.apply(&older);
    let delete = ["-n", namespace.name(), "delete", "images.stvz.io", "older"];
    let _ = cluster
        .kubectl(&[&delete[..], &["--wait=false"]].concat())
        .succeeded();
    stage.kill_the_controller();
    let arguments = ["-n", namespace.name(), "images.stvz.io", "older"];
    until("the object deleted", PATIENCE, || {
        cluster.get(&arguments).is_none().then_some(())
    });
}

#[test]
#[ignore = "needs a cluster"]
fn selectors_in_both_spellings_follow_the_labels_of_nodes_at_once() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("select");
    let older = "  selector:\n    - {key: zone, operator: in, values: [a]}\n";
    let newer =
        "  onDelete: Remove\n  selector:\n    - {key: zone, operator: NotIn, values: [a]}\n";
    namespace.apply(&stage.yaml("older", "web", older));
    namespace.apply(&stage.yaml("newer", "placed", newer));
    let (web, placed) = (stage.reference("web"), stage.reference("placed"));
    stage.wait_for_label("node1", &placed, Some("available"));
    assert_eq!(stage.label("node1", &web), None);
    let _ = cluster
        .kubectl(&["label", "node", "node1", "zone=a"])
        .succeeded();
    stage.wait_for_label("node1", &web, Some("available"));
    stage.wait_for_label("node1", &placed, None);
    stage.wait_for_label("node2", &placed, Some("available"));
    let _ = cluster
        .kubectl(&["label", "node", "node1", "zone-"])
        .succeeded();
    stage.wait_for_label("node1", &web, None);
}

#[test]
#[ignore = "needs a cluster"]
fn two_images_with_one_reference_share_it_and_the_last_one_takes_it_away() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("two");
    let remove = "  onDelete: Remove\n";
    let reference = stage.reference("placed");
    for name in ["one", "other"] {
        namespace.apply(&stage.yaml(name, "placed", remove));
        cluster.wait_for_ready(namespace.name(), "images.stvz.io", name);
    }
    stage.delete(&namespace, "one");
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "other");
    stage.wait_for_label("node1", &reference, Some("available"));
    assert!(stage.on_node("node1", &reference));
    stage.delete(&namespace, "other");
    until("the image removed", PATIENCE, || {
        (!stage.on_node("node1", &reference)).then_some(())
    });
}

/// The message of a condition of an object.
fn message(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind);
    found.unwrap()["message"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs a cluster"]
fn a_broken_image_is_reported_on_itself_and_harms_no_other() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("broken");
    let selector = "  selector:\n    - {key: cpus, operator: gt, values: [many]}\n";
    namespace.apply(&stage.yaml("selector", "web", selector));
    let secrets = "  imagePullSecrets: [{name: later}]\n";
    let absent = format!("{secrets}  retry: {{limit: 1}}\n");
    namespace.apply(&stage.yaml("absent", "absent", &absent));
    namespace.apply(&stage.yaml("good", "web", secrets));
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "good");
    let degraded = |name: &str, reason: &str| {
        let arguments = ["-n", namespace.name(), "images.stvz.io", name];
        let what = format!("{name} degraded with {reason}");
        cluster.wait_until(&what, &arguments, PATIENCE, |image| {
            let conditions = image["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Degraded" && condition["reason"] == reason)
        })
    };
    let selector = degraded("selector", "InvalidSpec");
    let told = message(&selector, "Degraded");
    assert!(
        told.contains("spec.selector[0].values[0] \"many\"") || told.contains("many"),
        "{told}"
    );
    let absent = degraded("absent", "NotResolved");
    let told = message(&absent, "Degraded");
    assert!(
        told.contains("not mirrored") && told.contains("RegistryMirror"),
        "{told}"
    );
    let later = "imagePullSecrets are not yet used: a later version will support private images";
    assert!(told.ends_with(later), "{told}");
}
