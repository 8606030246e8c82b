//! A node: a set of namespaces with containerd, the kubelet and kube-proxy inside.
//!
//! Its folder is its disk: `lib`, `log`, `run` and `etc/containerd` are mounted over the usual
//! places, so that all default paths hold inside. Killing its first process ends everything of it;
//! the kernel takes its mounts and links away.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::processes::{forget, halt, kill, names, running, spawn, succeeds, wait_for, worker};
use super::settings::{Cluster, make_folder};
use super::{addons, cgroups, firewall, network, node_files};

const INIT: &str = include_str!("node_init.sh");
/// In the order in which they start.
pub(super) const COMPONENTS: &[&str] = &["containerd", "kubelet", "kube-proxy"];

/// Boots a node; its disk is kept, its /run is new.
pub(super) fn boot(cluster: &Cluster, node: u8) -> Result<()> {
    let name = format!("node{node}");
    ensure!(running(cluster, &name).is_none(), "{name} is up already");
    let folder = cluster.node_folder(node);
    for gone in ["run", "up"] {
        remove(&folder.join(gone))?;
    }
    for made in ["run", "lib", "log"] {
        make_folder(&folder.join(made))?;
    }
    addons::make_volumes(&folder, node)?;
    node_files::write_all(cluster, node)?;
    cgroups::make(cluster, node)?;
    let mut first = Command::new("unshare");
    first.args([
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    first
        .args(["bash", "-c", INIT, "node"])
        .arg(&folder)
        .arg(&name);
    spawn(cluster, &name, &first)?;
    let up = folder.join("up");
    wait_for(
        &format!("the namespaces of {name} (see {name}.log)"),
        Duration::from_mins(1),
        || up.exists(),
    )?;
    // Before there is a way out.
    firewall::build(cluster, node)?;
    network::plug(cluster, node, first_process(cluster, node)?)?;
    for component in COMPONENTS {
        start(cluster, node, component)?;
    }
    Ok(())
}

/// Removes all that a crashed node has stored.
pub(super) fn replace_disk(cluster: &Cluster, node: u8) -> Result<()> {
    let name = format!("node{node}");
    ensure!(
        running(cluster, &name).is_none(),
        "{name} is up: `cargo xtask cluster crash {name}` ends it"
    );
    remove(&cluster.node_folder(node))?;
    make_folder(&cluster.node_folder(node))
}

/// Kills a node with all its processes at once, as if its plug were pulled.
pub(super) fn crash(cluster: &Cluster, node: u8) -> Result<()> {
    let name = format!("node{node}");
    kill(cluster, &name)?;
    let prefix = format!("{name}-");
    for component in names(cluster).iter().filter(|n| n.starts_with(&prefix)) {
        kill(cluster, component)?;
        forget(cluster, component)?;
    }
    network::unplug(cluster, node);
    cgroups::remove_node(cluster, node);
    Ok(())
}

/// Starts one component of a running node.
pub(super) fn start(cluster: &Cluster, node: u8, component: &str) -> Result<()> {
    let name = process_name(node, component)?;
    ensure!(
        running(cluster, &name).is_none(),
        "{component} of node{node} runs already"
    );
    let mut command = enter(cluster, node)?;
    let folder = cluster.node_folder(node);
    match component {
        "containerd" => {
            let programs = cluster.containerd_folder();
            let path = std::env::var("PATH").unwrap_or_default();
            command.env(
                "PATH",
                format!("{}:{path}:/usr/sbin:/sbin", programs.display()),
            );
            command.arg(cluster.containerd_program("containerd"));
            command.args(["--config", "/etc/containerd/config.toml"]);
        }
        "kubelet" => {
            command.arg(cluster.kubernetes_program("kubelet"));
            command.arg("--config").arg(folder.join("kubelet.yaml"));
            command
                .arg("--kubeconfig")
                .arg(cluster.kubeconfig(&format!("node{node}")));
            command.args(["--root-dir", "/var/lib/kubelet", "--v=2"]);
            command.arg(format!("--hostname-override=node{node}"));
            command.arg(format!("--node-ip={}", cluster.node_address(node)));
        }
        _ => {
            command.arg(cluster.kubernetes_program("kube-proxy"));
            command.arg("--config").arg(folder.join("kube-proxy.yaml"));
            command.arg("--v=1");
        }
    }
    spawn(cluster, &name, &command)?;
    if component == "containerd" {
        wait_for(&format!("{name} answers"), Duration::from_mins(1), || {
            succeeds(ctr(cluster, node).arg("version"))
        })?;
    }
    Ok(())
}

/// Ends one component of a node.
pub(super) fn stop(cluster: &Cluster, node: u8, component: &str) -> Result<()> {
    halt(cluster, &process_name(node, component)?)
}

/// `nsenter` into a node: the command to run inside is added by the caller.
pub(super) fn enter(cluster: &Cluster, node: u8) -> Result<Command> {
    let id = first_process(cluster, node)?.to_string();
    let mut enter = Command::new("nsenter");
    enter.args(["-t", &id, "-m", "-u", "-i", "-n", "-p", "--"]);
    Ok(enter)
}

/// containerd's own client, for a node's containerd.
pub(super) fn ctr(cluster: &Cluster, node: u8) -> Command {
    let socket = cluster
        .node_folder(node)
        .join("run/containerd/containerd.sock");
    let mut ctr = Command::new(cluster.containerd_program("ctr"));
    ctr.arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io"]);
    ctr
}

pub(super) fn first_process(cluster: &Cluster, node: u8) -> Result<u32> {
    worker(cluster, &format!("node{node}"))
        .with_context(|| format!("node{node} is down: `cargo xtask cluster boot node{node}`"))
}

fn process_name(node: u8, component: &str) -> Result<String> {
    if !COMPONENTS.contains(&component) {
        bail!(
            "no component is named {component}: a node has {}",
            COMPONENTS.join(", ")
        );
    }
    Ok(format!("node{node}-{component}"))
}

fn remove(path: &std::path::Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        return Ok(());
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}
