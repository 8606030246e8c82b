//! What a mirror does over time: several sources, moved tags, nothing to do, changed files, and
//! being stopped in the middle.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "mirror/limits.rs"]
mod limits;
#[path = "mirror/mounts.rs"]
mod mounts;
#[path = "mirror/prefix.rs"]
mod prefix;
#[path = "mirror/upkeep.rs"]
mod upkeep;

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::{
    FaultServer, RegistryProgram, RegistryServer, Request, Up, coral, mirror_yaml, run, scratch,
    until, write_yaml,
};
use serde_json::json;

const SOON: Duration = Duration::from_mins(2);

/// `spec` lines that make a mirror look again every second.
const EVERY_SECOND: &str = "  interval: 1s\n";

fn digest(loaded: &serde_json::Value) -> String {
    loaded["digest"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn two_hosts_with_one_repository_name_do_not_collide() {
    let home = scratch();
    let (one, two) = (FaultServer::registry(&[]), FaultServer::registry(&[]));
    let first = digest(&one.load(&json!({"path": "team/app", "tag": "1", "seed": 1})));
    let second = digest(&two.load(&json!({"path": "team/app", "tag": "1", "seed": 2})));
    assert_ne!(first, second);
    let names = [&one, &two].map(|source| format!("{}/team/app", source.host()));
    let yaml = mirror_yaml("both", &[(&names[0], "1"), (&names[1], "1")], "");
    let yaml = write_yaml(home.path(), &yaml);
    let hosts = format!("{},{}", one.host(), two.host());
    let mut command = Up::command(&yaml, &home.path().join("data"));
    let mut up = Up::start_command(command.env("CORAL_PLAIN_HTTP", hosts));
    for (source, digest) in [(&one, first), (&two, second)] {
        let repository = format!("{}/team/app", source.folder_name());
        assert_eq!(up.wait_for(&repository, "1", SOON), digest);
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_moved_tag_is_followed() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let seed = |seed: u64| json!({"path": "team/app", "tag": "latest", "seed": seed});
    let first = digest(&source.load(&seed(1)));
    let name = format!("{}/team/app", source.host());
    let yaml = write_yaml(
        home.path(),
        &mirror_yaml("moving", &[(&name, "latest")], EVERY_SECOND),
    );
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    let repository = format!("{}/team/app", source.folder_name());
    up.wait_for_digest(&repository, "latest", &first, SOON);
    let second = digest(&source.load(&seed(2)));
    up.wait_for_digest(&repository, "latest", &second, SOON);
    // What the tag was before can still be pulled by digest.
    assert_eq!(up.wait_for(&repository, &first, SOON), first);
}

/// Every request is a HEAD of a manifest, one for each tag.
fn assert_one_head_per_tag(side: &str, requests: &[Request], tags: usize) {
    let other: Vec<&Request> = requests.iter().filter(|r| !r.is_manifest_head()).collect();
    assert!(other.is_empty(), "at the {side}: {other:#?}");
    let mut paths: Vec<&str> = requests
        .iter()
        .map(|request| request.path.as_str())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(
        (requests.len(), paths.len()),
        (tags, tags),
        "at the {side}: {requests:#?}"
    );
}

#[test]
#[ignore = "needs docker-registry, distribution; run by cargo xtask test"]
fn when_nothing_changed_each_side_is_asked_once_per_tag() {
    let home = scratch();
    let origin = FaultServer::registry(&[]);
    for tag in ["1", "2", "3"] {
        let seed: u64 = tag.parse().unwrap();
        origin.load(&json!({"path": "team/app", "tag": tag, "seed": seed, "kind": "index"}));
    }
    let target = RegistryServer::start(RegistryProgram::Distribution);
    let source = FaultServer::proxy(origin.host());
    let destination = FaultServer::proxy(&target.host());
    let (host, port) = destination.host().split_once(':').unwrap();
    let yaml = format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: still\nspec:\n  \
             registry:\n    host: {host}\n    port: {port}\n  repositories:\n    - name: {}/team/app\n      \
             tags: [\"1\", \"2\", \"3\"]\n",
        source.host()
    );
    let yaml = write_yaml(home.path(), &yaml);
    let pass = || {
        let mut command = coral();
        command
            .args(["mirror", "run"])
            .arg(&yaml)
            .env("HOME", home.path());
        command.args([
            "--plain-http",
            source.host(),
            "--plain-http",
            destination.host(),
        ]);
        let _ = run(&mut command).succeeded();
    };
    pass();
    assert!(source.requests().iter().any(Request::reads_blob));
    source.forget();
    destination.forget();
    pass();
    assert_one_head_per_tag("source", &source.requests(), 3);
    assert_one_head_per_tag("destination", &destination.requests(), 3);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn up_reads_no_blob_while_nothing_changes() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let name = format!("{}/team/app", source.host());
    let yaml = write_yaml(
        home.path(),
        &mirror_yaml("still", &[(&name, "1")], EVERY_SECOND),
    );
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    up.wait_for(&format!("{}/team/app", source.folder_name()), "1", SOON);
    // The pass that copied is over once the next one asks.
    source.forget();
    until("three more passes", SOON, || {
        (source.requests().len() >= 3).then_some(())
    });
    let requests = source.requests();
    let rest: Vec<&Request> = requests.iter().filter(|r| !r.is_manifest_head()).collect();
    assert!(rest.is_empty(), "{rest:#?}");
}

fn mirror_file(folder: &Path, name: &str, source: &FaultServer, path: &str) {
    let repository = format!("{}/{path}", source.host());
    let yaml = mirror_yaml(name, &[(&repository, "1")], "");
    fs::write(folder.join(format!("{name}.yaml")), yaml).unwrap();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn changes_of_the_files_are_followed_and_mistakes_are_named() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    for path in ["team/first", "team/second", "team/third"] {
        source.load(&json!({"path": path, "tag": "1"}));
    }
    let folder = home.path().join("mirrors");
    fs::create_dir(&folder).unwrap();
    mirror_file(&folder, "first", &source, "team/first");
    let data = home.path().join("data");
    let mut up = Up::start(&folder, &data, &["--plain-http", source.host()]);
    let mirrored = |path: &str| format!("{}/{path}", source.folder_name());
    up.wait_for(&mirrored("team/first"), "1", SOON);
    mirror_file(&folder, "second", &source, "team/second");
    up.wait_for(&mirrored("team/second"), "1", SOON);
    let broken = mirror_yaml("bad", &[("team/x", "1")], "").replace("repositories", "repostories");
    fs::write(folder.join("bad.yaml"), broken).unwrap();
    let line = up.process().wait_for_line("repostories", SOON);
    assert!(line.contains("bad.yaml:8"), "no file and line in: {line}");
    assert!(
        line.contains("did you mean \"repositories\""),
        "no suggestion in: {line}"
    );
    // A mistake in one file holds nothing else up.
    mirror_file(&folder, "third", &source, "team/third");
    up.wait_for(&mirrored("team/third"), "1", SOON);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_copy_cut_by_ctrl_c_goes_on_where_it_was() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let sizes = [100_000, 200_000, 20_000_000];
    let loaded = source.load(&json!({"path": "team/app", "tag": "1", "layers": sizes}));
    let slow = loaded["blobs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|blob| blob["size"] == 20_000_000);
    let slow = slow.unwrap()["digest"].as_str().unwrap().to_owned();
    source.fault(&json!({
        "on": {"method": "GET", "path": slow}, "times": {"first": 1},
        "effect": {"stall_body": {"after": 5_000_000}},
    }));
    let name = format!("{}/team/app", source.host());
    let yaml = write_yaml(home.path(), &mirror_yaml("cut", &[(&name, "1")], ""));
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    until(
        "the big layer in the middle, the small ones done",
        SOON,
        || {
            let requests = source.requests();
            let reads = requests.iter().filter(|request| request.reads_blob());
            let big = reads
                .clone()
                .any(|r| r.path.ends_with(&slow) && r.sent >= 5_000_000);
            (big && reads.filter(|r| r.sent > 0).count() >= 4).then_some(())
        },
    );
    up.process().signal("INT");
    assert_eq!(up.process().wait(SOON), 0, "{}", up.process().shown());
    source.forget();
    let mut up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    let repository = format!("{}/team/app", source.folder_name());
    assert_eq!(up.wait_for(&repository, "1", SOON), digest(&loaded));
    let requests = source.requests();
    let again: Vec<&Request> = requests
        .iter()
        .filter(|request| request.reads_blob())
        .collect();
    assert!(
        again.iter().all(|r| r.path.ends_with(&slow)),
        "read again: {again:#?}"
    );
}
