//! Taints of nodes.

use super::Cluster;

/// A taint that keeps off pods which do not tolerate it, until it is dropped. Those that run stay.
pub struct Taint<'a> {
    cluster: &'a Cluster,
    node: String,
}

const TAINT: &str = "only=builds:NoSchedule";

impl<'a> Taint<'a> {
    /// Sets the taint `only=builds:NoSchedule`.
    pub fn set(cluster: &'a Cluster, node: &str) -> Self {
        let taint = ["taint", "node", node, "--overwrite", TAINT];
        let _ = cluster.kubectl(&taint).succeeded();
        let node = node.to_owned();
        Self { cluster, node }
    }
}

impl Drop for Taint<'_> {
    fn drop(&mut self) {
        let taint = format!("{TAINT}-");
        let _ = self.cluster.kubectl(&["taint", "node", &self.node, &taint]);
    }
}
