//! A registry whose disk has changed a byte: damaged content is found, named and never served
//! again, and is whole once it has been pushed again.

#[path = "registry/push.rs"]
mod push;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Finished, coral, run, scratch, sha256};
use push::{Push, Pushed};
use server::{Server, arguments};
use wire::Wire;

const SOON: Duration = Duration::from_mins(2);
const LAYER_SIZE: usize = 30_000;

/// The file of the storage that holds the layer: the only one of its size.
fn layer_file(storage: &Path) -> PathBuf {
    let list = |folder: &Path| fs::read_dir(folder).expect("a folder of the storage");
    let shelves = list(&storage.join("blobs/sha256")).flatten();
    let mut files = shelves.flat_map(|shelf| list(&shelf.path()).flatten());
    let found = files.find(|file| {
        let size = file.metadata().map(|metadata| metadata.len());
        size.is_ok_and(|size| size == LAYER_SIZE as u64)
    });
    found.expect("the layer is stored").path()
}

/// Changes a byte of the layer. Returns its digest as it was.
fn damage(file: &Path) -> String {
    let mut bytes = fs::read(file).expect("the layer");
    let digest = sha256(&bytes);
    bytes[LAYER_SIZE / 2] ^= 1;
    fs::write(file, &bytes).expect("the storage is writable");
    digest
}

/// A blob of an image is not served, beside another image that is, until the image is pushed again.
fn is_mended_by_a_push(wire: &mut Wire, image: &Push, blob: &str, other: &Push) {
    let blob = format!("/v2/{}/blobs/{blob}", image.name);
    for method in ["GET", "HEAD"] {
        let reply = wire.call(method, &blob, &[], b"").expect("an answer");
        assert_eq!(reply.status, 404, "{method}");
    }
    other.is_whole(wire);
    assert!(matches!(image.run(wire), Pushed::Whole));
    image.is_whole(wire);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_damaged_blob_is_never_served_again_and_whole_once_it_was_pushed_again() {
    let folder = scratch();
    let storage = folder.path().join("storage");
    let mut command = coral();
    command
        .args(arguments(&storage))
        .args(["--scrub-interval=1s"]);
    let mut registry = Server::start_with(&mut command);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let (image, other) = (Push::new(1, LAYER_SIZE), Push::new(2, 10));
    for image in [&image, &other] {
        assert!(matches!(image.run(&mut wire), Pushed::Whole));
    }
    let file = layer_file(&storage);
    let digest = damage(&file);
    let line = registry.process.wait_for_line(&digest, SOON);
    assert!(line.contains("team/app1:v1"), "{line}");
    is_mended_by_a_push(&mut wire, &image, &digest, &other);
}

fn scrub(storage: &Path, options: &[&str]) -> Finished {
    let mut command = coral();
    command.args(["registry", "scrub", "--storage"]);
    run(command.arg(storage).args(options))
}

fn stop(mut registry: Server) {
    registry.process.signal("TERM");
    registry.process.wait(SOON);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn the_command_says_what_is_damaged_and_moves_it_aside_unless_it_is_a_dry_run() {
    let folder = scratch();
    let storage = folder.path().join("storage");
    let registry = Server::start(&storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let (image, other) = (Push::new(1, LAYER_SIZE), Push::new(2, 10));
    for image in [&image, &other] {
        assert!(matches!(image.run(&mut wire), Pushed::Whole));
    }
    // What is served is not scrubbed from outside.
    let busy = scrub(&storage, &[]);
    assert!(busy.code != 0 && !busy.stderr.contains("read "), "{busy}");
    stop(registry);
    let whole = scrub(&storage, &[]).succeeded();
    assert!(whole.stderr.contains("8 blobs and manifests"), "{whole}");
    let _ = whole.saying(": 0 damaged, 0 unsure");

    let file = layer_file(&storage);
    let digest = damage(&file);
    let named = format!("damaged: {digest}");
    let dry = scrub(&storage, &["--dry-run"]).exited(1).saying(&named);
    let dry = dry.saying("team/app1:v1").saying("left where it is");
    let _ = dry.saying(": 1 damaged, 0 unsure");
    assert!(file.is_file(), "a dry run moves nothing");
    let moved = scrub(&storage, &[]).exited(1).saying(&named);
    let _ = moved.saying("moved aside and no longer served");
    assert!(!file.exists());
    let again = scrub(&storage, &[]).exited(1);
    let again = again.saying(&format!("missing: {digest} of "));
    let _ = again.saying("1 is damaged and not restored");

    let registry = Server::start(&storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    is_mended_by_a_push(&mut wire, &image, &digest, &other);
    stop(registry);
    let _ = scrub(&storage, &[]).succeeded();
    let _ = scrub(folder.path(), &[])
        .exited(2)
        .saying("no registry storage");
}
