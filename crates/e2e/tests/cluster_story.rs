//! The whole loop once through: outside → inside → node → pod, on a real cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use e2e::cluster::{Cluster, Namespace, Outside, OwnCluster, PATIENCE, REGISTRY, is_ready};
use e2e::until;
use serde_json::Value;

fn placed_image(outside: &Outside, version: &str) -> String {
    format!(
        r#"apiVersion: stvz.io/v1
kind: Image
metadata: {{name: placed-{version}}}
spec:
  selector:
    - {{key: kubernetes.io/hostname, operator: exists}}
  repositories:
    - {{name: "{host}/team/placed", tags: ["{version}"]}}
"#,
        host = outside.plain.host()
    )
}

/// A pod by its name alone (routed), a Deployment by annotation (rewritten), a pod that never
/// pulls on each node (placed), and a `DaemonSet`.
fn workloads(outside: &Outside, version: &str, nodes: &[String]) -> String {
    let command = "command: [/bin/busybox, sleep, \"3600\"]";
    let (plain, private) = (outside.plain.host(), outside.private.host());
    let placed = nodes.iter().map(|node| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: placed-{version}-{node}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: main, image: "{plain}/team/placed:{version}", imagePullPolicy: Never, {command}}}
"#
        )
    });
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: routed-{version}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: main, image: "{plain}/team/web:{version}", {command}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: rewritten-{version}}}
spec:
  selector: {{matchLabels: {{app: rewritten-{version}}}}}
  template:
    metadata:
      labels: {{app: rewritten-{version}}}
      annotations: {{image.stvz.io/inject: registry}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {{name: main, image: "{private}/team/app:{version}", {command}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: daemon-{version}}}
spec:
  selector: {{matchLabels: {{app: daemon-{version}}}}}
  template:
    metadata: {{labels: {{app: daemon-{version}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {{name: main, image: "{private}/team/daemon:{version}", {command}}}
{}"#,
        placed.collect::<String>()
    )
}

fn set_suspended(cluster: &Cluster, suspended: bool) {
    let patch = format!("{{\"spec\": {{\"suspend\": {suspended}}}}}");
    let arguments = ["-n", "coral-system", "patch", "registrymirror", "outside"];
    let arguments = [&arguments[..], &["--type=merge", "-p", &patch]].concat();
    let _ = cluster.kubectl(&arguments).succeeded();
    let mirror = ["-n", "coral-system", "registrymirror", "outside"];
    cluster.wait_until("the mirror takes it in", &mirror, PATIENCE, |mirror| {
        mirror["status"]["observedGeneration"] == mirror["metadata"]["generation"]
    });
}

fn wait_for_workloads(cluster: &Cluster, namespace: &Namespace<'_>, version: &str) {
    let name = namespace.name();
    cluster.wait_for_pod(name, &format!("routed-{version}"));
    for node in cluster.nodes() {
        cluster.wait_for_pod(name, &format!("placed-{version}-{node}"));
    }
    for (workload, kind) in [("rewritten", "deployment"), ("daemon", "daemonset")] {
        let workload = format!("{kind}/{workload}-{version}");
        let arguments = ["-n", name, "rollout", "status", &workload, "--timeout=90s"];
        let finished = cluster.kubectl(&arguments);
        assert_eq!(finished.code, 0, "{finished}\n{}", cluster.explain(name));
    }
    let rewritten = pods(cluster, name, &format!("app=rewritten-{version}"));
    let image = rewritten[0]["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap();
    assert!(image.starts_with(&format!("{REGISTRY}/")), "{image}");
}

fn pods(cluster: &Cluster, namespace: &str, selector: &str) -> Vec<Value> {
    let list = cluster
        .get(&["-n", namespace, "pods", "-l", selector])
        .unwrap();
    list["items"].as_array().unwrap().clone()
}

fn place(cluster: &Cluster, namespace: &Namespace<'_>, outside: &Outside, version: &str) {
    namespace.apply(&placed_image(outside, version));
    cluster.wait_for_ready(
        namespace.name(),
        "image.stvz.io",
        &format!("placed-{version}"),
    );
}

/// The message of an unmirrored image, from the pod's events.
fn refusal(cluster: &Cluster, namespace: &Namespace<'_>, image: &str) -> String {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: absent}}\nspec:\n  containers:\n    \
         - {{name: main, image: \"{image}\"}}\n"
    );
    namespace.apply(&pod);
    let arguments = [
        "-n",
        namespace.name(),
        "get",
        "events",
        "--field-selector=involvedObject.name=absent",
        "-o",
        "jsonpath={.items[*].message}",
    ];
    until("the refusal in the pod's events", PATIENCE, || {
        let finished = cluster.kubectl(&arguments);
        let told = finished.stdout.contains("coral:");
        told.then_some(finished.stdout)
    })
}

/// The addresses that the controller has now: mirrors ask the outside from there.
fn controllers(cluster: &Cluster) -> Vec<String> {
    let selector = "app.kubernetes.io/name=coral-controller";
    let pods = pods(cluster, "coral-system", selector);
    let addresses = pods
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str());
    addresses.map(str::to_owned).collect()
}

/// Packets to either outside registry that were dropped, those of the mirrors' own passes apart.
fn dropped_of_pods(own: &OwnCluster, outside: &Outside, controllers: &[String]) -> Vec<String> {
    let hosts = [outside.plain.host(), outside.private.host()];
    let dropped = own.dropped().into_iter().filter(|dropped| {
        let to = format!("{}:{}", dropped.address, dropped.port);
        dropped.asked > 0 && hosts.contains(&to.as_str()) && !controllers.contains(&dropped.source)
    });
    dropped.map(|dropped| format!("{dropped:?}")).collect()
}

#[test]
#[ignore = "needs a cluster"]
fn images_come_in_are_placed_and_start_with_the_outside_cut_off() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    cluster.install();
    let outside = Outside::start(own);
    outside.bring_inside(&cluster);
    let namespace = cluster.namespace("story");
    place(&cluster, &namespace, &outside, "1");

    // The outside is still reachable: what is not asked here is not asked because nothing asks.
    set_suspended(&cluster, true);
    let before = outside.requests();
    namespace.apply(&workloads(&outside, "1", &cluster.nodes()));
    wait_for_workloads(&cluster, &namespace, "1");
    assert_eq!(outside.requests(), before, "no pod start asks outside");

    let cut = own.cut();
    set_suspended(&cluster, false);
    place(&cluster, &namespace, &outside, "2");
    namespace.apply(&workloads(&outside, "2", &cluster.nodes()));
    wait_for_workloads(&cluster, &namespace, "2");
    the_registry_comes_back(&cluster);
    // A pod of the node that is booted again gets another address.
    let mut askers = controllers(&cluster);
    a_crashed_node_comes_back(&cluster, own, &namespace);
    wait_for_workloads(&cluster, &namespace, "1");
    wait_for_workloads(&cluster, &namespace, "2");
    let absent = format!("{}/team/absent:1", outside.plain.host());
    let message = refusal(&cluster, &namespace, &absent);
    assert!(message.contains("RegistryMirror"), "{message}");
    askers.extend(controllers(&cluster));
    let dropped = dropped_of_pods(own, &outside, &askers);
    assert!(dropped.is_empty(), "{dropped:?}");
    drop(cut);
}

fn the_registry_comes_back(cluster: &Cluster) {
    let delete = ["-n", "coral-system", "delete", "pod", "reg-0"];
    let _ = cluster.kubectl(&delete).succeeded();
    cluster.wait_for_pod("coral-system", "reg-0");
}

fn a_crashed_node_comes_back(cluster: &Cluster, own: &OwnCluster, namespace: &Namespace<'_>) {
    own.crash("node2");
    let node = ["node", "node2"];
    cluster.wait_until("node2 not ready", &node, PATIENCE, |node| !is_ready(node));
    own.boot("node2");
    cluster.wait_until("node2 ready", &node, PATIENCE, is_ready);
    let pod = ["-n", namespace.name(), "pod", "placed-1-node2"];
    cluster.wait_until("the pod started again", &pod, PATIENCE, |pod| {
        is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
}
