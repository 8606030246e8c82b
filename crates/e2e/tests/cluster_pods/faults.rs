//! Faulty input for every component, and each component killed in the middle of its work.

use std::fmt::Write as _;

use e2e::cluster::{Cluster, PATIENCE, is_ready};
use e2e::{scratch, until};
use serde_json::{Value, json};

use crate::big::Big;
use crate::stage::{Stage, deployment, image_of, pod};

/// How often each container of a part was restarted, and whether one of them has panicked.
fn assert_no_restart(stage: &Stage<'_>, name: &str) {
    let selector = format!("app.kubernetes.io/name={name}");
    let pods = stage.pods("coral-system", &selector);
    assert!(!pods.is_empty(), "no pod of {name}");
    for pod in pods {
        for container in pod["status"]["containerStatuses"].as_array().unwrap() {
            assert_eq!(container["restartCount"], 0, "{container:#}");
        }
        let pod = pod["metadata"]["name"].as_str().unwrap();
        let logs = stage
            .cluster
            .kubectl(&["-n", "coral-system", "logs", pod])
            .succeeded();
        assert!(!logs.stdout.contains("panicked"), "{logs}");
    }
}

/// A review, as the API server sends it.
fn review(request: &Value) -> String {
    let kind = "AdmissionReview";
    json!({"apiVersion": "admission.k8s.io/v1", "kind": kind, "request": request}).to_string()
}

/// The creation of this object, whatever it is.
fn creation(object: &Value) -> String {
    review(&json!({
        "uid": "1", "operation": "CREATE", "namespace": "default", "object": object,
        "resource": {"group": "", "version": "v1", "resource": "pods"},
    }))
}

/// Bodies, and the status that answers them.
fn bodies() -> Vec<(&'static str, Vec<u8>, u16)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let older = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview",
        "request": {"uid": "1"}});
    let odd = json!({"metadata": {"annotations": {"image.stvz.io/inject": "registry,selectors"}},
        "spec": {"containers": {"image": 5}, "initContainers": [null, "x", {"image": ["a"]}],
            "volumes": 7, "nodeSelector": "x", "affinity": []}});
    vec![
        ("nothing", Vec::new(), 400),
        ("half an object", text("{\"apiVersion\":"), 400),
        ("a list", text("[]"), 400),
        ("null", text("null"), 400),
        ("no UTF-8", vec![b'"', 0xff, 0xfe, b'"'], 400),
        ("too deep", vec![b'['; 200_000], 400),
        ("another version", text(&older.to_string()), 400),
        ("no request", review(&Value::Null).into_bytes(), 400),
        ("no uid", review(&json!({"uid": ""})).into_bytes(), 400),
        (
            "a request of another type",
            review(&json!([1])).into_bytes(),
            400,
        ),
        ("no pod", creation(&Value::Null).into_bytes(), 400),
        (
            "a list as a pod",
            creation(&json!([1, 2])).into_bytes(),
            400,
        ),
        ("a pod of odd fields", creation(&odd).into_bytes(), 200),
        (
            "a deletion",
            review(&json!({"uid": "1", "operation": "DELETE"})).into_bytes(),
            200,
        ),
    ]
}

#[test]
#[ignore = "needs a cluster"]
fn malformed_admission_reviews_are_refused_and_nothing_panics() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("malformed");
    let service = cluster
        .get(&["-n", "coral-system", "service", "coral-webhook"])
        .unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let secret = cluster
        .get(&["mutatingwebhookconfiguration", "coral"])
        .unwrap();
    let ca = secret["webhooks"][0]["clientConfig"]["caBundle"]
        .as_str()
        .unwrap()
        .to_owned();
    let folder = scratch();
    let mut script = format!(
        "cd {} && echo {ca} | base64 -d >ca\n",
        folder.path().display()
    );
    let host = "coral-webhook.coral-system.svc";
    let curl = format!(
        "curl --http1.1 --silent --max-time 20 --cacert ca --resolve {host}:443:{address} \
         --output answer --write-out '%{{http_code}}\\n'"
    );
    let bodies = bodies();
    for (number, (_, body, _)) in bodies.iter().enumerate() {
        std::fs::write(folder.path().join(number.to_string()), body).unwrap();
        let send = format!("--data-binary @{number} https://{host}/mutate");
        let _ = writeln!(script, "{curl} {send}");
    }
    let _ = writeln!(
        script,
        "{curl} https://{host}/mutate\n{curl} --data x https://{host}/other"
    );
    let sent = stage.own.exec("node1", &["sh", "-c", &script]);
    let seen: Vec<&str> = sent.stdout.lines().collect();
    let mut wrong = String::new();
    let asked = bodies.iter().map(|(what, _, status)| (*what, *status));
    for (i, (what, status)) in asked.chain([("GET", 405), ("a path", 404)]).enumerate() {
        let seen = seen.get(i).copied().unwrap_or("nothing");
        if seen != status.to_string() {
            let _ = writeln!(wrong, "{what}: {seen} instead of {status}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}{sent}");
    assert_no_restart(&stage, "coral-webhook");
    stage.wait_until_rewritten(&namespace);
}

#[test]
#[ignore = "needs a cluster"]
fn pods_start_while_the_webhook_is_killed_and_are_rewritten_again_afterwards() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("webhook");
    let rewritten = json!({"image.stvz.io/inject": "registry"});
    let mut workload = deployment("meanwhile", &stage.app(), &rewritten);
    workload["spec"]["replicas"] = json!(6);
    let before = stage.uids("coral-system", "app.kubernetes.io/name=coral-webhook");
    namespace.apply(&workload.to_string());
    stage.kill("coral-system", "app.kubernetes.io/name=coral-webhook");
    let one_more = stage.create(&namespace, &pod("one-more", &stage.app()), &[]);
    let _ = one_more.succeeded();
    stage.wait_for_deployment(namespace.name(), "meanwhile");
    cluster.wait_for_pod(namespace.name(), "one-more");
    stage.wait_until_rewritten(&namespace);
    let after = stage.uids("coral-system", "app.kubernetes.io/name=coral-webhook");
    assert!(
        before.iter().all(|uid| !after.contains(uid)),
        "it was killed"
    );
    cluster.wait_until_installed();
}

