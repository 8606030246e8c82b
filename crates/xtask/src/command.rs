//! Running a program: its output is passed on as it comes, and scanned for the lines that the
//! table at the end repeats.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Lines that tests print for the table at the end: `report: conformance 1.1: 74 passed`.
const REPORT: &str = "report: ";
/// Lines of tests that wait for something to be built: `pending: REASON`.
const PENDING: &str = "pending: ";

thread_local! {
    /// What this thread's lines begin with.
    static LABEL: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Does something whose lines begin with a label, since other threads print at the same time.
pub(crate) fn labelled<T>(label: &str, work: impl FnOnce() -> T) -> T {
    let before = LABEL.replace(format!("{label} | "));
    let result = work();
    LABEL.set(before);
    result
}

/// Prints text; each line has the label of this thread.
pub(crate) fn say(text: &str) {
    LABEL.with_borrow(|label| {
        for line in text.lines() {
            println!("{label}{line}");
        }
    });
}

/// What a program said that is worth repeating.
#[derive(Default)]
pub(crate) struct StageReport {
    pub(crate) reports: Vec<String>,
    pub(crate) pending: Vec<String>,
    /// How many tests libtest ran and how many it left out.
    pub(crate) tests: Tests,
}

#[derive(Default)]
pub(crate) struct Tests {
    pub(crate) passed: usize,
    pub(crate) ignored: usize,
}

impl StageReport {
    pub(crate) fn absorb(&mut self, line: &str) {
        if let Some((_, report)) = line.split_once(REPORT) {
            self.reports.push(report.to_owned());
        } else if let Some((_, reason)) = line.split_once(PENDING) {
            self.pending.push(reason.to_owned());
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.tests.passed += count_of(counts, " passed");
            self.tests.ignored += count_of(counts, " ignored");
        }
    }
}

/// The number in front of a word in libtest's summary, `ok. 3 passed; 0 failed; 1 ignored; …`.
fn count_of(summary: &str, word: &str) -> usize {
    summary
        .split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// A program to be run in the checkout, with the cached tools on its `PATH`.
pub(crate) fn program(workspace: &Workspace, name: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(name);
    command
        .current_dir(&workspace.root)
        .env("PATH", workspace.path()?);
    Ok(command)
}

/// The cargo that runs this recipe.
pub(crate) fn cargo(workspace: &Workspace, arguments: &[&str]) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = program(workspace, cargo)?;
    command.args(arguments);
    Ok(command)
}

/// Runs a program to its end; a failure names the program and its arguments.
pub(crate) fn run(command: &mut Command) -> Result<StageReport> {
    let shown = shown(command);
    say(&format!("$ {shown}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let (sender, lines) = channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    let mut said = StageReport::default();
    for line in lines {
        say(&line);
        said.absorb(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(said)
}

/// The standard output of a program that must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!(
            "`{shown}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed no UTF-8"))
}

fn forward(pipe: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if lines.send(text).is_err() {
                return;
            }
        }
    });
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_table_are_found_in_a_tests_output() {
        let mut said = StageReport::default();
        said.absorb("test conformance ... report: conformance 1.1: 74 passed");
        said.absorb("pending: up is not built yet");
        said.absorb("test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out");
        said.absorb("anything else");
        assert_eq!(said.reports, ["conformance 1.1: 74 passed"]);
        assert_eq!(said.pending, ["up is not built yet"]);
        assert_eq!((said.tests.passed, said.tests.ignored), (12, 3));
    }
}
