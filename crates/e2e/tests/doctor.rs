//! `coral doctor`: what is wrong is named, with what to do about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use e2e::{FaultServer, Finished, coral, mirror_yaml, run, scratch, write_yaml};
use serde_json::{Value, json};

/// The doctor's word on a mirror of one image of these hosts, as JSON.
fn doctor(home: &Path, hosts: &[&str], more: &[&str]) -> (Finished, Vec<Value>) {
    let names: Vec<String> = hosts
        .iter()
        .map(|host| format!("{host}/team/app"))
        .collect();
    let list: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let yaml = write_yaml(home, &mirror_yaml("web", &list, ""));
    let mut command = coral();
    command
        .arg("doctor")
        .arg(yaml)
        .args(["-o", "json"])
        .args(more);
    // Nothing listens there.
    command.args(["--registry", "127.0.0.1:1"]);
    command
        .arg("--data")
        .arg(home.join("data"))
        .env("HOME", home);
    let finished = run(&mut command);
    let value: Value =
        serde_json::from_str(finished.text()).unwrap_or_else(|error| panic!("{error}: {finished}"));
    let checks = value["checks"].as_array().unwrap().clone();
    assert_eq!(value["ok"], finished.code == 0, "{finished}");
    (finished, checks)
}

/// The one finding of a place and check.
fn of<'a>(checks: &'a [Value], place: &str, check: &str) -> &'a Value {
    let found = checks
        .iter()
        .find(|one| one["place"] == place && one["check"] == check);
    found.unwrap_or_else(|| panic!("nothing on {check} of {place} in {checks:#?}"))
}

fn source() -> FaultServer {
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    source
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_healthy_source_is_ok_and_a_registry_that_does_not_run_yet_is_a_warning() {
    let (home, source) = (scratch(), source());
    let host = source.host();
    let (finished, checks) = doctor(home.path(), &[host], &["--plain-http", host]);
    assert_eq!(finished.code, 0, "{finished}");
    for check in ["name", "connection", "tls", "login", "images", "clock"] {
        assert_eq!(of(&checks, host, check)["level"], "ok", "{finished}");
    }
    let own = of(&checks, "127.0.0.1:1", "connection");
    assert_eq!(own["level"], "warn");
    assert!(own["do"].as_str().unwrap().contains("coral up"), "{own}");
    let disk = checks.iter().find(|one| one["check"] == "disk").unwrap();
    assert!(disk["found"].as_str().unwrap().contains("free"), "{disk}");
    let blobs = source
        .requests()
        .into_iter()
        .filter(e2e::Request::reads_blob);
    assert_eq!(blobs.count(), 0, "the doctor copies nothing");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_name_that_does_not_resolve_and_a_closed_port_fail_with_advice() {
    let home = scratch();
    let hosts = ["no-such-host.invalid", "127.0.0.1:2"];
    let (finished, checks) = doctor(home.path(), &hosts, &[]);
    assert_eq!(finished.code, 1, "{finished}");
    let name = of(&checks, hosts[0], "name");
    assert_eq!(name["level"], "fail");
    assert!(name["do"].as_str().unwrap().contains("spelling"), "{name}");
    let connection = of(&checks, hosts[1], "connection");
    assert_eq!(connection["level"], "fail", "{finished}");
    assert!(
        connection["do"].as_str().unwrap().contains("firewall"),
        "{connection}"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_unknown_authority_fails_and_a_known_one_is_verified() {
    let home = scratch();
    let ca = home.path().join("ca.pem");
    let image = json!({"path": "team/app", "tag": "1"}).to_string();
    let source = FaultServer::registry(&[
        "--tls",
        "--ca-out",
        ca.to_str().unwrap(),
        "--seed-image",
        &image,
    ]);
    let host = source.host();
    let (finished, checks) = doctor(home.path(), &[host], &[]);
    assert_eq!(finished.code, 1, "{finished}");
    let tls = of(&checks, host, "tls");
    assert!(
        tls["do"]
            .as_str()
            .unwrap()
            .contains(&format!("--ca {host}=FILE")),
        "{tls}"
    );
    let with = format!("{host}={}", ca.display());
    let (finished, checks) = doctor(home.path(), &[host], &["--ca", &with]);
    assert_eq!(finished.code, 0, "{finished}");
    let tls = of(&checks, host, "tls");
    assert!(
        tls["found"].as_str().unwrap().starts_with("verified, from"),
        "{tls}"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_login_that_is_needed_is_said() {
    let home = scratch();
    let auth = json!({"basic": {"username": "user", "password": "needed-word"}});
    e2e::passwords_in(&auth);
    let source = FaultServer::registry(&["--auth", &auth.to_string()]);
    let host = source.host();
    let (finished, checks) = doctor(home.path(), &[host], &["--plain-http", host]);
    assert_eq!(finished.code, 1, "{finished}");
    let refused = checks.iter().find(|one| one["level"] == "fail").unwrap();
    assert_eq!(refused["place"], host, "{refused}");
    let advice = refused["do"].as_str().unwrap();
    assert!(
        advice.contains("docker login") && advice.contains("imagePullSecrets"),
        "{advice}"
    );
    let config = json!({"auths": {host: {"username": "user", "password": "needed-word"}}});
    let file = home.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let more = [
        "--plain-http",
        host,
        "--docker-config",
        file.to_str().unwrap(),
    ];
    let (finished, _) = doctor(home.path(), &[host], &more);
    assert_eq!(finished.code, 0, "{finished}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_clock_that_is_off_and_a_rate_limit_that_is_used_up_are_said() {
    let (home, source) = (scratch(), source());
    let host = source.host();
    let set = |name: &str, value: &str, path: &str| {
        source.fault(&json!({"on": {"path": path}, "effect": {"set_header": {"name": name, "value": value}}}));
    };
    set("date", "Mon, 06 Jan 2020 10:00:00 GMT", "/v2/");
    set("ratelimit-limit", "100;w=21600", "/manifests/");
    set("ratelimit-remaining", "4;w=21600", "/manifests/");
    let (finished, checks) = doctor(home.path(), &[host], &["--plain-http", host]);
    assert_eq!(finished.code, 1, "{finished}");
    let clock = of(&checks, host, "clock");
    assert_eq!(clock["level"], "fail", "{clock}");
    assert!(
        clock["found"].as_str().unwrap().contains("ahead"),
        "{clock}"
    );
    let limit = of(&checks, host, "rate limit");
    assert_eq!(limit["level"], "warn", "{limit}");
    assert!(
        limit["found"]
            .as_str()
            .unwrap()
            .starts_with("4 of 100 requests left"),
        "{limit}"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn for_people_there_is_a_line_for_each_check() {
    let (home, source) = (scratch(), source());
    let name = format!("{}/team/app", source.host());
    let yaml = write_yaml(home.path(), &mirror_yaml("web", &[(&name, "1")], ""));
    let mut command = coral();
    command
        .arg("doctor")
        .arg(yaml)
        .args(["--plain-http", source.host()]);
    command
        .args(["--registry", "127.0.0.1:1", "--data"])
        .arg(home.path());
    let told = run(command.env("HOME", home.path())).succeeded().stdout;
    assert!(told.contains(&format!("OK    {}", source.host())), "{told}");
    assert!(
        told.contains("WARN  127.0.0.1:1") && told.contains("-> "),
        "{told}"
    );
}
