//! The fault registry as a process, and helpers of the tests.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Finished, Process, coral, faults, run, scratch};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing local takes longer.
pub(crate) const SOON: Duration = Duration::from_mins(2);

/// The repository and tag that most tests copy.
pub(crate) const IMAGE: &str = "team/app:1";

/// An answer over plain HTTP.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("an answer in JSON")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own.
pub(crate) fn http(host: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(host).unwrap_or_else(|e| panic!("no {host}: {e}"));
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .expect("a timeout can be set");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the head is sent");
    // A server that refuses a body may close before it has read it: its answer counts.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let split = split.unwrap_or_else(|| panic!("{method} {path}: no answer from {host}"));
    let headers = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
    let status = headers.split(' ').nth(1).and_then(|s| s.parse().ok());
    Answer {
        status: status.expect("a status"),
        headers,
        body: bytes[split + 4..].to_vec(),
    }
}

/// The image that [`IMAGE`] names: two platforms, three layers each.
pub(crate) fn image() -> Value {
    json!({ "kind": "index", "path": "team/app", "tag": "1", "layers": [200_000, 30_000, 500] })
}

/// A fault on requests of this method whose path contains `path`; empty strings match all.
#[allow(
    clippy::needless_pass_by_value,
    reason = "effects are written where they are passed"
)]
pub(crate) fn fault(method: &str, path: &str, effect: Value) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({ "on": { "method": some(method), "path": some(path) }, "effect": effect })
}

/// The same, only on the first so many.
pub(crate) fn first(times: u32, mut fault: Value) -> Value {
    fault["times"] = json!({ "first": times });
    fault
}

/// A registry with faults.
pub(crate) struct Faulty {
    pub(crate) host: String,
    _process: Process,
}

impl Faulty {
    /// Empty, plain HTTP, no authorization.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With arguments of its own.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let mut process = Process::start(faults().args(arguments));
        let line = process.wait_for_line("listening on", SOON);
        let host = line.rsplit("//").next().unwrap_or_default().to_owned();
        Self {
            host,
            _process: process,
        }
    }

    /// Holding [`image`].
    pub(crate) fn with_image() -> Self {
        let registry = Self::start();
        registry.load(&image());
        registry
    }

    pub(crate) fn load(&self, seed: &Value) -> Value {
        self.control("POST", "load", seed)
    }

    pub(crate) fn fault(&self, fault: Value) {
        self.control("POST", "faults", &Value::Array(vec![fault]));
    }

    /// Opens a gate that requests are held at.
    pub(crate) fn release(&self, gate: &str) {
        self.control("POST", "release", &Value::from(gate));
    }

    pub(crate) fn clear_faults(&self) {
        self.control("DELETE", "faults", &Value::Null);
    }

    pub(crate) fn ask_for(&self, auth: &Value) {
        e2e::passwords_in(auth);
        self.control("POST", "auth", auth);
    }

    /// The requests so far, each with method, path, status, authorization, received, sent.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let requests = self.control("GET", "requests", &Value::Null);
        requests.as_array().expect("a list of requests").clone()
    }

    /// What of this image is missing, or not the same byte for byte.
    pub(crate) fn difference(&self, seed: &Value) -> Option<String> {
        let difference = self.control("POST", "difference", seed);
        difference.as_str().map(ToOwned::to_owned)
    }

    /// Tokens given out.
    pub(crate) fn tokens(&self) -> u64 {
        let state = self.control("GET", "state", &Value::Null);
        state["tokens"].as_u64().expect("a count")
    }

    /// The tags of a repository.
    pub(crate) fn tags(&self, path: &str) -> Vec<String> {
        let state = self.control("GET", "state", &Value::Null);
        let tags = state["repositories"][path]["tags"].as_object().cloned();
        tags.unwrap_or_default().keys().cloned().collect()
    }

    /// A reference to something in it.
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    fn control(&self, method: &str, what: &str, body: &Value) -> Value {
        let body = serde_json::to_vec(body).expect("JSON is written");
        let answer = http(&self.host, method, &format!("/_control/{what}"), &body);
        assert_eq!(answer.status, 200, "{method} {what}: {}", answer.text());
        answer.json()
    }
}

/// Long enough for anything local, and soon over.
pub(crate) const STALLED: [&str; 2] = ["--stall-timeout", "3s"];

/// `coral copy` with plain HTTP for these hosts.
pub(crate) fn copy(from: &str, to: &str, plain: &[&Faulty]) -> Command {
    let mut command = coral();
    command.args(["copy", from, to]).args(STALLED);
    for registry in plain {
        command.args(["--plain-http", &registry.host]);
    }
    command
}

/// A source that holds the image, and a destination that is empty.
pub(crate) struct Pair {
    pub(crate) source: Faulty,
    pub(crate) destination: Faulty,
}

impl Pair {
    pub(crate) fn start() -> Self {
        Self {
            source: Faulty::with_image(),
            destination: Faulty::start(),
        }
    }

    pub(crate) fn copy(&self) -> Finished {
        let (from, to) = (self.source.at(IMAGE), self.destination.at(IMAGE));
        run(&mut copy(&from, &to, &[&self.source, &self.destination]))
    }

    /// Copies once more without faults, and looks at every byte.
    pub(crate) fn recovers(&self) {
        self.source.clear_faults();
        self.destination.clear_faults();
        let finished = self.copy().succeeded();
        let difference = self.destination.difference(&image());
        assert_eq!(difference, None, "after {finished}");
    }

    /// Copies: it fails, naming the host and one of `words`; no tag appears; later it works.
    pub(crate) fn fails_then_recovers(&self, host: &str, words: &[&str]) {
        let finished = self.copy().exited(1).saying(host);
        says_one_of(&finished, words);
        assert_eq!(self.destination.tags("team/app"), [""; 0], "{finished}");
        self.recovers();
    }

    /// Copies: it works although there is a fault, and every byte is right.
    pub(crate) fn survives(&self) -> Finished {
        let finished = self.copy().succeeded();
        let difference = self.destination.difference(&image());
        assert_eq!(difference, None, "{finished}");
        finished
    }
}

/// Insists that standard error holds one of these words, in any case.
pub(crate) fn says_one_of(finished: &Finished, words: &[&str]) {
    let said = finished.stderr.to_lowercase();
    let found = words.iter().any(|word| said.contains(&word.to_lowercase()));
    assert!(found, "none of {words:?} on standard error of {finished}");
}

/// Coral's own registry, on a port that it picks, over a folder.
pub(crate) struct Served {
    pub(crate) host: String,
    pub(crate) process: Process,
}

impl Served {
    pub(crate) fn start(storage: &Path) -> Self {
        let storage = storage.to_str().expect("a plain path");
        let arguments = [
            "registry",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--storage",
            storage,
        ];
        Self::from(Process::start(coral().args(arguments)))
    }

    /// A process that says where its registry listens.
    pub(crate) fn from(mut process: Process) -> Self {
        let line = process.wait_for_line("registry listening on", SOON);
        let host = line.split("http://").nth(1).unwrap_or_default();
        let host = host.split(char::is_whitespace).next().unwrap_or_default();
        Self {
            host: host.to_owned(),
            process,
        }
    }
}

/// A folder with one file in it.
pub(crate) fn folder_with(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = scratch();
    let file = folder.path().join(name);
    std::fs::write(&file, text).expect("the file is written");
    (folder, file)
}
