//! The page of the command line: the help of every subcommand, found by following the `Commands:`
//! lists.

use anyhow::Result;

use crate::command::{output, program};
use crate::workspace::Workspace;

pub(crate) fn page(workspace: &Workspace) -> Result<String> {
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
    Ok(text)
}

fn help_of(workspace: &Workspace, words: &[String]) -> Result<String> {
    let mut command = program(workspace, workspace.coral())?;
    // The width of the page must not depend on the terminal, nor defaults on the environment.
    command
        .args(words)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "100")
        .env("HOME", "/home/you");
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
