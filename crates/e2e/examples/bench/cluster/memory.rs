//! A registry in a pod with a memory limit of 64 MiB, which takes and serves blobs of 256 MB.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Namespace, OwnCluster};
use e2e::peers::umoci;
use e2e::{Layout, Process, run, scratch, sha256, until_every};
use serde_json::Value;

use super::Figure;

const CLIENTS: usize = 4;
const BLOB: u64 = 256 << 20;
/// The kubelet looks at a pod every ten seconds or so: shorter load would not be seen.
const LOAD: Duration = Duration::from_secs(45);
const LIMIT: &str = "64Mi";

/// What is run in the pod.
struct Contender {
    name: &'static str,
    image: &'static str,
    arguments: &'static str,
}

const CORAL: Contender = Contender {
    name: "Coral",
    image: "localhost/coral:latest",
    arguments: r#"[registry, serve, "--listen=0.0.0.0:5000", "--storage=/data"]"#,
};

const DISTRIBUTION: Contender = Contender {
    name: "distribution",
    image: "localhost/distribution:bench",
    arguments: "[serve, /config.yml]",
};

const CONFIGURATION: &str = "version: 0.1\nlog: {level: error}\nstorage: {filesystem: \
                             {rootdirectory: /data}}\nhttp: {addr: \"0.0.0.0:5000\"}\n";

pub(crate) fn measure(cluster: &Cluster) -> Vec<Figure> {
    let own = cluster.own().expect("a cluster of this machine");
    load_distribution(own);
    let folder = scratch();
    let blobs: Vec<(PathBuf, String)> = (0..CLIENTS).map(|n| blob(folder.path(), n)).collect();
    let namespace = cluster.namespace("bench");
    [CORAL, DISTRIBUTION]
        .iter()
        .flat_map(|contender| contend(cluster, own, &namespace, contender, &blobs))
        .collect()
}

