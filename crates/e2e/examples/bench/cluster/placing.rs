//! From an applied Image to the label of the last node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, OutsideRegistry, PATIENCE};
use e2e::image::{add_three_layers, busybox_root};
use e2e::peers::umoci;
use e2e::{Layout, Process, RegistryProgram, run, scratch, until};

use super::Figure;

const RUNS: usize = 10;

/// Mirrors images into a managed Registry, and places one after another on both nodes.
pub(crate) fn measure(cluster: &Cluster) -> Vec<Figure> {
    let own = cluster.own().expect("a cluster of this machine");
    let outside = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&outside);
    let began = Instant::now();
    cluster.apply(&objects(outside.host()));
    cluster.wait_for_ready("coral-system", "registry", "reg");
    let registry = began.elapsed().as_secs_f64();
    cluster.wait_for_ready("coral-system", "registrymirror", "bench");
    cluster.wait_for_ready("default", "registryroute", "bench");
    let mut whole = Vec::new();
    let mut beyond = Vec::new();
    for number in 1..=RUNS {
        let reference = format!("{}/team/bench:{number}", outside.host());
        let took = place(cluster, &reference, number);
        let pull = pull_time(cluster, &reference);
        whole.push(took);
        beyond.push(took - pull);
    }
    vec![
        Figure {
            work: "apply a Registry until both nodes have pulled a probe from it".to_owned(),
            unit: "s",
            runs: vec![registry],
        },
        Figure {
            work: "apply an Image until the last label".to_owned(),
            unit: "s",
            runs: whole,
        },
        Figure {
            work: "same, without containerd's own time".to_owned(),
            unit: "s",
            runs: beyond,
        },
    ]
}

/// One image of three layers for each run, with an ID of its own.
fn fill(outside: &OutsideRegistry) {
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    let root = busybox_root(folder.path());
    for number in 1..=RUNS {
        let tag = number.to_string();
        add_three_layers(&layout, &tag, &root);
        let image = format!("{}:{tag}", layout.folder().display());
        let unique = format!("IMAGE={tag}");
        let mut config = umoci(folder.path());
        config.args(["config", "--image", &image, "--config.env", &unique]);
        let _ = run(&mut config).succeeded();
        outside.push(&layout, &tag, &format!("team/bench:{tag}"));
    }
}

fn objects(host: &str) -> String {
    format!(
        r#"apiVersion: stvz.io/v1
kind: Registry
metadata: {{name: reg, namespace: coral-system}}
spec:
  storage: {{emptyDir: {{}}}}
---
apiVersion: stvz.io/v1
kind: RegistryMirror
metadata: {{name: bench, namespace: coral-system}}
spec:
  registry: {{name: reg}}
  interval: 1h
  allowFrom: {{}}
  repositories:
    - {{name: "{host}/team/bench", select: {{all: true}}, plainHTTP: true}}
---
apiVersion: stvz.io/v1
kind: RegistryRoute
metadata: {{name: bench}}
spec:
  hosts: ["{host}"]
  registry: {{namespace: coral-system, name: reg}}
  sourcePolicy: NeverContactSource
"#
    )
}

/// Seconds from the start of `kubectl apply` until each node has a label more.
fn place(cluster: &Cluster, reference: &str, number: usize) -> f64 {
    let watch = Process::start(
        Command::new("kubectl")
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(["get", "nodes", "--watch", "-o"])
            .arg(r#"jsonpath={.metadata.name}{" "}{.metadata.labels}{"\n"}"#),
    );
    let nodes: BTreeSet<String> = cluster.nodes().into_iter().collect();
    until("every node in the watch", PATIENCE, || {
        (labels(&watch).len() >= nodes.len()).then_some(())
    });
    let (repository, tag) = reference.rsplit_once(':').unwrap();
    let image = format!(
        r#"apiVersion: stvz.io/v1
kind: Image
metadata: {{name: bench-{number}}}
spec:
  repositories:
    - {{name: "{repository}", tags: ["{tag}"]}}
"#
    );
    let began = Instant::now();
    cluster.apply(&image);
    let done = until("the label on every node", PATIENCE, || {
        let placed: BTreeSet<String> = labels(&watch)
            .into_iter()
            .filter(|(_, count)| *count >= number)
            .map(|(node, _)| node)
            .collect();
        (placed == nodes).then(|| began.elapsed())
    });
    done.as_secs_f64()
}

/// What the watch said of each node last: how many images are there.
fn labels(watch: &Process) -> Vec<(String, usize)> {
    let (stdout, _) = watch.output();
    let lines = stdout.lines().filter_map(|line| line.split_once(' '));
    let mut last = BTreeMap::new();
    for (node, labels) in lines {
        let placed = labels.matches("\"image.stvz.io/").count();
        let available = labels.matches(":\"available\"").count();
        last.insert(node.to_owned(), placed.min(available));
    }
    last.into_iter().collect()
}

/// Seconds of the slowest pull of an image, as containerd logs them.
fn pull_time(cluster: &Cluster, reference: &str) -> f64 {
    let repository = reference.rsplit_once(':').unwrap().0;
    let logs = cluster.kubeconfig().with_file_name("logs");
    let mut slowest = Duration::ZERO;
    for file in containerd_logs(&logs) {
        let text = fs::read_to_string(&file).unwrap();
        let pulls = text
            .lines()
            .filter(|line| line.contains("Pulled image") && line.contains(repository));
        let last = pulls.filter_map(duration_of).next_back();
        slowest = slowest.max(last.unwrap_or_default());
    }
    assert!(
        !slowest.is_zero(),
        "no pull of {reference} in {}",
        logs.display()
    );
    slowest.as_secs_f64()
}

fn containerd_logs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains("containerd"))
        .collect()
}

/// The Go duration that ends the message: `… in 123.45ms"`.
fn duration_of(line: &str) -> Option<Duration> {
    let (_, end) = line.rsplit_once(" in ")?;
    let text: String = end
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "µs" | "us" => number / 1e6,
        _ => return None,
    };
    Some(Duration::from_secs_f64(seconds))
}
