//! The configuration of GitHub and of the site: workflows with pinned actions and minimal
//! permissions, forms for issues, and one version of mdBook.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input fails"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Name and text of each file of a folder.
fn files(folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<(String, String)> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                text,
            )
        })
        .collect();
    files.sort();
    files
}

/// Whether a step names its action by a commit, with the version beside it for people.
fn is_pinned(uses: &str) -> bool {
    let Some((_, pin)) = uses.split_once('@') else {
        return false;
    };
    let Some((commit, version)) = pin.split_once(" # v") else {
        return false;
    };
    let is_hex = commit
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    commit.len() == 40 && is_hex && !version.is_empty()
}

#[test]
fn every_action_is_pinned_by_its_commit() {
    let mut found = 0;
    for (name, text) in files(".github/workflows") {
        for line in text.lines() {
            let line = line.trim().trim_start_matches("- ");
            let Some(uses) = line.strip_prefix("uses: ") else {
                continue;
            };
            found += 1;
            assert!(is_pinned(uses), "{name}: {uses}");
        }
    }
    assert!(found > 5);
    assert!(!is_pinned("actions/checkout@v4"));
    assert!(!is_pinned("actions/checkout@11bd719 # v4.2.2"));
}

#[test]
fn a_workflow_has_no_right_that_it_does_not_name() {
    for (name, text) in files(".github/workflows") {
        let mut top = text.lines().filter(|line| line.starts_with("permissions:"));
        let permissions = top.next().unwrap_or_default();
        let reads = text.contains("\npermissions:\n  contents: read\n");
        assert!(permissions == "permissions: {}" || reads, "{name}");
        // Only the job that publishes a release may write.
        let writes = text
            .lines()
            .filter(|line| line.trim_end().ends_with(": write"));
        assert!(writes.count() == 0 || name == "release.yml", "{name}");
        // Otherwise the token stays in the checkout, for every later step.
        let checkouts = text.matches("uses: actions/checkout@").count();
        let without_token = text.matches("persist-credentials: false").count();
        assert_eq!(checkouts, without_token, "{name}");
    }
}

#[test]
fn every_form_of_an_issue_asks_for_something() {
    let forms = files(".github/ISSUE_TEMPLATE");
    let names: Vec<&str> = forms.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["bug.yml", "config.yml", "documentation.yml", "feature.yml"]
    );
    for (name, text) in forms.iter().filter(|(name, _)| name != "config.yml") {
        for key in ["name: ", "description: ", "labels: [", "body:\n"] {
            let at_start = text.starts_with(key) || text.contains(&format!("\n{key}"));
            assert!(at_start, "{name}: {key}");
        }
        assert!(text.contains("required: true"), "{name}");
    }
    let chooser = read(".github/ISSUE_TEMPLATE/config.yml");
    let link = "\n    url: https://github.com/";
    let (_, url) = chooser
        .split_once(link)
        .expect("a link to report a vulnerability");
    let (repository, _) = url.split_once("/security/advisories/new\n").unwrap();
    let command = format!("gh attestation verify coral-*.tar.gz --repo {repository}\n");
    assert!(read("SECURITY.md").contains(&command), "{repository}");
    let bug = read(".github/ISSUE_TEMPLATE/bug.yml");
    for asked in ["coral --version", "Command", "YAML", "coral doctor"] {
        assert!(bug.contains(asked), "{asked}");
    }
}

#[test]
fn the_site_and_the_workflow_build_the_book_as_the_tests_do() {
    let tools = read("crates/xtask/src/tools/list.rs");
    let (_, tool) = tools.split_once("program: \"mdbook\",").unwrap();
    let (_, tool) = tool.split_once("version: \"v").unwrap();
    let version = tool.split('"').next().unwrap();
    let wanted = format!("cargo install mdbook --version {version} --locked");
    for path in ["netlify.toml", ".github/workflows/docs.yml"] {
        assert!(read(path).contains(&wanted), "{path}: expected {wanted}");
    }
    let book = read("docs/book.toml");
    assert!(book.contains("build-dir = \"../target/book\""));
    assert!(read("netlify.toml").contains("publish = \"target/book\""));
}

/// Regression: a change of the files that the guide includes did not build the site anew.
#[test]
fn the_site_is_built_anew_when_a_file_changes_that_the_book_includes() {
    let mut found = 0;
    for (page, text) in files("docs/src/guide") {
        let includes = text.split("{{#include ../../../").skip(1);
        for path in includes.filter_map(|rest| rest.split("}}").next()) {
            let (folder, _) = path.rsplit_once('/').unwrap();
            let site = read("netlify.toml");
            let mut ignore = site.lines().filter(|line| line.starts_with("ignore = "));
            let ignore = ignore.next().unwrap();
            assert!(ignore.contains(&format!(" {folder} ")), "{page}: {path}");
            let workflow = read(".github/workflows/docs.yml");
            let trigger = format!(" {folder}/**,");
            let triggers = workflow.matches(&trigger);
            assert_eq!(triggers.count(), 2, "{page}: {path}");
            found += 1;
        }
    }
    assert!(found > 0);
}

#[test]
fn redirects_of_the_site_lead_to_pages() {
    let site = read("netlify.toml");
    let pages = site
        .lines()
        .filter_map(|line| line.strip_prefix("to = \"/"));
    let pages: Vec<&str> = pages.filter_map(|to| to.strip_suffix(".html\"")).collect();
    assert!(!pages.is_empty());
    for page in pages {
        assert!(
            root().join(format!("docs/src/{page}.md")).is_file(),
            "{page}"
        );
    }
}
