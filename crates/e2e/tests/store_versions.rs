//! The data folder of one version opened by the next: an older store is served with all that is
//! in it, a newer one is refused and left as it is.

#[path = "registry/server.rs"]
mod server;
#[path = "registry/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::{coral, report, run, scratch, sha256};
use server::{Server, arguments};
use wire::{Reply, Wire};

const LAYER: &[u8] = b"a layer of version 1";
const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux"}"#;
const IMAGE: &str = "sha256:927be4f6546c715e15adf8910f0b9bff70554a4d9ed246ff47181d42243cb074";
const REFERRER: &str = "sha256:23b9cbc74d5d2df00c07de93e34f334cf8db3e690a39aa280199f50394027c7d";
const UPLOAD: &str = "/v2/team/app/blobs/uploads/48495b01-5548-40eb-b612-433532021bf1";
const MARK: &str = "coral-store.json";

/// Every store of an earlier version that is kept with the tests.
fn kept() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = fs::read_dir(folder).expect("there is data of earlier versions");
    let folders = entries.map(|entry| entry.expect("it can be listed").path());
    folders.filter(|path| path.is_dir()).collect()
}

/// The files of a folder and their content, by path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).expect("it can be read"));
            }
        }
    }
    found
}

/// Copies a store; the times of the copy are today's, so its upload is not an abandoned one.
fn copy(from: &Path, to: &Path) {
    for (path, content) in files(from) {
        let path = to.join(path.strip_prefix(from).expect("it lies in the folder"));
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))
            .expect("scratch is writable");
        fs::write(path, content).expect("scratch is writable");
    }
}

struct Client(Wire);

impl Client {
    fn ask(&mut self, status: u16, method: &str, target: &str, body: &[u8]) -> Reply {
        let reply = self.0.call(method, target, &[], body).expect("an answer");
        let said = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, status, "{method} {target}: {said}");
        reply
    }

    fn has(&mut self, target: &str, content: &[u8]) {
        assert_eq!(self.ask(200, "GET", target, b"").body, content, "{target}");
    }

    /// All that the kept store has.
    fn has_everything(&mut self) {
        let tag = self.ask(200, "GET", "/v2/team/app/manifests/v1", b"");
        assert_eq!(sha256(&tag.body), IMAGE);
        for (name, content) in [("team/app", LAYER), ("team/app", CONFIG), ("other", LAYER)] {
            self.has(&format!("/v2/{name}/blobs/{}", sha256(content)), content);
        }
        let tags = self.ask(200, "GET", "/v2/team/app/tags/list", b"").body;
        assert_eq!(tags, br#"{"name":"team/app","tags":["v1"]}"#);
        let referrers = self.ask(200, "GET", &format!("/v2/team/app/referrers/{IMAGE}"), b"");
        assert!(String::from_utf8_lossy(&referrers.body).contains(REFERRER));
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_store_of_an_earlier_version_is_served_with_all_that_is_in_it() {
    for kept in kept() {
        let folder = scratch();
        let storage = folder.path().join("storage");
        copy(&kept, &storage);
        let registry = Server::start(&storage);
        let mut client = Client(Wire::connect(&registry.address).expect("it listens"));
        client.has_everything();
        // The upload that was open goes on.
        let (first, second) = (b"the first half, ".as_slice(), b"and the second");
        let status = client.ask(204, "GET", UPLOAD, b"");
        assert_eq!(status.upload_size(), first.len() as u64);
        let whole = [first, second].concat();
        let target = format!("{UPLOAD}?digest={}", sha256(&whole));
        client.ask(201, "PUT", &target, second);
        // What this version adds and takes away is there at the next start beside the old.
        let mount = format!("/v2/new/blobs/uploads/?mount={}&from=other", sha256(LAYER));
        client.ask(201, "POST", &mount, b"");
        drop(registry);
        let registry = Server::start(&storage);
        let mut client = Client(Wire::connect(&registry.address).expect("it listens"));
        client.has_everything();
        client.has(&format!("/v2/team/app/blobs/{}", sha256(&whole)), &whole);
        client.has(&format!("/v2/new/blobs/{}", sha256(LAYER)), LAYER);
        client.ask(202, "DELETE", "/v2/team/app/manifests/v1", b"");
        client.ask(404, "GET", "/v2/team/app/manifests/v1", b"");
    }
    report!("stores of earlier versions opened: {}", kept().len());
    assert!(!kept().is_empty());
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_store_of_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = scratch();
    let storage = folder.path().join("storage");
    copy(&kept()[0], &storage);
    let newer = r#"{"layoutVersion":999,"whatComesThen":true}"#;
    fs::write(storage.join(MARK), newer).expect("scratch is writable");
    let before = files(&storage);
    let finished = run(coral().args(arguments(&storage)))
        .exited(1)
        .saying("layout version 999")
        .saying("use the release that wrote it, or a newer one");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    assert_eq!(files(&storage), before);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_store_whose_mark_cannot_be_read_is_refused_and_left_as_it_is() {
    let folder = scratch();
    for (number, mark) in ["", "{", "null", r#"{"layoutVersion":"one"}"#, "{}"]
        .iter()
        .enumerate()
    {
        let storage = folder.path().join(number.to_string());
        copy(&kept()[0], &storage);
        fs::write(storage.join(MARK), mark).expect("scratch is writable");
        let before = files(&storage);
        let finished = run(coral().args(arguments(&storage)))
            .exited(1)
            .saying(MARK)
            .saying("damaged");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert_eq!(files(&storage), before);
    }
}
