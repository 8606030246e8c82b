//! Why a command ends without success.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use coral_image::error_chain;
use tokio_util::sync::CancellationToken;

/// Why a command ends: what a person reads, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    lines: Vec<String>,
    code: u8,
}

impl Failure {
    /// Wrong input: a flag, a file, a reference. Exit code 2.
    pub(crate) fn input(problem: impl Display) -> Self {
        Self {
            lines: vec![problem.to_string()],
            code: 2,
        }
    }

    /// Several things are wrong with the input.
    pub(crate) fn inputs(problems: impl IntoIterator<Item = impl Display>) -> Self {
        Self {
            lines: problems.into_iter().map(|p| p.to_string()).collect(),
            code: 2,
        }
    }

    /// Something did not work. Exit code 1.
    pub(crate) fn failed(what: impl Display, error: &dyn Error) -> Self {
        Self {
            lines: vec![format!("{what}: {}", error_chain(error))],
            code: 1,
        }
    }

    /// Something did not work, and the message says it all.
    pub(crate) fn error(error: &dyn Error) -> Self {
        Self {
            lines: vec![error_chain(error)],
            code: 1,
        }
    }

    /// Something that this command ran failed, with an exit code of its own.
    pub(crate) fn ended(lines: impl IntoIterator<Item = impl Display>, code: u8) -> Self {
        Self {
            lines: lines.into_iter().map(|line| line.to_string()).collect(),
            code,
        }
    }

    /// The user interrupted it.
    pub(crate) fn stopped(what: impl Display) -> Self {
        Self {
            lines: vec![what.to_string()],
            code: 1,
        }
    }

    /// Appends a hint.
    pub(crate) fn hinting(mut self, hint: impl Display) -> Self {
        if let Some(last) = self.lines.last_mut() {
            *last = format!("{last}; {hint}");
        }
        self
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// A token that is cancelled when a signal asks the process to end.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    coral_rt::shutdown_on_signal()
        .map_err(|error| Failure::failed("signals cannot be handled", &error))
}
