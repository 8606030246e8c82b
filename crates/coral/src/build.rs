//! `coral build`: a folder of this machine, built in the cluster.
//!
//! The folder goes through the API server into the run's first step, so this machine needs neither
//! access to a registry nor a container engine. This module makes no decisions about the build: it
//! writes the `ImageBuild`, sends the folder, shows the logs, and exits with the build's result.

mod logs;
mod options;
mod pack;
mod run;
mod send;
mod source;
mod stage;

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use coral_api::image_build::ImageBuild;
use jiff::Timestamp;

use crate::cluster::{Calls, kube_failure};
use crate::failure::{Failure, stop_on_signal};
use crate::terminal::{Terminal, print};
pub(crate) use options::BuildArguments;
use run::{FollowError, Run, RunResult};
use send::{SendError, Sent};
use source::Source;

/// Namespace where neither a flag nor a kubeconfig names one.
const DEFAULT_NAMESPACE: &str = "default";
/// A placeholder: no call in this module uses [`Calls::until`], which is what the timeout is for.
const UNUSED: Duration = Duration::ZERO;

/// Runs the build, or prints its object.
pub(crate) async fn run(
    arguments: BuildArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let (folder, file) = (&arguments.folder, arguments.file.as_deref());
    let source = Source::open(folder, file, arguments.builder.is_none())?;
    let named = match &arguments.namespace {
        Some(namespace) => Some(namespace.clone()),
        None => arguments.cluster.namespace().await,
    };
    let namespace = named.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let dockerfile = source.dockerfile.as_deref();
    let object = options::object(&arguments, &namespace, dockerfile, Timestamp::now())?;
    if arguments.dry_run {
        print(yaml(&object)?.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_on_signal()?;
    let calls = Calls::connect(&arguments.cluster, UNUSED).await?;
    let run = Run::begin(&calls, terminal, object).await?;
    let work = work(&run, Arc::new(source), &arguments, terminal);
    let worked = tokio::select! {
        worked = work => worked,
        () = stop.cancelled() => Err(FollowError::cancelling(Failure::stopped("stopped"))),
    };
    match worked {
        Ok(Some(ended)) => report(&ended, terminal),
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(error_of_run) => {
            if error_of_run.cancels {
                terminal.line("cancelling the run");
                run.cancel().await?;
            }
            Err(error_of_run.failure)
        }
    }
}

/// Sends the folder and follows the run to its end; `None` with `--detach`.
async fn work(
    run: &Run<'_>,
    source: Arc<Source>,
    arguments: &BuildArguments,
    terminal: &Terminal,
) -> Result<Option<RunResult>, FollowError> {
    let pod = run.fetching().await?;
    terminal.line(&format!("sending {} to pod {pod}", source.folder.display()));
    let mut sending = pin!(run.send(&pod, source));
    if arguments.detach {
        sent(sending.await, terminal)?;
        terminal.line(&format!(
            "the run continues in the cluster; follow it with `{}`",
            run.watch_command()
        ));
        return Ok(None);
    }
    let mut following = pin!(run.follow(&pod));
    let mut is_sent = false;
    loop {
        tokio::select! {
            result = &mut sending, if !is_sent => {
                is_sent = true;
                match result {
                    // The step may still succeed with what it received. Its log and the status of the
                    // run report the result.
                    Err(error @ SendError::Cut(_)) => terminal.line(&format!("warning: {error}")),
                    result => sent(result, terminal)?,
                }
            }
            ended = &mut following => return Ok(ended.map(Some)?),
        }
    }
}

fn sent(result: Result<Sent, SendError>, terminal: &Terminal) -> Result<(), FollowError> {
    match result {
        Ok(sent) => {
            for line in send::summary(&sent) {
                terminal.line(&line);
            }
            Ok(())
        }
        Err(SendError::Attach(error)) => {
            let failure = kube_failure("attaching to the step fetch", &error);
            Err(FollowError::cancelling(failure))
        }
        Err(error) => {
            let failure = Failure::failed("the folder was not sent", &error);
            Err(FollowError::cancelling(failure))
        }
    }
}

/// Prints what was pushed. The exit code is that of the user's container.
fn report(ended: &RunResult, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let ending = &ended.ending;
    ending.pushed.iter().for_each(|reference| print(reference));
    if let Some((pushed, mounted)) = ending.bytes {
        let (pushed, mounted) = (send::size(pushed), send::size(mounted));
        terminal.line(&format!("pushed {pushed}; {mounted} existed already"));
    }
    if ending.succeeded {
        return Ok(ExitCode::SUCCESS);
    }
    let code = ended.build_code.filter(|code| *code != 0);
    let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let lines = std::iter::once(&ending.message).chain(&ending.not_pushed);
    Err(Failure::ended(lines, code))
}

/// The object as `kubectl apply` takes it.
fn yaml(object: &ImageBuild) -> Result<String, Failure> {
    // Through JSON, which omits fields that are not set.
    let json = serde_json::to_value(object);
    let json = json.map_err(|error| Failure::failed("the object cannot be written", &error))?;
    serde_saphyr::to_string(&json)
        .map_err(|error| Failure::failed("the object cannot be written as YAML", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(succeeded: bool) -> stage::Ending {
        stage::Ending {
            succeeded,
            message: "the container ended with 7".to_owned(),
            ..stage::Ending::default()
        }
    }

    #[test]
    fn the_command_ends_as_the_container_did_and_else_with_one() {
        let terminal = Terminal::new(coral_rt::LogFormat::Text);
        let code = |succeeded, build_code| {
            let ending = ending(succeeded);
            let ended = RunResult { ending, build_code };
            report(&ended, &terminal).unwrap_or_else(|failure| failure.exit_code())
        };
        assert_eq!(code(true, Some(0)), ExitCode::SUCCESS);
        assert_eq!(code(false, Some(7)), ExitCode::from(7));
        // It built, and the push failed.
        assert_eq!(code(false, Some(0)), ExitCode::from(1));
        assert_eq!(code(false, None), ExitCode::from(1));
        assert_eq!(code(false, Some(-1)), ExitCode::from(1));
    }

    #[test]
    fn what_a_dry_run_prints_is_the_object() {
        let spec = serde_json::json!({
            "source": {"stream": {}},
            "output": {
                "registry": {"namespace": "coral-system", "name": "reg"},
                "tags": ["team-a/shop:3"],
            },
            "build": {"args": ["--build-arg", "V=1e3", "yes", "1e3"]},
            "rerun": "2026-01-01T00:00:00Z",
        });
        let mut object = ImageBuild::new("shop", serde_json::from_value(spec.clone()).unwrap());
        object.metadata.namespace = Some("team-a".to_owned());
        let text = yaml(&object).unwrap();
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "apiVersion": "stvz.io/v1",
            "kind": "ImageBuild",
            "metadata": {"name": "shop", "namespace": "team-a"},
            "spec": spec,
        });
        assert_eq!(read, expected, "{text}");
    }
}
