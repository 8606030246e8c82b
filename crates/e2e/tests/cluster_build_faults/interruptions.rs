//! What happens beside a build: its spec changes, or the controller or the Registry ends.

use std::time::Duration;

use e2e::cluster::{Builds, Cluster};
use e2e::until;

fn is_building(build: &serde_json::Value) -> bool {
    build["status"]["phase"] == "Building"
}

fn patch(builds: &Builds<'_>, name: &str, spec: &str) {
    let patch = format!("{{\"spec\": {spec}}}");
    let arguments = ["-n", builds.namespace(), "patch", "imagebuild", name];
    let arguments = [&arguments[..], &["--type=merge", "-p", &patch]].concat();
    let _ = builds.cluster.kubectl(&arguments).succeeded();
}

#[test]
#[ignore = "needs a cluster"]
fn a_changed_spec_replaces_the_run_and_suspend_cancels_it() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    builds.apply(&builds.script("changed", "sleep 600", ""));
    builds.wait_for("changed", "building", is_building);
    patch(&builds, "changed", "{\"suspend\": true}");
    let build = builds.ended("changed");
    assert_eq!(build["status"]["phase"], "Cancelled", "{build:#}");
    let patience = Duration::from_mins(4);
    until("its pod gone", patience, || {
        let mut pods = builds.pods("changed").into_iter();
        let runs = pods
            .any(|pod| pod["status"]["phase"] == "Running" || pod["status"]["phase"] == "Pending");
        (!runs).then_some(())
    });
    patch(
        &builds,
        "changed",
        "{\"suspend\": false, \"rerun\": \"again\"}",
    );
    builds.wait_for("changed", "building", is_building);
    builds.apply(&builds.script("changed", &builds.small_image(), "  rerun: quick\n"));
    builds.succeeded("changed");
    until("the first run's pod gone", patience, || {
        let mut pods = builds.pods("changed").into_iter();
        (!pods.any(|pod| pod["status"]["phase"] == "Running")).then_some(())
    });
}

#[test]
#[ignore = "needs a cluster"]
fn a_build_goes_on_without_the_controller_and_waits_for_the_registry() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let script = format!("sleep 4\n{}", builds.small_image());
    let kill = || {
        let app = "app.kubernetes.io/name=coral-controller";
        let delete = ["-n", "coral-system", "delete", "pod", "-l", app];
        let _ = cluster
            .kubectl(&[&delete[..], &["--now", "--wait=false"]].concat())
            .succeeded();
    };
    builds.apply(&builds.script("early", &script, ""));
    kill();
    builds.succeeded("early");
    builds.apply(&builds.script("middle", &script, ""));
    builds.wait_for("middle", "building", is_building);
    kill();
    builds.succeeded("middle");
    builds.apply(&builds.script("late", &script, ""));
    builds.wait_for("late", "building", is_building);
    until("the push", Duration::from_mins(4), || {
        let pods = builds.pods("late");
        let state = &pods.first()?["status"]["containerStatuses"][0]["state"];
        state["waiting"].is_null().then_some(())
    });
    kill();
    builds.succeeded("late");

    builds.apply(&builds.script("registry", &script, ""));
    builds.wait_for("registry", "building", is_building);
    let delete = ["-n", "coral-system", "delete", "pod", "reg-0"];
    let _ = cluster
        .kubectl(&[&delete[..], &["--now", "--wait=false"]].concat())
        .succeeded();
    builds.succeeded("registry");
}
