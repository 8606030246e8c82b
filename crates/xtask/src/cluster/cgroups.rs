//! The control groups below which the nodes keep their pods, in both versions of the kernel's
//! interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::processes::wait_for;
use super::settings::{Cluster, make_folder};

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the group of a node, in every hierarchy.
pub(super) fn make(cluster: &Cluster, node: u8) -> Result<()> {
    for hierarchy in hierarchies() {
        let parent = hierarchy.join(cluster.cgroup());
        let group = parent.join(format!("node{node}"));
        make_folder(&group)?;
        if hierarchy == Path::new(ROOT) {
            delegate(&hierarchy)?;
            delegate(&parent)?;
        } else if hierarchy.ends_with("cpuset") {
            fill_cpuset(&hierarchy, &[&parent, &group])?;
        }
    }
    Ok(())
}

/// Removes the groups of a node whose processes are gone, as a reboot would: the next kubelet
/// would spend seconds on the old ones.
pub(super) fn remove_node(cluster: &Cluster, node: u8) {
    remove(&format!("{}/node{node}", cluster.cgroup()));
}

/// Removes all groups of the cluster.
pub(super) fn remove_all(cluster: &Cluster) {
    remove(&cluster.cgroup());
}

/// The groups of the cluster that are there.
pub(super) fn left(cluster: &Cluster) -> Vec<PathBuf> {
    let groups = hierarchies().into_iter().map(|h| h.join(cluster.cgroup()));
    groups.filter(|group| group.exists()).collect()
}

/// Version 2 has one hierarchy, version 1 a folder for each.
fn hierarchies() -> Vec<PathBuf> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return vec![PathBuf::from(ROOT)];
    }
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").is_file())
        .collect()
}

/// A new group of version 1 has neither processors nor memory nodes until it is told.
fn fill_cpuset(hierarchy: &Path, groups: &[&Path]) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let all = fs::read_to_string(hierarchy.join(name)).context("the cpuset cannot be read")?;
        for group in groups {
            let file = group.join(name);
            fs::write(&file, all.trim())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Lets the groups below have the controllers (version 2). Only a group without processes of its
/// own may pass them on, so those of a container's root move into a group beside ours.
fn delegate(group: &Path) -> Result<()> {
    let read = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
    let controllers = read("cgroup.controllers");
    let passed: String = controllers
        .split_whitespace()
        .fold(String::new(), |all, name| format!("{all} +{name}"));
    let file = group.join("cgroup.subtree_control");
    if fs::write(&file, passed.trim()).is_ok() {
        return Ok(());
    }
    let aside = group.join("coral-rest");
    make_folder(&aside)?;
    for id in read("cgroup.procs").lines() {
        // A process that has ended meanwhile needs no move.
        let _ = fs::write(aside.join("cgroup.procs"), id);
    }
    fs::write(&file, passed.trim()).with_context(|| format!("cannot write {}", file.display()))
}

/// Removes a group and those below, the deepest first. The kernel lets go of a killed process's
/// group a moment after the process.
fn remove(name: &str) {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        let _ = wait_for("", Duration::from_secs(3), || {
            remove_tree(&group);
            !group.exists()
        });
    }
}

fn remove_tree(group: &Path) {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
