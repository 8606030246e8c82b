//! The conformance suite of the OCI distribution-spec, at the released version and the coming one.

#[path = "registry/server.rs"]
mod server;
#[path = "registry/users.rs"]
mod users;

use std::collections::BTreeMap;
use std::process::Command;

use e2e::{coral, report, run, scratch};
use server::{Server, arguments};
use users::CI;

/// Who the suite is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Anybody,
    User,
}

fn check(version: &str, who: As) {
    let folder = scratch();
    let mut command = coral();
    command.args(arguments(&folder.path().join("storage")));
    if who == As::User {
        let users = users::file(folder.path(), &[CI]);
        command.arg("--htpasswd").arg(users);
        command.args(["--allow-push", "ci=**"]);
    }
    let registry = Server::start_with(&mut command);
    let results = folder.path().join("results");
    let mut suite = Command::new("conformance");
    // It reads a configuration file from where it is started.
    suite
        .current_dir(folder.path())
        .env("OCI_VERSION", version)
        .env("OCI_REGISTRY", &registry.address)
        .env("OCI_TLS", "disabled")
        .env("OCI_RESULTS_DIR", &results);
    if who == As::User {
        suite.env("OCI_USERNAME", CI.0).env("OCI_PASSWORD", CI.1);
    }
    let finished = run(&mut suite);
    let totals = totals(&finished.stdout);
    let count = |name: &str| totals.get(name).copied();
    let shown = format!(
        "conformance {version}{}: {} passed, {} failed, {} errors, {} skipped, {} disabled",
        if who == As::User { " with a login" } else { "" },
        count("Pass").unwrap_or(0),
        count("FAIL").unwrap_or(0),
        count("Error").unwrap_or(0),
        count("Skip").unwrap_or(0),
        count("Disabled").unwrap_or(0),
    );
    let failures: Vec<&str> = finished
        .stdout
        .lines()
        .filter(|line| line.ends_with(": FAIL") || line.ends_with(": Error"))
        .collect();
    assert!(
        count("FAIL") == Some(0) && count("Error") == Some(0),
        "{shown}\n{failures:#?}\n{}",
        finished.stderr
    );
    assert!(count("Pass") > Some(400), "too little was tested: {shown}");
    assert_eq!(count("Skip"), Some(0), "something was left out: {shown}");
    report!("{shown}");
}

/// The summary has lines such as `  Pass..........: 429`.
fn totals(report: &str) -> BTreeMap<String, u64> {
    report
        .lines()
        .filter_map(|line| {
            let (name, count) = line.trim().split_once(':')?;
            let name = name.split_once("..").map(|(name, _)| name)?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

#[test]
#[ignore = "needs the release binary and the conformance suite; run by cargo xtask test"]
fn the_released_version_of_the_specification_is_met() {
    check("1.1", As::Anybody);
}

#[test]
#[ignore = "needs the release binary and the conformance suite; run by cargo xtask test"]
fn the_coming_version_of_the_specification_is_met() {
    check("dev", As::Anybody);
}

#[test]
#[ignore = "needs the release binary, the conformance suite and htpasswd; run by cargo xtask test"]
fn the_coming_version_is_met_with_a_login_too() {
    check("dev", As::User);
}

#[test]
fn totals_are_read_from_the_summary() {
    let totals = totals("Result: Pass\n  Pass.....:   12\n  FAIL.....:  0\n");
    assert_eq!(totals.get("Pass"), Some(&12));
    assert_eq!(totals.get("FAIL"), Some(&0));
}
