//! `cargo xtask bench`: Coral as it is shipped beside its peers, into `docs/benchmarks.md`.

use anyhow::Result;
use clap::Args;

use crate::command::{Said, cargo, run};
use crate::tools::{self, OnMissing};
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Only print the figures; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry_run: bool,
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
    measure(workspace, pages).map(drop)
}

pub(crate) fn measure(workspace: &Workspace, pages: Pages) -> Result<Said> {
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
    let mut command = cargo(
        workspace,
        &[
            "run",
            "--locked",
            "--quiet",
            "-p",
            "e2e",
            "--example",
            "bench",
        ],
    )?;
    command.env("CORAL_BIN", workspace.target.join("dist/coral"));
    command.env(
        "CORAL_FAULTS_BIN",
        workspace.target.join("release/examples/faults"),
    );
    command.env("CORAL_CACHE", &workspace.cache);
    if pages == Pages::Write {
        command
            .arg("--")
            .arg(workspace.root.join("docs/benchmarks.md"));
    }
    run(&mut command)
}
