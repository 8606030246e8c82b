//! The direction of dependencies: which crate may know which (see `ARCHITECTURE.md`).
//!
//! A crate boundary exists to forbid a dependency; this test is what forbids it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// One crate of the workspace.
struct Rule {
    name: &'static str,
    /// The crates of the workspace that it may use, tests apart.
    uses: &'static [&'static str],
    /// Crates that must not be in its tree, however deep.
    never: &'static [&'static str],
}

const RUNTIMES_AND_HTTP: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "hyper",
    "reqwest",
    "axum",
    "kube",
    "kube-client",
];
/// What talks to a cluster: the API types may be kube's, a client may not be near them.
const CLIENTS: &[&str] = &[
    "kube-client",
    "kube-runtime",
    "hyper",
    "hyper-util",
    "tower",
    "tokio",
    "rustls",
    "reqwest",
];
const KUBERNETES: &[&str] = &[
    "kube",
    "kube-core",
    "kube-client",
    "kube-runtime",
    "k8s-openapi",
];

/// In layers, the lowest first.
const RULES: &[Rule] = &[
    Rule {
        name: "coral-image",
        uses: &[],
        never: RUNTIMES_AND_HTTP,
    },
    Rule {
        name: "coral-api",
        uses: &["coral-image"],
        never: CLIENTS,
    },
    Rule {
        name: "coral-cri",
        uses: &["coral-image"],
        never: KUBERNETES,
    },
    Rule {
        name: "coral-distribution",
        uses: &["coral-image"],
        never: KUBERNETES,
    },
    Rule {
        name: "coral-rt",
        uses: &[],
        never: KUBERNETES,
    },
    Rule {
        name: "coral-registry",
        uses: &["coral-distribution", "coral-image", "coral-rt"],
        never: KUBERNETES,
    },
    Rule {
        name: "coral-mirror",
        uses: &["coral-api", "coral-distribution", "coral-image"],
        never: &["kube-client", "kube-runtime"],
    },
    Rule {
        name: "coral-controller",
        uses: &[
            "coral-api",
            "coral-distribution",
            "coral-image",
            "coral-mirror",
            "coral-rt",
        ],
        never: &[],
    },
    Rule {
        name: "coral-agent",
        uses: &["coral-api", "coral-cri", "coral-image", "coral-rt"],
        never: &[],
    },
    Rule {
        name: "coral-webhook",
        uses: &["coral-api", "coral-image", "coral-rt"],
        never: &[],
    },
    Rule {
        name: "coral",
        uses: &[
            "coral-agent",
            "coral-api",
            "coral-controller",
            "coral-cri",
            "coral-distribution",
            "coral-image",
            "coral-mirror",
            "coral-registry",
            "coral-rt",
            "coral-webhook",
        ],
        never: &[],
    },
    Rule {
        name: "coral-testkit",
        uses: &["coral-image"],
        never: KUBERNETES,
    },
    Rule {
        name: "e2e",
        uses: &[],
        never: RUNTIMES_AND_HTTP,
    },
    Rule {
        name: "xtask",
        uses: &[],
        never: RUNTIMES_AND_HTTP,
    },
];

