//! `cargo xtask generate`: the files that are made from the program itself, which are the reference
//! pages of `docs/` and the definitions of custom resources in `deploy/`.

mod command_line;
mod crds;
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
    path: String,
    text: String,
}

/// Every kind, and the word of its files' names.
const KINDS: [(&str, &str); 8] = [
    ("Image", "image"),
    ("ImageBuild", "image-build"),
    ("InjectionPolicy", "injection-policy"),
    ("MirroredImages", "mirrored-images"),
    ("NodeImages", "node-images"),
    ("Registry", "registry"),
    ("RegistryMirror", "registry-mirror"),
    ("RegistryRoute", "registry-route"),
];

pub(crate) fn run(workspace: &Workspace, arguments: &GenerateArguments) -> Result<()> {
    if arguments.check {
        return check(workspace);
    }
    for page in pages(workspace)? {
        let path = workspace.root.join(&page.path);
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
        let found = fs::read_to_string(workspace.root.join(&page.path)).unwrap_or_default();
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
    let mut pages = vec![Page {
        path: "docs/src/reference/command-line.md".to_owned(),
        text: command_line::page(workspace)?,
    }];
    let defined = crds::count(workspace)?;
    if defined != KINDS.len() {
        bail!(
            "`coral crds` prints {defined} kinds and KINDS of generate.rs has {}",
            KINDS.len()
        );
    }
    let mut definitions = Vec::new();
    for (kind, word) in KINDS {
        pages.push(Page {
            path: format!("docs/src/reference/{word}.md"),
            text: kind::page(workspace, kind)?,
        });
        definitions.push(crds::file(workspace, kind)?);
    }
    pages.push(crds::kustomization(&definitions));
    pages.extend(definitions);
    Ok(pages)
}
