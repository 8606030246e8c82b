//! Eight writers at once on one subject's referrers, one tag, one blob and one upload: what was
//! acknowledged to any of them is there.
//!
//! `CORAL_WRITER_ROUNDS` is the number of rounds (10).

#[path = "registry/server.rs"]
mod server;
#[path = "registry/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use e2e::{report, scratch, sha256};
use server::Server;
use wire::{Reply, Wire};

const ROUNDS: u32 = 10;
const WRITERS: usize = 8;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What each writer of an upload appends.
const PIECE: usize = 100_000;

/// All writers in their turn, which begin together; what each was answered.
fn together<T: Send>(address: &str, write: impl Fn(&mut Wire, usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(WRITERS);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (start, write) = (&start, &write);
                scope.spawn(move || {
                    let mut wire = Wire::connect(address).expect("it listens");
                    start.wait();
                    write(&mut wire, number)
                })
            })
            .collect();
        let join = |writer: thread::ScopedJoinHandle<'_, T>| writer.join().expect("no panic");
        writers.into_iter().map(join).collect()
    })
}

fn call(wire: &mut Wire, method: &str, target: &str, body: &[u8]) -> Reply {
    let headers: &[_] = if target.contains("/manifests/") {
        &[("Content-Type", MANIFEST), ("Accept", MANIFEST)]
    } else {
        &[]
    };
    let reply = wire.call(method, target, headers, body);
    reply.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

fn begin(wire: &mut Wire, name: &str) -> String {
    let begun = call(wire, "POST", &format!("/v2/{name}/blobs/uploads/"), b"");
    assert_eq!(begun.status, 202);
    begun.location().to_owned()
}

/// Pushes a blob, and returns its digest.
fn push_blob(wire: &mut Wire, name: &str, blob: &[u8]) -> String {
    let digest = sha256(blob);
    let target = format!("{}?digest={digest}", begin(wire, name));
    assert_eq!(call(wire, "PUT", &target, blob).status, 201);
    digest
}

/// A manifest that differs from all others by its annotation.
fn manifest(config: &str, note: &str, subject: Option<&str>) -> Vec<u8> {
    let descriptor = |digest: &str, size| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest,
            "size": size,
        })
    };
    let mut manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, 2),
        "layers": [],
        "annotations": {"note": note},
    });
    if let Some(subject) = subject {
        manifest["subject"] = descriptor(subject, 1);
    }
    manifest.to_string().into_bytes()
}

/// One repository, and the server that has it.
struct Round {
    address: String,
    name: String,
    config: String,
}

impl Round {
    fn new(address: &str, round: u32) -> Self {
        let name = format!("writers/{round}");
        let mut wire = Wire::connect(address).expect("it listens");
        let config = push_blob(&mut wire, &name, b"{}");
        Self {
            address: address.to_owned(),
            name,
            config,
        }
    }

    fn wire(&self) -> Wire {
        Wire::connect(&self.address).expect("it listens")
    }

    fn get(&self, target: &str) -> Reply {
        call(
            &mut self.wire(),
            "GET",
            &format!("/v2/{}/{target}", self.name),
            b"",
        )
    }

    /// Every writer's referrer is listed, each once, and nothing else is.
    fn referrers(&self) {
        let subject = sha256(self.name.as_bytes());
        let pushed = together(&self.address, |wire, number| {
            let referrer = manifest(&self.config, &number.to_string(), Some(&subject));
            let digest = sha256(&referrer);
            let target = format!("/v2/{}/manifests/{digest}", self.name);
            assert_eq!(call(wire, "PUT", &target, &referrer).status, 201);
            digest
        });
        let answer = self.get(&format!("referrers/{subject}"));
        let index: serde_json::Value = serde_json::from_slice(&answer.body).expect("an index");
        let listed = index["manifests"].as_array().expect("a list");
        let listed: Vec<&str> = listed
            .iter()
            .filter_map(|manifest| manifest["digest"].as_str())
            .collect();
        assert_eq!(listed.len(), WRITERS);
        assert_eq!(
            listed.into_iter().collect::<BTreeSet<_>>(),
            pushed.iter().map(String::as_str).collect()
        );
    }

