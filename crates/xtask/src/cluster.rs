//! `cargo xtask cluster`: a real Kubernetes on this machine, for tests and for trying things out.
//!
//! The control plane is processes of the host on the address of a bridge; a node is a set of
//! namespaces with containerd, the kubelet and kube-proxy ([`node`]). What the nodes may reach is
//! filtered in them ([`firewall`]). Nothing needs Docker or systemd; it does need root.

mod addons;
mod certificates;
mod cgroups;
mod control_plane;
mod firewall;
mod images;
mod load;
mod network;
mod node;
mod node_files;
mod processes;
mod remains;
mod settings;

pub(crate) use settings::Cluster;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::builder;
use crate::command::{output, say};
use crate::tools::cluster::{ALL, KUBERNETES};
use crate::workspace::Workspace;
use processes::{running, succeeds, wait_for};
use settings::{folders, make_folder};

#[derive(Args)]
pub(crate) struct ClusterArguments {
    /// Which cluster: up to 8 lower-case letters and digits; several can be up at a time
    #[arg(
        long,
        global = true,
        env = "CORAL_CLUSTER_NAME",
        default_value = "coral"
    )]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring a fresh cluster up, and wait until its nodes and its name server are ready
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
    /// End it, and remove everything of it
    Down {
        /// Move the logs into this folder
        #[arg(long, value_name = "FOLDER")]
        logs: Option<PathBuf>,
    },
    /// Print what runs; fails if something does not
    Status,
    /// Print the path of the administrator's kubeconfig
    Kubeconfig,
    /// Print what a shell needs for kubectl and for the tests: eval "$(cargo xtask cluster env)"
    Env,
    /// Run kubectl as administrator
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill a node with all its processes at once
    Crash { node: String },
    /// Boot a crashed node: its disk is kept, its /run is new
    Boot {
        node: String,
        /// With a new disk, which has no image: as a node that joins the cluster
        #[arg(long)]
        new_disk: bool,
    },
    /// Run a command in a node's namespaces
    Exec {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// End a component: NODE containerd|kubelet|kube-proxy, or etcd, apiserver, controller-manager, scheduler, registry
    Stop {
        #[arg(required = true, num_args = 1..=2, value_names = ["NODE", "COMPONENT"])]
        what: Vec<String>,
    },
    /// Start a component that was ended
    Start {
        #[arg(required = true, num_args = 1..=2, value_names = ["NODE", "COMPONENT"])]
        what: Vec<String>,
    },
    /// Drop and count everything that leaves the nodes but for the API server's port
    Cut,
    /// End `cut`
    Join,
    /// Print as JSON what was dropped since `cut`, by node, source and destination
    Dropped,
    /// Load an image into every node
    Load {
        /// An OCI archive (tar) or layout (folder)
        image: PathBuf,
        /// Its full name there, such as registry.example.org/coral:1
        reference: String,
    },
    /// Load the builder's image into every node, as localhost/coral-builder:1
    LoadBuilder,
}

pub(crate) fn run(workspace: &Workspace, arguments: &ClusterArguments) -> Result<()> {
    let name = &arguments.name;
    if let Action::Up { nodes } = arguments.action {
        return up(workspace, name, nodes).map(drop);
    }
    if let Action::Down { logs } = &arguments.action {
        return down(workspace, name, logs.as_deref());
    }
    let cluster = Cluster::open(workspace, name)?;
    match &arguments.action {
        Action::Up { .. } | Action::Down { .. } => Ok(()),
        Action::Status => status(&cluster),
        Action::Kubeconfig => {
            println!("{}", cluster.kubeconfig("admin").display());
            Ok(())
        }
        Action::Env => {
            for (name, value) in environment(workspace, &cluster)? {
                println!("export {name}='{}'", value.display());
            }
            Ok(())
        }
        Action::Kubectl { arguments } => become_command(cluster.kubectl().args(arguments)),
        Action::Crash { node } => {
            let node = cluster.node(node)?;
            firewall::keep_counts(&cluster, node)?;
            node::crash(&cluster, node)
        }
        Action::Boot { node, new_disk } => {
            let node = cluster.node(node)?;
            if *new_disk {
                node::replace_disk(&cluster, node)?;
            }
            node::boot(&cluster, node)
        }
        Action::Exec { node, command } => {
            become_command(node::enter(&cluster, cluster.node(node)?)?.args(command))
        }
        Action::Stop { what } => stop(&cluster, what),
        Action::Start { what } => start(&cluster, what),
        Action::Cut => firewall::cut(&cluster),
        Action::Join => firewall::join(&cluster),
        Action::Dropped => {
            println!("{:#}", firewall::dropped(&cluster)?);
            Ok(())
        }
        Action::Load { image, reference } => load::into_nodes(&cluster, image, reference),
        Action::LoadBuilder => {
            load::into_nodes(&cluster, &builder::layout(workspace)?, builder::REFERENCE)
        }
    }
}

