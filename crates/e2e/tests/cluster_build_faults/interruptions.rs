//! What happens beside a build: its spec changes, or the controller or the Registry ends.

use std::net::TcpListener;
use std::time::Duration;

use e2e::cluster::{Builds, Cluster, PATIENCE, Taint, is_ready};
use e2e::{Gate, GitServer, until};

use super::USER;

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

/// Kills the controller's pods, without a word to them, and waits until they are gone.
fn kill_controller(cluster: &Cluster) {
    let app = "app.kubernetes.io/name=coral-controller";
    let pods = ["-n", "coral-system", "pods", "-l", app];
    let running = || -> Vec<String> {
        let pods = cluster.get(&pods).unwrap();
        let pods = pods["items"].as_array().unwrap().iter();
        let uids = pods.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned());
        uids.collect()
    };
    let before = running();
    assert_ne!(before.len(), 0);
    let delete = ["-n", "coral-system", "delete", "pod", "-l", app];
    let at_once = ["--grace-period=0", "--force"];
    let _ = cluster
        .kubectl(&[&delete[..], &at_once].concat())
        .succeeded();
    until("the controller's pods gone", PATIENCE, || {
        let now = running();
        before.iter().all(|uid| !now.contains(uid)).then_some(())
    });
}

/// Keeps new pods off all nodes.
fn taint_all(cluster: &Cluster) -> Vec<Taint<'_>> {
    let nodes = cluster.nodes();
    nodes.iter().map(|it| Taint::set(cluster, it)).collect()
}

/// Waits until the log of a build's step `push` has a text.
fn until_push_says(builds: &Builds<'_>, name: &str, text: &str) {
    let pod = &builds.pods(name)[0];
    let pod = pod["metadata"]["name"].as_str().unwrap();
    let log = ["-n", builds.namespace(), "logs", pod, "-c", "push"];
    until(&format!("{text:?} in the log"), PATIENCE, || {
        let log = builds.cluster.kubectl(&log).stdout;
        log.contains(text).then_some(())
    });
}

/// The Jobs of a build.
fn jobs(builds: &Builds<'_>, name: &str) -> usize {
    let selector = format!("image.stvz.io/build={name}");
    let jobs = ["-n", builds.namespace(), "jobs", "-l", &selector];
    let jobs = builds.cluster.get(&jobs).unwrap();
    jobs["items"].as_array().unwrap().len()
}

#[test]
#[ignore = "needs a cluster"]
fn builds_go_on_when_the_controller_is_killed_in_any_phase() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let git = GitServer::start(own.address(), USER);
    git.commit(&[("build.sh", builds.small_image().as_bytes())]);
    let git_host = git.url().replace("http://", "").replace("/app.git", "");
    let base = builds.base();
    let (registry, _) = base.split_once('/').unwrap();
    // Each of the three waits at its own door.
    let doors = [&git_host, registry, registry].map(|host| Gate::before(own.address(), host));
    let [at_git, at_build, at_push] = &doors;
    builds.apply(&format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: git}}\nstringData: {{username: \
         {}, password: {}}}\n",
        USER.name, USER.password
    ));
    let source = format!(
        "{{git: {{url: \"http://{}/app.git\", secretRef: {{name: git}}}}}}",
        at_git.host()
    );
    builds.apply(&builds.yaml("fetching", &source, &builds.shell(""), "", ""));
    let wait = format!("wget -q -O /dev/null http://{}/v2/", at_build.host());
    let script = format!("{wait}\n{}", builds.small_image());
    builds.apply(&builds.script("building", &script, ""));
    let also_to = format!(
        "    alsoTo: [{{repository: \"{}/app\", tags: [\"1\"], plainHTTP: true}}]\n",
        at_push.host()
    );
    let push = builds.script("pushing", &builds.small_image(), "");
    builds.apply(&push.replace("  output:\n", &format!("  output:\n{also_to}")));

    let phases = [
        ("fetching", "Fetching"),
        ("building", "Building"),
        ("pushing", "Pushing"),
    ];
    for ((name, phase), gate) in phases.iter().zip(&doors) {
        builds.wait_for(name, phase, |build| build["status"]["phase"] == *phase);
        until("a connection", PATIENCE, || {
            (gate.connections() > 0).then_some(())
        });
    }
    let taints = taint_all(&cluster);
    kill_controller(&cluster);
    for (name, phase) in phases {
        assert_eq!(builds.get(name)["status"]["phase"], phase, "{name}");
    }
    doors.iter().for_each(Gate::open);
    // No controller comes back before a push has missed it.
    until_push_says(&builds, "building", "no credential yet");
    drop(taints);
    for (name, _) in phases {
        let status = builds.succeeded(name);
        let outputs = status["outputs"].as_array().unwrap();
        let is_pushed = outputs.iter().all(|it| it["state"] == "Pushed");
        assert!(is_pushed, "{name}: {status:#}");
        assert_eq!((jobs(&builds, name), builds.pods(name).len()), (1, 1));
    }
}

#[test]
#[ignore = "needs a cluster"]
fn a_build_whose_registry_ends_waits_for_the_next_one() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let base = builds.base();
    let (registry, _) = base.split_once('/').unwrap();
    let gate = Gate::before(own.address(), registry);
    let wait = format!("wget -q -O /dev/null http://{}/v2/", gate.host());
    let script = format!("{wait}\n{}", builds.small_image());
    builds.apply(&builds.script("registry", &script, ""));
    builds.wait_for("registry", "building", is_building);
    // It comes back only when the push has missed it.
    let taints = taint_all(&cluster);
    let delete = ["-n", "coral-system", "delete", "pod", "reg-0", "--now"];
    let _ = cluster.kubectl(&delete).succeeded();
    gate.open();
    until_push_says(&builds, "registry", "failed and is retried");
    drop(taints);
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
        // A controller that was on the node itself comes back when the pod is gone.
        let is_told = ["ended from outside", "the pod of the run is gone"];
        assert!(is_told.iter().any(|it| said.contains(it)), "{name}: {said}");
        assert_eq!(jobs(&builds, name), 1, "{name}");
    }
}
