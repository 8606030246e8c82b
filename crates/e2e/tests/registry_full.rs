//! A full disk: a clear answer, nothing lost, nothing half-written, and the process goes on.

#[path = "registry/server.rs"]
mod server;
#[path = "registry/small_disk.rs"]
mod small_disk;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Process, coral, report, run, scratch, sha256};
use server::{Server, arguments};
use small_disk::SmallDisk;
use wire::{Reply, Wire};

const SIZE: u64 = 8 * 1024 * 1024;
const PIECE: usize = 1024 * 1024;

fn ask(wire: &mut Wire, method: &str, target: &str, body: &[u8]) -> Reply {
    wire.call(method, target, &[], body).expect("an answer")
}

fn push(wire: &mut Wire, content: &[u8]) -> Reply {
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(content));
    ask(wire, "POST", &target, content)
}

/// Fills the disk with blobs; the first refusal, and what was taken before.
fn fill(wire: &mut Wire) -> (Reply, Vec<Vec<u8>>) {
    let mut taken = Vec::new();
    loop {
        let letter = u8::try_from(taken.len()).expect("few blobs fill a small disk");
        let content = vec![letter; PIECE];
        let reply = push(wire, &content);
        if reply.status != 201 {
            return (reply, taken);
        }
        taken.push(content);
    }
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
#[ignore = "needs the release binary and root for a small file system; run by cargo xtask test"]
fn a_full_disk_is_said_clearly_and_nothing_is_lost() {
    let folder = scratch();
    let disk = SmallDisk::mount(&folder.path().join("disk"), SIZE);
    let storage = disk.folder().join("storage");
    let mut registry = Server::start(&storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let upload = ask(&mut wire, "POST", "/v2/a/blobs/uploads/", b"");
    let upload = upload.location().to_owned();
    let half = vec![0xaa; PIECE / 2];
    assert_eq!(ask(&mut wire, "PATCH", &upload, &half).status, 202);

    let (refused, taken) = fill(&mut wire);
    let answer = String::from_utf8_lossy(&refused.body).into_owned();
    assert_eq!(refused.status, 507, "{answer}");
    assert!(answer.contains("INSUFFICIENT_STORAGE"), "{answer}");
    assert!(taken.len() >= 4, "only {} blobs were taken", taken.len());
    // There is room for a part of the next piece, which has no business there without the rest.
    fs::remove_file(blob_file(&storage, &taken[0])).expect("a blob can be deleted");
    let piece = ask(&mut wire, "PATCH", &upload, &vec![0xbb; 2 * PIECE]);
    assert_eq!(piece.status, 507);
    assert!(registry.process.is_running());
    for content in &taken[1..] {
        let target = format!("/v2/a/blobs/{}", sha256(content));
        let blob = ask(&mut wire, "GET", &target, b"");
        assert!(blob.status == 200 && blob.body == *content);
    }
    // The failed pushes left nothing but the upload that was there before.
    assert_eq!(files_in(&storage.join("tmp")), 0);
    assert_eq!(files_in(&storage.join("uploads")), 1);

    let mut uploads = fs::read_dir(storage.join("uploads")).expect("a folder");
    let data = uploads.next().expect("one").expect("readable").path();
    let data = fs::metadata(data).expect("its data");
    assert_eq!(data.len(), half.len() as u64, "bytes on the disk");

    // The upload goes on where it was.
    let kept = ask(&mut wire, "GET", &upload, b"").upload_size();
    assert_eq!(kept, half.len() as u64, "bytes of the upload");
    let target = format!("{upload}?digest={}", sha256(&half));
    assert_eq!(ask(&mut wire, "PUT", &target, b"").status, 201);
    report!(
        "full disk: 507 after {} MiB, every blob whole, the upload went on",
        taken.len()
    );
}

fn blob_file(storage: &Path, content: &[u8]) -> PathBuf {
    let digest = sha256(content);
    let hex = digest.trim_start_matches("sha256:");
    storage.join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_folder_that_cannot_be_the_storage_is_refused_in_one_line() {
    let folder = scratch();
    let file = folder.path().join("file");
    fs::write(&file, "").expect("scratch is writable");
    let own = folder.path().join("own");
    fs::create_dir(&own).expect("scratch is writable");
    fs::write(own.join("thesis.txt"), "years of work").expect("scratch is writable");
    let used = folder.path().join("used");
    let _running = Server::start(&used);
    for (storage, word) in [
        (file.join("store"), "file/store"),
        (own, "is neither empty nor"),
        (used, "in use"),
    ] {
        let finished = run(coral().args(arguments(&storage)));
        assert!(finished.code != 0, "{word}");
        let said = finished.stderr.lines().any(|line| line.contains(word));
        assert!(said, "{word}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
}

#[test]
#[ignore = "needs the release binary and root for a user without rights; run by cargo xtask test"]
fn a_folder_that_cannot_be_written_is_refused_in_one_line() {
    let folder = scratch();
    let storage = folder.path().join("storage");
    fs::create_dir(&storage).expect("scratch is writable");
    // The checkout may be a folder that other users may not look into.
    let program = folder.path().join("coral");
    fs::copy(coral().get_program(), &program).expect("the binary can be copied");
    let _ = run(Command::new("chmod").arg("755").arg(folder.path())).succeeded();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(&program).args(arguments(&storage));
    let mut process = Process::start(&mut command);
    process.wait_for_line("not writable", std::time::Duration::from_mins(2));
    assert_ne!(process.wait(std::time::Duration::from_mins(2)), 0);
}
