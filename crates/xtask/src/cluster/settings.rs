//! What a cluster is called, where it lies and which addresses it has.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::tools::cluster::{CONTAINERD, ETCD, KUBERNETES, Programs, RUNC};
use crate::workspace::Workspace;

/// Where the folders of all clusters lie: a short path, since a socket's path ends at 107 letters,
/// and none below /run, /var/lib or /var/log, which the nodes have of their own.
const FOLDERS: &str = "/var/tmp/coral-cluster";
/// Links are named after the cluster, and their names end at 15 letters.
const LONGEST_NAME: usize = 8;
/// Clusters side by side: each has 32 networks of 256 addresses in 198.18.0.0/15, which is set
/// aside for measurements and on no real network.
pub(super) const MOST_CLUSTERS: u8 = 16;
const NETWORKS: u16 = 32;
/// Nodes have the pod networks 1 to 15; network 0 is the bridge's, 16 and above are Services.
pub(super) const MOST_NODES: u8 = 15;
const SERVICES: u16 = 16;
/// The API server's port.
pub(super) const API_PORT: u16 = 6443;

/// A cluster: its name, addresses and files.
pub(crate) struct Cluster {
    pub(super) name: String,
    /// Which share of the addresses it has.
    pub(super) index: u8,
    pub(super) nodes: u8,
    pub(super) cache: PathBuf,
    /// Certificates, logs, process ids, images, and a folder for each node.
    pub(super) folder: PathBuf,
}

impl Cluster {
    /// A cluster that is about to be made.
    pub(super) fn new(workspace: &Workspace, name: &str, index: u8, nodes: u8) -> Result<Self> {
        ensure!(
            (1..=MOST_NODES).contains(&nodes),
            "a cluster has 1 to {MOST_NODES} nodes, not {nodes}"
        );
        Ok(Self {
            name: name.to_owned(),
            index,
            nodes,
            cache: workspace.cache.clone(),
            folder: folder_of(name)?,
        })
    }

    /// The cluster of that name, as `up` made it.
    pub(super) fn open(workspace: &Workspace, name: &str) -> Result<Self> {
        let folder = folder_of(name)?;
        let file = folder.join("cluster.json");
        let text = fs::read(&file).with_context(|| {
            format!("there is no cluster named {name}: `cargo xtask cluster up` makes it")
        })?;
        let state: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", file.display()))?;
        let number = |key: &str| {
            let number = state[key].as_u64().and_then(|n| u8::try_from(n).ok());
            number.with_context(|| format!("{} has no number `{key}`", file.display()))
        };
        Self::new(workspace, name, number("index")?, number("nodes")?)
    }

    /// Writes down what [`Cluster::open`] reads.
    pub(super) fn save(&self) -> Result<()> {
        let state = json!({"index": self.index, "nodes": self.nodes});
        write(&self.folder.join("cluster.json"), &state.to_string())
    }

    /// An address, by network and last byte.
    fn address(&self, network: u16, last: u8) -> String {
        let network = u16::from(self.index) * NETWORKS + network;
        format!("198.{}.{}.{last}", 18 + network / 256, network % 256)
    }

    /// The bridge's address: the API server and everything outside listens there.
    pub(crate) fn host(&self) -> String {
        self.address(0, 1)
    }

    /// All addresses of the cluster, the bridge's included.
    pub(super) fn range(&self) -> String {
        format!("{}/19", self.address(0, 0))
    }

    pub(super) fn node_address(&self, node: u8) -> String {
        self.address(0, 10 + node)
    }

    pub(super) fn pods(&self, node: u8) -> String {
        format!("{}/24", self.address(u16::from(node), 0))
    }

    pub(super) fn services(&self) -> String {
        format!("{}/22", self.address(SERVICES, 0))
    }

    /// The address of the Service `kubernetes`.
    pub(super) fn api_service(&self) -> String {
        self.address(SERVICES, 1)
    }

    /// The address of the cluster's name server.
    pub(super) fn dns_service(&self) -> String {
        self.address(SERVICES, 10)
    }

    /// The registry that serves the images every cluster needs.
    pub(crate) fn registry(&self) -> String {
        format!("{}:5000", self.host())
    }

    /// etcd listens on a loopback address of the cluster's own.
    pub(super) fn etcd(&self, port: u16) -> String {
        format!("http://127.0.1.{}:{port}", self.index + 1)
    }

