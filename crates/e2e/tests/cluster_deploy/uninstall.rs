//! What is left after Coral is uninstalled: nothing.

use e2e::cluster::{Cluster, PATIENCE, is_ready, names_of};

/// A `hosts.toml` that was there before Coral, for a host that a route takes over.
const FOREIGN: &str = "/etc/containerd/certs.d/routed.example/hosts.toml";

/// A Registry, a route to it and a lock, all in effect on every node.
fn put_in_force(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: stvz.io/v1\nkind: Registry\nmetadata: {name: reg, namespace: coral-system}\n\
         spec:\n  storage: {emptyDir: {}}\n---\n\
         apiVersion: stvz.io/v1\nkind: RegistryRoute\nmetadata: {name: outside}\nspec:\n  hosts: \
         [routed.example]\n  registry: {namespace: coral-system, name: reg}\n---\n\
         apiVersion: stvz.io/v1\nkind: InjectionPolicy\nmetadata: {name: cluster}\nspec:\n  lock: \
         {mode: Mirrored, registries: [\"reg.coral-system.svc:5000\"], enforcement: Audit}\n",
    );
    let route = ["registryroute", "outside"];
    cluster.wait_until("the route is ready", &route, PATIENCE, is_ready);
    let lock = ["validatingadmissionpolicy", "coral-lock"];
    cluster.wait_until("the lock", &lock, PATIENCE, |_| true);
}

/// The checksum of a file of every node, if this machine's cluster is the one under test.
fn checksums(cluster: &Cluster, file: &str) -> Vec<String> {
    let Some(own) = cluster.own() else {
        return vec![];
    };
    let sum = |node: String| own.exec(&node, &["sha256sum", file]).succeeded().stdout;
    cluster.nodes().into_iter().map(sum).collect()
}

fn on_every_node(cluster: &Cluster, script: &str) {
    let Some(own) = cluster.own() else {
        return;
    };
    for node in cluster.nodes() {
        let _ = own.exec(&node, &["sh", "-c", script]).succeeded();
    }
}

#[test]
#[ignore = "needs a cluster"]
fn nothing_is_left_after_uninstall_and_delete() {
    let cluster = Cluster::connect();
    let make = format!(
        "mkdir -p $(dirname {FOREIGN}) && echo 'server = \"https://other.example\"' > {FOREIGN}"
    );
    on_every_node(&cluster, &make);
    let before = checksums(&cluster, FOREIGN);
    cluster.install();
    put_in_force(&cluster);
    let routed = checksums(&cluster, FOREIGN);
    assert!(
        before.is_empty() || routed != before,
        "the route wrote no file"
    );
    let namespace = cluster.namespace("left");
    namespace.apply(
        "apiVersion: stvz.io/v1\nkind: Image\nmetadata:\n  name: old\n  finalizers: \
         [image.stvz.io/finalizer]\nspec:\n  repositories: [{name: localhost/none, tags: [\"1\"]}]\n",
    );
    let _ = cluster.uninstall(&[]).succeeded();
    assert_no_object_is_left(&cluster);
    assert_eq!(checksums(&cluster, FOREIGN), before);
    // Again, whatever already went.
    let _ = cluster.uninstall(&[]).succeeded();
    let _ = cluster.delete_deploy().succeeded();
    assert_nothing_is_left(&cluster);
    let _ = cluster.uninstall(&[]).succeeded();
    on_every_node(&cluster, &format!("rm -r $(dirname {FOREIGN})"));
}

#[test]
#[ignore = "needs a cluster"]
fn uninstalling_needs_no_controller_and_says_what_it_cannot_do_without_agents() {
    let cluster = Cluster::connect();
    cluster.install();
    put_in_force(&cluster);
    for (namespace, workload) in [
        ("coral-system", "deployment/coral-controller"),
        ("coral-nodes", "daemonset/coral-agent"),
    ] {
        let delete = ["-n", namespace, "delete", workload, "--cascade=foreground"];
        let _ = cluster.kubectl(&delete).succeeded();
    }
    let refused = cluster.uninstall(&[]).exited(1);
    let refused = refused.saying("there are no agents left");
    let _ = refused.saying("--without-agents");
    let routes = cluster.get(&["registryroutes"]).unwrap();
    assert!(
        !names_of(&routes).is_empty(),
        "objects went before the files"
    );
    let _ = cluster.uninstall(&["--without-agents"]).succeeded();
    assert_no_object_is_left(&cluster);
    let locks = cluster.get(&["validatingadmissionpolicies"]).unwrap();
    assert!(
        !names_of(&locks).contains(&"coral-lock".to_owned()),
        "{locks:#}"
    );
    // As the message tells a person to.
    let clean = "rm -rf /etc/containerd/coral /etc/containerd/certs.d/*.svc_5000_ \
                 /etc/containerd/certs.d/routed.example";
    on_every_node(&cluster, clean);
}

fn assert_no_object_is_left(cluster: &Cluster) {
    for kind in [
        "images",
        "registries",
        "nodeimages",
        "registryroutes",
        "injectionpolicies",
    ] {
        let kind = format!("{kind}.stvz.io");
        let list = cluster.get(&[&kind, "--all-namespaces"]).unwrap();
        assert!(names_of(&list).is_empty(), "{list:#}");
    }
    let nodes = cluster.get(&["nodes"]).unwrap().to_string();
    for trace in ["image.stvz.io/", "registry.stvz.io/", "ImagesReady"] {
        // Who wrote a field is remembered by the API server until the field is written again.
        assert!(!nodes.contains(&format!("\"{trace}")), "{trace}: {nodes}");
    }
}

/// By listing: no kind, policy, webhook, role, namespace, file.
fn assert_nothing_is_left(cluster: &Cluster) {
    for kind in [
        "crd",
        "namespaces",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "clusterroles",
        "clusterrolebindings",
    ] {
        let list = cluster.get(&[kind]).unwrap();
        let own = names_of(&list).into_iter();
        let own = own.filter(|name| name.starts_with("coral") || name.ends_with("stvz.io"));
        let own: Vec<String> = own.filter(|name| name != "coredns").collect();
        assert!(own.is_empty(), "{kind}: {own:?}");
    }
    for kind in ["roles", "rolebindings", "leases", "configmaps", "secrets"] {
        let labelled = [
            kind,
            "--all-namespaces",
            "--selector",
            "app.kubernetes.io/part-of=coral",
        ];
        let list = cluster.get(&labelled).unwrap();
        assert!(names_of(&list).is_empty(), "{list:#}");
    }
    let Some(own) = cluster.own() else {
        return;
    };
    for node in cluster.nodes() {
        let find = [
            "find",
            "/etc/containerd",
            "-name",
            "*coral*",
            "-o",
            "-name",
            "*.svc*",
        ];
        let found = own.exec(&node, &find).succeeded();
        assert_eq!(found.text(), "", "files of Coral on {node}");
    }
}
