//! The program understands every example in the documentation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{coral, run, scratch};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs/src", "docs/src/guide"] {
        let entries = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    pages
}

/// The fenced blocks of one language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    page.split(&fence)
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect()
}

/// `coral mirror plan` on a machine without network: 2 would mean that the input is wrong, 1 that
/// sources are out of reach.
fn plan_offline(home: &Path, file: &Path) -> e2e::Finished {
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(coral().get_program());
    command.args(["mirror", "plan"]).arg(file).env("HOME", home);
    run(&mut command)
}

#[test]
#[ignore = "needs root for a network of its own; run by cargo xtask test"]
fn every_mirror_in_the_documentation_is_understood() {
    let home = scratch();
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks(&text, "yaml") {
            let file = home.path().join("shown.yaml");
            fs::write(&file, block).unwrap();
            let planned = plan_offline(home.path(), &file);
            let is_mirror = block.contains("kind: RegistryMirror");
            let expected = if is_mirror { 1 } else { 2 };
            assert_eq!(planned.code, expected, "of {}: {planned}", page.display());
            seen += usize::from(is_mirror);
        }
    }
    assert!(seen >= 2, "the documentation shows no mirrors any more?");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn every_flag_in_the_documentation_is_known() {
    let home = scratch();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap().replace("\\\n", " ");
        for line in blocks(&text, "sh").iter().flat_map(|block| block.lines()) {
            let Some(words) = line.trim().strip_prefix("coral ") else {
                continue;
            };
            // What the shell takes for itself, a comment or a file to write to, comes after them.
            let words = words.split(" #").next().unwrap_or_default();
            let words = words.split(" >").next().unwrap_or_default();
            let words = words.split(" 2>").next().unwrap_or_default();
            // `coral grant … | kubectl apply -f -`: the flag is for coral.
            let words = words.split(" | ").next().unwrap_or_default();
            // With --help after them, words are read but nothing is done.
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec \"$0\" {words} --help")]);
            shell.arg(coral().get_program()).current_dir(home.path());
            let _ = run(shell.env("HOME", home.path())).succeeded();
        }
    }
}
