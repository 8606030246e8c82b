//! The command line as it was typed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use coral_rt::LogArgs;

use crate::agent::AgentArguments;
use crate::build::BuildArguments;
use crate::build_step::BuildStepArguments;
use crate::controller::ControllerArguments;
use crate::copy::CopyArguments;
use crate::crds::CrdsArguments;
use crate::doctor::DoctorArguments;
use crate::examples::with_examples;
use crate::grant::GrantArguments;
use crate::image::ImageArguments;
use crate::mirror::{MirrorArguments, PruneArguments, RunArguments};
use crate::registry::{CollectArguments, ImportArguments, ScrubArguments, ServeArguments};
use crate::shell::{CompletionArguments, ManArguments};
use crate::status::StatusArguments;
use crate::uninstall::UninstallArguments;
use crate::up::UpArguments;
use crate::webhook::WebhookArguments;

/// The image supply of a Kubernetes cluster: mirrors images into a registry and serves them there.
#[derive(Debug, Parser)]
#[command(
    name = "coral",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a registry and the mirrors that YAML files describe, on this machine
    Up(UpArguments),
    /// Run a registry, or maintain the storage of a stopped one
    Registry {
        #[command(subcommand)]
        command: RegistryCommand,
    },
    /// Preview what mirrors would do, or run them once
    Mirror {
        #[command(subcommand)]
        command: MirrorCommand,
    },
    /// Show the state of the mirrors of a running `coral up`; exits with 1 if something failed
    Status(StatusArguments),
    /// Run the controller of a cluster: reconciles Coral's kinds while it holds the leader lease
    #[command(display_order = 100)]
    Controller(ControllerArguments),
    /// Run the agent of a node: pulls images ahead of time and points containerd at registries in
    /// the cluster
    #[command(display_order = 101)]
    Agent(AgentArguments),
    /// Run a step of a build; the controller starts it in the pod of an ImageBuild
    #[command(hide = true)]
    BuildStep(BuildStepArguments),
    /// Copy one image between registries and OCI layouts
    Copy(CopyArguments),
    /// Build a folder in the cluster and push the image to a Registry there
    Build(Box<BuildArguments>),
    /// Make Coral's own container image from the running program
    Image(ImageArguments),
    /// Print the Roles that let the controller read Secrets, run Registries or run builds in a
    /// namespace
    Grant(GrantArguments),
    /// Remove Coral from a cluster, in the right order
    Uninstall(UninstallArguments),
    /// Check what mirrors depend on: names, TLS, logins, rate limits, clocks, disk
    Doctor(DoctorArguments),
    /// Print the CRDs of Coral's kinds, for kubectl apply --server-side
    Crds(CrdsArguments),
    /// Run the admission webhook of a cluster: points new pods at images in the cluster or on their
    /// node
    #[command(display_order = 102)]
    Webhook(WebhookArguments),
    /// Print completions for a shell
    #[command(display_order = 103)]
    Completions(CompletionArguments),
    /// Write the man pages, one per subcommand
    #[command(display_order = 104)]
    Man(ManArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Serve the OCI distribution API from a folder
    Serve(Box<ServeArguments>),
    /// Import and verify the images of a distribution registry from its storage folder; exits with
    /// 1 if something was skipped
    Import(ImportArguments),
    /// Delete the unused blobs of a stopped registry; a running one does this by itself
    Gc(CollectArguments),
    /// Check all content of a stopped registry against its digests and move damaged content aside;
    /// a running registry does this by itself. Exits with 1 if something is damaged
    Scrub(ScrubArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Show what a pass would copy and delete, and what is already there, with sizes
    Plan(MirrorArguments),
    /// Run one pass over all mirrors; exits with 1 if an image failed
    Run(RunArguments),
    /// Confirm that many images vanished at their sources: run one pass that deletes their tags,
    /// and let a running `coral up` resume deleting
    Prune(PruneArguments),
}

fn try_parse() -> Result<Arguments, clap::Error> {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = with_examples(Arguments::command());
    let mut command = without_variables(command, &is_empty);
    if is_plugin(std::env::args_os().next().as_deref()) {
        command = command.bin_name("kubectl coral");
    }
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Whether kubectl runs the program as its plugin, by the name that a plugin has.
fn is_plugin(program: Option<&OsStr>) -> bool {
    let name = program.map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == "kubectl-coral")
}

/// Removes these variables from the arguments. An empty variable counts as unset, so that a line of
/// an environment file can be switched off.
fn without_variables(command: clap::Command, which: &impl Fn(&OsStr) -> bool) -> clap::Command {
    let forget = |argument: clap::Arg| match argument.get_env() {
        Some(name) if which(name) => argument.env(Resettable::Reset),
        _ => argument,
    };
    let command = command.mut_args(forget);
    command.mut_subcommands(|command| without_variables(command, which))
}

/// Reads the command line; wrong input ends the process with exit code 2.
pub(crate) fn parse() -> Arguments {
    try_parse().unwrap_or_else(|error| {
        let note = variable_of(&error);
        // If the error itself cannot be printed, there is no one left to tell.
        let _ = error.print();
        if let Some(variable) = note {
            let _ = writeln!(
                io::stderr(),
                "note: the value comes from the environment variable {variable}"
            );
        }
        std::process::exit(error.exit_code());
    })
}

/// The environment variable that a wrong value came from, if it was not typed.
fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = shown.split_whitespace().next()?;
    if std::env::args().any(|word| word.split('=').next() == Some(flag)) {
        return None;
    }
    let variable = variable_in(&Arguments::command(), flag.strip_prefix("--")?)?;
    std::env::var_os(&variable).map(|_| variable)
}

