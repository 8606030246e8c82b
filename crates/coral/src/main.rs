//! Coral: the image supply of a Kubernetes cluster.
//!
//! This crate has the arguments, the wiring and the terminal output. Each subcommand is a module;
//! the work itself is in the other crates. Exit codes: 0 done, 1 something failed, 2 wrong input;
//! `coral build` exits with the code of the build.

mod agent;
mod arguments;
mod build;
mod build_step;
mod client;
mod cluster;
mod controller;
mod copy;
mod counted;
mod crds;
mod doctor;
mod examples;
mod failure;
mod grant;
mod image;
mod load;
mod mirror;
mod own_image;
mod pull_through;
mod registry;
mod report;
mod shell;
mod status;
mod status_page;
mod terminal;
mod uninstall;
mod up;
mod values;
mod webhook;

use std::process::ExitCode;

use arguments::{Arguments, Command, MirrorCommand, RegistryCommand};
use failure::Failure;
use terminal::Terminal;

fn main() -> ExitCode {
    coral_registry::keep_memory_together();
    coral_rt::raise_open_file_limit();
    let arguments = arguments::parse();
    let terminal = Terminal::new(arguments.log.log_format);
    match run(arguments, &terminal) {
        Ok(code) => code,
        Err(failure) => {
            failure
                .lines()
                .for_each(|line| terminal.line(&format!("error: {line}")));
            failure.exit_code()
        }
    }
}

fn run(arguments: Arguments, terminal: &Terminal) -> Result<ExitCode, Failure> {
    coral_rt::init_logging(&arguments.log, terminal.clone()).map_err(Failure::input)?;
    // Several libraries ask for the process-wide provider; the first installation wins.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("the async runtime cannot start", &error))?;
    let code = runtime.block_on(async {
        match arguments.command {
            Command::Up(up) => Box::pin(up::run(up, terminal)).await,
            Command::Registry {
                command: RegistryCommand::Serve(serve),
            } => registry::serve(*serve, terminal).await,
            Command::Registry {
                command: RegistryCommand::Import(import),
            } => Box::pin(registry::import(import, terminal)).await,
            Command::Registry {
                command: RegistryCommand::Gc(collect),
            } => registry::collect(collect, terminal).await,
            Command::Registry {
                command: RegistryCommand::Scrub(scrub),
            } => registry::scrub(scrub, terminal).await,
            Command::Mirror {
                command: MirrorCommand::Plan(plan),
            } => mirror::plan(plan, terminal).await,
            Command::Mirror {
                command: MirrorCommand::Run(run),
            } => mirror::run(run, terminal).await,
            Command::Mirror {
                command: MirrorCommand::Prune(prune),
            } => mirror::prune(prune, terminal).await,
            Command::Controller(controller) => controller::run(controller, terminal).await,
            Command::BuildStep(step) => build_step::run(step, terminal).await,
            Command::Agent(agent) => agent::run(agent, terminal).await,
            Command::Status(status) => status::run(status).await,
            Command::Copy(copy) => copy::run(copy, terminal).await,
            Command::Build(build) => Box::pin(build::run(*build, terminal)).await,
            Command::Image(image) => image::run(image, terminal).await,
            Command::Grant(grant) => grant::run(&grant),
            Command::Uninstall(uninstall) => uninstall::run(uninstall, terminal).await,
            Command::Doctor(doctor) => doctor::run(doctor, terminal).await,
            Command::Crds(arguments) => crds::print(&arguments),
            Command::Webhook(arguments) => webhook::run(arguments, terminal).await,
            Command::Completions(completions) => Ok(shell::completions(&completions)),
            Command::Man(man) => shell::man(&man),
        }
    });
    // The exit does not wait for blocking reads of the file system whose result is no longer
    // needed.
    runtime.shutdown_background();
    code
}
