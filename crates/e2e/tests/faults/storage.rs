//! Ports, folders and disks that cannot be used.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Finished, Process, Up, coral, run, scratch};
use serde_json::json;
use tempfile::TempDir;

use crate::rig::{Faulty, SOON, Served, copy, folder_with, http, says_one_of};

/// A file system in memory, of a size that can be changed; it goes away with the test.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    fn with_size(size: &str) -> Self {
        let disk = Self { folder: scratch() };
        disk.mount(&format!("size={size}"));
        disk
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn mount(&self, options: &str) {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.path());
        let _ = run(&mut command).succeeded();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn serve(listen: &str, storage: &Path) -> Finished {
    let mut command = coral();
    command.args(["registry", "serve", "--listen", listen, "--storage"]);
    run(command.arg(storage))
}

fn up(folder: &Path, listen: &str, data: &Path) -> Finished {
    let mut command = coral();
    command
        .arg("up")
        .arg(folder)
        .args(["--listen", listen, "--data"]);
    run(command.arg(data))
}

fn empty_mirror() -> (TempDir, PathBuf) {
    folder_with(
        "m.yaml",
        &crate::mirrors::yaml("registry.invalid", "a/b", "tags: [\"1\"]"),
    )
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_folder_of_up_is_told_from_the_storage_inside_it() {
    let home = scratch();
    let yaml = home.path().join("m.yaml");
    fs::write(&yaml, "").expect("scratch is writable");
    let data = home.path().join("data");
    let mut command = Up::command(&yaml, &data);
    let mut running = Process::start(&mut command);
    running.wait_for_line("registry listening on", SOON);
    running.signal("TERM");
    assert_eq!(running.wait(SOON), 0, "{}", running.shown());
    let inside = data.join("registry");
    let _ = serve("127.0.0.1:0", &data)
        .exited(1)
        .saying(&format!("in {}", inside.display()));
    // And there it is.
    let _ = Served::start(&inside);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let data = scratch();
    let (folder, _file) = empty_mirror();
    for finished in [
        serve(&address, data.path()),
        up(folder.path(), &address, data.path()),
    ] {
        assert_ne!(finished.code, 0, "{finished}");
        let finished = finished.saying(&address);
        says_one_of(&finished, &["in use"]);
        one_message(&finished);
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_address_that_is_not_of_this_machine_is_named() {
    let data = scratch();
    let finished = serve("203.0.113.7:5000", data.path()).saying("203.0.113.7:5000");
    assert_ne!(finished.code, 0, "{finished}");
    one_message(&finished);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_file_in_place_of_the_data_folder_is_named() {
    let (_folder, file) = folder_with("taken", "a file of another program");
    let (mirrors, _) = empty_mirror();
    for data in [file.clone(), file.join("below")] {
        for finished in [
            serve("127.0.0.1:0", &data),
            up(mirrors.path(), "127.0.0.1:0", &data),
        ] {
            assert_ne!(finished.code, 0, "{finished}");
            let finished = finished.saying(file.to_str().expect("a plain path"));
            one_message(&finished);
        }
    }
    let kept = fs::read_to_string(&file).expect("the file is still there");
    assert_eq!(kept, "a file of another program");
}

#[test]
#[ignore = "needs root; run by cargo xtask test"]
fn a_data_folder_that_cannot_be_written_is_named() {
    let disk = SmallDisk::with_size("1m");
    disk.mount("remount,ro");
    let (mirrors, _) = empty_mirror();
    let data = disk.path();
    for finished in [
        serve("127.0.0.1:0", data),
        up(mirrors.path(), "127.0.0.1:0", data),
    ] {
        assert_ne!(finished.code, 0, "{finished}");
        let finished = finished.saying(data.to_str().expect("a plain path"));
        says_one_of(
            &finished,
            &["read-only", "not writable", "cannot be written", "write"],
        );
        one_message(&finished);
    }
}

/// The message to a person is a line or two, and no backtrace.
fn one_message(finished: &Finished) {
    let lines = finished
        .stderr
        .lines()
        .filter(|line| !line.trim().is_empty());
    assert!(lines.count() <= 6, "more than a message: {finished}");
    assert!(!finished.stderr.contains("panicked"), "{finished}");
}

const SMALL: &str = "team/small:1";
const OTHER: &str = "team/other:1";
const BIG: &str = "team/big:1";

fn small() -> serde_json::Value {
    json!({ "path": "team/small", "tag": "1", "layers": [100_000, 10] })
}

fn big() -> serde_json::Value {
    json!({ "path": "team/big", "tag": "1", "layers": [3_000_000, 12_000_000, 500], "seed": 3 })
}

/// Copies one image from the source into Coral's registry.
fn fill(source: &Faulty, registry: &str, name: &str) -> Finished {
    let mut command = copy(&source.at(name), &format!("{registry}/{name}"), &[source]);
    run(command.args(["--plain-http", registry]))
}

/// What the registry holds is what the source holds: copied back and compared there.
fn holds(registry: &str, seed: &serde_json::Value, name: &str) {
    let back = Faulty::start();
    let from = format!("{registry}/{name}");
    let mut command = copy(&from, &back.at(name), &[&back]);
    let finished = run(command.args(["--plain-http", registry])).succeeded();
    assert_eq!(back.difference(seed), None, "{finished}");
}

#[test]
#[ignore = "needs root; run by cargo xtask test"]
fn a_full_disk_is_named_and_nothing_is_lost_and_room_helps() {
    let source = Faulty::start();
    source.load(&small());
    source.load(&big());
    source.load(&json!({ "path": "team/other", "tag": "1", "layers": [2_000_000], "seed": 4 }));
    let disk = SmallDisk::with_size("8m");
    let mut registry = Served::start(disk.path());
    let _ = fill(&source, &registry.host, SMALL).succeeded();
    let finished = fill(&source, &registry.host, BIG)
        .exited(1)
        .saying(&registry.host);
    says_one_of(&finished, &["507", "space", "full"]);
    assert!(
        registry.process.is_running(),
        "{}",
        registry.process.shown()
    );
    let tag = http(&registry.host, "GET", "/v2/team/big/manifests/1", b"");
    assert_eq!(tag.status, 404, "a tag without its blobs");
    // What did not fit is not left lying about: something smaller fits again.
    let _ = fill(&source, &registry.host, OTHER).succeeded();
    holds(&registry.host, &small(), SMALL);
    disk.mount("remount,size=64m");
    let _ = fill(&source, &registry.host, BIG).succeeded();
    holds(&registry.host, &big(), BIG);
    holds(&registry.host, &small(), SMALL);
}

#[test]
#[ignore = "needs root; run by cargo xtask test"]
fn a_push_into_a_full_disk_is_answered_and_leaves_no_garbage_behind() {
    let disk = SmallDisk::with_size("4m");
    let registry = Served::start(disk.path());
    let body = vec![7; 8_000_000];
    for _ in 0..3 {
        let begun = http(&registry.host, "POST", "/v2/a/b/blobs/uploads/", b"");
        assert_eq!(begun.status, 202, "{}", begun.text());
        let location = begun
            .headers
            .lines()
            .find_map(|line| line.strip_prefix("location: "));
        let location = location.expect("a location");
        let path = location.split(&registry.host).last().expect("a path");
        let answer = http(&registry.host, "PATCH", path, &body);
        assert!(
            [500, 503, 507].contains(&answer.status),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains("errors"), "{}", answer.text());
        http(&registry.host, "DELETE", path, b"");
    }
    let healthy = http(&registry.host, "GET", "/v2/", b"");
    assert_eq!(healthy.status, 200);
    // What was thrown away has to be free again: a small blob fits.
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let put = format!("/v2/a/b/blobs/uploads/?digest={digest}");
    let answer = http(&registry.host, "POST", &put, b"hello");
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[test]
#[ignore = "needs root; run by cargo xtask test"]
fn coral_up_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let source = Faulty::start();
    source.load(&small());
    source.load(&big());
    let small_one = crate::mirrors::yaml(&source.host, "team/small", "tags: [\"1\"]");
    let big_one = crate::mirrors::yaml(&source.host, "team/big", "tags: [\"1\"]");
    let (folder, _) = folder_with("m.yaml", &format!("{big_one}---\n{small_one}"));
    let disk = SmallDisk::with_size("8m");
    let mut command = coral();
    command
        .arg("up")
        .arg(folder.path())
        .args(["--listen", "127.0.0.1:0", "--data"]);
    command
        .arg(disk.path())
        .args(["--plain-http", &source.host]);
    let mut up = Served::from(Process::start(&mut command));
    let patience = Duration::from_mins(2);
    up.process.wait_for_line("space", patience);
    disk.mount("remount,size=64m");
    let folder = source.host.replace(':', "_");
    for name in ["team/small", "team/big"] {
        e2e::until(name, patience, || {
            let path = format!("/v2/{folder}/{name}/manifests/1");
            (http(&up.host, "GET", &path, b"").status == 200).then_some(())
        });
    }
}