    pub(super) fn bridge(&self) -> String {
        format!("{}-br", self.name)
    }

    /// The host's end of a node's cable.
    pub(super) fn cable(&self, node: u8) -> String {
        format!("{}-{node}", self.name)
    }

    pub(super) fn cgroup(&self) -> String {
        format!("coral-{}", self.name)
    }

    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    pub(super) fn node_folder(&self, node: u8) -> PathBuf {
        self.folder.join(format!("node{node}"))
    }

    /// The kubeconfig of a user: `admin`, a component or a node.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    fn program(&self, programs: &Programs, name: &str) -> String {
        let file = programs.bin(&self.cache).join(name);
        file.display().to_string()
    }

    pub(super) fn etcd_program(&self) -> String {
        self.program(&ETCD, "etcd")
    }

    pub(super) fn containerd_program(&self, name: &str) -> String {
        self.program(&CONTAINERD, name)
    }

    pub(super) fn runc_program(&self) -> String {
        self.program(&RUNC, "runc")
    }

    pub(super) fn containerd_folder(&self) -> PathBuf {
        CONTAINERD.bin(&self.cache)
    }

    pub(super) fn kubernetes_program(&self, name: &str) -> String {
        self.program(&KUBERNETES, name)
    }

    /// kubectl with the administrator's rights.
    pub(crate) fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.kubernetes_program("kubectl"));
        kubectl.env("KUBECONFIG", self.kubeconfig("admin"));
        kubectl.env("KUBECACHEDIR", self.kubectl_cache());
        kubectl
    }

    /// What kubectl remembers of the API server, which is not for the user's home.
    pub(super) fn kubectl_cache(&self) -> PathBuf {
        self.file("kubectl-cache")
    }

    /// Who asked the API server for what: of Coral's own parts only.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.file("logs/audit.log")
    }

    /// The number of a node by its name (`node2`).
    pub(super) fn node(&self, name: &str) -> Result<u8> {
        let number = name.strip_prefix("node").and_then(|n| n.parse().ok());
        match number {
            Some(number) if (1..=self.nodes).contains(&number) => Ok(number),
            _ => bail!(
                "no node is named {name}: the cluster {} has node1 to node{}",
                self.name,
                self.nodes
            ),
        }
    }
}

/// The folder of every cluster, made by `up` and removed by `down`.
pub(super) fn folders() -> PathBuf {
    env::var_os("CORAL_CLUSTER_FOLDER").map_or_else(|| PathBuf::from(FOLDERS), PathBuf::from)
}

fn folder_of(name: &str) -> Result<PathBuf> {
    let is_plain = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    ensure!(
        is_plain && (1..=LONGEST_NAME).contains(&name.len()),
        "a cluster's name has 1 to {LONGEST_NAME} lower-case letters and digits, unlike `{name}`"
    );
    Ok(folders().join(name))
}

pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(index: u8) -> Cluster {
        Cluster {
            name: "coral".to_owned(),
            index,
            nodes: 2,
            cache: PathBuf::from("/cache"),
            folder: PathBuf::from("/clusters/coral"),
        }
    }

    #[test]
    fn clusters_side_by_side_have_addresses_of_their_own() {
        let (first, last) = (cluster(0), cluster(MOST_CLUSTERS - 1));
        assert_eq!(first.host(), "198.18.0.1");
        assert_eq!(first.range(), "198.18.0.0/19");
        assert_eq!(first.pods(2), "198.18.2.0/24");
        assert_eq!(first.services(), "198.18.16.0/22");
        assert_eq!(last.host(), "198.19.224.1");
        assert_eq!(last.dns_service(), "198.19.240.10");
        assert_ne!(first.etcd(2379), last.etcd(2379));
    }

    #[test]
    fn a_name_that_no_link_can_have_is_refused() {
        assert!(folder_of("coral").is_ok());
        for name in ["", "much-too-long", "Coral", "../x"] {
            assert!(folder_of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_node_is_known_by_its_name() {
        let cluster = cluster(0);
        assert_eq!(cluster.node("node2").unwrap(), 2);
        let error = cluster.node("node3").unwrap_err().to_string();
        assert!(error.contains("node1 to node2"), "{error}");
    }
}
