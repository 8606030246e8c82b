//! Serving and taking blobs and manifests: Coral's registry beside distribution.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use e2e::{Layout, http, peers, run, scratch, sha256};

use crate::server::Server;
use crate::table::{Better, Row, median};

const SIZE: usize = 256 << 20;
const CHUNK: usize = 16 << 20;
const ROUNDS: usize = 5;
const MB: f64 = 1e6;

/// What one registry did.
struct Figures {
    get: f64,
    get_parallel: f64,
    cpu_per_gb: f64,
    manifests: f64,
    manifests_p99: f64,
    push: f64,
    push_chunked: f64,
}

pub(crate) fn measure() -> Vec<Row> {
    let home = scratch();
    let coral = figures(Server::coral, home.path());
    let peer = figures(Server::distribution, home.path());
    let row = |work: &str, unit, better, figure: fn(&Figures) -> f64| Row {
        work: work.to_owned(),
        unit,
        better,
        coral: figure(&coral),
        peer: figure(&peer),
        peer_name: "distribution",
    };
    vec![
        row(
            "256 MB blob GET, one connection (curl)",
            "MB/s",
            Better::Higher,
            |f| f.get,
        ),
        row("same, 4 connections (wrk)", "MB/s", Better::Higher, |f| {
            f.get_parallel
        }),
        row("same, server CPU", "s/GB", Better::Lower, |f| f.cpu_per_gb),
        row(
            "manifest GET, 16 connections (wrk)",
            "/s",
            Better::Higher,
            |f| f.manifests,
        ),
        row("same, p99", "ms", Better::Lower, |f| f.manifests_p99),
        row("256 MB push, whole", "MB/s", Better::Higher, |f| f.push),
        row(
            "256 MB push, in 16 MB chunks",
            "MB/s",
            Better::Higher,
            |f| f.push_chunked,
        ),
    ]
}

fn figures(start: fn() -> Server, home: &Path) -> Figures {
    let blob = home.join("blob");
    let digest = random_file(&blob, SIZE);
    let (push, push_chunked) = pushes(start, &blob, &digest);
    let mut server = start();
    push_whole(&server, &blob, &digest);
    let manifest = push_image(&server, home);
    let url = format!("http://{}/v2/bench/blobs/{digest}", server.host());
    let get = median((0..ROUNDS).map(|_| curl_rate(&url)).collect());
    let before = server.cpu_seconds();
    let parallel = Wrk::run(4, &url, None);
    let cpu = server.cpu_seconds() - before;
    let manifests = Wrk::run(
        16,
        &manifest,
        Some("Accept: application/vnd.oci.image.manifest.v1+json"),
    );
    Figures {
        get,
        get_parallel: parallel.bytes_per_second / MB,
        cpu_per_gb: cpu / (parallel.bytes / 1e9),
        manifests: manifests.requests_per_second,
        manifests_p99: manifests.p99_ms,
        push,
        push_chunked,
    }
}

/// Fills a file with bytes that do not compress, and returns their digest.
pub(crate) fn random_file(path: &Path, size: usize) -> String {
    let mut bytes = vec![0; size];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.sync_all().unwrap();
    sha256(&bytes)
}

/// Each push goes to a registry that does not have the blob yet.
fn pushes(start: fn() -> Server, blob: &Path, digest: &str) -> (f64, f64) {
    let chunks = split(blob);
    let (mut whole, mut chunked) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        whole.push(rate(|| push_whole(&start_quietly(start), blob, digest)));
        chunked.push(rate(|| push_chunks(&start_quietly(start), &chunks, digest)));
    }
    (median(whole), median(chunked))
}

/// A fresh registry, once the disk has nothing left to write from before.
fn start_quietly(start: fn() -> Server) -> Server {
    let _ = run(&mut Command::new("sync"));
    start()
}

/// Megabytes a second of the seconds that `push` says it took.
fn rate(push: impl FnOnce() -> f64) -> f64 {
    SIZE as f64 / MB / push()
}

fn push_whole(server: &Server, blob: &Path, digest: &str) -> f64 {
    let began = Instant::now();
    let location = begin_upload(server);
    finish(server, &location, digest, Some(blob));
    began.elapsed().as_secs_f64()
}

