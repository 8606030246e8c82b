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

/// What one registry did, round by round.
#[derive(Default)]
struct Figures {
    get: Vec<f64>,
    get_parallel: Vec<f64>,
    cpu_per_gb: Vec<f64>,
    manifests: Vec<f64>,
    manifests_p99: Vec<f64>,
    push: Vec<f64>,
    push_chunked: Vec<f64>,
    memory: Vec<f64>,
}

type Start = fn() -> Server;

pub(crate) fn measure() -> Vec<Row> {
    let home = scratch();
    let blob = Blob::random(home.path());
    let mut coral = Figures::default();
    let mut peer = Figures::default();
    // In turns, so that what else the machine does meets both.
    for _ in 0..ROUNDS {
        pushes(Server::coral, &blob, &mut coral);
        pushes(Server::distribution, &blob, &mut peer);
    }
    let mut servers =
        [Server::coral, Server::distribution].map(|start: Start| Filled::new(start, &blob));
    for _ in 0..ROUNDS {
        servers[0].round(&mut coral);
        servers[1].round(&mut peer);
    }
    let row = |work: &str, unit, better, figure: fn(&Figures) -> &Vec<f64>| Row {
        work: work.to_owned(),
        unit,
        better,
        coral: median(figure(&coral).clone()),
        peer: median(figure(&peer).clone()),
        peer_name: "distribution",
    };
    vec![
        row(
            "256 MB blob GET, one connection (curl)",
            "MB/s",
            Better::Higher,
            |f| &f.get,
        ),
        row("same, 4 connections (wrk)", "MB/s", Better::Higher, |f| {
            &f.get_parallel
        }),
        row("same, server CPU", "s/GB", Better::Lower, |f| &f.cpu_per_gb),
        row(
            "manifest GET, 16 connections (wrk)",
            "/s",
            Better::Higher,
            |f| &f.manifests,
        ),
        row("same, p99", "ms", Better::Lower, |f| &f.manifests_p99),
        row("256 MB push, whole", "MB/s", Better::Higher, |f| &f.push),
        row(
            "256 MB push, in 16 MB chunks",
            "MB/s",
            Better::Higher,
            |f| &f.push_chunked,
        ),
        row(
            "anonymous memory after all that",
            "MB",
            Better::Lower,
            |f| &f.memory,
        ),
    ]
}

/// What is pushed and pulled.
struct Blob {
    file: PathBuf,
    chunks: Vec<PathBuf>,
    digest: String,
}

impl Blob {
    fn random(home: &Path) -> Self {
        let file = home.join("blob");
        let digest = random_file(&file, SIZE);
        Self {
            chunks: split(&file),
            file,
            digest,
        }
    }
}

/// Each push goes to a registry that does not have the blob yet.
fn pushes(start: Start, blob: &Blob, figures: &mut Figures) {
    let server = start_quietly(start);
    figures.push.push(rate(push_whole(&server, blob)));
    let server = start_quietly(start);
    figures.push_chunked.push(rate(push_chunks(&server, blob)));
}

/// A registry that holds the blob and a small image.
struct Filled {
    server: Server,
    blob: String,
    manifest: String,
}

impl Filled {
    fn new(start: Start, blob: &Blob) -> Self {
        let server = start_quietly(start);
        push_whole(&server, blob);
        let home = scratch();
        let manifest = push_image(&server, home.path());
        let blob = format!("http://{}/v2/bench/blobs/{}", server.host(), blob.digest);
        Self {
            server,
            blob,
            manifest,
        }
    }

    fn round(&mut self, figures: &mut Figures) {
        figures.get.push(curl_rate(&self.blob));
        let before = self.server.cpu_seconds();
        let parallel = Wrk::run(4, &self.blob, None);
        let cpu = self.server.cpu_seconds() - before;
        figures.get_parallel.push(parallel.bytes_per_second / MB);
        figures.cpu_per_gb.push(cpu / (parallel.bytes / 1e9));
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let manifests = Wrk::run(16, &self.manifest, Some(accept));
        figures.manifests.push(manifests.requests_per_second);
        figures.manifests_p99.push(manifests.p99_ms);
        figures.memory.push(self.server.anonymous_megabytes());
    }
}

/// Fills a file with bytes that do not compress, and returns their digest.
fn random_file(path: &Path, size: usize) -> String {
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

/// A fresh registry, once the disk has nothing left to write from before.
fn start_quietly(start: Start) -> Server {
    let _ = run(&mut Command::new("sync"));
    start()
}

/// Megabytes a second for one blob in so many seconds.
fn rate(seconds: f64) -> f64 {
    SIZE as f64 / MB / seconds
}

fn push_whole(server: &Server, blob: &Blob) -> f64 {
    let began = Instant::now();
    let location = begin_upload(server);
    finish(&location, &blob.digest, Some(&blob.file));
    began.elapsed().as_secs_f64()
}

fn push_chunks(server: &Server, blob: &Blob) -> f64 {
    let began = Instant::now();
    let mut location = begin_upload(server);
    let mut offset = 0;
    for chunk in &blob.chunks {
        let size = fs::metadata(chunk).unwrap().len();
        let range = format!("Content-Range: {offset}-{}", offset + size - 1);
        let headers = [&range, "Content-Type: application/octet-stream", "Expect:"];
        let chunk = chunk.to_string_lossy();
        let mut arguments = vec!["--request", "PATCH", "--upload-file", &chunk, &location];
        arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
        let answer = http::request(&arguments);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 202, "{said}");
        location = absolute(server, answer.header("location").unwrap());
        offset += size;
    }
    finish(&location, &blob.digest, None);
    began.elapsed().as_secs_f64()
}

fn begin_upload(server: &Server) -> String {
    let url = format!("http://{}/v2/bench/blobs/uploads/", server.host());
    let answer = http::request(&["-X", "POST", "-d", "", &url]);
    assert_eq!(answer.status, 202);
    absolute(server, answer.header("location").unwrap())
}

fn finish(location: &str, digest: &str, body: Option<&Path>) {
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

/// What wrk says of three seconds.
pub(crate) struct Wrk {
    pub(crate) requests_per_second: f64,
    bytes_per_second: f64,
    bytes: f64,
    pub(crate) p99_ms: f64,
}

impl Wrk {
    pub(crate) fn run(connections: usize, url: &str, header: Option<&str>) -> Self {
        let mut wrk = Command::new("wrk");
        wrk.args([
            "-t",
            "2",
            "-d",
            "3s",
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
        // Only at the start of a line: shares of the threads' statistics may end in 99% as well.
        let mut percentiles = said.lines().map(str::trim);
        let slowest = percentiles
            .find_map(|line| line.strip_prefix("99%"))
            .map(str::trim);
        Self {
            requests_per_second: after("Requests/sec:").next().unwrap().parse().unwrap(),
            bytes_per_second: bytes(after("Transfer/sec:").next().unwrap()),
            bytes: bytes(read.split_whitespace().rev().nth(1).unwrap()),
            p99_ms: milliseconds(slowest.unwrap()),
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
