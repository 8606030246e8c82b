//! What happens beside a build: its spec changes, or the controller or the Registry ends.

use std::net::TcpListener;
use std::time::Duration;

use e2e::cluster::{Builds, Cluster, PATIENCE, is_ready};
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

#[test]
#[ignore = "needs a cluster"]
fn the_key_that_signs_credentials_is_replaced_and_no_build_fails_for_it() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let secret = ["-n", "coral-system", "secret", "coral-tokens"];
    let key = || {
        let secret = cluster.get(&secret)?;
        secret["data"]["signing.pem"].as_str().map(str::to_owned)
    };
    let before = key().unwrap();
    let script = format!("sleep 3\n{}", builds.small_image());
    builds.apply(&builds.script("running", &script, ""));
    builds.wait_for("running", "building", is_building);
    let delete = ["-n", "coral-system", "delete", "secret", "coral-tokens"];
    let _ = cluster.kubectl(&delete).succeeded();
    builds.apply(&builds.script("begun", &builds.small_image(), ""));
    builds.succeeded("running");
    builds.succeeded("begun");
    let after = until("another key", PATIENCE, key);
    assert_ne!(before, after);
}

/// The node on which the Registry does not run.
fn node_of_builds_alone(cluster: &Cluster) -> &'static str {
    let registry = cluster.get(&["-n", "coral-system", "pod", "reg-0"]);
    let registry = registry.unwrap();
    if registry["spec"]["nodeName"] == "node2" {
        "node1"
    } else {
        "node2"
    }
}

#[test]
#[ignore = "needs a cluster"]
fn builds_whose_node_is_lost_in_any_phase_end_once_and_say_so() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let node = node_of_builds_alone(&cluster);
    // Takes connections and never answers: a git server, and a registry outside.
    let silent = TcpListener::bind((own.address(), 0)).unwrap();
    let silent = silent.local_addr().unwrap();
    let there = format!(
        ", nodeSelector: {{kubernetes.io/hostname: {node}}}, tolerations: [{{operator: Exists, \
         effect: NoExecute, tolerationSeconds: 2}}]"
    );
    let git = format!("{{git: {{url: \"http://{silent}/app.git\"}}}}");
    let also_to =
        format!("    alsoTo: [{{repository: \"{silent}/app\", tags: [\"1\"], plainHTTP: true}}]\n");
    let stays = |yaml: &str| yaml.replace("build.sh]}", &format!("build.sh]{there}}}"));
    let push = stays(&builds.script("pushing", &builds.small_image(), ""));
    builds.apply(&push.replace("  output:\n", &format!("  output:\n{also_to}")));
    builds.apply(&stays(&builds.script("building", "sleep 600", "")));
    builds.apply(&builds.yaml("fetching", &git, &builds.shell(&there), "", ""));
    let phases = [
        ("fetching", "Fetching"),
        ("building", "Building"),
        ("pushing", "Pushing"),
    ];
    for (name, phase) in phases {
        builds.wait_for(name, phase, |build| build["status"]["phase"] == phase);
    }
    own.crash(node);
    let goes = |name: &str| {
        let pods = builds.pods(name);
        let mut pods = pods.iter();
        pods.all(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    };
    until("their pods deleted", PATIENCE, || {
        phases.iter().all(|(name, _)| goes(name)).then_some(())
    });
    own.boot(node);
    cluster.wait_until("the node ready", &["node", node], PATIENCE, is_ready);
    cluster.wait_until_installed();
    for (name, _) in phases {
        let said = builds.failed(name, "PodLost");
        assert!(said.contains("ended from outside"), "{name}: {said}");
        let selector = format!("image.stvz.io/build={name}");
        let jobs = ["-n", builds.namespace(), "jobs", "-l", &selector];
        let jobs = cluster.get(&jobs).unwrap();
        assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "{name}");
    }
}
