//! What the program gives a person's shell: completions and man pages.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::arguments::{Arguments, CompletionArguments, ManArguments};
use crate::failure::Failure;

/// Prints the completions for a shell.
pub(crate) fn completions(arguments: &CompletionArguments) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::command(),
        "coral",
        &mut script,
    );
    // A reader that went away early wanted no more.
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
    clap_mangen::generate_to(Arguments::command(), folder)
}
