//! `cargo xtask screenshots`: the pictures of the documentation, taken from the running program.

use anyhow::Result;

use crate::command::{cargo, program, run};
use crate::test::build;
use crate::workspace::Workspace;

/// Where the pictures lie.
const FOLDER: &str = "docs/src/images";

pub(crate) fn take(workspace: &Workspace) -> Result<()> {
    build(workspace)?;
    let example = [
        "build",
        "--locked",
        "--workspace",
        "--example",
        "screenshots",
    ];
    run(&mut cargo(workspace, &example)?)?;
    // In a network of its own, so that the ports in the pictures are the usual ones.
    let mut command = program(workspace, "unshare")?;
    let shell = "ip link set lo up && exec \"$0\" \"$@\"";
    command.args(["--net", "--", "sh", "-c", shell]);
    command.arg(workspace.example("screenshots"));
    command.arg(workspace.root.join(FOLDER));
    command.env("CORAL_BIN", workspace.coral());
    run(command.env("CORAL_FAULTS_BIN", workspace.faults()))?;
    Ok(())
}
