//! The lock of an InjectionPolicy on a real API server: what it refuses, what it lets through, and
//! that it holds with every part of Coral down.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Once;

use e2e::cluster::{Cluster, Namespace, PATIENCE, has_condition, is_ready};
use e2e::{Finished, until};
use serde_json::{Value, json};

const REGISTRY: &str = "reg.coral-system.svc:5000";
const PROBE: &str = "quay.io/probe:1";
const DIGEST: &str = "@sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// The policy of these tests; deleted with the value.
struct Lock<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace<'a>,
}

impl<'a> Lock<'a> {
    /// Locks the cluster and waits until the lock takes effect in the namespace.
    fn put(cluster: &'a Cluster, namespace: &'a Namespace<'a>, enforcement: &str) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| cluster.install());
        let lock = Self { cluster, namespace };
        cluster.apply(&format!(
            "apiVersion: stvz.io/v1\nkind: InjectionPolicy\nmetadata: {{name: e2e-lock}}\nspec:\n  \
             lock:\n    mode: Mirrored\n    registries: [{REGISTRY}, docker.io, 'host:5000']\n    \
             enforcement: {enforcement}\n"
        ));
        cluster.wait_until(
            "the policy ready",
            &["injectionpolicy", "e2e-lock"],
            PATIENCE,
            is_ready,
        );
        // The API server applies what it has stored a moment later, each policy by itself.
        until("the lock in force", PATIENCE, || {
            let is_said = match enforcement {
                "Enforce" => lock.names(&pod_probe()) && lock.names(&template_probe()),
                "Warn" => lock.names(&pod_probe()),
                _ => true,
            };
            is_said.then_some(())
        });
        lock
    }

    /// Whether admission names the image of a probe, in a refusal or a warning.
    fn names(&self, probe: &Value) -> bool {
        let finished = dry_run(self.cluster, self.namespace, probe);
        finished.stderr.contains(PROBE)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let delete = [
            "delete",
            "injectionpolicy",
            "e2e-lock",
            "--ignore-not-found",
        ];
        let _ = self.cluster.kubectl(&delete);
        // A test that fails already says why itself.
        if std::thread::panicking() {
            return;
        }
        let gone = ["validatingadmissionpolicy", "coral-lock"];
        until("the lock gone", PATIENCE, || {
            let is_gone = self.cluster.get(&gone).is_none() && !self.names(&pod_probe());
            is_gone.then_some(())
        });
    }
}

/// A pod that every lock of these tests refuses.
fn pod_probe() -> Value {
    pod("probe", PROBE)
}

/// A Deployment of such pods.
fn template_probe() -> Value {
    let labels = json!({"app": "probe"});
    let template = json!({"metadata": {"labels": labels}, "spec": pod("probe", PROBE)["spec"]});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "probe"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    })
}

/// A pod of one container.
fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image}], "terminationGracePeriodSeconds": 0},
    })
}

/// Sends objects through admission without storing them.
fn dry_run(cluster: &Cluster, namespace: &Namespace<'_>, objects: &Value) -> Finished {
    let folder = e2e::scratch();
    let file = folder.path().join("objects.json");
    std::fs::write(&file, objects.to_string()).expect("scratch is writable");
    let file = file.to_string_lossy();
    cluster.kubectl(&[
        "-n",
        namespace.name(),
        "create",
        "--dry-run=server",
        "-f",
        &file,
    ])
}

fn list(objects: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects})
}

fn is_refused(finished: &Finished) -> bool {
    finished.code != 0
        && finished
            .stderr
            .contains("ValidatingAdmissionPolicy 'coral-lock'")
}

#[test]
#[ignore = "needs a cluster"]
fn references_are_judged_by_the_host_that_containerd_asks() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let _lock = Lock::put(&cluster, &namespace, "Enforce");
    // The tests of the policies' text read the same table.
    let file = "../coral-controller/tests/data/lock-references.json";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let table = std::fs::read_to_string(file).expect("the table is there");
    let table: Value = serde_json::from_str(&table).expect("the table is JSON");
    let mut pods = Vec::new();
    let mut expected = Vec::new();
    for (references, prefix) in [("admitted", "in"), ("refused", "out")] {
        let references = table[references].as_array().expect("a list").iter();
        for (i, reference) in references.filter_map(Value::as_str).enumerate() {
            for (ending, suffix) in [("", "tag"), (DIGEST, "digest")] {
                let name = format!("{prefix}-{i}-{suffix}");
                pods.push(pod(&name, &format!("{reference}{ending}")));
                expected.push((name, reference, prefix == "in"));
            }
        }
    }
    let finished = dry_run(&cluster, &namespace, &list(&pods));
    let mut wrong = String::new();
    for (name, reference, is_admitted) in expected {
        let was_admitted = finished.stdout.contains(&format!("pod/{name} created"));
        let was_refused = finished
            .stderr
            .contains(&format!("pods \"{name}\" is forbidden"));
        if (was_admitted, was_refused) != (is_admitted, !is_admitted) {
            let _ = writeln!(wrong, "{reference} ({name})");
        }
    }
    assert!(wrong.is_empty(), "judged wrongly:\n{wrong}{finished}");
}