/// What the acceptance tests find a cluster by, with its kubectl first on `PATH`.
pub(crate) fn environment(
    workspace: &Workspace,
    cluster: &Cluster,
) -> Result<Vec<(&'static str, OsString)>> {
    let mut path = OsString::from(KUBERNETES.bin(&cluster.cache));
    path.push(":");
    path.push(workspace.path()?);
    Ok(vec![
        ("KUBECONFIG", cluster.kubeconfig("admin").into()),
        ("KUBECACHEDIR", cluster.kubectl_cache().into()),
        ("CORAL_CLUSTER_NAME", cluster.name.clone().into()),
        ("CORAL_CLUSTER_ADDRESS", cluster.host().into()),
        ("CORAL_CLUSTER_AUDIT", cluster.audit_log().into()),
        ("CORAL_XTASK_BIN", keep_program(cluster)?.into()),
        ("PATH", path),
    ])
}

/// Copies this program into the cluster's folder, and returns the path.
///
/// Cargo replaces the file of a running program when it builds it again with other features, as
/// `cargo test` does between two stages; the path of this process names a deleted file then.
fn keep_program(cluster: &Cluster) -> Result<PathBuf> {
    let (kept, fresh) = (cluster.file("xtask"), cluster.file("xtask.new"));
    fs::copy("/proc/self/exe", &fresh)
        .and_then(|_| fs::rename(&fresh, &kept))
        .with_context(|| format!("cannot copy this program to {}", kept.display()))?;
    Ok(kept)
}

/// Makes a fresh cluster. One that does not come up is removed again, except for its logs.
pub(crate) fn up(workspace: &Workspace, name: &str, nodes: u8) -> Result<Cluster> {
    check_machine(workspace)?;
    let folders = folders();
    let parent = folders
        .parent()
        .context("a folder below the root holds the clusters")?;
    // Two that come up at the same time must not take the same addresses.
    let lock = File::open(parent).with_context(|| format!("no {}", parent.display()))?;
    lock.lock().context("cannot take the lock")?;
    ensure!(
        Cluster::open(workspace, name).is_err(),
        "the cluster {name} is there already: `cargo xtask cluster down` removes it"
    );
    let index = network::free_index(|index| Cluster::new(workspace, name, index, nodes))?;
    let cluster = Cluster::new(workspace, name, index, nodes)?;
    for folder in ["pids", "logs", "pki", "registry"] {
        make_folder(&cluster.file(folder))?;
    }
    cluster.save()?;
    network::make_bridge(&cluster)?;
    drop(lock);
    if let Err(error) = bring_up(&cluster) {
        let logs = std::env::temp_dir().join(format!("coral-cluster-{name}-logs"));
        take_down(&cluster, Some(&logs))?;
        return Err(error.context(format!("the cluster did not come up ({})", logs.display())));
    }
    Ok(cluster)
}

fn bring_up(cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    let passed = |what: &str| say(&format!("{:5.1} s  {what}", began.elapsed().as_secs_f32()));
    certificates::make(cluster)?;
    images::start_registry(cluster)?;
    control_plane::start(cluster)?;
    images::push(cluster)?;
    passed("images pushed");
    control_plane::finish(cluster)?;
    passed("control plane up");
    for node in 1..=cluster.nodes {
        node::boot(cluster, node)?;
    }
    passed("nodes booted");
    addons::apply(cluster)?;
    wait_until_ready(cluster)?;
    passed("nodes and name server ready");
    let kubeconfig = cluster.kubeconfig("admin");
    say(&format!("export KUBECONFIG={}", kubeconfig.display()));
    Ok(())
}

fn wait_until_ready(cluster: &Cluster) -> Result<()> {
    let patience = Duration::from_mins(4);
    for node in 1..=cluster.nodes {
        let name = format!("node/node{node}");
        wait_for(&format!("node{node} is ready"), patience, || {
            let wait = ["wait", "--for=condition=Ready", "--timeout=10s", &name];
            succeeds(cluster.kubectl().args(wait))
        })?;
    }
    let mut rollout = cluster.kubectl();
    rollout.args([
        "--namespace=kube-system",
        "rollout",
        "status",
        "--timeout=240s",
    ]);
    output(rollout.arg("daemonset/coredns"))?;
    wait_for("the default ServiceAccount", patience, || {
        succeeds(cluster.kubectl().args(["get", "serviceaccount", "default"]))
    })
}