fn push_chunks(server: &Server, chunks: &[PathBuf], digest: &str) -> f64 {
    let began = Instant::now();
    let mut location = begin_upload(server);
    let mut offset = 0;
    for chunk in chunks {
        let size = fs::metadata(chunk).unwrap().len();
        let range = format!("Content-Range: {offset}-{}", offset + size - 1);
        let body = format!("@{}", chunk.display());
        let octets = "Content-Type: application/octet-stream";
        let arguments = [
            "-X",
            "PATCH",
            "-H",
            octets,
            "-H",
            "Expect:",
            "-H",
            &range,
            "--data-binary",
            &body,
            &location,
        ];
        let answer = http::request(&arguments);
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        location = absolute(server, answer.header("location").unwrap());
        offset += size;
    }
    finish(server, &location, digest, None);
    began.elapsed().as_secs_f64()
}

fn begin_upload(server: &Server) -> String {
    let url = format!("http://{}/v2/bench/blobs/uploads/", server.host());
    let answer = http::request(&["-X", "POST", "-d", "", &url]);
    assert_eq!(answer.status, 202);
    absolute(server, answer.header("location").unwrap())
}

fn finish(server: &Server, location: &str, digest: &str, body: Option<&Path>) {
    let joint = if location.contains('?') { '&' } else { '?' };
    let url = format!("{location}{joint}digest={digest}");
    let answer = match body {
        Some(body) => http::request(&["-H", "Expect:", "-T", &body.to_string_lossy(), &url]),
        None => http::request(&["-X", "PUT", "-d", "", &url]),
    };
    assert_eq!(
        answer.status,
        201,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let _ = server;
}

fn absolute(server: &Server, location: &str) -> String {
    if location.starts_with("http") {
        return location.to_owned();
    }
    format!("http://{}{location}", server.host())
}

fn split(blob: &Path) -> Vec<PathBuf> {
    let bytes = fs::read(blob).unwrap();
    let write = |(number, chunk): (usize, &[u8])| {
        let path = blob.with_extension(number.to_string());
        fs::write(&path, chunk).unwrap();
        path
    };
    bytes.chunks(CHUNK).enumerate().map(write).collect()
}

/// Pushes a small image, and returns the address of its manifest.
fn push_image(server: &Server, home: &Path) -> String {
    let layout = Layout::open(home.join("small"));
    layout.tag("1", &layout.add_image("amd64", b"a layer"));
    let to = format!("docker://{}/bench:1", server.host());
    let _ = run(&mut peers::skopeo_copy(home, &layout.reference("1"), &to)).succeeded();
    format!("http://{}/v2/bench/manifests/1", server.host())
}

fn curl_rate(url: &str) -> f64 {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--fail",
        "--output",
        "/dev/null",
        "--write-out",
        "%{speed_download}",
        url,
    ]);
    run(&mut curl).succeeded().text().parse::<f64>().unwrap() / MB
}

/// What wrk says of five seconds.
struct Wrk {
    requests_per_second: f64,
    bytes_per_second: f64,
    bytes: f64,
    p99_ms: f64,
}

impl Wrk {
    fn run(connections: usize, url: &str, header: Option<&str>) -> Self {
        let mut wrk = Command::new("wrk");
        wrk.args([
            "-t",
            "2",
            "-d",
            "5s",
            "--latency",
            "-c",
            &connections.to_string(),
        ]);
        wrk.args(header.into_iter().flat_map(|header| ["-H", header]))
            .arg(url);
        let said = run(&mut wrk).succeeded().stdout;
        assert!(!said.contains("Non-2xx"), "{said}");
        let after = |name: &str| {
            said.split_once(name)
                .map_or("", |(_, rest)| rest)
                .split_whitespace()
        };
        let read = said
            .lines()
            .find(|line| line.trim_end().ends_with("read"))
            .unwrap();
        Self {
            requests_per_second: after("Requests/sec:").next().unwrap().parse().unwrap(),
            bytes_per_second: bytes(after("Transfer/sec:").next().unwrap()),
            bytes: bytes(read.split_whitespace().rev().nth(1).unwrap()),
            p99_ms: milliseconds(after("99%").next().unwrap()),
        }
    }
}

/// wrk's sizes, with powers of 1024: `2.71GB`.
fn bytes(text: &str) -> f64 {
    scaled(
        text,
        &[
            ("GB", 1024.0 * 1024.0 * 1024.0),
            ("MB", 1024.0 * 1024.0),
            ("KB", 1024.0),
            ("B", 1.0),
        ],
    )
}

/// wrk's times: `812.00us`.
fn milliseconds(text: &str) -> f64 {
    scaled(
        text,
        &[("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)],
    )
}

fn scaled(text: &str, units: &[(&str, f64)]) -> f64 {
    let found = units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    });
    found.unwrap_or_else(|| panic!("no number with a unit: {text}"))
}
