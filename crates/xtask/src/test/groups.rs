//! The acceptance tests: one stage for each file of `crates/e2e/tests`, run against the release
//! binary and real peers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Tier;
use crate::cluster;
use crate::command::{StageReport, cargo, run, say};
use crate::stage::Stage;
use crate::workspace::Workspace;

const NODES: u8 = 2;

/// The stages; those that need a cluster bring up one of their own each (called `clusters` and the
/// number of the group) and run side by side, or take the one that a kubeconfig names, one after
/// another.
pub(crate) fn stages(
    workspace: &Workspace,
    tier: Tier,
    clusters: &str,
    kubeconfig: Option<&Path>,
) -> Result<Vec<Stage>> {
    let names = group_names(workspace)?;
    let stage = |(number, name): (usize, String)| {
        let (group, cluster) = (name.clone(), format!("{clusters}{number}"));
        let is_side_by_side = needs_cluster(&name) && kubeconfig.is_none();
        let kubeconfig = kubeconfig.map(Path::to_path_buf);
        let stage = Stage::new(
            format!("e2e:{name}"),
            &["tools", "build"],
            move |workspace| {
                let mut command = group_command(workspace, &group, tier)?;
                match &kubeconfig {
                    _ if !needs_cluster(&group) => run(&mut command),
                    Some(kubeconfig) => run(command.env("KUBECONFIG", kubeconfig)),
                    None => run_on_cluster(workspace, &group, &cluster, command),
                }
            },
        );
        if is_side_by_side {
            stage.side_by_side()
        } else {
            stage
        }
    };
    Ok(names.into_iter().enumerate().map(stage).collect())
}

/// `cluster.rs` and everything that begins with `cluster_`.
fn needs_cluster(group: &str) -> bool {
    group == "cluster" || group.starts_with("cluster_")
}

/// Runs a group on a fresh cluster, which is taken down whatever happens; its logs stay in the
/// target folder.
fn run_on_cluster(
    workspace: &Workspace,
    group: &str,
    name: &str,
    mut command: Command,
) -> Result<StageReport> {
    // What a run that was cut short left behind.
    cluster::down(workspace, name, None)?;
    let up = cluster::up(workspace, name, NODES)?;
    command.envs(cluster::environment(workspace, &up)?);
    let result = run(&mut command);
    let logs = workspace.target.join("cluster-logs").join(group);
    let down = cluster::down(workspace, name, Some(&logs));
    if let Err(error) = &down {
        say(&format!("the cluster is not down: {error:#}"));
    }
    let said = result.with_context(|| format!("the cluster's logs are in {}", logs.display()))?;
    down.map(|()| said)
}

/// The files of the tests folder; the quickstart comes first, since nothing else matters when it
/// fails.
fn group_names(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root.join("crates/e2e/tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort_by_key(|name| (name != "quickstart", name.clone()));
    Ok(names)
}

/// Only the ignored tests: the others ran with the unit tests already. The whole workspace is
/// selected, since cargo would choose other features for one crate and build everything again.
fn group_command(workspace: &Workspace, group: &str, tier: Tier) -> Result<Command> {
    let mut command = cargo(
        workspace,
        &[
            "test",
            "--locked",
            "--quiet",
            "--workspace",
            "--test",
            group,
            "--",
        ],
    )?;
    command.args(["--ignored", "--nocapture"]);
    command.env("CORAL_BIN", workspace.coral());
    command.env("CORAL_FAULTS_BIN", workspace.faults());
    command.env("CORAL_CACHE", &workspace.cache);
    let counts = match tier {
        Tier::Quick => ["20", "10", "120", "8", "64"],
        Tier::Long => ["100", "50", "1200", "600", "2048"],
    };
    let names = [
        "CORAL_KILL_ROUNDS",
        "CORAL_WRITER_ROUNDS",
        "CORAL_SOAK_SECONDS",
        "CORAL_GC_SOAK_SECONDS",
        "CORAL_SOURCE_MIB",
    ];
    command.envs(names.into_iter().zip(counts));
    // What a developer has set for their own registries must not reach the tests.
    for name in [
        "CORAL_LISTEN",
        "CORAL_DATA",
        "CORAL_PLAIN_HTTP",
        "DOCKER_CONFIG",
        "KUBECONFIG",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}