    /// The tag is one writer's image, while others read it; every image is there by its digest.
    fn tag(&self) {
        let pushed = together(&self.address, |wire, number| {
            let image = manifest(&self.config, &format!("tag {number}"), None);
            let target = format!("/v2/{}/manifests/moving", self.name);
            assert_eq!(call(wire, "PUT", &target, &image).status, 201);
            // Another push came after this one's at the latest, so it cannot be an older image.
            let read = call(wire, "GET", &target, b"");
            assert_eq!(read.status, 200);
            (image, read.body)
        });
        let images: BTreeSet<&[u8]> = pushed.iter().map(|(image, _)| image.as_slice()).collect();
        for (image, read) in &pushed {
            assert!(images.contains(read.as_slice()));
            let by_digest = self.get(&format!("manifests/{}", sha256(image)));
            assert_eq!((by_digest.status, &by_digest.body), (200, image));
        }
        let last = self.get("manifests/moving").body;
        assert!(images.contains(last.as_slice()));
        // What a tag is moved to by one writer is what everybody reads from then on.
        let target = format!("/v2/{}/manifests/moving", self.name);
        let first = &pushed[0].0;
        assert_eq!(call(&mut self.wire(), "PUT", &target, first).status, 201);
        let read = together(&self.address, |wire, _| {
            call(wire, "GET", &target, b"").body
        });
        assert!(read.iter().all(|read| read == first));
        let listed = self.get("tags/list").body;
        let listed: serde_json::Value = serde_json::from_slice(&listed).expect("a list");
        assert_eq!(listed["tags"], serde_json::json!(["moving"]));
    }

    /// Everybody's push of the same blob is acknowledged, and it is there.
    fn blob(&self) {
        let blob = format!("{} ", self.name).repeat(20_000).into_bytes();
        let digests = together(&self.address, |wire, _| push_blob(wire, &self.name, &blob));
        let answer = self.get(&format!("blobs/{}", digests[0]));
        assert!(answer.status == 200 && answer.body == blob);
    }

    /// Of those who append to one upload at the same offset, one is acknowledged and the others
    /// are told where it is; whose piece was acknowledged is in the blob.
    fn upload(&self) {
        let location = begin(&mut self.wire(), &self.name);
        let mut blob = Vec::new();
        for turn in 0..2_u8 {
            let range = format!("{}-{}", blob.len(), blob.len() + PIECE - 1);
            let statuses = together(&self.address, |wire, number| {
                let piece = piece(turn, number);
                let reply = wire.call("PATCH", &location, &[("Content-Range", &range)], &piece);
                reply.expect("an answer").status
            });
            let taken: Vec<usize> = (0..WRITERS).filter(|&n| statuses[n] == 202).collect();
            assert_eq!(taken.len(), 1, "{statuses:?}");
            let refused = statuses.iter().filter(|&&status| status == 416).count();
            assert_eq!(refused, WRITERS - 1, "{statuses:?}");
            blob.extend(piece(turn, taken[0]));
        }
        let status = call(&mut self.wire(), "GET", &location, b"");
        assert_eq!(status.upload_size(), blob.len() as u64);
        let digest = sha256(&blob);
        let target = format!("{location}?digest={digest}");
        let statuses = together(&self.address, |wire, _| {
            call(wire, "PUT", &target, b"").status
        });
        let created = statuses.iter().filter(|&&status| status == 201).count();
        let ended = statuses.iter().filter(|&&status| status == 404).count();
        assert_eq!((created, ended), (1, WRITERS - 1), "{statuses:?}");
        let answer = self.get(&format!("blobs/{digest}"));
        assert!(answer.status == 200 && answer.body == blob);
    }
}

fn piece(turn: u8, writer: usize) -> Vec<u8> {
    let writer = u8::try_from(writer).expect("few writers");
    vec![turn * 100 + writer; PIECE]
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn writers_at_once_lose_nothing_that_was_acknowledged() {
    let rounds = std::env::var("CORAL_WRITER_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let folder = scratch();
    let storage = folder.path().join("storage");
    let mut registry = Server::start(&storage);
    for number in 0..rounds {
        let round = Round::new(&registry.address, number);
        round.referrers();
        round.tag();
        round.blob();
        round.upload();
    }
    let last = format!("/v2/writers/{}/manifests/moving", rounds - 1);
    let before = read(&registry, &last);
    registry.process.signal("KILL");
    registry.process.wait(Duration::from_mins(2));
    let registry = Server::start(&storage);
    assert!(read(&registry, &last) == before);
    report!(
        "{rounds} rounds of {WRITERS} writers on one subject's referrers, one tag, one blob and one \
         upload: 0 lost"
    );
}

fn read(registry: &Server, target: &str) -> Vec<u8> {
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let reply = call(&mut wire, "GET", target, b"");
    assert_eq!(reply.status, 200);
    reply.body
}
