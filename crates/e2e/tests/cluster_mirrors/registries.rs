//! Who reaches a Registry in a cluster, and which fields are not supported there yet.

use e2e::RegistryProgram;
use e2e::cluster::{Cluster, OutsideRegistry, is_ready};
use serde_json::Value;

use crate::stage::{NAMESPACE, PATIENCE, Stage, condition, copy_of, fill};

/// Waits until a Registry says that a field does not work yet; returns what it says.
fn refusal(cluster: &Cluster, name: &str, field: &str) -> String {
    let object = ["-n", NAMESPACE, "registry", name];
    let what = format!("{name}: spec.{field} does not work yet");
    let registry = cluster.wait_until(&what, &object, PATIENCE, |registry| {
        let ready = condition(registry, "Ready");
        ready["status"] == "False"
            && ready["reason"] == "NotYetInCluster"
            && ready["observedGeneration"] == registry["metadata"]["generation"]
            && ready["message"].to_string().contains(field)
    });
    let ready = condition(&registry, "Ready");
    ready["message"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs a cluster"]
fn fields_of_a_registry_that_do_not_work_in_a_cluster_yet_are_told() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let _stage = Stage::set(&cluster, own);
    let fields = [
        ("auth", "{htpasswd: {secretName: users}}", "credential"),
        ("tls", "{secretName: certificate}", "certificate"),
        (
            "imageVolumes",
            "[{repository: base/debian, hostPath: {path: /images/debian}}]",
            "push the images instead",
        ),
    ];
    let name = |field: &str| format!("with-{}", field.to_lowercase());
    let objects = fields.map(|(field, value, _)| {
        format!(
            "---\napiVersion: stvz.io/v1\nkind: Registry\nmetadata: {{name: {}, namespace: \
             {NAMESPACE}}}\nspec:\n  {field}: {value}\n",
            name(field)
        )
    });
    cluster.apply(&objects.concat());
    for (field, _, instead) in fields {
        let told = refusal(&cluster, &name(field), field);
        let sentence = format!("spec.{field} does not work in a cluster yet: remove it; ");
        assert!(told.starts_with(&sentence), "{told}");
        assert!(told.contains(instead), "{told}");
        let workload = ["-n", NAMESPACE, "statefulset", &name(field)];
        assert_eq!(cluster.get(&workload), None);
        let delete = ["-n", NAMESPACE, "delete", "registry", &name(field)];
        let _ = cluster.kubectl(&delete).succeeded();
    }
}

#[test]
#[ignore = "needs a cluster"]
fn a_live_registry_that_becomes_read_only_goes_on_serving_and_nodes_keep_its_file() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&source, "team/kept", &["1"]);
    let repository = copy_of(&source, "team/kept", r#"tags: ["1"]"#);
    let _mirror = stage.mirror("kept", "interval: 1h", &[repository]);
    stage.wait_for_public_images("kept", 1);
    let file = format!("/etc/containerd/certs.d/reg.{NAMESPACE}.svc_5000_/hosts.toml");
    let files = || {
        let nodes = cluster.nodes().into_iter();
        let read = nodes.map(|node| own.exec(&node, &["cat", &file]).succeeded().stdout);
        read.collect::<Vec<_>>()
    };
    let ids = |kind: &str| -> Value {
        let name = if kind == "pod" { "reg-0" } else { "reg" };
        let object = cluster.get(&["-n", NAMESPACE, kind, name]).unwrap();
        object["metadata"]["uid"].clone()
    };
    let before = (files(), ids("pod"), ids("service"));

    stage.patch(r#"{"readOnly": true}"#);
    let told = refusal(&cluster, "reg", "readOnly");
    assert!(told.contains("remove it"), "{told}");
    // By the time that a second change is told of, all that the first one causes has begun.
    stage.patch(r#"{"tls": {"secretName": "certificate"}, "readOnly": true}"#);
    refusal(&cluster, "reg", "tls");
    assert!(stage.can_be_fetched(&source, "team/kept:1"));
    assert_eq!((files(), ids("pod"), ids("service")), before);
    let node = cluster.get(&["nodeimages", "node1"]).unwrap();
    assert!(
        node["spec"]["registries"].to_string().contains(NAMESPACE),
        "{node:#}"
    );

    stage.patch(r#"{"tls": null, "readOnly": null}"#);
    let object = ["-n", NAMESPACE, "registry", "reg"];
    cluster.wait_until("the Registry ready again", &object, PATIENCE, is_ready);
    assert_eq!((files(), ids("pod"), ids("service")), before);
}

#[test]
#[ignore = "needs a cluster"]
fn every_pod_reaches_the_registry_and_only_the_credential_pushes() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let namespace = cluster.namespace("reaches");
    let pods = cluster.nodes().into_iter().map(|node| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {node}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n    - {{name: main, image: {}, \
             command: [sleep, \"3600\"]}}\n",
            cluster.busybox()
        )
    });
    namespace.apply(&pods.collect::<String>());
    assert_eq!(stage.begin_upload("team/pushed", false), 401);
    assert_eq!(stage.begin_upload("team/pushed", true), 202);
    for pod in cluster.nodes() {
        cluster.wait_for_pod(namespace.name(), &pod);
        let script = format!("nc -w 5 reg.{NAMESPACE}.svc 5000 </dev/null && echo open");
        let answer = cluster.shell(namespace.name(), &pod, &script);
        assert_eq!(answer.text(), "open", "{answer}");
    }
}
