//! `coral mirror run` and `coral up` with sources that fail.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{Process, coral, run, scratch, until};
use serde_json::{Value, json};

use crate::rig::{Faulty, SOON, Served, fault, folder_with, http, image};

/// A mirror of one repository; `what` says which of its images.
pub(crate) fn yaml(host: &str, path: &str, what: &str) -> String {
    let name = path.replace('/', "-");
    format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: {name}\nspec:\n  \
         registry:\n    name: local\n  repositories:\n    - name: {host}/{path}\n      {what}\n"
    )
}

/// One pass over a file, into a registry of Coral's, from a source over plain HTTP.
pub(crate) fn run_once(file: &Path, into: &Served, from: &Faulty) -> Command {
    let mut command = coral();
    command.args(["mirror", "run"]).arg(file);
    command.args(["--registry", &into.host, "--plain-http", &from.host]);
    command
}

/// What Coral's registry answers for an image that it mirrors from `source`.
fn mirrored(into: &str, source: &Faulty, path: &str, tag: &str) -> Option<Vec<u8>> {
    let folder = source.host.replace(':', "_");
    let answer = http(
        into,
        "GET",
        &format!("/v2/{folder}/{path}/manifests/{tag}"),
        b"",
    );
    assert!([200, 404].contains(&answer.status), "{}", answer.text());
    (answer.status == 200).then_some(answer.body)
}

fn original(source: &Faulty, path: &str, tag: &str) -> Vec<u8> {
    let answer = http(
        &source.host,
        "GET",
        &format!("/v2/{path}/manifests/{tag}"),
        b"",
    );
    assert_eq!(answer.status, 200);
    answer.body
}

fn two_images(source: &Faulty) -> String {
    source.load(&image());
    source.load(&json!({ "path": "team/bad", "tag": "1", "seed": 7 }));
    let good = yaml(&source.host, "team/app", "tags: [\"1\"]");
    let bad = yaml(&source.host, "team/bad", "tags: [\"1\"]");
    format!("{bad}---\n{good}")
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn one_failing_image_does_not_hold_another_back() {
    let source = Faulty::start();
    let (_folder, file) = folder_with("mirrors.yaml", &two_images(&source));
    let storage = scratch();
    let registry = Served::start(storage.path());
    source.fault(fault(
        "",
        "/team/bad/",
        json!({ "status": { "status": 403 } }),
    ));
    let finished = run(&mut run_once(&file, &registry, &source))
        .exited(1)
        .saying("team/bad");
    let copied = mirrored(&registry.host, &source, "team/app", "1");
    assert_eq!(
        copied,
        Some(original(&source, "team/app", "1")),
        "{finished}"
    );
    assert_eq!(mirrored(&registry.host, &source, "team/bad", "1"), None);
    source.clear_faults();
    let _ = run(&mut run_once(&file, &registry, &source)).succeeded();
    let copied = mirrored(&registry.host, &source, "team/bad", "1");
    assert_eq!(copied, Some(original(&source, "team/bad", "1")));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_tag_stays_what_it_was_while_its_source_lies() {
    let source = Faulty::start();
    source.load(&image());
    let before = original(&source, "team/app", "1");
    let (_folder, file) = folder_with("m.yaml", &yaml(&source.host, "team/app", "tags: [\"1\"]"));
    let storage = scratch();
    let registry = Served::start(storage.path());
    let _ = run(&mut run_once(&file, &registry, &source)).succeeded();
    source.load(&json!({ "path": "team/app", "tag": "1", "seed": 99 }));
    source.fault(fault("GET", "/blobs/", json!({ "flip_byte": { "at": 5 } })));
    let _ = run(&mut run_once(&file, &registry, &source))
        .exited(1)
        .saying(&source.host);
    assert_eq!(
        mirrored(&registry.host, &source, "team/app", "1"),
        Some(before)
    );
    source.clear_faults();
    let _ = run(&mut run_once(&file, &registry, &source)).succeeded();
    let after = mirrored(&registry.host, &source, "team/app", "1");
    assert_eq!(after, Some(original(&source, "team/app", "1")));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn coral_up_goes_on_by_itself_once_the_source_is_well_again() {
    let source = Faulty::start();
    let (folder, _file) = folder_with("mirrors.yaml", &two_images(&source));
    source.fault(fault(
        "",
        "/team/bad/",
        json!({ "status": { "status": 503 } }),
    ));
    let data = scratch();
    let mut command = coral();
    command
        .arg("up")
        .arg(folder.path())
        .args(["--listen", "127.0.0.1:0", "--data"]);
    command
        .arg(data.path())
        .args(["--plain-http", &source.host]);
    let mut up = Served::from(Process::start(&mut command));
    let patience = Duration::from_mins(2);
    until("the good image", patience, || {
        mirrored(&up.host, &source, "team/app", "1")
    });
    up.process.wait_for_line("503", patience);
    assert_eq!(mirrored(&up.host, &source, "team/bad", "1"), None);
    source.clear_faults();
    let copied = until("the other image", patience, || {
        mirrored(&up.host, &source, "team/bad", "1")
    });
    assert_eq!(copied, original(&source, "team/bad", "1"));
    up.process.signal("INT");
    assert_eq!(up.process.wait(SOON), 0, "{}", up.process.shown());
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_failing_source_is_not_hammered() {
    let source = Faulty::start();
    let (folder, _file) = folder_with("mirrors.yaml", &two_images(&source));
    source.fault(fault("", "/v2/", json!({ "status": { "status": 500 } })));
    let data = scratch();
    let mut command = coral();
    command
        .arg("up")
        .arg(folder.path())
        .args(["--listen", "127.0.0.1:0", "--data"]);
    command
        .arg(data.path())
        .args(["--plain-http", &source.host]);
    let mut up = Served::from(Process::start(&mut command));
    up.process.wait_for_line("500", Duration::from_mins(1));
    let begin = std::time::Instant::now();
    until("ten seconds to pass", Duration::from_secs(20), || {
        (begin.elapsed() > Duration::from_secs(10)).then_some(())
    });
    let requests = source.requests().len();
    assert!(
        (2..60).contains(&requests),
        "{requests} requests in ten seconds\n{}",
        up.process.shown()
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_pass_in_json_names_what_failed_and_why() {
    let source = Faulty::start();
    let (_folder, file) = folder_with("mirrors.yaml", &two_images(&source));
    let storage = scratch();
    let registry = Served::start(storage.path());
    source.fault(fault(
        "",
        "/team/bad/",
        json!({ "status": { "status": 404 } }),
    ));
    let finished = run(run_once(&file, &registry, &source).args(["-o", "json"])).exited(1);
    let result: Value = serde_json::from_str(finished.text()).expect("JSON on standard output");
    let images = result["images"].as_array().unwrap();
    let bad = images.iter().find(|image| image["category"].is_string());
    let bad = bad.expect("one image failed");
    assert!(bad["reference"].as_str().unwrap().contains("team/bad"));
    assert_eq!(bad["category"], "not_found", "{finished}");
    assert_eq!(bad["state"], "Error", "{finished}");
    assert_eq!(result["summary"]["failed"], 1, "{finished}");
}
