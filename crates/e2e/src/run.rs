//! Commands that end by themselves.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;

/// No command of the tests takes longer; one that hangs is killed.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a finished command left.
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 128 and the signal's number when killed by one.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Insists on exit code 0.
    #[must_use]
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    /// Insists on this exit code.
    #[must_use]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code, code, "unexpected exit code of {self}");
        self
    }

    /// Insists that standard error holds `text`.
    #[must_use]
    pub fn saying(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "`{text}` is missing on standard error of {self}"
        );
        self
    }

    /// Standard output without the newline at its end.
    pub fn text(&self) -> &str {
        self.stdout.trim_end()
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` (exit code {})\n-- stdout --\n{}\n-- stderr --\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started (a peer is missing: `cargo xtask test --install`), or hangs.
pub fn run(command: &mut Command) -> Finished {
    let mut process = Process::start(command);
    let code = process.wait(PATIENCE);
    let (stdout, stderr) = process.output();
    Finished {
        command: process.name().to_owned(),
        code,
        stdout,
        stderr,
    }
}

/// A folder that goes away with the test.
///
/// # Panics
/// If the system's temporary folder cannot be written.
pub fn scratch() -> TempDir {
    TempDir::with_prefix("coral-e2e-").expect("the temporary folder is writable")
}
