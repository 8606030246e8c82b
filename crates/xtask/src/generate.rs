//! `cargo xtask generate`: the reference pages of `docs/` that are made from the program itself.

mod command_line;
mod kind;

use std::fs;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct GenerateArguments {
    /// Write nothing; fail if a file is not what would be written
    #[arg(long)]
    check: bool,
}

/// A generated file: where it lies in the checkout, and what it says.
struct Page {
    path: &'static str,
    text: String,
}

pub(crate) fn run(workspace: &Workspace, arguments: &GenerateArguments) -> Result<()> {
    if arguments.check {
        return check(workspace);
    }
    for page in pages(workspace)? {
        let path = workspace.root.join(page.path);
        fs::create_dir_all(path.parent().unwrap_or(&workspace.root))?;
        fs::write(&path, page.text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", page.path);
    }
    Ok(())
}

/// Fails with the names of the files that are not current.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut stale = Vec::new();
    for page in pages(workspace)? {
        let found = fs::read_to_string(workspace.root.join(page.path)).unwrap_or_default();
        if found != page.text {
            stale.push(page.path);
        }
    }
    if !stale.is_empty() {
        bail!(
            "not current: {}; `cargo xtask generate` writes them anew",
            stale.join(", ")
        );
    }
    Ok(())
}

fn pages(workspace: &Workspace) -> Result<Vec<Page>> {
    let coral = workspace.coral();
    if !coral.is_file() {
        bail!(
            "{} is not built: `cargo build --release` first",
            coral.display()
        );
    }
    Ok(vec![
        Page {
            path: "docs/src/reference/command-line.md",
            text: command_line::page(workspace)?,
        },
        Page {
            path: "docs/src/reference/registry-mirror.md",
            text: kind::page(workspace, "RegistryMirror")?,
        },
        Page {
            path: "docs/src/reference/registry.md",
            text: kind::page(workspace, "Registry")?,
        },
    ])
}