/// What a member's own `Cargo.toml` names.
#[derive(Default)]
struct Member {
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

/// The workspace, and what every crate of the lock file uses.
struct Graph {
    members: BTreeMap<String, Member>,
    locked: BTreeMap<String, BTreeSet<String>>,
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (name, member) in &graph.members {
        let Some(position) = RULES.iter().position(|rule| rule.name == name) else {
            found.push(format!("{name} has no rule: give it a place in the layers"));
            continue;
        };
        let rule = &RULES[position];
        let own = |dependency: &&String| graph.members.contains_key(*dependency);
        for used in member.normal.iter().filter(own) {
            if !rule.uses.contains(&used.as_str()) {
                found.push(format!("{name} must not use {used}"));
            }
        }
        let below: Vec<&str> = RULES[..position].iter().map(|rule| rule.name).collect();
        for used in member.dev.iter().filter(own) {
            let is_testkit = used == "coral-testkit" && name != "e2e" && name != "xtask";
            if !is_testkit && (!below.contains(&used.as_str()) || name == "e2e") {
                found.push(format!("the tests of {name} must not use {used}"));
            }
        }
        for (banned, path) in banned_paths(graph, member, rule.never) {
            found.push(format!("{name} must never depend on {banned} (by {path})"));
        }
    }
    found
}

/// The banned crates in a member's tree, each with the direct dependency that brings it.
fn banned_paths(graph: &Graph, member: &Member, never: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for direct in &member.normal {
        let tree = reachable(graph, direct);
        let banned = tree.iter().filter(|name| never.contains(&name.as_str()));
        found.extend(banned.map(|name| (name.clone(), direct.clone())));
    }
    found
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut waiting = vec![from.to_owned()];
    while let Some(name) = waiting.pop() {
        // The lock file mixes a member's tests in, so members are followed by their own rule.
        let next = match graph.members.get(&name) {
            Some(member) => Some(&member.normal),
            None => graph.locked.get(&name),
        };
        for dependency in next.into_iter().flatten() {
            if seen.insert(dependency.clone()) {
                waiting.push(dependency.clone());
            }
        }
    }
    seen
}

fn workspace() -> Graph {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let members = packages
        .iter()
        .map(|package| (text(&package["name"]), member(package)));
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
    Graph {
        members: members.collect(),
        locked: locked(&lock),
    }
}

fn member(package: &Value) -> Member {
    let mut member = Member::default();
    for dependency in package["dependencies"].as_array().unwrap() {
        let name = text(&dependency["name"]);
        match dependency["kind"].as_str() {
            Some("dev") => member.dev.insert(name),
            _ => member.normal.insert(name),
        };
    }
    member
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The `[[package]]` tables of a lock file; two versions of one crate are taken together.
fn locked(lock: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut locked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for table in lock.split("[[package]]").skip(1) {
        let name = table.lines().find_map(|line| line.strip_prefix("name = "));
        let name = name.unwrap().trim_matches('"').to_owned();
        let dependencies = table.lines().filter_map(|line| line.strip_prefix(" \""));
        let names = dependencies.filter_map(|line| line.split([' ', '"']).next());
        locked
            .entry(name)
            .or_default()
            .extend(names.map(str::to_owned));
    }
    locked
}

#[test]
fn every_crate_depends_only_on_what_its_layer_may_know() {
    let found = violations(&workspace());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_rule_is_about_a_crate_that_exists() {
    let graph = workspace();
    let gone = RULES
        .iter()
        .filter(|rule| !graph.members.contains_key(rule.name));
    assert_eq!(
        gone.map(|rule| rule.name).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
}

/// A workspace of the named crates; `edges` are `(crate, dependency, is it for tests)`.
fn graph(edges: &[(&str, &str, bool)], locked: &[(&str, &str)]) -> Graph {
    let mut members: BTreeMap<String, Member> = BTreeMap::new();
    for rule in RULES {
        members.entry(rule.name.to_owned()).or_default();
    }
    for (name, used, for_tests) in edges {
        let member = members.entry((*name).to_owned()).or_default();
        let set = if *for_tests {
            &mut member.dev
        } else {
            &mut member.normal
        };
        set.insert((*used).to_owned());
    }
    let mut tree: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, used) in locked {
        tree.entry((*name).to_owned())
            .or_default()
            .insert((*used).to_owned());
    }
    Graph {
        members,
        locked: tree,
    }
}

#[test]
fn a_wrong_direction_is_named() {
    let wrong = graph(&[("coral-image", "coral-registry", false)], &[]);
    assert_eq!(
        violations(&wrong),
        ["coral-image must not use coral-registry"]
    );
    let black_box = graph(&[("e2e", "coral-image", true)], &[]);
    assert_eq!(
        violations(&black_box),
        ["the tests of e2e must not use coral-image"]
    );
    let upwards = graph(&[("coral-registry", "coral-mirror", true)], &[]);
    assert_eq!(
        violations(&upwards),
        ["the tests of coral-registry must not use coral-mirror"]
    );
    let testkit = graph(&[("coral", "coral-testkit", false)], &[]);
    assert_eq!(violations(&testkit), ["coral must not use coral-testkit"]);
}

#[test]
fn a_banned_crate_is_found_however_deep_it_is() {
    let deep = graph(
        &[("coral-image", "left", false)],
        &[("left", "pad"), ("pad", "tokio")],
    );
    assert_eq!(
        violations(&deep),
        ["coral-image must never depend on tokio (by left)"]
    );
}

#[test]
fn what_the_layers_allow_is_no_violation() {
    let fine = graph(
        &[
            ("coral-mirror", "coral-image", false),
            ("coral-mirror", "coral-registry", true),
            ("coral-distribution", "coral-testkit", true),
        ],
        &[],
    );
    assert_eq!(violations(&fine), Vec::<String>::new());
}

#[test]
fn a_new_crate_needs_a_place_in_the_layers() {
    let new = graph(&[("coral-new", "bytes", false)], &[]);
    assert_eq!(
        violations(&new),
        ["coral-new has no rule: give it a place in the layers"]
    );
}
