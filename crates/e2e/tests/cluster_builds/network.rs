//! The network policies that are offered for builds.

use e2e::cluster::{Builds, Cluster, example, page};
use serde_json::Value;

/// The policy of the page about builds.
fn policy_of_the_page() -> String {
    let page = page("docs/src/guide/builds.md");
    let mut blocks = page.split("```").filter_map(|it| it.strip_prefix("yaml\n"));
    let found = blocks.find(|block| block.contains("kind: NetworkPolicy"));
    found.unwrap().to_owned()
}

/// A label selector as kubectl takes it.
fn selector(policy: &Value) -> String {
    let selector = &policy["spec"]["podSelector"];
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = equal.map(|(key, value)| format!("{key}={}", value.as_str().unwrap()));
    let exist = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    let exist = exist.map(|it| {
        assert_eq!(it["operator"], "Exists");
        it["key"].as_str().unwrap().to_owned()
    });
    equal.chain(exist).collect::<Vec<_>>().join(",")
}

#[test]
#[ignore = "needs a cluster"]
fn the_network_policies_for_builds_are_taken_and_select_the_pods_of_builds() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let namespace = builds.namespace();
    builds.apply(&builds.script("selected", &builds.small_image(), ""));
    builds.succeeded("selected");
    for policy in [example("network-policy.yaml"), policy_of_the_page()] {
        let policy = policy.replace("team-a", namespace);
        let folder = e2e::scratch();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, policy).unwrap();
        let file = file.to_string_lossy();
        let dry = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-n",
            namespace,
        ];
        let applied = cluster.kubectl(&[&dry[..], &["-o", "json", "-f", &file]].concat());
        let applied = applied.succeeded();
        assert_eq!(applied.stderr, "", "{applied}");
        let policy: Value = serde_json::from_str(&applied.stdout).unwrap();
        let pods = ["-n", namespace, "pods", "-l", &selector(&policy)];
        let pods = cluster.get(&pods).unwrap();
        assert_eq!(pods["items"].as_array().unwrap().len(), 1, "{policy:#}");
    }
}
