//! Copies that are stopped, or fail, in the middle of their uploads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Process, coral, free_port, mirror_yaml, scratch, until, write_yaml};
use serde_json::json;

use crate::rig::{Faulty, IMAGE, SOON, Served, fault, http};

/// A source whose layers stop in the middle, and stay so for longer than the test.
fn stalling() -> Faulty {
    let source = Faulty::with_image();
    let stall = json!({ "stall_body": { "after": 20_000 } });
    source.fault(fault("GET", "/blobs/", stall));
    source
}

/// The uploads that a store holds.
fn uploads(storage: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(storage.join("uploads")).into_iter().flatten();
    found.flatten().map(|entry| entry.path()).collect()
}

/// Whether both large layers are on their way: the source has sent what it sends of them.
fn both_under_way(source: &Faulty, storage: &Path) -> Option<()> {
    let requests = source.requests();
    let stalled = requests
        .iter()
        .filter(|r| r["sent"].as_u64() == Some(20_000));
    (stalled.count() >= 2 && uploads(storage).len() >= 2).then_some(())
}

/// Waits for uploads in the store, and stops the program.
fn stop_under_way(
    source: &Faulty,
    (mut process, storage): (Process, &Path),
    signal: &str,
    code: i32,
) {
    until("uploads under way", SOON, || {
        both_under_way(source, storage)
    });
    process.signal(signal);
    assert_eq!(process.wait(SOON), code, "{}", process.shown());
}

/// Waits for uploads in the store, stops the program, and looks at what it left there.
fn leaves_nothing(source: &Faulty, started: (Process, &Path), signal: &str, code: i32) {
    let storage = started.1;
    stop_under_way(source, started, signal, code);
    assert_eq!(uploads(storage), [""; 0].map(PathBuf::from));
}

fn plain(command: &mut Command, hosts: &[&str]) {
    for host in hosts {
        command.args(["--plain-http", host]);
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_copy_that_is_stopped_leaves_no_upload() {
    for signal in ["INT", "TERM"] {
        let (source, folder) = (stalling(), scratch());
        let served = Served::start(folder.path());
        let to = format!("{}/{IMAGE}", served.host);
        let mut command = coral();
        command.args(["copy", &source.at(IMAGE), &to]);
        plain(&mut command, &[&source.host, &served.host]);
        leaves_nothing(
            &source,
            (Process::start(&mut command), folder.path()),
            signal,
            1,
        );
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_mirror_run_that_is_stopped_leaves_no_upload() {
    let (source, home, folder) = (stalling(), scratch(), scratch());
    let served = Served::start(folder.path());
    let yaml = mirror_yaml("m", &[(&source.at("team/app"), "1")], "");
    let yaml = write_yaml(home.path(), &yaml);
    let mut command = coral();
    command.args(["mirror", "run"]).arg(yaml);
    command.args(["--registry", &served.host]);
    plain(&mut command, &[&source.host, &served.host]);
    leaves_nothing(
        &source,
        (Process::start(&mut command), folder.path()),
        "INT",
        1,
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn up_that_is_stopped_goes_on_with_its_uploads_at_the_next_start_and_leaves_none() {
    let (source, home) = (stalling(), scratch());
    let data = home.path().join("data");
    let yaml = mirror_yaml("m", &[(&source.at("team/app"), "1")], "");
    let yaml = write_yaml(home.path(), &yaml);
    // An upload goes on where the registry has the address of before.
    let mut command = coral();
    command.arg("up").arg(&yaml).arg("--data").arg(&data);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port())]);
    command.env("HOME", home.path());
    plain(&mut command, &[&source.host]);
    let storage = data.join("registry");
    stop_under_way(&source, (Process::start(&mut command), &storage), "TERM", 0);
    let kept = uploads(&storage);
    assert!(!kept.is_empty(), "what had come of the layers is kept");
    source.clear_faults();
    let mut again = Process::start(&mut command);
    again.wait_for_line("mirrored ", SOON);
    assert_eq!(uploads(&storage), [""; 0].map(PathBuf::from));
    again.signal("TERM");
    assert_eq!(again.wait(SOON), 0, "{}", again.shown());
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_copy_whose_blob_is_not_there_leaves_no_upload_of_the_others() {
    let (source, folder) = (Faulty::start(), scratch());
    source.load(&json!({ "path": "team/app", "tag": "1", "layers": [200_000, 150_000, 500] }));
    let served = Served::start(folder.path());
    let answer = http(&source.host, "GET", "/v2/team/app/manifests/1", b"").json();
    let refused = answer["layers"][2]["digest"].as_str().expect("a digest");
    // It is refused once the others have begun; these stop in the middle.
    source.fault(fault("GET", refused, json!({ "hold": { "gate": "late" } })));
    source.fault(fault(
        "GET",
        refused,
        json!({ "status": { "status": 404 } }),
    ));
    let stall = json!({ "stall_body": { "after": 20_000 } });
    source.fault(fault("GET", "/blobs/", stall));
    let to = format!("{}/{IMAGE}", served.host);
    let mut command = coral();
    command.args(["copy", &source.at(IMAGE), &to]);
    plain(&mut command, &[&source.host, &served.host]);
    let mut process = Process::start(&mut command);
    until("uploads under way", SOON, || {
        both_under_way(&source, folder.path())
    });
    source.release("late");
    assert_eq!(process.wait(SOON), 1, "{}", process.shown());
    assert_eq!(uploads(folder.path()), [""; 0].map(PathBuf::from));
}
