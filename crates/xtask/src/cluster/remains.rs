//! Nothing of a cluster stays behind, and `down` fails if something does.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::processes::{lookalikes, wait_for};
use super::settings::{Cluster, folders};
use super::{cgroups, network};

/// Removes the folder of a cluster whose processes have ended. The mounts of a node go a moment
/// after its processes.
pub(super) fn remove_folder(cluster: &Cluster) -> Result<()> {
    let mut left = String::new();
    let gone = wait_for("", Duration::from_secs(10), || {
        let removed = fs::remove_dir_all(&cluster.folder);
        left = removed.err().map(|e| e.to_string()).unwrap_or_default();
        !cluster.folder.exists()
    });
    if gone.is_err() {
        bail!("cannot remove {}: {left}", cluster.folder.display());
    }
    // The folder of all clusters, if this was the last.
    let _ = fs::remove_dir(folders());
    Ok(())
}

/// Fails if processes, links, routes, control groups or mounts of the cluster are still there.
pub(super) fn check(cluster: &Cluster) -> Result<()> {
    let mut left = network::links_and_routes(cluster)?;
    left.extend(lookalikes(cluster));
    let groups = cgroups::left(cluster);
    left.extend(
        groups
            .iter()
            .map(|group| format!("group {}", group.display())),
    );
    let folder = cluster.folder.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&folder))
            .map(str::to_owned),
    );
    ensure!(
        left.is_empty(),
        "left behind by {}:\n  {}",
        cluster.name,
        left.join("\n  ")
    );
    Ok(())
}
