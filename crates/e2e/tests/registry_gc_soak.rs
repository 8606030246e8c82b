//! A registry that collects all the time with a grace time of seconds, beside clients that push,
//! mount, move tags and delete, and beside a mirror. No client misses a blob that it was just told
//! to be there, no image is lost, and at the end the disk holds what is reachable.
//!
//! `CORAL_GC_SOAK_SECONDS` is how long it works (8; 600 in the long tier).

#[path = "registry/server.rs"]
mod server;
#[path = "up/source.rs"]
mod source;
#[path = "registry/wire.rs"]
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Up, coral, report, scratch, sha256, until, write_yaml};
use serde_json::{Value, json};
use server::{Server, arguments};
use source::Source;
use wire::{Reply, Wire};

const SECONDS: u64 = 8;
const SOON: Duration = Duration::from_mins(2);
const GRACE: Duration = Duration::from_secs(4);
const CLIENTS: u64 = 3;
const TAGS: u64 = 8;
/// Layers that the clients share: one that no image names any more comes back some time later.
const SHARED: u64 = 12;
const APPS: [&str; 2] = ["team/app", "team/base"];
/// No use to send faster than a mirror does.
const STEP: Duration = Duration::from_millis(20);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Default)]
struct Done {
    pushes: u64,
    spared: u64,
    mounts: u64,
    moved: u64,
    deletions: u64,
    /// Pushes that took longer than the grace time, and so may have to be repeated.
    late: u64,
}

/// A client with repositories of its own.
struct Client {
    number: u64,
    wire: Wire,
    step: u64,
    /// By repository and tag: the manifest.
    images: BTreeMap<(String, String), Vec<u8>>,
    done: Done,
}

impl Client {
    fn new(number: u64, address: &str) -> Self {
        Self {
            number,
            wire: Wire::connect(address).expect("it listens"),
            step: 0,
            images: BTreeMap::new(),
            done: Done::default(),
        }
    }

    fn call(&mut self, method: &str, target: &str, body: &[u8]) -> Reply {
        let kind = [("Content-Type", MANIFEST)];
        let reply = self.wire.call(method, target, &kind, body);
        reply.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    fn step(&mut self) {
        self.step += 1;
        let repository = format!("soak/c{}/r{}", self.number, self.step % 2);
        let tag = format!("t{}", self.step * 7 % TAGS);
        self.push(&repository, &tag);
        if self.step.is_multiple_of(5) {
            self.delete();
        }
        let place = self.step * 31 % (self.images.len() as u64).max(1);
        if let Some(((repository, tag), manifest)) =
            self.images.iter().nth(usize::try_from(place).unwrap_or(0))
        {
            let (repository, tag, manifest) = (repository.clone(), tag.clone(), manifest.clone());
            self.is_whole(&repository, &tag, &manifest);
        }
    }

    fn push(&mut self, repository: &str, tag: &str) {
        let own = format!("client {} step {} ", self.number, self.step).repeat(800);
        // A few layers at a time: the others are collected meanwhile.
        let shared = shared((self.step / 40 + self.step % 3) % SHARED);
        let blobs = [own.into_bytes(), shared];
        let began = Instant::now();
        for blob in &blobs {
            self.bring(repository, blob);
        }
        let manifest = manifest(&blobs);
        let target = format!("/v2/{repository}/manifests/{tag}");
        let put = self.call("PUT", &target, &manifest);
        if put.status == 400 && began.elapsed() >= GRACE {
            self.done.late += 1;
            return;
        }
        let said = String::from_utf8_lossy(&put.body).into_owned();
        assert_eq!(put.status, 201, "{target}: {said}");
        self.done.pushes += 1;
        let place = (repository.to_owned(), tag.to_owned());
        self.done.moved += u64::from(self.images.insert(place, manifest).is_some());
    }

    /// Has a blob in a repository: it is there, or is mounted, or is sent; and then it can be read.
    fn bring(&mut self, repository: &str, blob: &[u8]) {
        let digest = sha256(blob);
        let target = format!("/v2/{repository}/blobs/{digest}");
        let told = Instant::now();
        if self.call("HEAD", &target, b"").status == 200 {
            self.done.spared += 1;
        } else {
            let uploads = format!("/v2/{repository}/blobs/uploads/?mount={digest}");
            let mounted = self.call("POST", &uploads, b"");
            if mounted.status == 201 {
                self.done.mounts += 1;
            } else {
                let upload = mounted.location().to_owned();
                let joint = if upload.contains('?') { '&' } else { '?' };
                let sent = self.call("PUT", &format!("{upload}{joint}digest={digest}"), blob);
                assert_eq!(sent.status, 201, "{target}");
            }
        }
        let read = self.call("GET", &target, b"");
        let is_there = read.status == 200 && read.body == blob;
        assert!(
            is_there || told.elapsed() >= GRACE,
            "{target}: {}",
            read.status
        );
    }

    fn delete(&mut self) {
        let Some(((repository, tag), manifest)) = self.images.pop_first() else {
            return;
        };
        let version = if self.step.is_multiple_of(2) {
            let digest = sha256(&manifest);
            // By its digest it loses all of its tags.
            self.images
                .retain(|(of, _), it| *of != repository || sha256(it) != digest);
            digest
        } else {
            tag
        };
        let target = format!("/v2/{repository}/manifests/{version}");
        assert_eq!(self.call("DELETE", &target, b"").status, 202, "{target}");
        self.done.deletions += 1;
    }

    fn is_whole(&mut self, repository: &str, tag: &str, manifest: &[u8]) {
        let found = self.call("GET", &format!("/v2/{repository}/manifests/{tag}"), b"");
        assert_eq!((found.status, found.body.as_slice()), (200, manifest));
        for (digest, _) in named(manifest) {
            let target = format!("/v2/{repository}/blobs/{digest}");
            let blob = self.call("GET", &target, b"");
            assert_eq!((blob.status, sha256(&blob.body)), (200, digest), "{target}");
        }
    }
}

fn shared(number: u64) -> Vec<u8> {
    format!("shared layer {number} ").repeat(3000).into_bytes()
}

fn manifest(blobs: &[Vec<u8>]) -> Vec<u8> {
    let descriptor = |blob: &Vec<u8>| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(blob),
            "size": blob.len(),
        })
    };
    let layers: Vec<Value> = blobs.iter().map(descriptor).collect();
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": layers[0], "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// The blobs and manifests that a manifest names, with their sizes.
fn named(manifest: &[u8]) -> Vec<(String, u64)> {
    let manifest: Value = serde_json::from_slice(manifest).expect("a manifest");
    let lists = ["layers", "manifests"].map(|list| manifest[list].as_array().cloned());
    let config = manifest.get("config").cloned();
    let all = lists.into_iter().flatten().flatten().chain(config);
    all.filter_map(|it| Some((it["digest"].as_str()?.to_owned(), it["size"].as_u64()?)))
        .collect()
}

