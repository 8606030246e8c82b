//! A disk that is full at each write of a push and of a copy in turn: one page or one file more
//! is left at every try, until all of it fits. Each refusal is clear, leaves nothing half-written,
//! and is over when there is space again.

#[path = "registry/push.rs"]
mod push;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/small_disk.rs"]
mod small_disk;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{FaultServer, coral, report, run, scratch};
use push::{Push, Pushed};
use serde_json::json;
use server::Server;
use small_disk::SmallDisk;
use wire::Wire;

const SIZE: u64 = 64 * 1024 * 1024;
/// So many pages and files a push or copy takes at most.
const MOST: u64 = 200;
const LAYER: usize = 30_000;

/// What is scarce.
#[derive(Clone, Copy, Debug)]
enum Scarce {
    Pages,
    Files,
}

impl Scarce {
    fn leave(self, disk: &SmallDisk, count: u64) {
        match self {
            Self::Pages => disk.leave_pages(count),
            Self::Files => disk.leave_files(count),
        }
    }
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Pushes with ever more room, until a push needs no more; returns how many were refused.
fn pushes_into(storage: &Path, disk: &SmallDisk, scarce: Scarce, pushes: &mut Vec<Push>) -> u64 {
    let mut registry = Server::start(storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    for room in 0..MOST {
        let push = Push::new(pushes.len() as u64, LAYER);
        scarce.leave(disk, room);
        let outcome = push.run(&mut wire);
        assert!(registry.process.is_running());
        push.is_whole_or_absent(&mut wire);
        assert_eq!(files_in(&storage.join("tmp")), 0, "{scarce:?} {room}");
        disk.free();
        match outcome {
            Pushed::Whole => return room,
            Pushed::Refused { request, reply } => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                let place = format!("{request} with room for {room} {scarce:?}: {said}");
                assert_eq!(reply.status, 507, "{place}");
                assert!(said.contains("INSUFFICIENT_STORAGE"), "{place}");
            }
        }
        assert!(matches!(push.run(&mut wire), Pushed::Whole));
        push.is_whole(&mut wire);
        pushes.push(push);
    }
    panic!("a push needs more than {MOST} {scarce:?}");
}

#[test]
#[ignore = "needs the release binary and root for a small file system; run by cargo xtask test"]
fn a_push_is_refused_clearly_at_each_write_that_finds_the_disk_full() {
    let folder = scratch();
    let disk = SmallDisk::mount(&folder.path().join("disk"), SIZE);
    let storage = disk.folder().join("storage");
    let mut pushes = Vec::new();
    let pages = pushes_into(&storage, &disk, Scarce::Pages, &mut pushes);
    let files = pushes_into(&storage, &disk, Scarce::Files, &mut pushes);
    // Whatever was in memory is gone: all that was acknowledged is on the disk.
    let registry = Server::start(&storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    for push in &pushes {
        push.is_whole(&mut wire);
    }
    report!(
        "disk full at each write of a push: {pages} times for want of a page, {files} times for \
         want of a file; each 507, nothing half-written, {} images whole afterwards",
        pushes.len()
    );
    assert!(pages >= 10 && files >= 15, "{pages} pages, {files} files");
}

fn copy(source: &FaultServer, to: &str, plain: Option<&str>) -> Command {
    copy_of("team/app", source, to, plain)
}

fn copy_of(path: &str, source: &FaultServer, to: &str, plain: Option<&str>) -> Command {
    let from = format!("{}/{path}:1", source.host());
    let mut command = coral();
    command.args(["copy", &from, to, "--plain-http", source.host()]);
    command.args(plain.iter().flat_map(|host| ["--plain-http", host]));
    command
}

fn source() -> FaultServer {
    let source = FaultServer::registry(&[]);
    source.load(&json!({ "path": "team/app", "tag": "1", "layers": [20_000, 5_000] }));
    source
}

/// Makes a copy; `true` if it failed and said that there is no space.
fn met_the_end_of_the_disk(copy: &mut Command) -> bool {
    let finished = run(copy);
    let said = finished.stderr.to_lowercase();
    let full = said.contains("no space") || said.contains("storage is full");
    assert_eq!(finished.code, i32::from(full), "{}", finished.stderr);
    full
}

/// Whether another tool reads the layout's image to the end.
fn layout_is_whole(home: &Path, layout: &Path) -> bool {
    let from = format!("oci:{}:1", layout.display());
    let to = format!("dir:{}", home.join("read").display());
    let finished = run(&mut e2e::peers::skopeo_copy(home, &from, &to));
    finished.code == 0
}

fn copies_into_layouts(home: &Path, disk: &SmallDisk, scarce: Scarce, source: &FaultServer) -> u64 {
    for room in 0..MOST {
        let layout = disk.folder().join(format!("layout-{scarce:?}-{room}"));
        let to = format!("oci:{}:1", layout.display());
        scarce.leave(disk, room);
        let refused = met_the_end_of_the_disk(&mut copy(source, &to, None));
        let place = format!("room for {room} {scarce:?}");
        assert!(!refused || !layout_is_whole(home, &layout), "{place}");
        disk.free();
        assert_eq!(run(&mut copy(source, &to, None)).code, 0, "{place}");
        assert!(layout_is_whole(home, &layout), "{place}");
        if !refused {
            return room;
        }
    }
    panic!("a copy needs more than {MOST} {scarce:?}");
}

#[test]
#[ignore = "needs the release binary, skopeo and root for a small file system; run by cargo xtask test"]
fn a_copy_into_a_layout_says_at_each_write_that_the_disk_is_full_and_works_once_there_is_space() {
    let home = scratch();
    let disk = SmallDisk::mount(&home.path().join("disk"), SIZE);
    let source = source();
    let pages = copies_into_layouts(home.path(), &disk, Scarce::Pages, &source);
    let files = copies_into_layouts(home.path(), &disk, Scarce::Files, &source);
    report!(
        "disk full at each write of a copy into a layout: {pages} times for want of a page, \
         {files} times for want of a file; each said, none half-written, all whole once there was space"
    );
    assert!(pages >= 5 && files >= 5, "{pages} pages, {files} files");
}

#[test]
#[ignore = "needs the release binary and root for a small file system; run by cargo xtask test"]
fn a_copy_into_a_registry_whose_disk_is_full_says_so_and_works_once_there_is_space() {
    let home = scratch();
    let disk = SmallDisk::mount(&home.path().join("disk"), SIZE);
    let source = source();
    let registry = Server::start(&disk.folder().join("storage"));
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let host = registry.address.clone();
    let mut refused = 0;
    for room in 0..MOST {
        let to = format!("{host}/copy{room}:1");
        // An image of its own: what the registry has is mounted, and takes no room.
        let from = format!("team/app{room}");
        source.load(&json!({ "path": from, "tag": "1", "seed": room, "layers": [20_000, 5_000] }));
        disk.leave_pages(room);
        let full = met_the_end_of_the_disk(&mut copy_of(&from, &source, &to, Some(&host)));
        let tag = format!("/v2/copy{room}/manifests/1");
        let there = |wire: &mut Wire| wire.call("HEAD", &tag, &[], b"").expect("an answer").status;
        assert!(!full || there(&mut wire) == 404, "room for {room} pages");
        disk.free();
        let again = run(&mut copy_of(&from, &source, &to, Some(&host)));
        assert_eq!(again.code, 0, "{}", again.stderr);
        assert_eq!(there(&mut wire), 200);
        if !full {
            break;
        }
        refused += 1;
    }
    report!(
        "disk full at each write of a copy into a registry: {refused} times, each said, no tag \
         before its image, all whole once there was space"
    );
    assert!((5..MOST).contains(&refused), "{refused} refusals");
}
