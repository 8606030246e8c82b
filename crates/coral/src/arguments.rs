//! The command line as it was typed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use coral_image::{Host, PlatformPattern};
use coral_rt::LogArgs;

use crate::agent::AgentArguments;
use crate::build::BuildArguments;
use crate::build_step::BuildStepArguments;
use crate::client::ClientArguments;
use crate::controller::ControllerArguments;
use crate::crds::CrdsArguments;
use crate::examples::with_examples;
use crate::grant::GrantArguments;
use crate::image::ImageArguments;
use crate::registry::{CollectArguments, ImportArguments, RegistryArguments, ScrubArguments};
use crate::status::StatusArguments;
use crate::uninstall::UninstallArguments;
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

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// Files, or folders of *.yaml and *.yml files; Coral reloads them when they change
    #[arg(
        value_name = "DIR|FILE",
        default_value = ".",
        env = "CORAL_FILES",
        value_delimiter = ','
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Address that the registry listens on; port 0 picks a free one
    #[arg(long, env = "CORAL_LISTEN", default_value = "127.0.0.1:5000", value_name = "ADDR", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Folder for the registry's content [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Name by which clients reach the registry. On a loopback address, without TLS and users, the
    /// registry answers only requests for `localhost`, loopback addresses and these names
    #[arg(long, env = "CORAL_HOST", value_name = "HOST[:PORT]", value_parser = host, value_delimiter = ',')]
    pub(crate) host: Vec<Host>,
    /// Loopback address of a source that serves Coral's own image (ADDR/coral:latest), made from
    /// the running program; it starts when a mirror names it
    #[arg(long = "self", env = "CORAL_SELF", default_value = "127.0.0.1:5051", value_name = "ADDR", value_parser = address)]
    pub(crate) own: SocketAddr,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, env = "CORAL_LISTEN", default_value = "127.0.0.1:5000", value_name = "ADDR", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Folder for the content; created if it is missing
    #[arg(long, env = "CORAL_STORAGE", value_name = "DIR")]
    pub(crate) storage: PathBuf,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

/// Where `coral up` and `coral registry serve` listen by default.
pub(crate) const DEFAULT_REGISTRY: &str = "127.0.0.1:5000";

#[derive(Debug, Args)]
pub(crate) struct MirrorArguments {
    /// Files, or folders of *.yaml and *.yml files
    #[arg(value_name = "DIR|FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Registry that `registry: {name: …}` of a mirror stands for: a running `coral up` or `coral
    /// registry serve`. It is reached over plain HTTP, unless a Registry in the files has TLS or
    /// --ca or --skip-tls-verify names the host
    #[arg(long, env = "CORAL_REGISTRY", default_value = DEFAULT_REGISTRY, value_name = "HOST[:PORT]", value_parser = host)]
    pub(crate) registry: Host,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Also check every blob of every image at the destination, as a mirror's `verify` does from
    /// time to time, and copy again what is missing or damaged
    #[arg(long)]
    pub(crate) verify: bool,
    // Last, as in all commands: in the help, what follows would be listed under its heading.
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}

/// How many vanished images of each mirror a person has reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// As many as `coral up`, or else this pass, counted.
    Counted,
    /// This many.
    Number(i64),
}

impl FromStr for Confirmed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number @ 0..) => Ok(Self::Number(number)),
            _ if text == "counted" => Ok(Self::Counted),
            _ => Err("give the number of vanished images that you confirm, such as 25"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Confirm that you have reviewed the vanished images. NUMBER is how many may have vanished
    /// from each mirror [default: the number that the `coral up` of the data folder has counted;
    /// without one, the number that this pass finds]
    #[arg(
        long,
        required = true,
        num_args = 0..=1,
        require_equals = true,
        value_name = "NUMBER",
        default_missing_value = "counted"
    )]
    pub(crate) confirm: Confirmed,
    /// Data folder of the `coral up` to notify [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    // Not doc comments: brackets would be links there.
    #[arg(
        value_name = "SRC",
        help = "What to copy: HOST/PATH:TAG, HOST/PATH@DIGEST, oci:DIR[:TAG], \
                oci-archive:FILE.tar[:TAG] or docker-archive:FILE.tar[:NAME:TAG]; FILE may be - for \
                standard input"
    )]
    pub(crate) source: String,
    #[arg(
        value_name = "DST",
        help = "Where to copy it: HOST/PATH[:TAG], oci:DIR[:TAG], oci-archive:FILE.tar[:TAG] or \
                docker-archive:FILE.tar[:NAME:TAG]; an existing FILE is replaced, and FILE may be \
                - for standard output [default tag: the source's]"
    )]
    pub(crate) destination: String,
    /// Copy only these platforms of an index, such as linux/amd64 or linux/arm*; the index itself
    /// is not changed. A docker-archive holds one platform, by default this machine's
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]", value_parser = platform, value_delimiter = ',')]
    pub(crate) platforms: Vec<PlatformPattern>,
    /// Also copy foreign layers, where the source has them. By default these layers, which must not
    /// be redistributed, stay at the URLs that the manifest names
    #[arg(long)]
    pub(crate) foreign_layers: bool,
    /// Do not copy signatures, attestations and other referrers
    #[arg(long)]
    pub(crate) no_referrers: bool,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Data folder of `coral up`, whose disk is checked [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}

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

/// Format of what goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For machines
    Json,
}

pub(crate) fn host(text: &str) -> Result<Host, String> {
    Host::parse(text).map_err(|error| error.to_string())
}

fn platform(text: &str) -> Result<PlatformPattern, String> {
    PlatformPattern::parse(text).map_err(|error| error.to_string())
}

/// `IP:PORT`, or a name of this machine such as `localhost:5000`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        || "expected ADDRESS:PORT, such as 127.0.0.1:5000, [::1]:5000 or 0.0.0.0:0".to_owned();
    text.parse().or_else(|_| {
        text.to_socket_addrs()
            .ok()
            .and_then(|mut a| a.next())
            .ok_or_else(wrong)
    })
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
    use super::*;

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