fn variable_in(command: &clap::Command, long: &str) -> Option<String> {
    let mut own = command
        .get_arguments()
        .filter(|a| a.get_long() == Some(long));
    let own = own
        .find_map(|a| a.get_env())
        .map(|name| name.to_string_lossy().into_owned());
    own.or_else(|| command.get_subcommands().find_map(|c| variable_in(c, long)))
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;
    use crate::client::ClientArguments;

    #[test]
    fn the_files_of_a_service_set_variables_that_coral_up_reads() {
        let command = Arguments::command();
        let up = command.find_subcommand("up").unwrap();
        let known: Vec<&OsStr> = up.get_arguments().filter_map(clap::Arg::get_env).collect();
        let files = [
            include_str!("../../../examples/service/coral-up.service"),
            include_str!("../../../examples/service/coral-up.container"),
        ];
        for file in files {
            let lines = file.lines().map(|line| line.trim_start_matches("# "));
            let set = lines.filter_map(|line| line.strip_prefix("Environment="));
            let names: Vec<&str> = set.filter_map(|pair| pair.split('=').next()).collect();
            assert!(names.len() >= 3, "{file}");
            for name in names {
                assert!(known.contains(&OsStr::new(name)), "{name}");
            }
        }
    }

    /// Regression: `--confirm` of `mirror prune` stood among the flags about TLS.
    #[test]
    fn no_other_flag_stands_under_the_heading_of_those_about_registries() {
        fn check(command: &clap::Command, known: &[&str]) {
            for argument in command.get_arguments() {
                let about_registries = argument.get_help_heading() == Some("Reaching registries");
                let flag = argument.get_id().as_str();
                let path = command.get_name();
                assert!(!about_registries || known.contains(&flag), "{path}: {flag}");
            }
            command.get_subcommands().for_each(|it| check(it, known));
        }
        let client = ClientArguments::augment_args(clap::Command::new("client"));
        let known: Vec<&str> = client
            .get_arguments()
            .map(|it| it.get_id().as_str())
            .collect();
        check(&Arguments::command(), &known);
    }

    #[test]
    fn a_plugin_of_kubectl_is_known_by_its_name() {
        for (program, expected) in [
            ("/usr/local/bin/kubectl-coral", true),
            ("kubectl-coral", true),
            ("/kubectl-coral/coral", false),
            ("coral", false),
        ] {
            assert_eq!(is_plugin(Some(OsStr::new(program))), expected, "{program}");
        }
    }
}
