//! The stages that need no registry: formatting, lints, builds, unit tests and generated files.

use std::fs;

use anyhow::{Result, bail};

use super::Tier;
use crate::command::{StageReport, cargo, program, run};
use crate::generate;
use crate::workspace::{TARGET, Workspace};

pub(crate) fn format(workspace: &Workspace) -> Result<StageReport> {
    run(&mut cargo(workspace, &["fmt", "--all", "--check"])?)
}

pub(crate) fn clippy(workspace: &Workspace) -> Result<StageReport> {
    let arguments = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    run(&mut cargo(workspace, &arguments)?)
}

/// The one release build that quickstart, acceptance tests, cluster and container image share: a
/// static one, since the image holds nothing else. And the registry with faults.
pub(crate) fn build(workspace: &Workspace) -> Result<StageReport> {
    let arguments = [
        "build",
        "--locked",
        "--release",
        "--target",
        TARGET,
        "--bin",
        "coral",
    ];
    // With --target, this is for the program only and not for what runs during the build.
    run(cargo(workspace, &arguments)?.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let faults = workspace
        .root
        .join("crates/coral-testkit/examples/faults.rs");
    if !faults.is_file() {
        bail!("{} is missing", faults.display());
    }
    run(&mut cargo(
        workspace,
        &["build", "--locked", "--workspace", "--example", "faults"],
    )?)
}

/// Operations of the model of a store with crashes, in the long tier.
const MODEL_STEPS: &str = "20000";

pub(crate) fn unit(workspace: &Workspace, tier: Tier) -> Result<StageReport> {
    let mut command = cargo(
        workspace,
        &[
            "test",
            "--locked",
            "--workspace",
            "--quiet",
            "--no-fail-fast",
        ],
    )?;
    if tier == Tier::Long {
        command.env("CORAL_MODEL_STEPS", MODEL_STEPS);
    }
    run(&mut command)
}

pub(crate) fn doc(workspace: &Workspace) -> Result<StageReport> {
    let arguments = [
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    run(cargo(workspace, &arguments)?.env("RUSTDOCFLAGS", "-D warnings"))
}

pub(crate) fn generated(workspace: &Workspace) -> Result<StageReport> {
    generate::check(workspace)?;
    Ok(StageReport::default())
}

pub(crate) fn deny(workspace: &Workspace) -> Result<StageReport> {
    let mut command = program(workspace, "cargo-deny")?;
    command.args(["--locked", "check", "--hide-inclusion-graph"]);
    // Not the advisories: their database needs the internet.
    run(command.args(["bans", "licenses", "sources"]))
}

pub(crate) fn actionlint(workspace: &Workspace) -> Result<StageReport> {
    let folder = workspace.root.join(".github/workflows");
    let mut command = program(workspace, "actionlint")?;
    for entry in fs::read_dir(&folder)? {
        command.arg(entry?.path());
    }
    run(&mut command)
}
