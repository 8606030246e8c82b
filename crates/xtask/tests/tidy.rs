//! Conventions that the compiler does not enforce.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input fails"
)]

use std::fs;
use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "managers",
];

/// Words that hide the subject of a sentence: the client, the administrator, the process is meant.
const VAGUE_SUBJECTS: &[&str] = &["nobody", "somebody", "whoever"];

/// The one place that may sleep, as a path in the checkout.
const MAY_SLEEP: &str = "crates/e2e/src/wait.rs";

/// This file names what it forbids.
const THIS_FILE: &str = "crates/xtask/tests/tidy.rs";

fn complaints(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.lines().count();
    if lines > LONGEST_FILE {
        found.push(format!(
            "{path}: {lines} lines, at most {LONGEST_FILE}: split it by what it holds"
        ));
    }
    if Path::new(path)
        .iter()
        .any(|part| is_empty_name(&part.to_string_lossy()))
    {
        found.push(format!("{path}: name it after what it holds"));
    }
    for (number, line) in (1..).zip(source.lines()) {
        if line.trim() == "#[ignore]" {
            found.push(format!(
                "{path}:{number}: an ignored test says what it needs"
            ));
        }
        let unfinished = ["todo!(", "unimplemented!("];
        if unfinished.iter().any(|text| line.contains(text)) {
            found.push(format!("{path}:{number}: unfinished"));
        }
        for word in VAGUE_SUBJECTS.iter().filter(|word| has_word(line, word)) {
            found.push(format!("{path}:{number}: name who is meant by `{word}`"));
        }
    }
    found.extend(silent_exceptions(path, source));
    found.extend(sleeps(path, source));
    found
}

fn is_empty_name(part: &str) -> bool {
    EMPTY_NAMES.contains(&part.strip_suffix(".rs").unwrap_or(part))
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|letter: char| !letter.is_ascii_alphabetic())
        .any(|part| part.eq_ignore_ascii_case(word))
}

/// Lint exceptions without a `reason`; the attribute may span lines.
fn silent_exceptions(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
        for (at, _) in source.match_indices(start) {
            let attribute = source[at..]
                .split_once(")]")
                .map_or("", |(inside, _)| inside);
            if !attribute.contains("reason") {
                let number = source[..at].lines().count().max(1);
                found.push(format!(
                    "{path}:{number}: an exception to a lint gives its reason"
                ));
            }
        }
    }
    found
}

/// Sleeps in tests: the files of `tests` folders, and what follows `#[cfg(test)]`. A paused clock
/// does not sleep.
fn sleeps(path: &str, source: &str) -> Vec<String> {
    let is_test_file = path.contains("/tests/") || path.starts_with("crates/e2e/");
    if path == MAY_SLEEP || source.contains("start_paused") {
        return Vec::new();
    }
    let begin = if is_test_file {
        Some(0)
    } else {
        source.find("#[cfg(test)]")
    };
    let Some(begin) = begin else {
        return Vec::new();
    };
    let before = source[..begin].lines().count();
    let lines = (before + 1..).zip(source[begin..].lines());
    lines
        .filter(|(_, line)| {
            ["thread::sleep(", "time::sleep("]
                .iter()
                .any(|s| line.contains(s))
        })
        .map(|(number, _)| format!("{path}:{number}: a test awaits a condition, it does not sleep"))
        .collect()
}

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.join("crates")];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_sources_keep_the_conventions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let mut found = Vec::new();
    for path in sources(&root) {
        let source = fs::read_to_string(&path).unwrap();
        let path = path
            .strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if path != THIS_FILE {
            found.extend(complaints(&path, &source));
        }
    }
    found.sort();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_convention_has_its_complaint() {
    let check = |path: &str, source: &str| complaints(path, source).join("\n");
    let plain = "crates/a/src/copy.rs";
    assert_eq!(check(plain, "fn main() {}\n"), "");
    assert!(check(plain, &"//\n".repeat(801)).contains("801 lines"));
    assert!(check("crates/a/src/utils.rs", "").contains("name it after"));
    assert!(check("crates/a/src/helpers/copy.rs", "").contains("name it after"));
    assert!(check(plain, "#[ignore]\n").contains("copy.rs:1: an ignored test"));
    assert_eq!(check(plain, "#[ignore = \"needs skopeo\"]\n"), "");
    assert!(check(plain, "\nfn f() { todo!() }").contains("copy.rs:2: unfinished"));
    assert!(check(plain, "#[allow(dead_code)]").contains("copy.rs:1: an exception"));
    assert_eq!(
        check(plain, "#[expect(\n  dead_code,\n  reason = \"r\"\n)]"),
        ""
    );
    assert!(check(plain, "/// Nobody reads it.\n").contains("copy.rs:1: name who is meant"));
    assert_eq!(check(plain, "/// A body reads it.\n"), "");
    let sleeping = "std::thread::sleep(second);";
    assert_eq!(check(plain, sleeping), "");
    assert!(check("crates/a/tests/copy.rs", sleeping).contains("copy.rs:1: a test awaits"));
    assert!(check(plain, &format!("\n#[cfg(test)]\n{sleeping}")).contains("copy.rs:3: a test"));
    assert_eq!(check(MAY_SLEEP, sleeping), "");
}
