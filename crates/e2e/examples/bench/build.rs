//! What `cargo xtask bench build` measures: what a build costs beside its own steps.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::cluster::{Builds, Cluster};
use serde_json::{Value, json};

use crate::cluster::Figure;
use crate::{machine, table};

/// Builds of the first figure.
const RUNS: usize = 5;
/// Builds at once.
const AT_ONCE: usize = 10;
/// Builds beside the same container in a Pod.
const LONG_RUNS: usize = 3;

/// Measures everything, and writes the section of the page if there is one.
pub(crate) fn measure(page: Option<&Path>) {
    let cluster = Cluster::connect();
    let own = cluster.own().expect("a cluster of this machine");
    let machine = machine::hardware();
    println!("{machine}");
    let builds = Builds::set(&cluster, own);
    let mut figures = overhead(&builds);
    figures.extend(by_hand(&builds));
    figures.push(changed(&builds));
    figures.push(at_once(&builds));
    for figure in &figures {
        println!("{}", figure.line());
    }
    if let Some(page) = page {
        table::write(page, table::Part::Build, &section(&machine, &figures));
    }
}

/// A script that writes an image of one small file, from `kubectl apply` until it has succeeded.
fn overhead(builds: &Builds<'_>) -> Vec<Figure> {
    let script = builds.small_image();
    let (mut whole, mut beyond) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let name = format!("small-{run}");
        let began = Instant::now();
        builds.apply(&builds.script(&name, &script, ""));
        wait(builds, &format!("imagebuild/{name}"), "condition=Ready");
        let took = began.elapsed();
        let status = builds.succeeded(&name);
        // The first brings the image of the script to its node.
        if run > 0 {
            whole.push(took.as_secs_f64());
            beyond.push(took.saturating_sub(steps(&status)).as_secs_f64());
        }
    }
    let figure = |work: &str, runs| Figure {
        work: work.to_owned(),
        unit: "s",
        runs,
    };
    vec![
        figure("a build of one small file", whole),
        figure("same, beyond its three steps", beyond),
    ]
}

/// What the three steps took, as the status says.
fn steps(status: &Value) -> Duration {
    let all = ["fetch", "build", "push"];
    let took = all.map(|step| seconds(&status["durations"][step]));
    Duration::from_secs_f64(took.iter().sum())
}

/// `0.4s`, `2m5s` or `1h2m`, as the status has it.
fn seconds(value: &Value) -> f64 {
    let (mut whole, mut number) = (0.0, String::new());
    for letter in value.as_str().unwrap_or_default().chars() {
        let scale = match letter {
            'h' => 3600.0,
            'm' => 60.0,
            's' => 1.0,
            _ => {
                number.push(letter);
                continue;
            }
        };
        whole += number.parse::<f64>().expect("a number before its unit") * scale;
        number.clear();
    }
    whole
}

/// A Dockerfile that takes the builder a while: as a build, and by the same container in a Pod that
/// does nothing else, each from `kubectl apply` to its end.
fn by_hand(builds: &Builds<'_>) -> Vec<Figure> {
    let (mut as_build, mut as_pod) = (Vec::new(), Vec::new());
    let lines = format!(
        "FROM {}\n    RUN head -c 300000000 /dev/urandom >/large && sha256sum /large >/sum\n    \
         RUN sha256sum -c /sum && rm /large\n",
        builds.base()
    );
    builds.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata:\n  Dockerfile: |\n    \
         {lines}"
    ));
    for run in 0..=LONG_RUNS {
        let name = format!("large-{run}");
        let source = "{configMap: {name: large}}";
        let began = Instant::now();
        builds.apply(&builds.yaml(&name, source, "{}", "", ""));
        wait(builds, &format!("imagebuild/{name}"), "condition=Ready");
        let took = began.elapsed();
        let pod = bare(&builds.pods(&name)[0], &name);
        let began = Instant::now();
        builds.apply(&pod.to_string());
        let succeeded = "jsonpath={.status.phase}=Succeeded";
        wait(builds, &format!("pod/{name}"), succeeded);
        // The first brings the builder's image to its node.
        if run > 0 {
            as_build.push(took.as_secs_f64());
            as_pod.push(began.elapsed().as_secs_f64());
        }
    }
    let figure = |work: &str, runs| Figure {
        work: work.to_owned(),
        unit: "s",
        runs,
    };
    vec![
        figure("a Dockerfile that writes and reads 300 MB", as_build),
        figure("same, the builder's container alone in a Pod", as_pod),
    ]
}

