//! `coral doctor` names problems and what to do about them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/documents.rs"]
mod documents;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/users.rs"]
mod users;

use std::fs;
use std::path::Path;

use certificates::Certificates;
use documents::{Files, registry, secret};
use e2e::{FaultServer, Finished, Up, coral, mirror_yaml, run, scratch, write_yaml};
use serde_json::{Value, json};

/// The doctor's word on a mirror of one image of these hosts, as JSON.
fn doctor(home: &Path, hosts: &[&str], more: &[&str]) -> (Finished, Vec<Value>) {
    let names: Vec<String> = hosts
        .iter()
        .map(|host| format!("{host}/team/app"))
        .collect();
    let list: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let yaml = write_yaml(home, &mirror_yaml("web", &list, ""));
    // Nothing listens there.
    let more = [more, &["--registry", "127.0.0.1:1"]].concat();
    doctor_of(home, &yaml, &more)
}

/// The doctor's word on these files, as JSON.
fn doctor_of(home: &Path, yaml: &Path, more: &[&str]) -> (Finished, Vec<Value>) {
    let mut command = coral();
    command.arg("doctor").arg(yaml).args(["-o", "json"]);
    command.arg("--data").arg(home.join("data"));
    let finished = run(command.args(more).env("HOME", home));
    let value: Value =
        serde_json::from_str(finished.text()).unwrap_or_else(|error| panic!("{error}: {finished}"));
    let checks = value["checks"].as_array().unwrap().clone();
    assert_eq!(value["ok"], finished.code == 0, "{finished}");
    (finished, checks)
}

/// The one finding of a place and check.
fn finding<'a>(checks: &'a [Value], place: &str, check: &str) -> &'a Value {
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
        assert_eq!(finding(&checks, host, check)["level"], "ok", "{finished}");
    }
    let own = finding(&checks, "127.0.0.1:1", "connection");
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
    let name = finding(&checks, hosts[0], "name");
    assert_eq!(name["level"], "fail");
    assert!(name["do"].as_str().unwrap().contains("spelling"), "{name}");
    let connection = finding(&checks, hosts[1], "connection");
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
    let tls = finding(&checks, host, "tls");
    assert!(
        tls["do"]
            .as_str()
            .unwrap()
            .contains(&format!("--ca {host}=FILE")),
        "{tls}"
    );
    // It is said once, and nothing that does not help here.
    assert!(!is_said(tls, "--ca"), "{tls}");
    assert!(!tls.to_string().contains("--plain-http"), "{tls}");
    let with = format!("{host}={}", ca.display());
    let (finished, checks) = doctor(home.path(), &[host], &["--ca", &with]);
    assert_eq!(finished.code, 0, "{finished}");
    let tls = finding(&checks, host, "tls");
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
    let image = json!({"path": "team/app", "tag": "1"}).to_string();
    let source = FaultServer::registry(&["--auth", &auth.to_string(), "--seed-image", &image]);
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
    let clock = finding(&checks, host, "clock");
    assert_eq!(clock["level"], "fail", "{clock}");
    assert!(
        clock["found"].as_str().unwrap().contains("ahead"),
        "{clock}"
    );
    let limit = finding(&checks, host, "rate limit");
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

fn is_said(finding: &Value, what: &str) -> bool {
    finding["found"].as_str().unwrap().contains(what)
}

