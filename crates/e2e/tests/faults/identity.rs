//! Credentials, tokens and certificates.

use e2e::{coral, run};
use serde_json::{Value, json};

use crate::rig::{Faulty, IMAGE, Pair, copy, fault, first, folder_with, image, says_one_of};

/// A Docker configuration that knows the name and password of these hosts.
fn docker_config(hosts: &[&str]) -> String {
    let auths: serde_json::Map<String, Value> = hosts
        .iter()
        // "user:secret-word" in base64.
        .map(|host| {
            (
                (*host).to_owned(),
                json!({ "auth": "dXNlcjpzZWNyZXQtd29yZA==" }),
            )
        })
        .collect();
    json!({ "auths": auths }).to_string()
}

/// Asks for tokens, given to `user` with `secret-word`.
fn bearer(more: &Value) -> Value {
    let mut bearer = json!({ "username": "user", "password": "secret-word" });
    for (key, value) in more.as_object().into_iter().flatten() {
        bearer[key] = value.clone();
    }
    json!({ "bearer": bearer })
}

/// Copies with credentials for the source.
fn copy_with_credentials(pair: &Pair) -> e2e::Finished {
    let (_folder, file) = folder_with("config.json", &docker_config(&[&pair.source.host]));
    let (from, to) = (pair.source.at(IMAGE), pair.destination.at(IMAGE));
    let mut command = copy(&from, &to, &[&pair.source, &pair.destination]);
    let finished = run(command.arg("--docker-config").arg(file));
    assert!(!finished.stderr.contains("secret-word"), "{finished}");
    assert!(!finished.stderr.contains("dXNlcjp"), "{finished}");
    finished
}

