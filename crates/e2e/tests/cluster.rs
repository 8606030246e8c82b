//! The cluster that the other tests use: it does what its documentation promises.
//!
//! The tests that need no cut network and no crash run on any cluster.

#[path = "cluster/crds.rs"]
mod crds;

use std::path::{Path, PathBuf};

use e2e::cluster::{Cluster, Namespace, OutsideRegistry, OwnCluster, PATIENCE, is_ready};
use e2e::peers::{skopeo_copy, umoci};
use e2e::{Layout, RegistryProgram, run, scratch, until};

/// A pod of busybox that runs a shell script, on a node if one is named.
fn pod(cluster: &Cluster, name: &str, node: Option<&str>, script: &str) -> String {
    let node = node.map(|node| format!("  nodeName: {node}\n"));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n{}  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: {}\n    \
         command: [sh, -c, {script:?}]\n",
        node.unwrap_or_default(),
        cluster.busybox(),
    )
}

/// A pod that waits, ready.
fn waiting_pod(cluster: &Cluster, namespace: &Namespace<'_>, name: &str, node: Option<&str>) {
    namespace.apply(&pod(cluster, name, node, "sleep 3600"));
    cluster.wait_for_pod(namespace.name(), name);
}

#[test]
#[ignore = "needs a cluster"]
fn a_pod_runs_on_every_node_and_its_log_is_read() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("pods");
    for node in cluster.nodes() {
        let script = "echo hello from $(hostname); sleep 3600";
        namespace.apply(&pod(&cluster, &node, Some(&node), script));
    }
    for node in cluster.nodes() {
        cluster.wait_for_pod(namespace.name(), &node);
        until("the pod's greeting in its log", PATIENCE, || {
            let log = cluster.kubectl(&["-n", namespace.name(), "logs", &node]);
            log.stdout
                .contains(&format!("hello from {node}"))
                .then_some(())
        });
    }
}

/// The lines of a pod's `/proc/self/uid_map`: first inside, first on the node, how many.
fn user_map(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str) -> Vec<u64> {
    let map = cluster.shell(namespace.name(), pod, "cat /proc/self/uid_map");
    let words = map.succeeded().stdout;
    words
        .split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect()
}

#[test]
#[ignore = "needs a cluster"]
fn a_pod_has_users_of_its_own_where_it_asks_for_them() {
    let cluster = Cluster::connect();
    let Some(_) = cluster.own() else { return };
    let namespace = cluster.namespace("users");
    for node in cluster.nodes() {
        let node = ["node", node.as_str()];
        cluster.wait_until("runc has user namespaces", &node, PATIENCE, |node| {
            let handlers = node["status"]["runtimeHandlers"].as_array();
            let mut handlers = handlers.into_iter().flatten();
            handlers.any(|it| it["name"] == "runc" && it["features"]["userNamespaces"] == true)
        });
    }
    let plain = pod(&cluster, "plain", None, "sleep 3600");
    namespace.apply(&plain);
    let own = pod(&cluster, "own", None, "sleep 3600");
    namespace.apply(&own.replace("spec:\n", "spec:\n  hostUsers: false\n"));
    for pod in ["plain", "own"] {
        cluster.wait_for_pod(namespace.name(), pod);
    }
    assert_eq!(user_map(&cluster, &namespace, "plain")[..2], [0, 0]);
    let own = user_map(&cluster, &namespace, "own");
    assert_eq!((own[0], own[2]), (0, 65536), "{own:?}");
    assert!(own[1] >= 65536, "{own:?}");
}

#[test]
#[ignore = "needs a cluster"]
fn services_are_reached_by_name() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("names");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  \
                   selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n";
    namespace.apply(service);
    let server = "echo found > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    namespace.apply(&pod(&cluster, "web", None, server));
    cluster.wait_for_pod(namespace.name(), "web");
    waiting_pod(&cluster, &namespace, "client", None);
    let long = format!("web.{}.svc", namespace.name());
    for name in ["web", &long, &format!("{long}.cluster.local")] {
        let script = format!("timeout 5 wget -q -O - http://{name}/");
        until(&format!("an answer from {name}"), PATIENCE, || {
            let finished = cluster.shell(namespace.name(), "client", &script);
            (finished.text() == "found").then_some(())
        });
    }
    let script = "timeout 5 nc -w 3 kubernetes.default.svc 443 </dev/null && echo open";
    let finished = cluster.shell(namespace.name(), "client", script);
    assert!(finished.stdout.contains("open"), "{finished}");
}