#[test]
#[ignore = "needs a cluster"]
fn every_kind_of_container_and_image_volume_is_judged() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let _lock = Lock::put(&cluster, &namespace, "Enforce");
    let container = |name: &str, image: &str| json!([{"name": name, "image": image}]);
    for (image, is_admitted) in [("quay.io/x:1", false), ("nginx:1", true)] {
        let mut init = pod("init", "nginx:1");
        init["spec"]["initContainers"] = container("i", image);
        let mut sidecar = pod("sidecar", "nginx:1");
        sidecar["spec"]["initContainers"] = container("s", image);
        sidecar["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
        let mut volume = pod("volume", "nginx:1");
        volume["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": image}}]);
        for object in [init, sidecar, volume, pod("main", image)] {
            let finished = dry_run(&cluster, &namespace, &object);
            assert_eq!(is_refused(&finished), !is_admitted, "{object}: {finished}");
        }
    }
    let finished = dry_run(&cluster, &namespace, &pod("p", "quay.io/x:1"));
    let _ = finished
        .exited(1)
        .saying("image quay.io/x:1 is not from a registry that InjectionPolicy \"e2e-lock\" allows")
        .saying("RegistryMirror");
}

#[test]
#[ignore = "needs a cluster"]
fn a_pod_from_before_the_lock_can_be_changed_but_for_its_images() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let image = cluster.busybox();
    let mut old = pod("old", &image);
    old["metadata"]["finalizers"] = json!(["example.com/held"]);
    old["spec"]["containers"][0]["command"] = json!(["sleep", "3600"]);
    namespace.apply(&old.to_string());
    cluster.wait_for_pod(namespace.name(), "old");
    let _lock = Lock::put(&cluster, &namespace, "Enforce");
    let kubectl =
        |arguments: &[&str]| cluster.kubectl(&[&["-n", namespace.name()], arguments].concat());
    let _ = kubectl(&["label", "pod", "old", "a=b"]).succeeded();
    let debug = |name: &str, image: &str| {
        let patch = json!({"spec": {"ephemeralContainers": [{"name": name, "image": image, "command": ["true"]}]}});
        kubectl(&[
            "patch",
            "pod",
            "old",
            "--subresource=ephemeralcontainers",
            "-p",
            &patch.to_string(),
        ])
    };
    let refused = debug("foreign", "quay.io/debug:1");
    assert!(is_refused(&refused), "{refused}");
    let _ = debug("known", &image).succeeded();
    let refused = kubectl(&["set", "image", "pod/old", "main=quay.io/other:1"]);
    assert!(is_refused(&refused), "{refused}");
    let _ = kubectl(&["delete", "pod", "old", "--wait=false"]).succeeded();
    let free = json!({"metadata": {"finalizers": null}}).to_string();
    let _ = kubectl(&["patch", "pod", "old", "--type=merge", "-p", &free]).succeeded();
    let arguments = ["-n", namespace.name(), "pod", "old"];
    until("the pod gone", PATIENCE, || {
        cluster.get(&arguments).is_none().then_some(())
    });
}

