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
        uses: &["coral-image"],
        never: KUBERNETES,
    },
    Rule {
        name: "coral-token",
        uses: &["coral-image"],
        never: RUNTIMES_AND_HTTP,
    },
    Rule {
        name: "coral-registry",
        uses: &[
            "coral-distribution",
            "coral-image",
            "coral-rt",
            "coral-token",
        ],
        never: KUBERNETES,
    },
    Rule {
        name: "coral-mirror",
        uses: &["coral-api", "coral-distribution", "coral-image"],
        never: &["kube-client", "kube-runtime"],
    },
    Rule {
        name: "coral-build",
        uses: &[
            "coral-api",
            "coral-distribution",
            "coral-image",
            "coral-mirror",
            "coral-rt",
        ],
        never: &["kube-client", "kube-runtime"],
    },
    Rule {
        name: "coral-controller",
        uses: &[
            "coral-api",
            "coral-build",
            "coral-distribution",
            "coral-image",
            "coral-mirror",
            "coral-rt",
            "coral-token",
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
            "coral-build",
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

/// What a member's own `Cargo.toml` names, and what is built for it.
#[derive(Default)]
struct Member {
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
    /// Every crate that is built for the member alone, each with the direct dependency that
    /// brings it. The lock file says more than that: the features of the whole workspace, of
    /// tests and of other platforms are in it.
    tree: BTreeMap<String, String>,
}

/// The members of the workspace by name.
type Graph = BTreeMap<String, Member>;

fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (name, member) in graph {
        let Some(position) = RULES.iter().position(|rule| rule.name == name) else {
            found.push(format!("{name} has no rule: give it a place in the layers"));
            continue;
        };
        let rule = &RULES[position];
        let own = |dependency: &&String| graph.contains_key(*dependency);
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
        for (banned, path) in &member.tree {
            if rule.never.contains(&banned.as_str()) {
                found.push(format!("{name} must never depend on {banned} (by {path})"));
            }
        }
    }
    found
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
    packages
        .iter()
        .map(|package| {
            let name = text(&package["name"]);
            let member = Member {
                tree: tree(&root, &name),
                ..member(package)
            };
            (name, member)
        })
        .collect()
}

/// What is built for one member alone, tests apart.
fn tree(root: &Path, name: &str) -> BTreeMap<String, String> {
    let arguments = [
        "tree",
        "--offline",
        "-e",
        "normal",
        "--prefix",
        "depth",
        "-p",
        name,
    ];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    parsed_tree(&String::from_utf8(output.stdout).unwrap())
}

/// Lines of `DEPTH` and name, without a space between them; a crate's own parts stand below it.
fn parsed_tree(printed: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut direct = String::new();
    for line in printed.lines() {
        let word = line.split(' ').next().unwrap();
        let name = word.trim_start_matches(|c: char| c.is_ascii_digit());
        match word.strip_suffix(name).unwrap() {
            "0" => continue,
            "1" => name.clone_into(&mut direct),
            _ => {}
        }
        found
            .entry(name.to_owned())
            .or_insert_with(|| direct.clone());
    }
    found
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

#[test]
fn every_crate_depends_only_on_what_its_layer_may_know() {
    let found = violations(&workspace());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_rule_is_about_a_crate_that_exists() {
    let graph = workspace();
    let gone = RULES.iter().filter(|rule| !graph.contains_key(rule.name));
    assert_eq!(
        gone.map(|rule| rule.name).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
}

/// A workspace of the named crates; `edges` are `(crate, dependency, is it for tests)`.
fn graph(edges: &[(&str, &str, bool)]) -> Graph {
    let mut members = Graph::new();
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
    members
}

#[test]
fn a_wrong_direction_is_named() {
    let wrong = graph(&[("coral-image", "coral-registry", false)]);
    assert_eq!(
        violations(&wrong),
        ["coral-image must not use coral-registry"]
    );
    let black_box = graph(&[("e2e", "coral-image", true)]);
    assert_eq!(
        violations(&black_box),
        ["the tests of e2e must not use coral-image"]
    );
    let upwards = graph(&[("coral-registry", "coral-mirror", true)]);
    assert_eq!(
        violations(&upwards),
        ["the tests of coral-registry must not use coral-mirror"]
    );
    let testkit = graph(&[("coral", "coral-testkit", false)]);
    assert_eq!(violations(&testkit), ["coral must not use coral-testkit"]);
}

#[test]
fn a_banned_crate_is_found_however_deep_it_is() {
    let printed = "0coral-image v0.1.0 (/coral)\n1hex v0.4.3\n1left v1.0.0\n2pad v2.0.0\n\
                   3tokio v1.54.0\n2hex v0.4.3 (*)\n";
    let mut deep = graph(&[("coral-image", "left", false)]);
    deep.get_mut("coral-image").unwrap().tree = parsed_tree(printed);
    assert_eq!(
        violations(&deep),
        ["coral-image must never depend on tokio (by left)"]
    );
}

#[test]
fn what_the_layers_allow_is_no_violation() {
    let fine = graph(&[
        ("coral-mirror", "coral-image", false),
        ("coral-mirror", "coral-registry", true),
        ("coral-distribution", "coral-testkit", true),
    ]);
    assert_eq!(violations(&fine), Vec::<String>::new());
}

#[test]
fn a_new_crate_needs_a_place_in_the_layers() {
    let new = graph(&[("coral-new", "bytes", false)]);
    assert_eq!(
        violations(&new),
        ["coral-new has no rule: give it a place in the layers"]
    );
}
