//! What garbage collection costs those who are served beside it: Coral's registry that collects
//! all the time, and the same one over the same store that does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use e2e::{http, sha256, until};

use crate::growth::{at_once, blob, push_blob};
use crate::server::{Server, anonymous_megabytes};
use crate::serving::Wrk;
use crate::table::{Better, Row, median};

/// `CORAL_BENCH_BLOBS` makes it smaller.
const BLOBS: usize = 100_000;
const BLOBS_OF_ONE: usize = 100;
const CONNECTIONS: usize = 16;
/// In turns, so that what else the machine does meets both.
const TURNS: usize = 5;
const SOON: Duration = Duration::from_mins(2);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const NEVER: &[&str] = &["--gc-interval=720h"];
/// Untagged manifests get older, so that a pass is never spared.
const ALWAYS: &[&str] = &["--gc-interval=1ms", "--gc-untagged=720h"];

pub(crate) fn measure() -> Vec<Row> {
    let all = std::env::var("CORAL_BENCH_BLOBS").map_or(BLOBS, |text| text.parse().unwrap());
    let mut server = Server::coral();
    fill(&server.host(), all);
    let (mut beside, mut without) = (Figures::default(), Figures::default());
    for turn in 1..=TURNS {
        server.restart_with(NEVER);
        without.look(&mut server, 0);
        server.restart_with(ALWAYS);
        // One collection is followed to its end, so that its memory is seen whole.
        beside.look(&mut server, u32::from(turn == TURNS));
    }
    let row = |work: String, unit, better, figure: fn(&Figures) -> f64| Row {
        work,
        unit,
        better,
        coral: figure(&beside),
        peer: figure(&without),
        peer_name: "Coral, without collections",
    };
    vec![
        row(
            format!(
                "manifest GET, {CONNECTIONS} connections (wrk), beside garbage collection of \
                 {all} blobs"
            ),
            "/s",
            Better::Higher,
            |it| median(it.rates.clone()),
        ),
        row("same, p99".to_owned(), "ms", Better::Lower, |it| {
            median(it.p99.clone())
        }),
        row(
            "same, most anonymous memory".to_owned(),
            "MB",
            Better::Lower,
            |it| it.memory,
        ),
    ]
}

/// Images of a hundred layers each.
fn fill(host: &str, blobs: usize) {
    at_once(host, 0..blobs, |wire, number| {
        push_blob(wire, &repository(number / BLOBS_OF_ONE), &blob(number));
    });
    at_once(host, 0..blobs / BLOBS_OF_ONE, |wire, number| {
        let layers = number * BLOBS_OF_ONE..(number + 1) * BLOBS_OF_ONE;
        let target = format!("/v2/{}/manifests/1", repository(number));
        let kind = [("Content-Type", MANIFEST)];
        let image = image(layers.map(blob));
        let pushed = wire.call("PUT", &target, &kind, image.as_bytes()).unwrap();
        assert_eq!(pushed.status, 201, "{target}");
    });
}

fn repository(number: usize) -> String {
    format!("bench/r{number}")
}

fn image(layers: impl Iterator<Item = Vec<u8>>) -> String {
    let descriptor = |kind: &str, blob: &[u8]| serde_json::json!({"mediaType": kind, "digest": sha256(blob), "size": blob.len()});
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = layers.map(|blob| descriptor(layer, &blob)).collect();
    let mut config = layers[0].clone();
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
    })
    .to_string()
}

#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    p99: Vec<f64>,
    /// Megabytes.
    memory: f64,
}

impl Figures {
    /// Sends requests for some seconds, and samples the memory until this many collections have
    /// ended.
    fn look(&mut self, server: &mut Server, ends: u32) {
        let url = format!("http://{}/v2/{}/manifests/1", server.host(), repository(7));
        let (pid, is_over) = (server.pid(), AtomicBool::new(false));
        let (wrk, memory) = thread::scope(|scope| {
            let memory = scope.spawn(|| {
                let mut most: f64 = 0.0;
                until("the end of the measurement", SOON * 2, || {
                    most = most.max(anonymous_megabytes(pid));
                    is_over.load(Ordering::Relaxed).then_some(())
                });
                most
            });
            let wrk = Wrk::run(CONNECTIONS, &url, Some(&format!("Accept: {MANIFEST}")));
            until("the end of a collection", SOON, || {
                (passes(&server.host()) >= f64::from(ends)).then_some(())
            });
            is_over.store(true, Ordering::Relaxed);
            (wrk, memory.join().unwrap())
        });
        self.rates.push(wrk.requests_per_second);
        self.p99.push(wrk.p99_ms);
        self.memory = self.memory.max(memory);
        let rate = wrk.requests_per_second;
        println!("{rate:.0} /s, p99 {} ms, {memory:.1} MB", wrk.p99_ms);
    }
}

/// How many collections ended.
fn passes(host: &str) -> f64 {
    let metrics = http::get(&format!("http://{host}/metrics"));
    let metrics = String::from_utf8(metrics.body).unwrap();
    let runs = metrics
        .lines()
        .filter(|line| line.contains("gc_runs_total"));
    let values = runs.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}
