//! The registry with fault switches, and the counting proxy, as processes that tests steer.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::binary::faults;
use crate::http::{Answer, request};
use crate::process::Process;

/// A running fault registry or counting proxy, on plain HTTP and loopback.
pub struct FaultServer {
    process: Process,
    host: String,
}

impl FaultServer {
    /// An empty registry; `arguments` are the program's own.
    pub fn registry(arguments: &[&str]) -> Self {
        Self::start(faults().args(arguments))
    }

    /// A proxy in front of `host:port` that counts.
    pub fn proxy(upstream: &str) -> Self {
        Self::start(faults().args(["proxy", upstream]))
    }

    /// A forward proxy that leads everything to `host:port`, for this `name:password` only.
    pub fn connect_proxy(upstream: &str, user: &str) -> Self {
        Self::start(faults().args(["connect-proxy", upstream, "--user", user]))
    }

    fn start(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let line = process.wait_for_line("listening on http", Duration::from_mins(2));
        let host = line.rsplit('/').next().unwrap_or_default().to_owned();
        Self { process, host }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name of the host as a folder of the mirror: `127.0.0.1_PORT`.
    pub fn folder_name(&self) -> String {
        self.host.replace(':', "_")
    }

    /// Kills it: nothing listens at its address any more.
    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.wait(Duration::from_mins(2));
    }

    /// The process, for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Makes an image, keeps it, and says its digests.
    pub fn load(&self, seed: &Value) -> Value {
        self.control("POST", "load", Some(seed)).json()
    }

    /// Adds a fault.
    pub fn fault(&self, fault: &Value) {
        self.control("POST", "faults", Some(&Value::Array(vec![fault.clone()])));
    }

    /// Takes every fault away.
    pub fn clear_faults(&self) {
        self.control("DELETE", "faults", None);
    }

    /// Opens a gate that requests are held at.
    pub fn release(&self, gate: &str) {
        self.control("POST", "release", Some(&Value::from(gate)));
    }

    /// Every request since the start, or since they were forgotten.
    pub fn requests(&self) -> Vec<Request> {
        let answer = self.control("GET", "requests", None).json();
        answer
            .as_array()
            .into_iter()
            .flatten()
            .map(Request::read)
            .collect()
    }

    /// The statuses of all answers since the start, or since the requests were forgotten.
    pub fn statuses(&self) -> Vec<u64> {
        let answer = self.control("GET", "requests", None).json();
        let requests = answer.as_array().into_iter().flatten();
        requests
            .filter_map(|request| request["status"].as_u64())
            .collect()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.control("DELETE", "requests", None);
    }

    fn control(&self, method: &str, what: &str, body: Option<&Value>) -> Answer {
        let url = format!("http://{}/_control/{what}", self.host);
        let body = body.map(ToString::to_string);
        let mut arguments = vec!["--request", method, &url];
        if let Some(body) = &body {
            arguments.extend(["--data-binary", body]);
        }
        let answer = request(&arguments);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{method} {what}: {said}");
        answer
    }
}

/// A request that a fault server or proxy saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// GET, HEAD, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The Range header.
    pub range: Option<String>,
    /// Bytes of the answer's body so far.
    pub sent: u64,
    /// The status of the answer; 0 while there is none.
    pub status: u64,
}

impl Request {
    fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Self {
            method: text("method").unwrap_or_default(),
            path: text("path").unwrap_or_default(),
            range: text("range"),
            sent: value["sent"].as_u64().unwrap_or_default(),
            status: value["status"].as_u64().unwrap_or_default(),
        }
    }

    /// Whether it reads a blob.
    pub fn reads_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/")
    }

    /// Whether it asks only for a manifest's digest.
    pub fn is_manifest_head(&self) -> bool {
        self.method == "HEAD" && self.path.contains("/manifests/")
    }
}
