//! Where and how a build's pod runs: tainted nodes and runtime classes.

use e2e::cluster::{Builds, Cluster, Taint, ready};

/// A build of a script in a container with more fields.
fn build(builds: &Builds<'_>, name: &str, more: &str) {
    let yaml = builds.script(name, &builds.small_image(), "");
    builds.apply(&yaml.replace("build.sh]}", &format!("build.sh], {more}}}")));
}

#[test]
#[ignore = "needs a cluster"]
fn a_build_runs_on_a_tainted_node_only_with_a_toleration() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let _taint = Taint::set(&cluster, "node2");
    let there = "nodeSelector: {kubernetes.io/hostname: node2}";
    build(&builds, "kept-off", there);
    let tolerates =
        "tolerations: [{key: only, operator: Equal, value: builds, effect: NoSchedule}]";
    build(&builds, "tolerates", &format!("{there}, {tolerates}"));
    builds.succeeded("tolerates");
    assert_eq!(builds.pods("tolerates")[0]["spec"]["nodeName"], "node2");
    let waits = builds.wait_for("kept-off", "unschedulable", |build| {
        ready(build)["reason"] == "Unschedulable"
    });
    let said = ready(&waits)["message"].to_string();
    assert!(said.contains("taint"), "{said}");
}

#[test]
#[ignore = "needs a cluster"]
fn a_build_runs_with_the_runtime_class_that_it_names_and_says_if_no_pod_is_made() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    cluster.apply(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: builds}\nhandler: runc\n",
    );
    build(&builds, "named", "runtimeClassName: builds");
    build(&builds, "absent", "runtimeClassName: absent");
    builds.succeeded("named");
    let pods = builds.pods("named");
    assert_eq!(pods[0]["spec"]["runtimeClassName"], "builds");
    let waits = builds.wait_for("absent", "without a pod", |build| {
        ready(build)["reason"] == "NoPod"
    });
    let said = ready(&waits)["message"].to_string();
    assert!(said.contains("kubectl describe job absent-"), "{said}");
    assert_eq!(builds.pods("absent").len(), 0);
}
