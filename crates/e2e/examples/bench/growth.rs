//! Small pushes, and whether what is asked for costs more when the store has ten times as much:
//! Coral's registry beside distribution.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use e2e::sha256;

use crate::server::Server;
use crate::table::{Better, Row, median};
use crate::wire::Wire;

/// What a store grows to; a tenth of it is there at first. `CORAL_BENCH_BLOBS` makes it smaller, 20,000 at least.
const BLOBS: usize = 100_000;
const BLOBS_OF_ONE: usize = 100;
const BLOBS_OF_ONE_TAG: usize = 10;
const TIMES: usize = 10;
/// Blobs that are pushed to one registry before it is the other one's turn.
const SLICE: usize = 1000;
const CLIENTS: usize = 16;
const BLOB: usize = 4096;
/// Requests of a kind, in slices too.
const ASKED: usize = 25;
const SLICES: usize = 8;
/// Tags on a page.
const PAGE: usize = 100;
const STARTS: usize = 5;
const TAGGED: &str = "bench/tagged";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What one registry did, at one size of its store.
#[derive(Default)]
struct Figures {
    /// For one of many.
    pushes: Vec<f64>,
    page: Vec<f64>,
    pull: Vec<f64>,
    start: Vec<f64>,
}

impl Figures {
    /// All in milliseconds.
    fn medians(&self) -> [f64; 4] {
        let of = |values: &Vec<f64>| median(values.clone());
        [
            of(&self.pushes),
            of(&self.page),
            of(&self.pull),
            of(&self.start),
        ]
    }
}

pub(crate) fn measure() -> Vec<Row> {
    let all = std::env::var("CORAL_BENCH_BLOBS").map_or(BLOBS, |text| text.parse().unwrap());
    let mut servers = [Server::coral(), Server::distribution()];
    let first = all / TIMES;
    let few = grow(&mut servers, 0..first, first);
    let many = grow(&mut servers, first..all, first);
    rows(all, &few, &many)
}

fn rows(all: usize, few: &[Figures; 2], many: &[Figures; 2]) -> Vec<Row> {
    let [few, many] = [few, many].map(|both| [both[0].medians(), both[1].medians()]);
    let row = |work: String, unit, better, figures: [f64; 2]| Row {
        work,
        unit,
        better,
        coral: figures[0],
        peer: figures[1],
        peer_name: "distribution",
    };
    let (tags, repositories) = (all / BLOBS_OF_ONE_TAG, all / BLOBS_OF_ONE);
    let works = [
        (format!("4 KB blobs pushed by {CLIENTS} clients"), "/s"),
        (format!("page of 100 tags out of {tags}"), "ms"),
        (
            format!("pull of a small image, {repositories} repositories, {all} blobs"),
            "ms",
        ),
        (format!("start until the first answer, {all} blobs"), "ms"),
    ];
    let mut rows = Vec::new();
    for (number, (work, unit)) in works.into_iter().enumerate() {
        let shown = |milliseconds: f64| match unit {
            "/s" => 1000.0 / milliseconds,
            _ => milliseconds,
        };
        let better = if unit == "/s" {
            Better::Higher
        } else {
            Better::Lower
        };
        let figures = [0, 1].map(|server| shown(many[server][number]));
        rows.push(row(work, unit, better, figures));
        let growth = [0, 1].map(|server| many[server][number] / few[server][number]);
        let same = "same, times the time with a tenth of the store".to_owned();
        rows.push(row(same, "×", Better::Lower, growth));
    }
    rows
}

/// Pushes blobs of these numbers and what belongs to them, and looks how everything is then that
/// belongs to the `few` first ones.
fn grow(servers: &mut [Server; 2], blobs: Range<usize>, few: usize) -> [Figures; 2] {
    let mut figures: [Figures; 2] = Default::default();
    let end = blobs.end;
    for begin in blobs.step_by(SLICE) {
        // In turns, so that what else the machine does meets both.
        for (server, figures) in servers.iter().zip(&mut figures) {
            let slice = begin..end.min(begin + SLICE);
            let count = slice.len() as f64;
            let seconds = push(&server.host(), slice);
            figures.pushes.push(seconds * 1000.0 / count);
        }
    }
    // Before the questions, so that nothing is in memory at either size.
    for _ in 0..STARTS {
        for (server, figures) in servers.iter_mut().zip(&mut figures) {
            figures.start.push(server.restart() * 1000.0);
        }
    }
    for slice in 0..SLICES {
        for (server, figures) in servers.iter().zip(&mut figures) {
            let mut wire = Wire::connect(&server.host()).unwrap();
            for number in 0..ASKED {
                // The same at both sizes: what was there at first.
                let somewhere = scattered(slice * ASKED + number);
                let tag = somewhere % (few / BLOBS_OF_ONE_TAG - PAGE);
                figures.page.push(page(&mut wire, tag));
                figures
                    .pull
                    .push(pull(&mut wire, somewhere % (few / BLOBS_OF_ONE)));
            }
        }
    }
    figures
}