/// What `up` cannot do without.
fn check_machine(workspace: &Workspace) -> Result<()> {
    let user = output(Command::new("id").arg("-u"))?;
    ensure!(
        user.trim() == "0",
        "a cluster needs root: namespaces, mounts and links"
    );
    let missing: Vec<String> = ALL
        .iter()
        .filter(|programs| !programs.is_in(&workspace.cache))
        .map(|programs| programs.line())
        .collect();
    ensure!(
        missing.is_empty(),
        "not built yet: {}; `cargo xtask test --install --only tools` builds them",
        missing.join(", ")
    );
    Ok(())
}

/// Ends a cluster and removes everything of it; one that is not there is no error.
pub(crate) fn down(workspace: &Workspace, name: &str, logs: Option<&Path>) -> Result<()> {
    match Cluster::open(workspace, name) {
        Ok(cluster) => take_down(&cluster, logs),
        Err(error) => {
            say(&format!("nothing to do: {error}"));
            Ok(())
        }
    }
}

fn take_down(cluster: &Cluster, logs: Option<&Path>) -> Result<()> {
    for node in 1..=cluster.nodes {
        node::crash(cluster, node)?;
    }
    for component in control_plane::COMPONENTS.iter().rev() {
        processes::kill(cluster, component)?;
    }
    processes::kill(cluster, "registry")?;
    network::remove_bridge(cluster);
    cgroups::remove_all(cluster);
    let kept = logs.map_or(Ok(()), |logs| keep_logs(cluster, logs));
    remains::remove_folder(cluster)?;
    remains::check(cluster)?;
    kept
}

/// Moves the logs to where they stay.
fn keep_logs(cluster: &Cluster, logs: &Path) -> Result<()> {
    if logs.exists() {
        fs::remove_dir_all(logs).with_context(|| format!("cannot remove {}", logs.display()))?;
    }
    if let Some(parent) = logs.parent() {
        make_folder(parent)?;
    }
    let from = cluster.file("logs");
    output(Command::new("mv").arg("-T").arg(from).arg(logs)).map(drop)
}

fn status(cluster: &Cluster) -> Result<()> {
    let control = control_plane::COMPONENTS.iter().map(ToString::to_string);
    let nodes = (1..=cluster.nodes).flat_map(|node| {
        let inside = node::COMPONENTS
            .iter()
            .map(move |c| format!("node{node}-{c}"));
        std::iter::once(format!("node{node}")).chain(inside)
    });
    let mut down = 0;
    for name in control.chain(["registry".to_owned()]).chain(nodes) {
        if let Some(id) = running(cluster, &name) {
            println!("{name:24} process {id}");
        } else {
            down += 1;
            println!("{name:24} down");
        }
    }
    let outside = if firewall::is_cut(cluster) {
        "cut off"
    } else {
        "reachable"
    };
    println!("{:24} {outside} ({})", "outside", cluster.host());
    ensure!(down == 0, "{down} processes of {} are down", cluster.name);
    Ok(())
}

fn stop(cluster: &Cluster, what: &[String]) -> Result<()> {
    match what {
        [node, component] => node::stop(cluster, cluster.node(node)?, component),
        [component] => processes::halt(cluster, of_host(component)?),
        _ => Ok(()),
    }
}

fn start(cluster: &Cluster, what: &[String]) -> Result<()> {
    match what {
        [node, component] => node::start(cluster, cluster.node(node)?, component),
        [component] => {
            let component = of_host(component)?;
            ensure!(
                running(cluster, component).is_none(),
                "{component} runs already"
            );
            if component == "registry" {
                return images::start_registry(cluster);
            }
            control_plane::start_component(cluster, component)
        }
        _ => Ok(()),
    }
}

fn of_host(component: &str) -> Result<&str> {
    let known = component == "registry" || control_plane::COMPONENTS.contains(&component);
    let all = control_plane::COMPONENTS.join(", ");
    ensure!(
        known,
        "no component of the host is named {component}: they are {all}, registry"
    );
    Ok(component)
}

/// Becomes another program, which has the terminal and gives the exit code.
fn become_command(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", name.display()))
}