#[test]
#[ignore = "needs a cluster"]
fn a_claim_is_bound_and_keeps_what_a_pod_wrote() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("claims");
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec:\n  \
                 accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n";
    namespace.apply(claim);
    let using = |name: &str, script: &str| {
        let pod = pod(&cluster, name, None, script);
        format!(
            "{pod}    volumeMounts: [{{name: data, mountPath: /data}}]\n    \
             securityContext: {{runAsUser: 65532}}\n  securityContext: {{fsGroup: 65532}}\n  \
             volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]\n"
        )
    };
    let write = "echo kept > /data/file && sleep 3600";
    namespace.apply(&using("writer", write));
    cluster.wait_for_pod(namespace.name(), "writer");
    let gone = ["-n", namespace.name(), "delete", "pod", "writer"];
    let _ = cluster.kubectl(&gone).succeeded();
    namespace.apply(&using("reader", "sleep 3600"));
    cluster.wait_for_pod(namespace.name(), "reader");
    let read = cluster.shell(namespace.name(), "reader", "cat /data/file");
    assert_eq!(read.succeeded().text(), "kept");
}

#[test]
#[ignore = "needs a cluster"]
fn a_crashed_node_boots_and_runs_its_pods_again_with_the_outside_cut_off() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let namespace = cluster.namespace("crash");
    waiting_pod(&cluster, &namespace, "survivor", Some("node2"));
    let cut = own.cut();
    own.crash("node2");
    let node = ["node", "node2"];
    cluster.wait_until("node2 not ready", &node, PATIENCE, |node| !is_ready(node));
    assert!(is_ready(&cluster.get(&["node", "node1"]).unwrap()));
    own.boot("node2");
    cluster.wait_until("node2 ready", &node, PATIENCE, is_ready);
    let arguments = ["-n", namespace.name(), "pod", "survivor"];
    cluster.wait_until("the pod started again", &arguments, PATIENCE, |pod| {
        is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    let hello = cluster.shell(namespace.name(), "survivor", "echo again");
    assert_eq!(hello.succeeded().text(), "again");
    cut.join();
    let asked: Vec<_> = own.dropped().into_iter().filter(|d| d.asked > 0).collect();
    assert_eq!(asked, []);
}

/// The status that a pod sees of a registry, if there is an answer.
fn answer(cluster: &Cluster, namespace: &Namespace<'_>, host: &str) -> bool {
    let script = format!("timeout 2 wget -q -O - http://{host}/v2/");
    cluster.shell(namespace.name(), "client", &script).code == 0
}

#[test]
#[ignore = "needs a cluster"]
fn a_cut_drops_and_counts_all_but_the_cluster_itself() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let namespace = cluster.namespace("cut");
    let outside = OutsideRegistry::start(RegistryProgram::Distribution, own);
    let registry = format!("{}:5000", own.address());
    waiting_pod(&cluster, &namespace, "client", Some("node2"));
    assert!(answer(&cluster, &namespace, outside.host()));
    let address = address_of(&cluster, &namespace, "client");
    let asked = outside.requests();
    assert!(
        asked.iter().any(|r| r.from == address && r.path == "/v2/"),
        "{asked:?}"
    );

    let cut = own.cut();
    assert!(!answer(&cluster, &namespace, outside.host()));
    assert!(!answer(&cluster, &namespace, &registry));
    let from_node = ["timeout", "2", "busybox", "wget", "-q", "-O", "-"];
    let url = format!("http://{}/v2/", outside.host());
    let finished = own.exec("node1", &[&from_node[..], &[&url]].concat());
    assert_ne!(finished.code, 0, "{finished}");
    let dropped = own.dropped();
    let counted = |node: &str, source: &str| {
        let mut of_outside = dropped.iter().filter(|d| to(d, outside.host()));
        of_outside.any(|d| d.node == node && d.source == source && d.packets > 0)
    };
    assert!(counted("node2", &address), "{dropped:?}");
    assert!(
        dropped
            .iter()
            .any(|d| d.node == "node1" && to(d, outside.host())),
        "{dropped:?}"
    );
    assert!(own.asked_of(&registry) > 0);
    names_and_the_api_server_go_on(&cluster, &namespace);
    assert_eq!(outside.requests().len(), asked.len());

    cut.join();
    assert!(answer(&cluster, &namespace, outside.host()));
    assert!(own.dropped_to(outside.host()) > 0, "the counts stay");
}

fn to(dropped: &e2e::cluster::Dropped, host: &str) -> bool {
    format!("{}:{}", dropped.address, dropped.port) == host
}

fn address_of(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str) -> String {
    let pod = cluster
        .get(&["-n", namespace.name(), "pod", pod])
        .expect("the pod is there");
    pod["status"]["podIP"]
        .as_str()
        .expect("it has an address")
        .to_owned()
}

/// With the outside cut off, a pod finds the API server by name, and new pods start.
fn names_and_the_api_server_go_on(cluster: &Cluster, namespace: &Namespace<'_>) {
    let script = "timeout 5 nc -w 3 kubernetes.default.svc 443 </dev/null";
    let _ = cluster
        .shell(namespace.name(), "client", script)
        .succeeded();
    waiting_pod(cluster, namespace, "late", Some("node2"));
    let deleted = cluster.kubectl(&["-n", namespace.name(), "delete", "pod", "late"]);
    let _ = deleted.succeeded();
}