/// The container `build` of a build's pod, in a Pod of its own with the same source and the same node.
fn bare(pod: &Value, name: &str) -> Value {
    let of = |list: &Value, wanted: &str| -> Value {
        let mut all = list.as_array().into_iter().flatten();
        let found = all.find(|it| it["name"] == wanted);
        found.cloned().expect("every build has it")
    };
    let container = of(&pod["spec"]["initContainers"], "build");
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let volumes: Vec<Value> = mounts
        .map(|mount| match mount["name"].as_str().unwrap_or_default() {
            "source" => json!({"name": "source", "configMap": {"name": "large"}}),
            other => of(&pod["spec"]["volumes"], other),
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "hostUsers": false,
            "automountServiceAccountToken": false,
            "nodeName": pod["spec"]["nodeName"],
            "containers": [container],
            "volumes": volumes,
        },
    })
}

/// Waits for an object by a watch: a question now and then would be measured as well.
fn wait(builds: &Builds<'_>, object: &str, until: &str) {
    let until = format!("--for={until}");
    let wait = [
        "-n",
        builds.namespace(),
        "wait",
        object,
        &until,
        "--timeout=5m",
    ];
    let _ = builds.cluster.kubectl(&wait).succeeded();
}

/// A Dockerfile whose last file has changed: bytes pushed by the bytes of that layer.
fn changed(builds: &Builds<'_>) -> Figure {
    builds.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: layers}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 5Gi}}\n",
    );
    let mut ratio = 0.0;
    for run in ["one", "two"] {
        let dockerfile = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: changed}}\ndata:\n  Dockerfile: \
             |\n    FROM {}\n    RUN head -c 20000000 /dev/urandom >/same\n    RUN echo {run} \
             >/run; head -c 4000000 /dev/urandom >/changed\n",
            builds.base()
        );
        builds.apply(&dockerfile);
        let more = format!("  cache: {{pvc: layers}}\n  rerun: {run}\n");
        let source = "{configMap: {name: changed}}";
        builds.apply(&builds.yaml("changed", source, "{}", "", &more));
        let status = builds.succeeded("changed");
        let pushed = status["bytes"]["pushed"].as_u64().unwrap();
        ratio = pushed as f64 / 4e6;
    }
    Figure {
        work: "pushed after a change of one layer, by the bytes of that layer".to_owned(),
        unit: "times",
        runs: vec![ratio],
    }
}

/// Ten builds of one small file, until the last has succeeded.
fn at_once(builds: &Builds<'_>) -> Figure {
    let script = builds.small_image();
    let names: Vec<String> = (0..AT_ONCE).map(|n| format!("beside-{n}")).collect();
    let all = names.iter().map(|name| builds.script(name, &script, ""));
    let began = Instant::now();
    builds.apply(&all.collect::<Vec<_>>().concat());
    for name in &names {
        builds.succeeded(name);
    }
    Figure {
        work: format!("{AT_ONCE} of them at once, until the last has succeeded"),
        unit: "s",
        runs: vec![began.elapsed().as_secs_f64()],
    }
}

fn section(machine: &str, figures: &[Figure]) -> String {
    let lines: Vec<String> = figures.iter().map(Figure::line).collect();
    format!(
        "{}\n\n<!-- Made by `cargo xtask bench build`. -->\n\n{machine}\n\
         Two nodes on the same machine; Coral as a release build.\n\n\
         | work | runs | median | worst |\n|---|---|---|---|\n{}\n\n\
         A build is timed from the start of `kubectl apply` until `kubectl wait` has heard that it has \
         succeeded; its script writes an OCI layout with a layer of one megabyte. The time of the \
         three steps is that of the status: `fetch` and `push` as they measured it, `build` in whole \
         seconds as Kubernetes tells it. The builder's \
         container alone has the same source, node and user namespace, and nothing is pushed. The changed \
         layer is the last of a Dockerfile with a cache on a volume, 4 MB of random bytes.\n",
        table::Part::Build.heading(),
        lines.join("\n")
    )
}
