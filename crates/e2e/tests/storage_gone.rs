//! A data folder that goes away under a running registry: it says that it is not ready, and writes
//! nothing into what comes in its place.

#[path = "registry/server.rs"]
mod server;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;

use e2e::{http, scratch, sha256};
use server::Server;
use wire::{Reply, Wire};

fn push(registry: &Server, content: &[u8]) -> Reply {
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(content));
    wire.call("POST", &target, &[], content).expect("an answer")
}

fn ready(registry: &Server) -> (u16, String) {
    let answer = http::get(&format!("http://{}/readyz", registry.address));
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status, said)
}

fn uploads(storage: &Path) -> usize {
    fs::read_dir(storage.join("uploads")).map_or(0, Iterator::count)
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_folder_that_is_gone_is_said_and_what_comes_in_its_place_is_left_alone() {
    let folder = scratch();
    let storage = folder.path().join("storage");
    let first = Server::start(&storage);
    assert_eq!(push(&first, b"before").status, 201);
    assert_eq!(ready(&first).0, 200);
    fs::remove_dir_all(&storage).expect("it can be removed");
    let (status, said) = ready(&first);
    assert_eq!(status, 503, "{said}");
    assert!(
        said.contains("not the one that this registry opened"),
        "{said}"
    );
    assert_eq!(push(&first, b"into nothing").status, 503);
    assert!(!storage.exists(), "nothing makes it anew");
    // Another registry begins in a new folder of that name.
    let second = Server::start(&storage);
    assert_eq!(ready(&first).0, 503);
    assert_eq!(push(&first, b"into the folder of another").status, 503);
    let begun = Wire::connect(&first.address)
        .and_then(|mut wire| wire.call("POST", "/v2/a/blobs/uploads/", &[], b""));
    assert_eq!(begun.expect("an answer").status, 503);
    assert_eq!(uploads(&storage), 0, "{}", first.process.shown());
    assert_eq!(push(&second, b"its own").status, 201);
    assert_eq!(ready(&second).0, 200);
    let told = first.process.shown();
    assert!(told.contains("restart the registry"), "{told}");
}
