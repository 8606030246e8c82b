//! A registry outside that the mirrors under test copy from: it gets new images all the time, and
//! its blobs come slowly, so that there is always a copy to be caught in the middle.

#![allow(dead_code, reason = "each test binary has its own use of the source")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::{FaultServer, until};
use serde_json::json;

use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_mins(2);

/// Repositories of the source, with what has been under each tag.
pub(crate) struct Source {
    server: FaultServer,
    /// Repository and tag: every digest that it had, the last one is today's.
    history: BTreeMap<(String, String), Vec<String>>,
    /// What the next image is made from.
    next: u64,
}

impl Source {
    /// An empty one, whose blobs come in pieces of so many bytes, a hundred pieces a second.
    pub(crate) fn start(piece: usize) -> Self {
        let server = FaultServer::registry(&[]);
        server.fault(&json!({
            "on": { "method": "GET", "path": "/blobs/" },
            "effect": { "drip": { "chunk": piece, "every_ms": 10 } },
        }));
        Self {
            server,
            history: BTreeMap::new(),
            next: 1,
        }
    }

    /// Puts a new image under a tag, which moves if it was there.
    pub(crate) fn push(&mut self, path: &str, tag: &str, kind: &str) {
        let seed = json!({
            "path": path, "tag": tag, "kind": kind, "seed": self.next,
            "layers": [150_000, 40_000, 500],
        });
        self.next += 1;
        let digest = self.server.load(&seed)["digest"].clone();
        let digest = digest.as_str().expect("a digest").to_owned();
        let place = (path.to_owned(), tag.to_owned());
        self.history.entry(place).or_default().push(digest);
    }

    /// A mirror of these repositories with all their tags, every second, into `registry`.
    pub(crate) fn mirror(&self, name: &str, registry: &str, paths: &[&str]) -> String {
        let host = self.server.host();
        let repositories = paths
            .iter()
            .map(|path| format!("    - {{name: {host}/{path}, select: {{all: true}}}}\n"));
        format!(
            "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: {name}\nspec:\n  \
             registry: {registry}\n  interval: 1s\n  retry: {{maxBackoff: 1s}}\n  \
             repositories:\n{}",
            repositories.collect::<String>()
        )
    }

    /// The host as an argument of `--plain-http`.
    pub(crate) fn host(&self) -> &str {
        self.server.host()
    }

    /// Waits until a blob has been asked for since the last call.
    pub(crate) fn wait_for_a_copy(&self) {
        until("a blob read from the source", PATIENCE, || {
            let requests = self.server.requests();
            requests.iter().any(e2e::Request::reads_blob).then_some(())
        });
        self.forget();
    }

    /// Forgets what has been asked for.
    pub(crate) fn forget(&self) {
        self.server.forget();
    }

    /// Where a repository lies in the registry inside.
    pub(crate) fn inside(&self, path: &str) -> String {
        format!("{}/{path}", self.server.folder_name())
    }

    /// Every repository in the registry inside that copies go to.
    fn repositories(&self) -> BTreeSet<&str> {
        self.history.keys().map(|(path, _)| path.as_str()).collect()
    }

    /// Looks at everything that has been mirrored so far: a tag that is listed is there, at what
    /// the source had under it at some time, and complete to the last byte.
    pub(crate) fn check_copies(&self, address: &str) -> Result<usize, String> {
        let mut wire = Wire::connect(address).map_err(|error| error.to_string())?;
        let mut tags = 0;
        for path in self.repositories() {
            let name = self.inside(path);
            for tag in listed(&mut wire, &name)? {
                let digest = complete(&mut wire, &name, &tag)?;
                let place = (path.to_owned(), tag.clone());
                let known = self.history.get(&place);
                if !known.is_some_and(|known| known.contains(&digest)) {
                    return Err(format!("{name}:{tag} is {digest}, which it never was"));
                }
                tags += 1;
            }
        }
        Ok(tags)
    }

    /// Waits until the registry inside has every tag as the source has it today.
    pub(crate) fn wait_until_mirrored(&self, address: &str) -> usize {
        let mut wire = Wire::connect(address).expect("the registry accepts connections");
        for ((path, tag), digests) in &self.history {
            let target = format!("/v2/{}/manifests/{tag}", self.inside(path));
            let today = digests.last().map(String::as_str);
            until(&format!("{path}:{tag} is mirrored"), PATIENCE, || {
                let reply = wire.call("HEAD", &target, &[], b"").expect("an answer");
                let digest = reply.header("docker-content-digest");
                (reply.status == 200 && digest == today).then_some(())
            });
        }
        self.history.len()
    }
}

fn listed(wire: &mut Wire, name: &str) -> Result<Vec<String>, String> {
    let reply = ask(wire, &format!("/v2/{name}/tags/list?n=1000"))?;
    if reply.status == 404 {
        return Ok(Vec::new());
    }
    let list: serde_json::Value =
        serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    let tags = list["tags"].as_array().into_iter().flatten();
    Ok(tags
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect())
}

/// Reads a manifest, its children and its blobs; returns its digest.
fn complete(wire: &mut Wire, name: &str, reference: &str) -> Result<String, String> {
    let reply = ask(wire, &format!("/v2/{name}/manifests/{reference}"))?;
    let digest = e2e::sha256(&reply.body);
    if reply.status != 200 || (reference.starts_with("sha256:") && reference != digest) {
        return Err(format!("{name} {reference}: {} {digest}", reply.status));
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    for child in manifest["manifests"].as_array().into_iter().flatten() {
        complete(wire, name, child["digest"].as_str().unwrap_or_default())?;
    }
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let config = manifest.get("config");
    for blob in layers.chain(config) {
        let digest = blob["digest"].as_str().unwrap_or_default();
        let reply = ask(wire, &format!("/v2/{name}/blobs/{digest}"))?;
        if reply.status != 200 || e2e::sha256(&reply.body) != digest {
            return Err(format!(
                "{name} {reference}: its blob {digest} is {}",
                reply.status
            ));
        }
    }
    Ok(digest)
}

fn ask(wire: &mut Wire, target: &str) -> Result<crate::wire::Reply, String> {
    wire.call("GET", target, &[], b"")
        .map_err(|error| format!("GET {target}: {error}"))
}
