//! `cargo xtask bench`: Coral beside its peers, and on a cluster, into `docs/benchmarks.md`.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::cluster;
use crate::command::{StageReport, cargo, program, run};
use crate::test::build;
use crate::tools::{self, OnMissing};
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// What to measure: registry and mirror beside their peers, or Coral or its builds on a cluster (as root)
    #[arg(value_enum, default_value_t = Subject::Machine)]
    subject: Subject,
    /// Only print the figures; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Registry and mirror on this machine, beside their peers.
    Machine,
    /// Installation, placing and a registry with little memory, on a fresh cluster of two nodes.
    Cluster,
    /// Builds of images, on a fresh cluster of two nodes.
    Build,
}

/// Whether the page of the documentation is written anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    Write,
    Leave,
}

pub(crate) fn bench(workspace: &Workspace, arguments: &BenchArguments) -> Result<()> {
    tools::check(workspace, OnMissing::List)?;
    let pages = if arguments.dry_run {
        Pages::Leave
    } else {
        Pages::Write
    };
    match arguments.subject {
        Subject::Machine => measure(workspace, pages),
        Subject::Cluster => measure_cluster(workspace, "cluster", pages),
        Subject::Build => measure_cluster(workspace, "build", pages),
    }
    .map(drop)
}

/// The cluster that is measured on; it stands beside those of tests and developers.
const CLUSTER: &str = "bench";
const NODES: u8 = 2;

fn measure_cluster(workspace: &Workspace, part: &str, pages: Pages) -> Result<StageReport> {
    build(workspace)?;
    cluster::down(workspace, CLUSTER, None)?;
    let up = cluster::up(workspace, CLUSTER, NODES)?;
    let mut command = example(workspace, part, pages)?;
    command.env("CORAL_BIN", workspace.coral());
    command.envs(cluster::environment(workspace, &up)?);
    let result = run(&mut command);
    let logs = workspace.target.join("cluster-logs").join(CLUSTER);
    cluster::down(workspace, CLUSTER, Some(&logs))?;
    result
}

/// The program that measures one part of the page.
fn example(workspace: &Workspace, part: &str, pages: Pages) -> Result<Command> {
    let build = ["build", "--locked", "--workspace", "--example", "bench"];
    run(&mut cargo(workspace, &build)?)?;
    let mut command = program(workspace, workspace.example("bench"))?;
    command.arg(part);
    command.env("CORAL_CACHE", &workspace.cache);
    if pages == Pages::Write {
        command.arg(workspace.root.join("docs/benchmarks.md"));
    }
    Ok(command)
}

pub(crate) fn measure(workspace: &Workspace, pages: Pages) -> Result<StageReport> {
    let build = ["build", "--locked", "--profile", "dist", "--bin", "coral"];
    run(&mut cargo(workspace, &build)?)?;
    // The proxy that counts requests must not be what is measured: an optimised one, too.
    let faults = [
        "build",
        "--locked",
        "--release",
        "-p",
        "coral-testkit",
        "--example",
        "faults",
    ];
    run(&mut cargo(workspace, &faults)?)?;
    let mut command = example(workspace, "machine", pages)?;
    command.env("CORAL_BIN", workspace.target.join("dist/coral"));
    command.env(
        "CORAL_FAULTS_BIN",
        workspace.target.join("release/examples/faults"),
    );
    run(&mut command)
}
