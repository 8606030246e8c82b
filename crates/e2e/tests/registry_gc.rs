//! A registry that collects all the time, and is killed again and again while it does: what has a
//! tag stays whole, and the space of everything else comes back. Then `coral registry gc`.
//!
//! `CORAL_KILL_ROUNDS` is ten thirds of the number of rounds (6); `CORAL_KILL_SEED` repeats a run.

#[path = "registry/push.rs"]
mod push;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use e2e::{coral, report, scratch, until};
use push::{Push, Pushed};
use server::{Server, arguments};
use wire::Wire;

const SOON: Duration = Duration::from_mins(2);
/// Layer, configuration, image and referrer.
const FILES_OF_A_PUSH: usize = 4;
/// A client that is slower than the grace time sends again what it was told to be there.
const TRIES: usize = 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn start(storage: &Path) -> Server {
    let mut command = coral();
    command.args(arguments(storage)).args([
        "--gc-interval=5ms",
        "--gc-grace=1s",
        "--gc-untagged=1s",
    ]);
    Server::start_with(&mut command)
}

fn push(image: &Push, wire: &mut Wire) {
    for _ in 0..TRIES {
        match image.run(wire) {
            Pushed::Whole => return,
            Pushed::Refused { request, reply } => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                assert!(said.contains("MANIFEST_BLOB_UNKNOWN"), "{request}: {said}");
            }
        }
    }
    panic!("{} cannot be pushed", image.name);
}

/// Content in the storage, by files.
fn contents(storage: &Path) -> usize {
    let list = |folder: &Path| -> Vec<_> {
        let entries = fs::read_dir(folder).expect("a folder of the storage");
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let shelves = list(&storage.join("blobs/sha256"));
    shelves.iter().map(|shelf| list(shelf).len()).sum()
}

fn gc(storage: &Path, dry_run: &[&str]) -> (Output, String) {
    let mut command = coral();
    command.args(["registry", "gc", "--gc-grace=1s", "--storage"]);
    let output = command.arg(storage).args(dry_run).output();
    let output = output.expect("coral runs");
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    (output, String::from_utf8_lossy(&said).into_owned())
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_registry_that_is_killed_while_it_collects_loses_nothing_and_gets_its_space_back() {
    let rounds = (variable("CORAL_KILL_ROUNDS").unwrap_or(20) * 3 / 10).max(2);
    let seed = variable("CORAL_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    // How often the image is looked at before the kill.
    let mut looks = seed % 199 + 1;
    let folder = scratch();
    let storage = folder.path().join("storage");
    let images: Vec<Push> = (0..=rounds)
        .map(|number| Push::new(number, 30_000))
        .collect();
    for (image, before) in images.iter().skip(1).zip(&images) {
        let mut registry = start(&storage);
        let mut wire = Wire::connect(&registry.address).expect("it listens");
        push(image, &mut wire);
        let old = format!("/v2/{}/manifests/v1", before.name);
        let deleted = wire.call("DELETE", &old, &[], b"").expect("an answer");
        assert!(matches!(deleted.status, 202 | 404), "{}", deleted.status);
        looks = looks * 67 % 199 + 1;
        for _ in 0..looks {
            assert!(image.is_whole_or_absent(&mut wire), "seed {seed}");
        }
        registry.process.signal("KILL");
        registry.process.wait(SOON);
    }
    let registry = start(&storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let last = images.last().expect("there are rounds");
    until("only the last image is left", SOON, || {
        assert!(last.is_whole_or_absent(&mut wire), "seed {seed}");
        (contents(&storage) == FILES_OF_A_PUSH).then_some(())
    });
    let (refused, said) = gc(&storage, &[]);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another registry"), "{said}");
    drop((wire, registry));
    let (counted, said) = gc(&storage, &["--dry-run"]);
    assert!(counted.status.success(), "{said}");
    assert!(said.contains("would remove 0 blobs"), "{said}");
    assert!(said.contains(&format!("kept {FILES_OF_A_PUSH} ")), "{said}");
    report!("kill rounds during garbage collection: {rounds}; 0 lost, all space back");
}
