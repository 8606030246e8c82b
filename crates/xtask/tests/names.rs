//! One name, one meaning: a public type of one crate has the name of no public type of another.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Crates of tests and tools, whose names are read with theirs alone.
const APART: &[&str] = &["coral-testkit", "e2e", "xtask"];

/// Names that several crates have for the same thing, and why that is so.
const SHARED: &[(&str, &str)] = &[
    (
        "AlsoTo",
        "a field of the API, and the same in the contract with the pod of a build",
    ),
    (
        "Category",
        "each client's errors have the bounded labels of its own protocol",
    ),
    (
        "CollectionSettings",
        "the settings of collections as a document gives them, and as the registry takes them",
    ),
    (
        "Config",
        "what a role of the binary is started with; a role never sees that of another",
    ),
    (
        "Credential",
        "what a pull is authenticated with, for a container runtime and for a registry",
    ),
    (
        "Disposition",
        "what to do about a failure, in the terms of each client's protocol",
    ),
    (
        "GitSource",
        "a field of the API, and the same in the contract with the pod of a build",
    ),
    (
        "ImageSource",
        "a field of the API, and the same in the contract with the pod of a build",
    ),
    (
        "LogFormat",
        "the field of the API, and the flag of the command line that it becomes",
    ),
    (
        "OutputState",
        "a field of the API, and the same in the contract with the pod of a build",
    ),
    (
        "RunError",
        "why a role of the binary ended; a role never sees that of another",
    ),
    (
        "ScrubSettings",
        "the settings of scrubs as a document gives them, and as the registry takes them",
    ),
    (
        "StreamSource",
        "a field of the API, and the same in the contract with the pod of a build",
    ),
];

/// The public types that a source defines.
fn defined(source: &str) -> Vec<&str> {
    let name = |line: &'_ str| -> Option<usize> {
        let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
        let rest = line.strip_prefix("pub ")?;
        let kind = kinds.into_iter().find(|kind| rest.starts_with(kind))?;
        Some("pub ".len() + kind.len())
    };
    let lines = source.lines();
    lines
        .filter_map(|line| {
            let rest = &line[name(line)?..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            Some(&rest[..end.unwrap_or(rest.len())])
        })
        .collect()
}

/// The crates that define each name.
type Owners = BTreeMap<String, BTreeSet<String>>;

fn collect(folder: &Path, owner: &str, owners: &mut Owners) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, owner, owners);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for name in defined(&fs::read_to_string(&path).unwrap()) {
                let owners = owners.entry(name.to_owned()).or_default();
                owners.insert(owner.to_owned());
            }
        }
    }
}

fn complaints(owners: &Owners, shared: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, crates) in owners.iter().filter(|(_, crates)| crates.len() > 1) {
        if !shared.iter().any(|(allowed, _)| allowed == name) {
            let crates: Vec<&str> = crates.iter().map(String::as_str).collect();
            found.push(format!(
                "{name} is a public type of {}: give each meaning a name of its own",
                crates.join(" and ")
            ));
        }
    }
    for (name, reason) in shared {
        let is_shared = owners.get(*name).is_some_and(|crates| crates.len() > 1);
        if !is_shared || reason.is_empty() {
            found.push(format!(
                "{name} is not shared any more: take it off the list"
            ));
        }
    }
    found
}

#[test]
fn a_public_type_has_a_name_of_its_own() {
    let mut owners = Owners::new();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for entry in fs::read_dir(crates).unwrap() {
        let folder = entry.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let source = folder.path().join("src");
        if source.is_dir() && !APART.contains(&name.as_str()) {
            collect(&source, &name, &mut owners);
        }
    }
    assert!(owners.len() > 300, "{}", owners.len());
    let found = complaints(&owners, SHARED);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_name_with_two_owners_is_told_and_so_is_a_reason_that_is_needed_no_more() {
    assert_eq!(
        defined(
            "pub struct One<T>(T);\n  pub struct Inner;\npub(crate) enum Two {\npub trait Three: Four {"
        ),
        ["One", "Three"]
    );
    let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let owners = Owners::from([
        ("Page".to_owned(), of(&["a", "b"])),
        ("Tag".to_owned(), of(&["a"])),
    ]);
    let told = complaints(&owners, &[]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("Page is a public type of a and b"));
    assert!(complaints(&owners, &[("Page", "the same page")]).is_empty());
    let shared = [("Page", "the same page"), ("Tag", "the same tag")];
    let told = complaints(&owners, &shared);
    assert_eq!(told, ["Tag is not shared any more: take it off the list"]);
}
