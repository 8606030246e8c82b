//! What restarts of the controller and of the Registry do not change.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, OutsideRegistry, is_ready, names_of};
use e2e::image::busybox_root;
use e2e::{Layout, Process, RegistryProgram, report, run, scratch, until};
use serde_json::Value;

use super::stage::{NAMESPACE, PATIENCE, Stage, copy_of, fill, path_inside};

#[test]
#[ignore = "needs a cluster"]
fn a_restarted_controller_goes_on_and_asks_no_source_again() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let sources = [
        RegistryProgram::DockerRegistry,
        RegistryProgram::Distribution,
    ]
    .map(|kind| OutsideRegistry::start(kind, own));
    let tags: Vec<String> = (0..8).map(|number| format!("1.{number}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let entries = sources.each_ref().map(|source| {
        fill(source, "team/app", &tags);
        copy_of(source, "team/app", "select: {all: true}")
    });
    let _mirror = stage.mirror("resumed", "interval: 1h", &entries);
    let before = stage.wait_for_public_images("resumed", 16);
    let shard = stage.shard("resumed");
    let asked = || sources.each_ref().map(|source| source.requests().len());
    let requests = asked();
    assert!(requests.iter().all(|count| *count >= 8), "{requests:?}");

    let selector = "app.kubernetes.io/name=coral-controller";
    let restart = ["-n", NAMESPACE, "delete", "pod", "-l", selector];
    let _ = cluster.kubectl(&restart).succeeded();
    // A mirror that is new to the controller shows that it has begun, this one included.
    let fresh = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&fresh, "team/app", &["1"]);
    let entry = copy_of(&fresh, "team/app", r#"tags: ["1"]"#);
    let _fresh = stage.mirror("fresh", "interval: 1h", &[entry]);
    stage.wait_for_images("fresh", 1);
    assert_eq!(
        asked(),
        requests,
        "asked again: {:#?}",
        sources[0].requests()
    );
    let after = stage.wait_for_images("resumed", 16);
    assert_eq!(after["status"], before["status"]);
    let after = stage.shard("resumed");
    assert_eq!(without_checks(&after), without_checks(&shard));
}

/// The status of a shard without the times at which blobs were checked. The checks of a mirror's
/// images are spread over a day, and one of them may fall into a test.
fn without_checks(shard: &Value) -> Value {
    let mut status = shard["status"].clone();
    let images = status["images"].as_array_mut().expect("a list of images");
    for image in images.iter_mut().filter_map(Value::as_object_mut) {
        image.remove("verified");
    }
    status
}

#[test]
#[ignore = "needs a cluster"]
fn a_shard_is_written_at_most_once_in_five_seconds() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&source, "team/app", &["0"]);
    let entry = copy_of(&source, "team/app", "select: {all: true}");
    let _mirror = stage.mirror("shards", "interval: 1s", &[entry]);
    stage.wait_for("shards", "ready", is_ready);
    let mut watch = Command::new("kubectl");
    watch.env("KUBECONFIG", cluster.kubeconfig());
    watch.args([
        "-n",
        NAMESPACE,
        "get",
        "mirroredimages",
        "shards-0",
        "--watch",
        "-o",
    ]);
    watch.arg(r#"jsonpath={.metadata.resourceVersion}{"\n"}"#);
    let watch = Process::start(&mut watch);
    let versions = || watch.output().0.lines().count();
    until("the shard as it is", PATIENCE, || {
        (versions() >= 1).then_some(())
    });
    let (began, first) = (Instant::now(), versions());
    // Something new in each second, and in each pass of the mirror.
    let mut number = 0;
    until("three writes and more changes", PATIENCE, || {
        number += 1;
        fill(&source, "team/app", &[&number.to_string()]);
        (versions() >= first + 3 && number > 6).then_some(())
    });
    let (writes, took) = (versions() - first, began.elapsed());
    // The first may come at once.
    let least = Duration::from_secs(5) * u32::try_from(writes - 1).unwrap();
    assert!(took >= least, "{writes} writes in {took:?}");
}

/// Images that run, each of a few megabytes that no other has.
fn large_images(source: &OutsideRegistry, names: &[&str]) {
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    let root = fs::read(busybox_root(folder.path())).unwrap();
    for name in names {
        let own = unique_layer(folder.path(), name);
        let image = layout.add_layered_image("amd64", &[root.clone(), own]);
        layout.tag(name, &image);
        source.push(&layout, name, &format!("team/{name}:1"));
    }
}

/// A tar with one file of random bytes.
fn unique_layer(folder: &Path, name: &str) -> Vec<u8> {
    let (file, archive) = (folder.join(name), folder.join(format!("{name}.tar")));
    let script = format!("head -c 12000000 /dev/urandom >'{}'", file.display());
    let _ = run(Command::new("sh").args(["-c", &script])).succeeded();
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(folder).arg(name);
    let _ = run(&mut tar).succeeded();
    fs::read(archive).unwrap()
}

#[test]
#[ignore = "needs a cluster"]
fn pods_that_pull_while_the_registry_restarts_run_in_the_end() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    let names = ["one", "two", "three", "four"];
    large_images(&source, &names);
    let path = |name: &str| format!("team/{name}");
    let entries = names.map(|name| copy_of(&source, &path(name), r#"tags: ["1"]"#));
    let _mirror = stage.mirror("pulled", "interval: 1h", &entries);
    stage.wait_for_public_images("pulled", names.len());
    let namespace = cluster.namespace("pulls");
    let pods = cluster.nodes().into_iter().flat_map(|node| {
        let source = &source;
        names.map(move |name| {
            let image = path_inside(source, &path(name));
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{node}}}\nspec:\n  \
                 nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n    - {{name: \
                 main, image: \"reg.{NAMESPACE}.svc:5000/{image}:1\", imagePullPolicy: Always, \
                 command: [/bin/busybox, sleep, \"3600\"]}}\n"
            )
        })
    });
    let pods: Vec<String> = pods.collect();
    let before = cluster.wait_for_pod(NAMESPACE, "reg-0");
    namespace.apply(&pods.concat());
    let events = |reason: &str| {
        let selector = format!("--field-selector=reason={reason}");
        let list = ["-n", namespace.name(), "events", &selector];
        names_of(&cluster.get(&list).unwrap()).len()
    };
    until("a node pulls", PATIENCE, || {
        (events("Pulling") > 0).then_some(())
    });
    let delete = ["-n", NAMESPACE, "delete", "pod", "reg-0", "--wait=false"];
    let _ = cluster
        .kubectl(&[&delete[..], &["--grace-period=1"]].concat())
        .succeeded();
    let list = ["-n", namespace.name(), "pods"];
    cluster.wait_until("every pod runs", &list, Duration::from_mins(2), |list| {
        let pods = list["items"].as_array().unwrap();
        pods.len() == names.len() * 2 && pods.iter().all(is_ready)
    });
    report!(
        "{} attempts of kubelets failed on the way",
        events("Failed")
    );
    let after = cluster.wait_for_pod(NAMESPACE, "reg-0");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
}
