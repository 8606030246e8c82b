//! Completions and man pages for a person's shell.

mod page;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};

use crate::arguments::Arguments;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// Shell to print completions for
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Folder to write the pages to; created if it is missing
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

/// Prints the completions for a shell.
pub(crate) fn completions(arguments: &CompletionArguments) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::command(),
        "coral",
        &mut script,
    );
    // A reader that closed the pipe early wanted no more.
    let _ = std::io::stdout().lock().write_all(&script);
    ExitCode::SUCCESS
}

/// Writes a man page for each subcommand.
pub(crate) fn man(arguments: &ManArguments) -> Result<ExitCode, Failure> {
    let folder = &arguments.folder;
    write(folder).map_err(|error| Failure::failed(folder.display(), &error))?;
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    write_with_those_below(&command, "", folder)
}

fn write_with_those_below(command: &Command, words: &str, folder: &Path) -> std::io::Result<()> {
    let name = page::name(words);
    std::fs::write(
        folder.join(format!("{name}.1")),
        page::page(command, words)?,
    )?;
    let shown = command.get_subcommands().filter(|s| !s.is_hide_set());
    for subcommand in shown {
        let words = format!("{words} {}", subcommand.get_name());
        write_with_those_below(subcommand, words.trim_start(), folder)?;
    }
    Ok(())
}
