//! `coral build-step`: what runs in the pod of an `ImageBuild` before and after the user's container.
//!
//! The controller starts it. A step reports in its termination message, which the controller reads:
//! JSON if the step succeeded, plain text if it failed.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use coral_build::contract::{Step, failure_text};
use coral_build::credentials::Controller;
use coral_build::{CredentialError, CredentialFuture, CredentialSource, Pod, RetryPolicies};
use coral_image::error_chain;

use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;

#[derive(Debug, Args)]
pub(crate) struct BuildStepArguments {
    #[command(subcommand)]
    step: StepCommand,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum StepCommand {
    /// Fetch the source into its folder
    Fetch,
    /// Push the images that the build wrote
    Push,
}

/// A lazy connection to the controller: most sources need no credential.
struct LazyController<'a> {
    pod: &'a Pod,
    step: Step,
}

impl CredentialSource for LazyController<'_> {
    fn credential(&self) -> CredentialFuture<'_> {
        Box::pin(async {
            let controller = Controller::from_pod(self.pod, self.step);
            let controller = controller.map_err(|error| CredentialError(Box::new(error)))?;
            controller.credential().await
        })
    }
}

pub(crate) async fn run(
    arguments: BuildStepArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let pod = Pod::default();
    // The first process of a container ignores signals that it does not handle.
    let stop = stop_on_signal()?;
    let done = tokio::select! {
        done = work(&pod, arguments.step) => done,
        () = stop.cancelled() => Err("the step was stopped".to_owned()),
    };
    let message = done
        .as_ref()
        .map_or_else(|text| failure_text(text), String::clone);
    // A push that is stopped has recorded what it has pushed by then.
    let is_noted = done.is_err() && pod.has_termination_message();
    if !is_noted && let Err(error) = pod.write_termination_message(&message) {
        terminal.line(&format!("warning: {}", error_chain(&error)));
    }
    if let (StepCommand::Push, Ok(message)) = (arguments.step, &done) {
        report(&pod, message).await;
    }
    match done {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(text) => Err(Failure::stopped(failure_text(&text))),
    }
}

/// Reports the result of `push` to the controller, which reads the termination message later in any
/// case.
async fn report(pod: &Pod, message: &str) {
    let controller = Controller::from_pod(pod, Step::Push);
    let reported = match &controller {
        Ok(controller) => controller.report(message).await,
        Err(error) => {
            tracing::debug!(error = error_chain(error), "cannot report the result");
            return;
        }
    };
    if let Err(error) = reported {
        tracing::debug!(
            error = error_chain(&error),
            "cannot report the result to the controller; the pod's status has it"
        );
    }
}

/// Runs a step. Returns its termination message, or why it failed.
async fn work(pod: &Pod, step: StepCommand) -> Result<String, String> {
    match step {
        StepCommand::Fetch => {
            let step = Step::Fetch;
            let credentials = LazyController { pod, step };
            let fetched = coral_build::fetch(pod, &credentials, std::io::stdin()).await;
            let report = fetched.map_err(|error| error_chain(&error))?;
            Ok(report.to_message())
        }
        StepCommand::Push => {
            let step = Step::Push;
            let credentials = LazyController { pod, step };
            let pushed = coral_build::push(pod, &credentials, RetryPolicies::default()).await;
            let report = pushed.map_err(|error| error_chain(&error))?;
            Ok(report.to_message())
        }
    }
}
