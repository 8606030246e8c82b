//! The acceptance tests: one stage for each file of `crates/e2e/tests`, run against the release
//! binary and real peers.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Tier;
use crate::command::{cargo, run};
use crate::stage::Stage;
use crate::workspace::Workspace;

pub(crate) fn stages(workspace: &Workspace, tier: Tier) -> Result<Vec<Stage>> {
    let names = group_names(workspace)?;
    let stage = |name: String| {
        let group = name.clone();
        Stage::new(
            format!("e2e:{name}"),
            &["tools", "build"],
            move |workspace| run(&mut group_command(workspace, &group, tier)?),
        )
    };
    Ok(names.into_iter().map(stage).collect())
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

/// Only the ignored tests: the others ran with the unit tests already.
fn group_command(workspace: &Workspace, group: &str, tier: Tier) -> Result<Command> {
    let mut command = cargo(
        workspace,
        &[
            "test", "--locked", "--quiet", "-p", "e2e", "--test", group, "--",
        ],
    )?;
    command.args(["--ignored", "--nocapture"]);
    command.env("CORAL_BIN", workspace.coral());
    command.env("CORAL_FAULTS_BIN", workspace.faults());
    command.env("CORAL_CACHE", &workspace.cache);
    let counts = match tier {
        Tier::Quick => ["20", "10", "120"],
        Tier::Long => ["100", "50", "1200"],
    };
    let names = [
        "CORAL_KILL_ROUNDS",
        "CORAL_WRITER_ROUNDS",
        "CORAL_SOAK_SECONDS",
    ];
    command.envs(names.into_iter().zip(counts));
    // What a developer has set for their own registries must not reach the tests.
    for name in [
        "CORAL_LISTEN",
        "CORAL_DATA",
        "CORAL_PLAIN_HTTP",
        "DOCKER_CONFIG",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}
