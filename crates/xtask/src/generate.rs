//! `cargo xtask generate`: the reference pages of `docs/` that are made from the program itself.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{output, program};
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct GenerateArguments {
    /// Write nothing; fail if a file is not what would be written
    #[arg(long)]
    check: bool,
}

/// A generated file: where it lies in the checkout, and what it says.
struct Page {
    path: PathBuf,
    text: String,
}

pub(crate) fn run(workspace: &Workspace, arguments: &GenerateArguments) -> Result<()> {
    if arguments.check {
        return check(workspace);
    }
    for page in pages(workspace)? {
        let path = workspace.root.join(&page.path);
        fs::create_dir_all(path.parent().unwrap_or(&workspace.root))?;
        fs::write(&path, page.text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", page.path.display());
    }
    Ok(())
}

/// Fails with the names of the files that are not current.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut stale = Vec::new();
    for page in pages(workspace)? {
        let found = fs::read_to_string(workspace.root.join(&page.path)).unwrap_or_default();
        if found != page.text {
            stale.push(page.path.display().to_string());
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
    Ok(vec![command_line(workspace)?])
}

/// The help of every subcommand, found by following the `Commands:` lists.
fn command_line(workspace: &Workspace) -> Result<Page> {
    let mut text = String::from(
        "# The command line\n\n<!-- Made by `cargo xtask generate` from the program's own help. -->\n",
    );
    let mut waiting = vec![Vec::<String>::new()];
    while let Some(words) = waiting.pop() {
        let help = help_of(workspace, &words)?;
        let title = std::iter::once("coral").chain(words.iter().map(String::as_str));
        let title = title.collect::<Vec<_>>().join(" ");
        let section = format!("\n## `{title}`\n\n```text\n{}\n```\n", help.trim_end());
        text.push_str(&section);
        for name in subcommands(&help).into_iter().rev() {
            waiting.push([words.as_slice(), &[name]].concat());
        }
    }
    Ok(Page {
        path: "docs/src/reference/command-line.md".into(),
        text,
    })
}

fn help_of(workspace: &Workspace, words: &[String]) -> Result<String> {
    let mut command = program(workspace, workspace.coral())?;
    // The width of the page must not depend on the terminal, nor defaults on the environment.
    command
        .args(words)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "100")
        .env("HOME", "/root");
    let help = output(&mut command)?;
    Ok(help
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n"))
}

/// The names listed under `Commands:` in a help text, but for `help` itself.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let entries = list.take_while(|line| !line.is_empty());
    let names = entries.filter_map(|line| {
        let name = line
            .strip_prefix("  ")
            .filter(|rest| !rest.starts_with(' '))?;
        name.split_whitespace().next().map(str::to_owned)
    });
    names.filter(|name| name != "help").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_read_from_a_help_text() {
        let help = "Usage: coral\n\nCommands:\n  up      Run\n          on\n  help    Print\n\nOptions:\n  -h";
        assert_eq!(subcommands(help), ["up"]);
        assert!(subcommands("Usage: coral\n\nOptions:\n").is_empty());
    }
}
