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

/// How many kinds the program defines.
pub(super) fn count(workspace: &Workspace) -> Result<usize> {
    let mut command = program(workspace, workspace.coral())?;
    let printed = output(command.arg("crds"))?;
    let documents = printed.lines().filter(|line| *line == "---");
    Ok(documents.count())
}

/// The file that makes the others one folder for kustomize.
pub(super) fn kustomization(definitions: &[Page]) -> Page {
    let mut text = String::from(
        "# The kinds, generated from the types: `cargo xtask generate`.\napiVersion: \
         kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n",
    );
    for page in definitions {
        let file = page.path.rsplit('/').next().unwrap_or_default();
        text.extend(["  - ", file, "\n"]);
    }
    Page {
        path: "deploy/crds/kustomization.yaml".to_owned(),
        text,
    }
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