/// The peer's binary in an image of its own, on every node.
fn load_distribution(own: &OwnCluster) {
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    let image = format!("{}:bench", layout.folder().display());
    let configuration = folder.path().join("config.yml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let found = run(Command::new("sh").args(["-c", "command -v registry"])).succeeded();
    let make = |arguments: &[&str]| {
        let _ = run(umoci(folder.path()).args(arguments)).succeeded();
    };
    make(&["new", "--image", &image]);
    make(&[
        "insert",
        "--image",
        &image,
        found.stdout.trim(),
        "/registry",
    ]);
    let configuration = configuration.to_string_lossy();
    make(&["insert", "--image", &image, &configuration, "/config.yml"]);
    let platform = ["--os", "linux", "--architecture", architecture()];
    let entry = ["--config.entrypoint", "/registry"];
    make(&[&["config", "--image", &image][..], &platform, &entry].concat());
    own.load(layout.folder(), DISTRIBUTION.image);
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// A file of random bytes, and its digest.
fn blob(folder: &Path, number: usize) -> (PathBuf, String) {
    let path = folder.join(format!("blob-{number}"));
    let mut random = File::open("/dev/urandom").unwrap().take(BLOB);
    io::copy(&mut random, &mut File::create(&path).unwrap()).unwrap();
    let digest = sha256(&fs::read(&path).unwrap());
    (path, digest)
}

fn contend(
    cluster: &Cluster,
    own: &OwnCluster,
    namespace: &Namespace<'_>,
    contender: &Contender,
    blobs: &[(PathBuf, String)],
) -> [Figure; 3] {
    let pod = contender.name.to_lowercase();
    let node = &cluster.nodes()[0];
    namespace.apply(&pod_yaml(&pod, node, contender));
    let started = cluster.wait_for_pod(namespace.name(), &pod);
    let address = started["status"]["podIP"].as_str().unwrap().to_owned();
    let mut transfers = Transfers::default();
    transfers.add(
        &own.exec(node, &["sh", "-c", &pushes(&address, blobs)])
            .stdout,
    );
    let gets = gets(&address, blobs);
    let load = Process::start(
        Command::new(std::env::var_os("CORAL_XTASK_BIN").unwrap())
            .args(["cluster", "--name"])
            .arg(std::env::var_os("CORAL_CLUSTER_NAME").unwrap())
            .args(["exec", node, "sh", "-c", &gets]),
    );
    let working_set = largest_working_set(cluster, node, &pod);
    let mut load = load;
    let _ = load.wait(LOAD);
    transfers.add(&load.output().0);
    let ended = cluster.get(&["-n", namespace.name(), "pod", &pod]).unwrap();
    let restarts = ended["status"]["containerStatuses"][0]["restartCount"].as_f64();
    let named = |what: &str| format!("limit of 64 MiB, {}: {what}", contender.name);
    let gone = ["-n", namespace.name(), "delete", "pod", &pod, "--now"];
    let _ = cluster.kubectl(&gone).succeeded();
    [
        figure(named("transfers of 256 MB done"), transfers.done),
        figure(
            named("transfers cut, and kills"),
            transfers.cut + restarts.unwrap(),
        ),
        Figure {
            work: named("working set"),
            unit: "MiB",
            runs: vec![working_set],
        },
    ]
}

fn figure(work: String, value: f64) -> Figure {
    Figure {
        work,
        unit: "",
        runs: vec![value],
    }
}

/// How the transfers ended, a line each.
#[derive(Default)]
struct Transfers {
    done: f64,
    cut: f64,
}

impl Transfers {
    fn add(&mut self, said: &str) {
        self.done += said.lines().filter(|line| *line == "done").count() as f64;
        self.cut += said.lines().filter(|line| *line == "cut").count() as f64;
    }
}

fn pod_yaml(name: &str, node: &str, contender: &Contender) -> String {
    let (image, arguments) = (contender.image, contender.arguments);
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
    - name: registry
      image: {image}
      imagePullPolicy: Never
      args: {arguments}
      resources: {{limits: {{memory: {LIMIT}}}}}
      readinessProbe: {{tcpSocket: {{port: 5000}}, periodSeconds: 1}}
      volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
"
    )
}

/// Every blob pushed at once.
fn pushes(address: &str, blobs: &[(PathBuf, String)]) -> String {
    let pushes = blobs.iter().map(|(file, digest)| {
        format!(
            "( at=$(curl -sS -X POST -D - -o /dev/null $base/v2/bench/blobs/uploads/ \
             | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p'); \
             case $at in http*) ;; *) at=$base$at;; esac; \
             case $at in *\\?*) at=\"$at&\";; *) at=\"$at?\";; esac; \
             curl -sSf -o /dev/null -X PUT -H 'Content-Type: application/octet-stream' \
             -T '{}' \"${{at}}digest={digest}\" && echo done || echo cut ) & ",
            file.display()
        )
    });
    format!(
        "base=http://{address}:5000; {} wait",
        pushes.collect::<String>()
    )
}

/// Every client reads every blob, again and again.
fn gets(address: &str, blobs: &[(PathBuf, String)]) -> String {
    let digests = blobs.iter().map(|(_, digest)| digest.as_str());
    let digests = digests.collect::<Vec<_>>().join(" ");
    let client = format!(
        "( while [ $(date +%s) -lt $until ]; do for digest in {digests}; do \
         curl -sSf -o /dev/null http://{address}:5000/v2/bench/blobs/$digest \
         && echo done || {{ echo cut; sleep 1; }}; done; done ) & "
    );
    let clients = client.repeat(CLIENTS);
    format!(
        "until=$(( $(date +%s) + {} )); {clients} wait",
        LOAD.as_secs()
    )
}

/// The largest that the kubelet reports while the load lasts, in MiB.
fn largest_working_set(cluster: &Cluster, node: &str, pod: &str) -> f64 {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let began = Instant::now();
    let mut largest: f64 = 0.0;
    let looked = until_every(Duration::from_secs(2), LOAD * 2, || {
        let said = cluster.kubectl(&["get", "--raw", &path]).succeeded();
        let summary: Value = serde_json::from_str(&said.stdout).unwrap();
        let pods = summary["pods"].as_array().into_iter().flatten();
        let bytes = pods
            .filter(|it| it["podRef"]["name"] == pod)
            .filter_map(|it| it["containers"][0]["memory"]["workingSetBytes"].as_f64());
        largest = bytes.fold(largest, f64::max);
        (began.elapsed() > LOAD).then_some(())
    });
    assert!(looked.is_some(), "kubectl hangs");
    assert!(largest > 0.0, "the kubelet reports no pod {pod} on {node}");
    largest / f64::from(1 << 20)
}