fn authorized(registry: &Faulty) -> usize {
    let requests = registry.requests();
    requests
        .iter()
        .filter(|r| r["authorization"].is_string())
        .count()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn tokens_that_expire_in_the_middle_are_fetched_again() {
    let pair = Pair::start();
    // More uses than requests at a time, fewer than a copy needs.
    let short = json!({ "uses": 12, "announced_seconds": 3600 });
    pair.source.ask_for(&bearer(&short));
    let finished = copy_with_credentials(&pair).succeeded();
    assert!(pair.source.tokens() > 1, "one token was enough: {finished}");
    assert_eq!(pair.destination.difference(&image()), None, "{finished}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_token_server_that_is_ill_is_not_mistaken_for_a_wrong_password() {
    let cases = [
        (json!({ "status": { "status": 503 } }), "503"),
        (json!({ "garbage": { "status": 200 } }), "token"),
        (json!({ "html": { "status": 200 } }), "token"),
        (json!("close"), "token"),
    ];
    for (effect, word) in cases {
        let pair = Pair::start();
        pair.source.ask_for(&bearer(&Value::Null));
        pair.source.fault(fault("", "/token", effect));
        let finished = copy_with_credentials(&pair)
            .exited(1)
            .saying(&pair.source.host);
        says_one_of(&finished, &[word]);
        let said = finished.stderr.to_lowercase();
        assert!(!said.contains("wrong password"), "{finished}");
        pair.source.clear_faults();
        let _ = copy_with_credentials(&pair).succeeded();
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_token_server_that_fails_once_is_asked_again() {
    let pair = Pair::start();
    pair.source.ask_for(&bearer(&Value::Null));
    pair.source.fault(first(
        1,
        fault("", "/token", json!({ "status": { "status": 503 } })),
    ));
    let _ = copy_with_credentials(&pair).succeeded();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_wrong_password_is_named_and_not_shown() {
    let pair = Pair::start();
    pair.source
        .ask_for(&json!({ "basic": { "username": "user", "password": "another" } }));
    let finished = copy_with_credentials(&pair)
        .exited(1)
        .saying(&pair.source.host);
    says_one_of(&finished, &["unauthorized", "credential", "401"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn no_credential_is_named_as_such() {
    let pair = Pair::start();
    pair.source.ask_for(&bearer(&Value::Null));
    let host = pair.source.host.clone();
    let finished = pair.copy().exited(1).saying(&host);
    says_one_of(&finished, &["credential", "unauthorized", "log in", "401"]);
    assert_eq!(pair.destination.tags("team/app"), [""; 0]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_credential_does_not_follow_a_redirect_to_another_host() {
    for auth in [
        bearer(&Value::Null),
        json!({ "basic": { "username": "user", "password": "secret-word" } }),
    ] {
        let pair = Pair::start();
        let storage = Faulty::with_image();
        pair.source.ask_for(&auth);
        let redirect = json!({ "redirect": { "to": format!("http://{}", storage.host) } });
        pair.source.fault(fault("GET", "/blobs/", redirect));
        let finished = copy_with_credentials(&pair).succeeded();
        assert_eq!(pair.destination.difference(&image()), None, "{finished}");
        assert!(
            !storage.requests().is_empty(),
            "no redirect was followed: {finished}"
        );
        assert_eq!(
            authorized(&storage),
            0,
            "the credential went to another host"
        );
        assert_eq!(
            authorized(&pair.destination),
            0,
            "the credential went to the destination"
        );
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_password_is_not_sent_to_a_token_server_in_the_clear_text_of_another_scheme() {
    // The realm names another host: a token may be fetched there, as Docker Hub does it, but an
    // answer from there must not make the client send its password anywhere else.
    let pair = Pair::start();
    let elsewhere = Faulty::start();
    elsewhere.ask_for(&bearer(&Value::Null));
    elsewhere.fault(fault(
        "",
        "/token",
        json!({ "redirect": { "to": format!("http://{}", pair.destination.host) } }),
    ));
    pair.source.ask_for(&bearer(
        &json!({ "realm": format!("http://{}/token", elsewhere.host) }),
    ));
    let _ = copy_with_credentials(&pair).exited(1);
    assert_eq!(
        authorized(&pair.destination),
        0,
        "the password followed a redirect"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_certificate_of_an_unknown_ca_is_named_and_can_be_given() {
    let folder = e2e::scratch();
    let ca = folder.path().join("ca.pem");
    let seed = image().to_string();
    let ca_out = ca.to_str().expect("a plain path");
    let source = Faulty::start_with(&["--tls", "--ca-out", ca_out, "--seed-image", &seed]);
    let destination = Faulty::start();
    let (from, to) = (source.at(IMAGE), destination.at(IMAGE));
    let finished = run(&mut copy(&from, &to, &[&destination]))
        .exited(1)
        .saying(&source.host);
    says_one_of(&finished, &["certificate", "tls", "--ca"]);
    let mut trusting = copy(&from, &to, &[&destination]);
    let _ = run(trusting.args(["--ca", &format!("{}={ca_out}", source.host)])).succeeded();
    assert_eq!(destination.difference(&image()), None);
    let mut careless = copy(&from, &to, &[&destination]);
    let _ = run(careless.args(["--skip-tls-verify", &source.host])).succeeded();
}

/// A mirror of one image into another host, with more said of that host.
fn mirror_into(name: &str, from: &str, into: &str, of_host: &str, more: &str) -> String {
    let (host, port) = into.split_once(':').expect("host and port");
    format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: {name}\nspec:\n{more}  \
         registry: {{host: {host}, port: {port}{of_host}}}\n  repositories:\n    - name: \
         {from}/team/app\n      tags: [\"1\"]\n"
    )
}

/// Regression: what one mirror said of its destination held for every mirror's sources, and for
/// other mirrors' destinations.
#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_mirror_that_takes_any_certificate_from_its_destination_does_so_for_nothing_else() {
    let seed = image().to_string();
    let secured = Faulty::start_with(&["--tls", "--seed-image", &seed]);
    let plain = Faulty::start();
    plain.load(&image());
    let careless = ", tlsVerify: false";
    let suspended = mirror_into(
        "a",
        &plain.host,
        &secured.host,
        careless,
        "  suspend: true\n",
    );
    let reading = mirror_into("b", &secured.host, &plain.host, "", "");
    let writing = mirror_into("c", &plain.host, &secured.host, "", "");
    let (_folder, file) = folder_with(
        "m.yaml",
        &format!("{suspended}---\n{reading}---\n{writing}"),
    );
    let pass = || {
        let mut command = coral();
        command.args(["mirror", "run", "--plain-http", &plain.host]);
        command
    };
    let finished = run(pass().arg(&file)).exited(1);
    says_one_of(&finished, &["certificate"]);
    assert!(
        finished.stdout.contains("0 of 2 images mirrored"),
        "{finished}"
    );
    // It does so for its own destination.
    let (_folder, file) = folder_with(
        "m.yaml",
        &mirror_into("a", &plain.host, &secured.host, careless, ""),
    );
    let _ = run(pass().arg(&file)).succeeded();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_registry_on_loopback_without_tls_is_copied_from_and_to_without_a_flag() {
    let pair = Pair::start();
    let (from, to) = (pair.source.at(IMAGE), pair.destination.at(IMAGE));
    let _ = run(&mut copy(&from, &to, &[])).succeeded();
    let _ = run(&mut copy(&to, &from, &[])).succeeded();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_dead_port_and_an_unknown_name_are_told_apart() {
    let destination = Faulty::start();
    let dead = format!("127.0.0.1:{}", e2e::free_port());
    let to = destination.at(IMAGE);
    let finished = run(&mut copy(&format!("{dead}/{IMAGE}"), &to, &[&destination]));
    let finished = finished.exited(1).saying(&dead);
    says_one_of(&finished, &["refused", "connect"]);
    let finished = run(&mut copy(
        &format!("registry.invalid/{IMAGE}"),
        &to,
        &[&destination],
    ));
    let finished = finished.exited(1).saying("registry.invalid");
    says_one_of(&finished, &["dns", "resolve", "lookup", "name"]);
}