/// Anything, but the same in each run.
fn scattered(number: usize) -> usize {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

/// Seconds for the blobs; what else belongs to them is pushed after that.
fn push(host: &str, blobs: Range<usize>) -> f64 {
    let began = Instant::now();
    at_once(host, blobs.clone(), |wire, number| {
        push_blob(wire, &repository(number / BLOBS_OF_ONE), &blob(number));
    });
    let seconds = began.elapsed().as_secs_f64();
    at_once(host, tenths(&blobs, BLOBS_OF_ONE), |wire, number| {
        push_manifest(wire, &repository(number), "1", &blob(number * BLOBS_OF_ONE));
    });
    let first = blob(0);
    push_blob(&mut Wire::connect(host).unwrap(), TAGGED, &first);
    at_once(host, tenths(&blobs, BLOBS_OF_ONE_TAG), |wire, number| {
        push_manifest(wire, TAGGED, &tag(number), &first);
    });
    seconds
}

fn tenths(range: &Range<usize>, of: usize) -> Range<usize> {
    range.start / of..range.end / of
}

pub(crate) fn at_once(host: &str, numbers: Range<usize>, work: impl Fn(&mut Wire, usize) + Sync) {
    let next = AtomicUsize::new(numbers.start);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut wire = Wire::connect(host).unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    work(&mut wire, number);
                }
            });
        }
    });
}

fn repository(number: usize) -> String {
    format!("bench/r{number}")
}

fn tag(number: usize) -> String {
    format!("t{number:06}")
}

pub(crate) fn blob(number: usize) -> Vec<u8> {
    let mut bytes = vec![7; BLOB];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn push_blob(wire: &mut Wire, repository: &str, blob: &[u8]) {
    let target = format!("/v2/{repository}/blobs/uploads/");
    let begun = wire.call("POST", &target, &[], b"").unwrap();
    let location = begun.location();
    // distribution says its own host, too.
    let path = location.find("/v2/").map_or(location, |at| &location[at..]);
    let joint = if path.contains('?') { '&' } else { '?' };
    let target = format!("{path}{joint}digest={}", sha256(blob));
    let kind = [("Content-Type", "application/octet-stream")];
    let pushed = wire.call("PUT", &target, &kind, blob).unwrap();
    assert_eq!(pushed.status, 201, "{target}");
}

fn push_manifest(wire: &mut Wire, repository: &str, tag: &str, blob: &[u8]) {
    let descriptor = |kind: &str| serde_json::json!({"mediaType": kind, "digest": sha256(blob), "size": blob.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar")],
    });
    let target = format!("/v2/{repository}/manifests/{tag}");
    let kind = [("Content-Type", MANIFEST)];
    let body = manifest.to_string();
    let pushed = wire.call("PUT", &target, &kind, body.as_bytes()).unwrap();
    assert_eq!(pushed.status, 201, "{target}");
}

/// Milliseconds for a page of tags.
fn page(wire: &mut Wire, last: usize) -> f64 {
    let target = format!("/v2/{TAGGED}/tags/list?n={PAGE}&last={}", tag(last));
    let began = Instant::now();
    let reply = wire.call("GET", &target, &[], b"").unwrap();
    let took = began.elapsed();
    let listed: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(listed["tags"].as_array().map(Vec::len), Some(PAGE));
    took.as_secs_f64() * 1000.0
}

/// Milliseconds for a manifest and its blob.
fn pull(wire: &mut Wire, number: usize) -> f64 {
    let repository = repository(number);
    let digest = sha256(&blob(number * BLOBS_OF_ONE));
    let began = Instant::now();
    for target in [
        format!("/v2/{repository}/manifests/1"),
        format!("/v2/{repository}/blobs/{digest}"),
    ] {
        let reply = wire
            .call("GET", &target, &[("Accept", MANIFEST)], b"")
            .unwrap();
        assert_eq!(reply.status, 200, "{target}");
    }
    began.elapsed().as_secs_f64() * 1000.0
}
