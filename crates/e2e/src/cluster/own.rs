//! The cluster of `cargo xtask cluster`: its nodes can be crashed and booted, and its outside cut
//! off.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::run::{Finished, run};

/// A cluster on this machine.
pub struct OwnCluster {
    xtask: PathBuf,
    name: String,
    address: String,
}

/// Packets that a node dropped, by source and destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The node that dropped them.
    pub node: String,
    /// The address that sent them: a node's, or a pod's.
    pub source: String,
    /// The address that they were for.
    pub address: String,
    /// The port that they were for; 0 where there is none.
    pub port: u16,
    /// How many.
    pub packets: u64,
    /// How many of them asked for something: opened a connection or sent data. The rest are of
    /// connections that were idle when the outside was cut off.
    pub asked: u64,
}

/// A request of one of Coral's parts, from the audit log of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedRequest {
    /// The part's ServiceAccount, as `NAMESPACE:NAME`.
    pub user: String,
    /// `get`, `list`, `watch`, `patch` and so on.
    pub verb: String,
    /// The plural of what was asked for, with its subresource; empty where it was no resource.
    pub resource: String,
    /// Path and query.
    pub uri: String,
}

impl OwnCluster {
    pub(super) fn from_environment() -> Option<Self> {
        let xtask = PathBuf::from(env::var_os("CORAL_XTASK_BIN")?);
        let name = env::var("CORAL_CLUSTER_NAME").ok()?;
        let address = env::var("CORAL_CLUSTER_ADDRESS").ok()?;
        Some(Self {
            xtask,
            name,
            address,
        })
    }

    /// The bridge's address, on which everything outside the nodes listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// An image of the registry that every cluster has: `busybox` or `pause`.
    pub fn base_image(&self, name: &str) -> String {
        format!("{}:5000/{name}:1", self.address)
    }

    /// The requests of Coral's parts so far, the oldest first. A watch counts when it begins, every
    /// other request when it is answered.
    ///
    /// # Panics
    /// If there is no audit log.
    pub fn audited(&self) -> Vec<AuditedRequest> {
        let file = env::var_os("CORAL_CLUSTER_AUDIT").expect("the cluster names its audit log");
        let text = fs::read_to_string(&file).unwrap_or_default();
        // The last line may be half written.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.filter_map(|line| audited_of(&line)).collect()
    }

    /// Runs `cargo xtask cluster …`; the caller looks at its exit code.
    pub fn xtask(&self, arguments: &[&str]) -> Finished {
        let mut xtask = Command::new(&self.xtask);
        run(xtask
            .args(["cluster", "--name", &self.name])
            .args(arguments))
    }

    /// Kills a node with all its processes at once.
    pub fn crash(&self, node: &str) {
        let _ = self.xtask(&["crash", node]).succeeded();
    }

    /// Boots a crashed node.
    pub fn boot(&self, node: &str) {
        let _ = self.xtask(&["boot", node]).succeeded();
    }

    /// Boots a crashed node with a new disk, as a node that joins the cluster.
    pub fn boot_with_new_disk(&self, node: &str) {
        let _ = self.xtask(&["boot", node, "--new-disk"]).succeeded();
    }

    /// Ends a component of a node: `containerd`, `kubelet` or `kube-proxy`.
    pub fn stop(&self, node: &str, component: &str) {
        let _ = self.xtask(&["stop", node, component]).succeeded();
    }

    /// Starts a component of a node again.
    pub fn start(&self, node: &str, component: &str) {
        let _ = self.xtask(&["start", node, component]).succeeded();
    }

    /// Cuts the outside off until the value is dropped.
    #[must_use = "the outside is reachable again as soon as this is dropped"]
    pub fn cut(&self) -> Cut<'_> {
        let _ = self.xtask(&["cut"]).succeeded();
        Cut { cluster: self }
    }

    /// What was dropped since the last cut.
    pub fn dropped(&self) -> Vec<Dropped> {
        let printed = self.xtask(&["dropped"]).succeeded();
        let value: Value = serde_json::from_str(&printed.stdout).expect("xtask prints JSON");
        let all = value["dropped"].as_array().expect("a list");
        all.iter().map(dropped_of).collect()
    }

    /// How many packets to an address and port (`198.18.0.1:5000`) were dropped since the last cut.
    pub fn dropped_to(&self, host: &str) -> u64 {
        let all = self.dropped();
        let matching = all
            .iter()
            .filter(|d| format!("{}:{}", d.address, d.port) == host);
        matching.map(|d| d.packets).sum()
    }

    /// How many packets that asked something of an address and port were dropped since the last cut.
    pub fn asked_of(&self, host: &str) -> u64 {
        let all = self.dropped();
        let matching = all
            .iter()
            .filter(|d| format!("{}:{}", d.address, d.port) == host);
        matching.map(|d| d.asked).sum()
    }

    /// Runs a command in the namespaces of a node; the caller looks at its exit code.
    pub fn exec(&self, node: &str, command: &[&str]) -> Finished {
        self.xtask(&[&["exec", node], command].concat())
    }

    /// Loads an OCI archive or layout into every node, under a full name.
    pub fn load(&self, image: &Path, reference: &str) {
        let _ = self
            .xtask(&["load", &image.to_string_lossy(), reference])
            .succeeded();
    }
}

/// A cluster whose outside is cut off.
pub struct Cut<'a> {
    cluster: &'a OwnCluster,
}

impl Cut<'_> {
    /// Lets the outside in again; the counts of what was dropped stay.
    pub fn join(self) {
        drop(self);
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let joined = self.cluster.xtask(&["join"]);
        // A test that fails already says why itself.
        if !std::thread::panicking() {
            let _ = joined.succeeded();
        }
    }
}

fn audited_of(line: &Value) -> Option<AuditedRequest> {
    let text = |pointer: &str| line.pointer(pointer)?.as_str();
    let verb = text("/verb")?;
    let counts = if verb == "watch" {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    let user = text("/user/username")?;
    let mut resource = text("/objectRef/resource").unwrap_or_default().to_owned();
    if let Some(subresource) = text("/objectRef/subresource") {
        resource = format!("{resource}/{subresource}");
    }
    (text("/stage")? == counts).then(|| AuditedRequest {
        user: user.trim_start_matches("system:serviceaccount:").to_owned(),
        verb: verb.to_owned(),
        resource,
        uri: text("/requestURI").unwrap_or_default().to_owned(),
    })
}

fn dropped_of(value: &Value) -> Dropped {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let port = value["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    Dropped {
        node: text("node"),
        source: text("source"),
        address: text("address"),
        port: port.unwrap_or_default(),
        packets: value["packets"].as_u64().unwrap_or_default(),
        asked: value["asked"].as_u64().unwrap_or_default(),
    }
}
