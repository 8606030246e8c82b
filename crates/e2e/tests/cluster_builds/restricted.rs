//! Builds in a namespace that admits no pod with root.

use e2e::cluster::{Builds, Cluster, ready};

use super::dockerfile;

#[test]
#[ignore = "needs a cluster"]
fn a_script_builds_where_pod_security_is_restricted_and_the_offered_builder_is_refused() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let level = "pod-security.kubernetes.io/enforce=restricted";
    let label = ["label", "namespace", builds.namespace(), level];
    let _ = cluster.kubectl(&label).succeeded();
    // Files that only the user of the steps can read, as some tools write them.
    let script = format!(
        "umask 077\n{}\ntest \"$(id -u)\" = 65532",
        builds.small_image()
    );
    builds.apply(&builds.script("script", &script, ""));
    builds.apply(&dockerfile("offered", &format!("FROM {}\n", builds.base())));
    let source = "{configMap: {name: offered}}";
    builds.apply(&builds.yaml("offered", source, "{}", "", ""));
    let status = builds.succeeded("script");
    assert_eq!(status["outputs"][0]["state"], "Pushed", "{status:#}");
    let pods = builds.pods("script");
    assert_eq!(pods[0]["spec"]["securityContext"]["runAsNonRoot"], true);
    let refused = builds.wait_for("offered", "refused", |build| {
        ready(build)["reason"] == "PodSecurity"
    });
    let message = ready(&refused)["message"].to_string();
    assert!(message.contains("build.image"), "{message}");
    assert_eq!(builds.pods("offered").len(), 0);
}