#[test]
#[ignore = "needs a cluster"]
fn a_controller_killed_in_a_pass_of_a_mirror_ends_it_after_its_start() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("pass");
    let big = Big::push(&stage, "pass", &["1", "2", "3", "4"]);
    namespace.apply(&Stage::placed("pass", &big.image("4"), None).to_string());
    let _mirror = big.slow_mirror(&stage, "pass");
    let mirror = ["-n", "coral-system", "registrymirror", "pass"];
    cluster.wait_until("a pass under way", &mirror, PATIENCE, |mirror| {
        mirror["status"]["desired"].as_i64().unwrap_or(0) > 0
    });
    stage.kill("coral-system", "app.kubernetes.io/name=coral-controller");
    let seen = cluster.get(&mirror).unwrap();
    assert!(!is_ready(&seen), "the pass was over: {seen:#}");
    cluster.wait_for_ready("coral-system", "registrymirror", "pass");
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "pass");
    for node in cluster.nodes() {
        stage.wait_for_label(&node, &big.image("4"));
    }
}

/// Kills the agent of a node as soon as the container runtime receives a layer.
const KILL_AT_A_PULL: &str = "until ctr --namespace k8s.io content active | grep -q layer-; do :; \
                              done; pkill -KILL -f '^/coral agent' && echo killed";

#[test]
#[ignore = "needs a cluster"]
fn agents_killed_while_they_pull_place_the_image_after_their_start() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("pull");
    let tags = ["1", "2", "3", "4"];
    let big = Big::push(&stage, "pull", &tags);
    let _mirror = big.mirror(&stage, "pull");
    cluster.wait_for_ready("coral-system", "registrymirror", "pull");
    let images = tags.map(|tag| big.image(tag));
    let mut object = Stage::placed("pull", &images[0], None);
    object["spec"]["repositories"][0]["tags"] = json!(tags);
    let nodes = cluster.nodes();
    std::thread::scope(|scope| {
        let kill = |node| {
            stage
                .own
                .exec(node, &["timeout", "90", "sh", "-c", KILL_AT_A_PULL])
        };
        let kills = nodes.iter().map(|node| scope.spawn(move || kill(node)));
        let kills: Vec<_> = kills.collect();
        namespace.apply(&object.to_string());
        for killed in kills {
            assert_eq!(killed.join().unwrap().text(), "killed");
        }
    });
    let agents = ["-n", "coral-nodes", "pods"];
    cluster.wait_until("the agents started again", &agents, PATIENCE, |pods| {
        let mut pods = pods["items"].as_array().unwrap().iter();
        pods.all(|pod| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    });
    for node in nodes {
        for image in &images {
            stage.wait_for_label(&node, image);
        }
    }
    cluster.wait_for_ready(namespace.name(), "images.stvz.io", "pull");
    cluster.wait_until_installed();
}

#[test]
#[ignore = "needs a cluster"]
fn pods_that_pull_while_the_registry_is_killed_start_all_the_same() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("registry");
    let big = Big::push(&stage, "serve", &["1"]);
    let _mirror = big.mirror(&stage, "serve");
    cluster.wait_for_ready("coral-system", "registrymirror", "serve");
    for node in cluster.nodes() {
        let mut pod = pod(&node, &big.image("1"));
        pod["spec"]["nodeName"] = json!(node);
        namespace.apply(&pod.to_string());
    }
    stage.kill("coral-system", "app.kubernetes.io/name=coral-registry");
    for node in cluster.nodes() {
        let started = cluster.wait_for_pod(namespace.name(), &node);
        assert_eq!(image_of(&started), big.image("1"));
    }
    cluster.wait_for_pod("coral-system", "reg-0");
    until("the mirror works again", PATIENCE, || {
        let mirror = ["-n", "coral-system", "registrymirror", "serve"];
        is_ready(&cluster.get(&mirror)?).then_some(())
    });
}