#[test]
#[ignore = "needs a cluster"]
fn the_lock_holds_with_every_part_of_coral_down() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let _lock = Lock::put(&cluster, &namespace, "Enforce");
    let scale = |replicas: &str| {
        for deployment in ["coral-controller", "coral-webhook"] {
            let replicas = format!("--replicas={replicas}");
            let _ = cluster
                .kubectl(&[
                    "-n",
                    "coral-system",
                    "scale",
                    "deployment",
                    deployment,
                    &replicas,
                ])
                .succeeded();
        }
    };
    scale("0");
    let pods = [
        "-n",
        "coral-system",
        "pods",
        "-l",
        "app.kubernetes.io/name in (coral-controller,coral-webhook)",
    ];
    cluster.wait_until("no pod of Coral", &pods, PATIENCE, |list| {
        list["items"].as_array().is_some_and(Vec::is_empty)
    });
    let refused = dry_run(&cluster, &namespace, &pod("p", "quay.io/x:1"));
    let admitted = dry_run(&cluster, &namespace, &pod("p", "nginx:1"));
    scale("1");
    assert!(is_refused(&refused), "{refused}");
    let _ = admitted.succeeded();
    for deployment in ["coral-controller", "coral-webhook"] {
        let arguments = ["-n", "coral-system", "deployment", deployment];
        cluster.wait_until(deployment, &arguments, PATIENCE, |deployment| {
            has_condition(deployment, "Available", "True")
        });
    }
}

#[test]
#[ignore = "needs a cluster"]
fn templates_whose_pods_would_be_refused_are_warned_of() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let _lock = Lock::put(&cluster, &namespace, "Enforce");
    let template = json!({
        "metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "main", "image": "quay.io/x:1"}], "restartPolicy": "Always"},
    });
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let selector = json!({"matchLabels": {"app": "x"}});
    for (group, kind, spec) in [
        (
            "apps/v1",
            "Deployment",
            json!({"selector": selector, "template": template}),
        ),
        (
            "apps/v1",
            "StatefulSet",
            json!({"selector": selector, "template": template, "serviceName": "x"}),
        ),
        (
            "apps/v1",
            "DaemonSet",
            json!({"selector": selector, "template": template}),
        ),
        ("batch/v1", "Job", json!({"template": once})),
        (
            "batch/v1",
            "CronJob",
            json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": once}}}),
        ),
    ] {
        let object =
            json!({"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
        let finished = dry_run(&cluster, &namespace, &object).succeeded();
        let _ = finished
            .saying("pods of this template would be refused: image quay.io/x:1 is not from");
    }
}

#[test]
#[ignore = "needs a cluster"]
fn a_lock_that_only_warns_or_audits_refuses_nothing() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let lock = Lock::put(&cluster, &namespace, "Warn");
    let finished = dry_run(&cluster, &namespace, &pod("p", "quay.io/x:1")).succeeded();
    let _ = finished
        .saying("Warning")
        .saying("image quay.io/x:1 is not from");
    drop(lock);
    let _lock = Lock::put(&cluster, &namespace, "Audit");
    let binding = ["validatingadmissionpolicybinding", "coral-lock"];
    cluster.wait_until("the binding", &binding, PATIENCE, |binding| {
        binding["spec"]["validationActions"] == json!(["Audit"])
    });
    // The API server applies a stored binding a moment later.
    until("a pod is created without a warning", PATIENCE, || {
        let finished = dry_run(&cluster, &namespace, &pod("p", "quay.io/x:1")).succeeded();
        (!finished.stderr.contains("quay.io")).then_some(())
    });
    let templates = ["validatingadmissionpolicy", "coral-lock-templates"];
    assert!(cluster.get(&templates).is_none());
}

#[test]
#[ignore = "needs a cluster"]
fn an_exempt_namespace_is_left_alone_and_one_that_does_not_exist_is_named() {
    let cluster = Cluster::connect();
    let namespace = cluster.namespace("lock");
    let exempt = cluster.namespace("exempt");
    let _lock = Lock::put(&cluster, &namespace, "Enforce");
    let patch = json!({"spec": {"lock": {"exemptNamespaces": [exempt.name(), "e2e-not-there"]}}});
    let _ = cluster
        .kubectl(&[
            "patch",
            "injectionpolicy",
            "e2e-lock",
            "--type=merge",
            "-p",
            &patch.to_string(),
        ])
        .succeeded();
    until("the namespace exempt", PATIENCE, || {
        let finished = dry_run(&cluster, &exempt, &pod("p", "quay.io/x:1"));
        (finished.code == 0).then_some(())
    });
    assert!(is_refused(&dry_run(
        &cluster,
        &namespace,
        &pod("p", "quay.io/x:1")
    )));
    let policy = cluster.wait_until(
        "the warning",
        &["injectionpolicy", "e2e-lock"],
        PATIENCE,
        |policy| has_condition(policy, "Degraded", "True"),
    );
    assert!(
        policy.to_string().contains("do not exist: e2e-not-there."),
        "{policy:#}"
    );
}
