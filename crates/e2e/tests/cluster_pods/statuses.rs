//! What every object reports, by its conditions, its events and its columns.

use std::time::Instant;

use e2e::cluster::{Cluster, PATIENCE};
use e2e::until;
use serde_json::Value;

use crate::stage::Stage;

/// The kinds that people write, with an object of the stage each.
const WRITTEN: [(&str, &str); 4] = [
    ("Registry", "reg"),
    ("RegistryMirror", "outside"),
    ("RegistryRoute", "outside"),
    ("InjectionPolicy", "cluster"),
];

/// An Image of the test's own, placed on every node.
fn place(stage: &Stage<'_>, namespace: &str, name: &str) {
    let image = Stage::placed(name, &stage.plain("web"), None);
    let mut image = image;
    image["metadata"]["namespace"] = namespace.into();
    stage.cluster.apply(&image.to_string());
    stage
        .cluster
        .wait_for_ready(namespace, "images.stvz.io", name);
}

#[test]
#[ignore = "needs a cluster"]
fn an_event_tells_of_every_kind_that_it_works_now() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = cluster.namespace("events");
    place(&stage, namespace.name(), "told");
    for (kind, name) in WRITTEN.into_iter().chain([("Image", "told")]) {
        let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let events = ["events", "--all-namespaces", "--field-selector", &fields];
        let what = format!("an event of {kind} {name}");
        cluster.wait_until(&what, &events, PATIENCE, |list| {
            let mut events = list["items"].as_array().unwrap().iter();
            events.any(|event| {
                event["type"] == "Normal"
                    && event["reportingComponent"] == "coral-controller"
                    && event["reason"]
                        .as_str()
                        .is_some_and(|reason| !reason.is_empty())
            })
        });
    }
}

/// What is wrong with the conditions of an object.
fn fault_of(object: &Value) -> Option<String> {
    let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
    let generation = &object["metadata"]["generation"];
    let conditions = object["status"]["conditions"].as_array();
    let Some(conditions) = conditions.filter(|all| !all.is_empty()) else {
        return Some(format!("{kind} {name} has no conditions"));
    };
    if !conditions
        .iter()
        .any(|condition| condition["type"] == "Ready")
    {
        return Some(format!("{kind} {name} has no condition Ready"));
    }
    let old = conditions
        .iter()
        .find(|c| c["observedGeneration"] != *generation)?;
    Some(format!("{kind} {name}, generation {generation}: {old}"))
}

#[test]
#[ignore = "needs a cluster"]
fn the_conditions_of_every_object_are_about_its_generation() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = cluster.namespace("kinds");
    place(&stage, namespace.name(), "placed");
    let mut faults = vec!["nothing was seen".to_owned()];
    let began = Instant::now();
    until("the conditions of every object", PATIENCE * 2, || {
        let list = cluster.get(&["coral", "--all-namespaces"]).unwrap();
        let objects = list["items"].as_array().unwrap();
        faults = objects.iter().filter_map(fault_of).collect();
        let mut seen: Vec<&str> = objects.iter().filter_map(|o| o["kind"].as_str()).collect();
        seen.sort_unstable();
        seen.dedup();
        let kinds = [
            "Image",
            "InjectionPolicy",
            "MirroredImages",
            "NodeImages",
            "Registry",
            "RegistryMirror",
            "RegistryRoute",
        ];
        if seen != kinds {
            faults.push(format!("only objects of {seen:?}"));
        }
        assert!(
            faults.is_empty() || began.elapsed() < PATIENCE,
            "{faults:#?}"
        );
        faults.is_empty().then_some(())
    });
}

/// The cell of a table of `kubectl get`, by the name of its row and the head of its column.
fn cell(table: &str, name: &str, head: &str) -> Option<String> {
    let mut lines = table.lines();
    let heads = lines.next()?;
    let at = |head: &str| {
        let start = heads.find(head)?;
        let length = heads[start..].find("  ").map(|end| {
            let rest = &heads[start + end..];
            end + rest.len() - rest.trim_start().len()
        });
        Some((start, length))
    };
    let cut = |line: &str, head: &str| {
        let (start, length) = at(head)?;
        let rest = line.get(start..)?;
        let cell = length.and_then(|length| rest.get(..length)).unwrap_or(rest);
        Some(cell.trim().to_owned())
    };
    let row = lines.find(|line| cut(line, "NAME ").as_deref() == Some(name))?;
    cut(row, head)
}

#[test]
#[ignore = "needs a cluster"]
fn a_column_of_every_kind_says_whether_it_works() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = cluster.namespace("columns");
    place(&stage, namespace.name(), "placed");
    let written = WRITTEN.into_iter();
    let own = [
        ("Image", "placed"),
        ("NodeImages", "node1"),
        ("MirroredImages", "outside-0"),
    ];
    for (kind, name) in written.chain(own) {
        let resource = format!("{}.v1.stvz.io", kind.to_lowercase());
        let scope = match kind {
            "Image" => vec!["-n", namespace.name()],
            "Registry" | "RegistryMirror" | "MirroredImages" => vec!["-n", "coral-system"],
            _ => vec![],
        };
        let get = [&["get", &resource][..], &scope].concat();
        let mut table = String::new();
        let is_ready = || {
            table = cluster.kubectl(&get).succeeded().stdout;
            cell(&table, name, "READY")
                .filter(|ready| ready == "True")
                .map(drop)
        };
        until(
            &format!("READY is True for {kind} {name}"),
            PATIENCE,
            is_ready,
        );
    }
}