#[test]
#[ignore = "needs openssl, htpasswd; run by cargo xtask test"]
fn a_registry_document_with_tls_and_users_is_healthy_while_up_runs() {
    let (home, source) = (scratch(), source());
    let tls = Certificates::new(home.path());
    let files = Files::new(home.path());
    let read = |file: String| fs::read_to_string(file).unwrap();
    let (certificate, key) = (read(tls.certificate()), read(tls.key()));
    let pair = [("tls.crt", certificate.as_str()), ("tls.key", key.as_str())];
    files.write("cert.yaml", &[&secret("cert", "kubernetes.io/tls", &pair)]);
    let line = users::line(users::ANNA);
    files.write(
        "users.yaml",
        &[&secret("users", "Opaque", &[("htpasswd", &line)])],
    );
    let spec = "  tls: {secretName: cert}\n  auth:\n    htpasswd: {secretName: users}\n";
    files.write("registry.yaml", &[&registry(spec)]);
    let name = format!("{}/team/app", source.host());
    files.write("mirror.yaml", &[&mirror_yaml("web", &[(&name, "1")], "")]);
    let plain = ["--plain-http", source.host()];
    let up = Up::start(&files.0, &home.path().join("data"), &plain);
    let ca = format!("{}={}", up.host(), tls.ca());
    let more = [&plain[..], &["--registry", up.host(), "--ca", &ca]].concat();
    let (finished, checks) = doctor_of(home.path(), &files.0, &more);
    assert_eq!(finished.code, 0, "{finished}");
    assert!(is_said(
        finding(&checks, up.host(), "tls"),
        "verified, from"
    ));
    let login = finding(&checks, up.host(), "login");
    assert_eq!(login["level"], "warn", "{login}");
    assert!(
        login["do"].as_str().unwrap().contains("coral up"),
        "{login}"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn images_that_are_not_there_fail_one_by_one() {
    let (home, source) = (scratch(), source());
    let (host, index) = (
        source.host(),
        json!({"path": "team/index", "tag": "1", "kind": "index"}),
    );
    source.load(&index);
    let name = |path: &str| format!("{host}/{path}");
    let (app, index, none, listed) = (
        name("team/app"),
        name("team/index"),
        name("team/none"),
        name("team/gone"),
    );
    let yaml = mirror_yaml("web", &[(&app, r#"1", "7"#), (&none, "1")], "")
        + &format!("    - name: {index}\n      tags: [\"1\"]\n      platforms: [linux/s390x]\n")
        + &format!("    - name: {listed}\n      select: {{all: true}}\n");
    let yaml = write_yaml(home.path(), &yaml);
    let more = ["--plain-http", host, "--registry", "127.0.0.1:1"];
    let (finished, checks) = doctor_of(home.path(), &yaml, &more);
    assert_eq!(finished.code, 1, "{finished}");
    let failed = |what: &str| {
        let mut images = checks.iter().filter(|one| one["check"] == "images");
        images.any(|one| one["level"] == "fail" && is_said(one, what))
    };
    assert!(failed(&format!("{app}:7 is not there")), "{finished}");
    assert!(failed(&format!("{none}:1 is not there")), "{finished}");
    assert!(failed("linux/s390x"), "{finished}");
    assert!(failed(&listed), "{finished}");
    assert!(!failed(&format!("{app}:1")), "{finished}");
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn a_destination_that_refuses_pushes_fails_and_one_that_takes_them_is_left_clean() {
    let (home, source) = (scratch(), source());
    let host = source.host();
    let users = users::file(home.path(), &[users::ANNA, users::CI]);
    let storage = home.path().join("storage");
    let mut command = coral();
    command.args(server::arguments(&storage)).arg("--htpasswd");
    command
        .arg(users)
        .args(["--allow-push", "ci=127.0.0.1_*/**"]);
    let destination = server::Server::start_with(&mut command);
    let to = &destination.address;
    let (name, port) = to.split_once(':').unwrap();
    let yaml = mirror_yaml("web", &[(&format!("{host}/team/app"), "1")], "");
    let yaml = yaml.replace("name: local", &format!("{{host: {name}, port: {port}}}"));
    let yaml = yaml.replace("registry:\n    {", "registry: {");
    let yaml = write_yaml(home.path(), &yaml);
    let check = |(user, password): users::Login| {
        let auths = json!({"auths": {to: {"username": user, "password": password}}});
        let file = home.path().join("config.json");
        fs::write(&file, auths.to_string()).unwrap();
        let plain = format!("{host},{to}");
        let config = file.display().to_string();
        let more = ["--plain-http", &plain, "--docker-config", &config];
        doctor_of(home.path(), &yaml, &more)
    };
    let (finished, checks) = check(users::ANNA);
    assert_eq!(finished.code, 1, "{finished}");
    let push = finding(&checks, to, "push");
    assert_eq!(push["level"], "fail", "{push}");
    assert!(is_said(push, "403"), "{push}");
    assert!(push["do"].as_str().unwrap().contains("push"), "{push}");
    let (finished, checks) = check(users::CI);
    assert_eq!(finished.code, 0, "{finished}");
    assert_eq!(finding(&checks, to, "push")["level"], "ok", "{finished}");
    let metrics = e2e::http::request(&[&format!("http://{to}/metrics")]);
    let metrics = String::from_utf8(metrics.body).unwrap();
    let open = metrics
        .lines()
        .find(|line| line.contains("open_uploads") && !line.starts_with('#'));
    assert!(open.is_some_and(|line| line.ends_with(" 0")), "{metrics}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_web_page_in_place_of_a_registry_fails() {
    let (home, source) = (scratch(), source());
    source.fault(&json!({"effect": {"html": {"status": 200}}}));
    let (finished, checks) = doctor(
        home.path(),
        &[source.host()],
        &["--plain-http", source.host()],
    );
    assert_eq!(finished.code, 1, "{finished}");
    let login = finding(&checks, source.host(), "login");
    assert_eq!(login["level"], "fail", "{login}");
    assert!(is_said(login, "HTML page"), "{login}");
}
