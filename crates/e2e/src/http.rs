//! Plain requests, sent by curl: shows what is on the wire, without a client of the project in
//! between.

use std::fs;
use std::process::Command;

use crate::run::{run, scratch};

/// One answer.
pub struct Answer {
    /// Status code; 0 if there was none (connection refused).
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// The last header of that name, case ignored.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut matching = self
            .headers
            .iter()
            .rev()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name));
        matching.next().map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Media types of everything a registry may hold under a tag.
const MANIFESTS: &str = "Accept: application/vnd.oci.image.index.v1+json, \
                         application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// GET, with all manifest types accepted.
pub fn get(url: &str) -> Answer {
    request(&["--header", MANIFESTS, url])
}

/// HEAD, with all manifest types accepted.
pub fn head(url: &str) -> Answer {
    request(&["--head", "--header", MANIFESTS, url])
}

/// Any request, by curl's own arguments.
///
/// # Panics
/// If curl is missing, or cannot write its output.
pub fn request(arguments: &[&str]) -> Answer {
    let folder = scratch();
    let (headers, body) = (folder.path().join("headers"), folder.path().join("body"));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http1.1", "--max-time", "60"]);
    curl.arg("--dump-header")
        .arg(&headers)
        .arg("--output")
        .arg(&body)
        .args(arguments);
    let _ = run(&mut curl);
    let head = fs::read_to_string(&headers).unwrap_or_default();
    Answer {
        status: last_status(&head),
        headers: head.lines().filter_map(header_of).collect(),
        body: fs::read(&body).unwrap_or_default(),
    }
}

/// The status of the last answer; `100 Continue` and redirects come before it.
fn last_status(head: &str) -> u16 {
    let mut lines = head.lines().rev();
    let line = lines.find(|line| line.starts_with("HTTP/"));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .unwrap_or(0)
}

fn header_of(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}
