//! The access log of a registry: who did what, from where, and how much.

use std::path::Path;

use e2e::http::{Answer, get, request};
use e2e::{Process, scratch, sha256, until};
use serde_json::{Value, json};

use super::users::{self, CI};
use super::{SOON, lines, serve_with};

/// The lines of the access log with this message, once there are so many.
fn told(process: &Process, message: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} lines {message:?}"), SOON, || {
        let lines = lines(process).into_iter();
        let found = lines.filter(|line| {
            line["target"] == "coral_registry::access" && line["fields"]["message"] == message
        });
        let found: Vec<Value> = found.collect();
        (found.len() >= count).then_some(found)
    })
}

fn fields(line: &Value, names: &[&str]) -> Value {
    let found = names
        .iter()
        .map(|&name| (name.to_owned(), line["fields"][name].clone()));
    Value::Object(found.collect())
}

/// A request with a body, as this user.
fn send(home: &Path, method: &str, user: &str, url: &str, kind: &str, body: &[u8]) -> Answer {
    let file = home.join("body");
    std::fs::write(&file, body).unwrap();
    let (data, kind) = (
        format!("@{}", file.display()),
        format!("Content-Type: {kind}"),
    );
    request(&[
        "-X",
        method,
        "-u",
        user,
        "-H",
        &kind,
        "--data-binary",
        &data,
        url,
    ])
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest whose configuration is the empty object, with this annotation.
fn manifest(text: &str) -> Vec<u8> {
    let config = json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2,
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [],
        "annotations": {"text": text},
    });
    manifest.to_string().into_bytes()
}

#[test]
#[ignore = "needs the release binary, htpasswd; run by cargo xtask test"]
fn pushes_deletions_moved_tags_and_failed_logins_are_told_with_who_and_how_much() {
    let home = scratch();
    let file = users::file(home.path(), &[CI]);
    let (file, grant) = (file.to_str().unwrap(), "ci=team/**");
    let more = ["--htpasswd", file, "--allow-push", grant];
    let (process, host) = serve_with(home.path(), "warn,coral_registry::access=info", &more);
    let user = format!("{}:{}", CI.0, CI.1);
    let at = |path: &str| format!("http://{host}/v2/team/app/{path}");
    let send = |method, path: &str, kind, body: &[u8]| {
        send(home.path(), method, &user, &at(path), kind, body).status
    };
    let blob = sha256(b"{}");
    let whole = format!("blobs/uploads/?digest={blob}");
    assert_eq!(send("POST", &whole, "application/octet-stream", b"{}"), 201);
    let (first, second) = (manifest("first"), manifest("second"));
    for manifest in [&first, &second] {
        assert_eq!(send("PUT", "manifests/1", MANIFEST, manifest), 201);
    }
    let auth = ["-u", &user, "-X", "DELETE"];
    let deleted = request(&[&auth[..], &[&at("manifests/1")]].concat());
    assert_eq!(deleted.status, 202);
    for wrong in ["ci:not-this", "hunter2-as-a-name:x"] {
        let refused = request(&["-u", wrong, &at("tags/list?token=not-to-be-logged")]);
        assert_eq!(refused.status, 401);
    }
    let read = request(&["-u", &user, &at("tags/list")]);
    assert_eq!(read.status, 200);
    let who =
        json!({"caller": "user", "user": "ci", "from": "127.0.0.1", "repository": "team/app"});
    // Blobs are told at debug: a push is one line.
    let pushed = told(&process, "pushed", 2);
    assert_eq!(pushed.len(), 2, "{pushed:?}");
    let names = ["status", "received", "size", "method"];
    let expected = json!({
        "status": 201, "received": first.len(), "size": first.len(), "method": "PUT",
    });
    assert_eq!(fields(&pushed[0], &names), expected);
    for line in &pushed {
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(fields(line, &["caller", "user", "from", "repository"]), who);
        assert!(line["fields"]["seconds"].as_f64().unwrap() > 0.0, "{line}");
    }
    let (one, two) = (sha256(&first), sha256(&second));
    let moved = told(&process, "tag moved", 1);
    let names = ["user", "tag", "before", "digest", "size"];
    let expected =
        json!({"user": "ci", "tag": "1", "before": one, "digest": two, "size": Value::Null});
    assert_eq!(fields(&moved[0], &names), expected);
    let size = json!({"digest": two, "size": second.len(), "reference": "1"});
    assert_eq!(fields(&pushed[1], &["digest", "size", "reference"]), size);
    let deleted = told(&process, "deleted", 1);
    assert_eq!(
        fields(&deleted[0], &["user", "reference", "digest", "tags"]),
        json!({"user": "ci", "reference": "1", "digest": two, "tags": "1"})
    );
    let failed = told(&process, "login failed", 2);
    let by = fields(&failed[0], &["user", "from", "status", "path"]);
    let expected = json!({
        "user": "ci", "from": "127.0.0.1", "status": 401, "path": "/v2/team/app/tags/list",
    });
    assert_eq!(by, expected);
    assert_eq!(failed[1]["fields"]["user"], Value::Null, "{}", failed[1]);
    let log = process.stderr();
    for secret in ["hunter2", "not-to-be-logged", "not-this", CI.1] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(!log.contains("\"answered\""), "reads are for debug: {log}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn reads_are_told_at_debug_with_what_was_sent() {
    let home = scratch();
    let (process, host) = serve_with(home.path(), "warn,coral_registry::access=debug", &[]);
    let (bytes, at) = (vec![7; 300_000], format!("http://{host}/v2/a"));
    let blob = sha256(&bytes);
    let push = format!("{at}/blobs/uploads/?digest={blob}");
    let kind = "application/octet-stream";
    let pushed = send(home.path(), "POST", "any:body", &push, kind, &bytes);
    assert_eq!(pushed.status, 201);
    let line = &told(&process, "pushed", 1)[0];
    let of_blob = fields(line, &["status", "received", "size", "digest", "method"]);
    let length = bytes.len();
    let expected = json!({
        "status": 201, "received": length, "size": length, "digest": blob, "method": "POST",
    });
    assert_eq!((&line["level"], of_blob), (&json!("DEBUG"), expected));
    let answer = get(&format!("{at}/blobs/{blob}"));
    assert_eq!(answer.body.len(), bytes.len());
    let read = told(&process, "answered", 1);
    let names = ["caller", "user", "method", "reference", "status", "sent"];
    let expected = json!({
        "caller": "anonymous", "user": Value::Null, "method": "GET", "reference": blob,
        "status": 200, "sent": bytes.len(),
    });
    assert_eq!(fields(&read[0], &names), expected);
    assert_eq!(read[0]["level"], "DEBUG");
    assert!(read[0]["span"]["id"].is_string(), "{}", read[0]);
}
