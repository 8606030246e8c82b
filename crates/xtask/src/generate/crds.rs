//! The files of `deploy/crds/`: one definition of a custom resource each, as the program prints it.

use anyhow::{Context, Result};

use super::Page;
use crate::command::{output, program};
use crate::workspace::Workspace;

pub(super) fn file(workspace: &Workspace, kind: &str) -> Result<Page> {
    let mut command = program(workspace, workspace.coral())?;
    command.args(["crds", "--kind", kind]);
    let printed = output(&mut command)?;
    let plural = plural(&printed).with_context(|| format!("no CRD of {kind} is printed"))?;
    Ok(Page {
        path: format!("deploy/crds/{plural}.yaml"),
        text: format!("# Made by `cargo xtask generate` from the type.\n{printed}"),
    })
}

/// The plural name of the kind, which is the beginning of the CRD's name.
fn plural(printed: &str) -> Option<&str> {
    let lines = printed.lines().map(str::trim);
    let mut names = lines.filter_map(|line| line.strip_prefix("plural: "));
    names.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_called_after_the_plural() {
        let printed = "spec:\n  names:\n    kind: Image\n    plural: images\n";
        assert_eq!(plural(printed), Some("images"));
        assert_eq!(plural("kind: x\n"), None);
    }
}