/// Bytes that the tags of a registry reach, each digest once.
fn reachable(address: &str) -> u64 {
    let mut wire = Wire::connect(address).expect("it listens");
    let mut get = |target: String| {
        let reply = wire.call("GET", &target, &[("Accept", "*/*")], b"");
        reply.expect("an answer").body
    };
    let list = |body: Vec<u8>, key: &str| -> Vec<String> {
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let list = body[key].as_array().into_iter().flatten();
        list.filter_map(|it| it.as_str().map(str::to_owned))
            .collect()
    };
    let mut sizes: HashMap<String, u64> = HashMap::new();
    for repository in list(get("/v2/_catalog?n=1000".to_owned()), "repositories") {
        let tags = get(format!("/v2/{repository}/tags/list?n=1000"));
        for tag in list(tags, "tags") {
            let manifest = get(format!("/v2/{repository}/manifests/{tag}"));
            sizes.insert(sha256(&manifest), manifest.len() as u64);
            sizes.extend(named(&manifest));
        }
    }
    sizes.values().sum()
}

/// Bytes of content in the storage.
fn stored(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => stored(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Works until the end, each client in a thread of its own, while tags move at the source.
fn work(clients: &mut [Client], source: &mut Source, end: Instant) {
    thread::scope(|scope| {
        for client in clients {
            scope.spawn(move || {
                while Instant::now() < end {
                    client.step();
                    pause(STEP);
                }
            });
        }
        let mut second = 0;
        while Instant::now() < end {
            for app in APPS {
                source.push(app, &format!("t{}", second % TAGS), "image");
            }
            source.forget();
            second += 1;
            pause(Duration::from_secs(1));
        }
    });
}

fn pause(length: Duration) {
    let due = Instant::now() + length;
    until("the next step", SOON, || {
        (Instant::now() >= due).then_some(())
    });
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn beside_a_collection_that_never_ends_nothing_is_lost_and_the_space_comes_back() {
    let given = std::env::var("CORAL_GC_SOAK_SECONDS").ok();
    let seconds = given.and_then(|it| it.parse().ok()).unwrap_or(SECONDS);
    let home = scratch();
    let storage = home.path().join("storage");
    let mut command = coral();
    command.args(arguments(&storage)).args([
        "--gc-interval=50ms",
        "--gc-grace=4s",
        "--gc-untagged=4s",
    ]);
    let registry = Server::start_with(&mut command);
    let address = registry.address.clone();
    let mut source = Source::start(50_000);
    let (host, port) = address.split_once(':').expect("host and port");
    let target = format!("{{host: {host}, port: {port}}}");
    let yaml = write_yaml(home.path(), &source.mirror("soak", &target, &APPS));
    let plain = ["--plain-http", source.host(), "--plain-http", &address];
    let mut up = Up::start(&yaml, &home.path().join("data"), &plain);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|it| Client::new(it, &address)).collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    work(&mut clients, &mut source, end);

    let mirrored = source.wait_until_mirrored(&address);
    let copies = source.check_copies(&address);
    copies.unwrap_or_else(|fault| panic!("{fault}"));
    let shown = up.process().shown();
    for code in ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"] {
        assert!(!shown.contains(code), "{shown}");
    }
    drop(up);
    for client in &mut clients {
        for ((repository, tag), manifest) in client.images.clone() {
            client.is_whole(&repository, &tag, &manifest);
        }
    }
    let reached = reachable(&address);
    let left = until("the space to come back", SOON, || {
        let left = stored(&storage.join("blobs"));
        (left <= reached / 10 * 11).then_some(left)
    });
    assert!(left >= reached, "{left} of {reached} bytes are left");
    let sum = |figure: fn(&Done) -> u64| clients.iter().map(|it| figure(&it.done)).sum::<u64>();
    let late = sum(|it| it.late);
    report!(
        "soak of {seconds} s beside garbage collection: {} pushes, {} layers spared, {} mounted, \
         {} tags moved, {} deletions, {late} pushes slower than the grace time of {} s; \
         {mirrored} tags mirrored; 0 lost; {left} bytes stored of {reached} reachable",
        sum(|it| it.pushes),
        sum(|it| it.spared),
        sum(|it| it.mounts),
        sum(|it| it.moved),
        sum(|it| it.deletions),
        GRACE.as_secs(),
    );
    assert!(sum(|it| it.mounts) > 0 && sum(|it| it.spared) > 0);
}