/// The pod's connection is opened before the cut; what it asks on it afterwards arrives only when
/// the cut has ended.
#[test]
#[ignore = "needs a cluster"]
fn a_cut_ends_open_connections_to_the_outside_too() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let namespace = cluster.namespace("open");
    let outside = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    let (address, port) = outside.host().split_once(':').unwrap();
    let script = format!(
        "mkfifo /tmp/in; sleep 3600 >/tmp/in & exec nc {address} {port} </tmp/in >/tmp/out"
    );
    namespace.apply(&pod(&cluster, "client", Some("node1"), &script));
    cluster.wait_for_pod(namespace.name(), "client");
    let ask = || {
        let request = "printf 'GET /v2/ HTTP/1.1\\r\\nHost: outside\\r\\nUser-Agent: a client that keeps its connection\\r\\n\\r\\n' >/tmp/in";
        let _ = cluster
            .shell(namespace.name(), "client", request)
            .succeeded();
    };
    let answers = || {
        let count = "grep -o 'HTTP/1.1 200' /tmp/out | wc -l";
        cluster
            .shell(namespace.name(), "client", count)
            .text()
            .to_owned()
    };
    ask();
    until("the first answer", PATIENCE, || {
        (answers() == "1").then_some(())
    });
    let cut = own.cut();
    ask();
    until("the second request dropped", PATIENCE, || {
        (own.asked_of(outside.host()) > 0).then_some(())
    });
    assert_eq!(answers(), "1");
    cut.join();
    until("the second answer", PATIENCE, || {
        (answers() == "2").then_some(())
    });
}

#[test]
#[ignore = "needs a cluster"]
fn nodes_that_are_told_of_an_outside_registry_pull_from_it() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let namespace = cluster.namespace("outside");
    let folder = scratch();
    let outside = OutsideRegistry::start_with_private_ca(RegistryProgram::Distribution, own);
    let layout = Layout::open(another_busybox(own, folder.path()));
    outside.push(&layout, "1", "tools/busybox:1");
    let image = format!("    image: {}\n", cluster.busybox());
    let there = format!("    image: {}/tools/busybox:1\n", outside.host());
    let pod = pod(&cluster, "pulls", Some("node1"), "sleep 3600").replace(&image, &there);
    outside.tell_nodes(&cluster);
    namespace.apply(&pod);
    cluster.wait_for_pod(namespace.name(), "pulls");
    let asked = outside.requests();
    assert!(
        asked.iter().all(|request| request.from.ends_with(".11")),
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|request| request.path.contains("/blobs/")),
        "{asked:?}"
    );
}

#[test]
#[ignore = "needs a cluster"]
fn nothing_leaves_the_machine() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    // Set aside for documentation: on no network, but routed as any other.
    let elsewhere = "203.0.113.7:80";
    let before = own.dropped_to(elsewhere);
    let finished = own.exec(
        "node1",
        &["timeout", "2", "busybox", "nc", "203.0.113.7", "80"],
    );
    assert_ne!(finished.code, 0, "{finished}");
    assert!(own.dropped_to(elsewhere) > before);
}

#[test]
#[ignore = "needs a cluster"]
fn a_loaded_image_is_there_without_a_pull() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let namespace = cluster.namespace("load");
    let folder = scratch();
    let layout = another_busybox(own, folder.path());
    let reference = "loaded.example.org/tools/busybox:7";
    own.load(&layout, reference);
    for node in cluster.nodes() {
        let image = format!("    image: {}\n", cluster.busybox());
        let loaded = format!("    image: {reference}\n    imagePullPolicy: Never\n");
        let pod = pod(&cluster, &node, Some(&node), "sleep 3600").replace(&image, &loaded);
        namespace.apply(&pod);
    }
    for node in cluster.nodes() {
        cluster.wait_for_pod(namespace.name(), &node);
    }
}

/// The cluster's busybox with a configuration of its own, as an OCI layout. The kubelet refuses to use
/// the very image that it has pulled under another name without asking that registry.
fn another_busybox(own: &OwnCluster, folder: &Path) -> PathBuf {
    let layout = folder.join("busybox");
    let source = format!("docker://{}", own.base_image("busybox"));
    let destination = format!("oci:{}:1", layout.display());
    let _ = run(&mut skopeo_copy(folder, &source, &destination)).succeeded();
    let image = format!("{}:1", layout.display());
    let mut config = umoci(folder);
    config.args(["config", "--image", &image, "--config.env", "LOADED=yes"]);
    let _ = run(&mut config).succeeded();
    layout
}
