//! A node that joins a cluster in which Coral is running.

use e2e::cluster::{Cluster, PATIENCE, REGISTRY, is_ready};
use e2e::until;

use crate::stage::Stage;

/// Takes `node2` out of the cluster, as an administrator would before its machine is replaced.
fn remove_the_node(stage: &Stage<'_>) {
    let kubectl = |arguments: &[&str]| {
        let _ = stage.cluster.kubectl(arguments).succeeded();
    };
    kubectl(&["cordon", "node2"]);
    let there = "--field-selector=spec.nodeName=node2";
    kubectl(&["-n", "coral-system", "delete", "pods", there]);
    stage.own.crash("node2");
    kubectl(&["delete", "node", "node2"]);
    // What a cluster's controllers do a minute later.
    let now = ["--force", "--grace-period=0"];
    kubectl(&[&["delete", "pods", "--all-namespaces", there], &now[..]].concat());
    stage.cluster.wait_until_installed();
}

#[test]
#[ignore = "needs a cluster"]
fn a_node_that_joins_later_gets_its_images_files_and_labels_at_once() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("joins");
    remove_the_node(&stage);
    let meant = "  selector:\n    - {key: kubernetes.io/hostname, operator: In, values: [node2]}\n";
    namespace.apply(&stage.yaml("meant", "placed", &format!("  onDelete: Remove\n{meant}")));
    namespace.apply(&stage.yaml("everywhere", "web", ""));
    let everywhere = ["-n", namespace.name(), "images.stvz.io", "everywhere"];
    cluster.wait_until("on the only node", &everywhere, PATIENCE, |image| {
        is_ready(image) && image["status"]["totalNodes"] == 1
    });

    own.boot_with_new_disk("node2");
    cluster.load_image();
    cluster.wait_until("node2 ready", &["node", "node2"], PATIENCE, is_ready);
    for name in ["placed", "web"] {
        let reference = stage.reference(name);
        stage.wait_for_label("node2", &reference, Some("available"));
        assert!(stage.on_node("node2", &reference), "{reference}");
    }
    assert_eq!(stage.label("node1", &stage.reference("placed")), None);
    for host in [REGISTRY, stage.routed_host()] {
        let shown = stage.hosts_file("node2", host);
        assert!(shown.contains(&stage.registry_address()), "{host}: {shown}");
    }
    // So that the Registry starts there with the outside cut off.
    until("Coral's own image pinned", PATIENCE, || {
        let image = "name==localhost/coral:latest";
        let list = ["ctr", "-n", "k8s.io", "images", "ls", image];
        let listed = own.exec("node2", &list).succeeded();
        listed.stdout.contains("pinned=pinned").then_some(())
    });
    for name in ["meant", "everywhere"] {
        cluster.wait_for_ready(namespace.name(), "images.stvz.io", name);
    }
}
