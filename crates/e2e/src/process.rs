//! Processes that stay: their output is captured, and they are killed when dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::secrets;
use crate::wait::until;

/// A running program in a process group of its own.
pub struct Process {
    child: Child,
    is_coral: bool,
    name: String,
    captured: Arc<Mutex<Captured>>,
    readers: Vec<JoinHandle<()>>,
    kept: Vec<TempDir>,
}

#[derive(Default)]
struct Captured {
    stdout: String,
    stderr: String,
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

impl Process {
    /// Starts a program with captured output and no input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::null())
    }

    /// Starts a program with captured output, and with a pipe for its input: the program reads the
    /// end of it as soon as the test's process has ended, however that ends.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with_pipe(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::piped())
    }

    fn start_reading(command: &mut Command, input: Stdio) -> Self {
        let name = name_of(command);
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start `{name}`: {error} (`cargo xtask test --install` gets peers)")
            });
        let captured = Arc::default();
        let stdout = child
            .stdout
            .take()
            .map(|pipe| read(pipe, &captured, Stream::Out));
        let stderr = child
            .stderr
            .take()
            .map(|pipe| read(pipe, &captured, Stream::Err));
        let readers = stdout.into_iter().chain(stderr).collect();
        Self {
            child,
            is_coral: runs_coral(command),
            name,
            captured,
            readers,
            kept: Vec::new(),
        }
    }

    /// Keeps a folder as long as the process is watched.
    pub fn keep(&mut self, folder: TempDir) {
        self.kept.push(folder);
    }

    /// The command line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far: standard output, standard error.
    pub fn output(&self) -> (String, String) {
        let captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        (captured.stdout.clone(), captured.stderr.clone())
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.output().1
    }

    /// Waits for a line on either stream that holds `text`, and returns the first.
    ///
    /// # Panics
    /// If none comes in time, or the program ends without having written it.
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> String {
        let what = format!("a line with `{text}` from `{}`", self.name);
        let mut ended = false;
        until_or_show(self, &what, timeout, |process| {
            let found = process.line_with(text);
            assert!(
                found.is_some() || !ended,
                "`{}` ended without a line with `{text}`:\n{}",
                process.name,
                process.shown()
            );
            // One more look after the end: its last words may not have been read yet.
            ended = process.readers.iter().all(JoinHandle::is_finished);
            found
        })
    }

    fn line_with(&self, text: &str) -> Option<String> {
        let (stdout, stderr) = self.output();
        let mut lines = stderr.lines().chain(stdout.lines());
        lines.find(|line| line.contains(text)).map(str::to_owned)
    }

    /// Everything it has written, for a failure's message.
    pub fn shown(&self) -> String {
        let (stdout, stderr) = self.output();
        format!("-- stdout --\n{stdout}\n-- stderr --\n{stderr}")
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Sends a signal by name (`INT`, `TERM`, `KILL`, `STOP`, `CONT`).
    ///
    /// # Panics
    /// If the process is gone already.
    pub fn signal(&self, signal: &str) {
        let sent = send(signal, &self.pid().to_string());
        assert!(sent, "`{}` was gone before SIG{signal}", self.name);
    }

    /// Waits for its end, and returns the exit code (128 and the signal's number after a signal).
    ///
    /// # Panics
    /// If it does not end in time; it is killed then.
    pub fn wait(&mut self, timeout: Duration) -> i32 {
        let what = format!("end of `{}`", self.name);
        let status = until_or_show(self, &what, timeout, Self::ended);
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        self.keeps_secrets();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// Fails if any output of Coral contains a secret of the tests.
    fn keeps_secrets(&self) {
        let (stdout, stderr) = self.output();
        let found = [stdout, stderr]
            .iter()
            .filter(|_| self.is_coral)
            .find_map(|text| secrets::found_in(text));
        if let Some(secret) = found {
            panic!(
                "`{}` wrote a secret ({secret}):\n{}",
                self.name,
                self.shown()
            );
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // The group, so that nothing which the program started stays behind.
            send("KILL", &format!("-{}", self.pid()));
            let _ = self.child.wait();
        }
        // A test that fails already says why itself.
        if !thread::panicking() {
            self.keeps_secrets();
        }
    }
}

fn send(signal: &str, target: &str) -> bool {
    let arguments = ["-s", signal, "--", target];
    let status = Command::new("/bin/kill")
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// As [`until`], but a timeout's message shows what the program has written.
fn until_or_show<T>(
    process: &mut Process,
    what: &str,
    timeout: Duration,
    mut ask: impl FnMut(&mut Process) -> Option<T>,
) -> T {
    let deadline = std::time::Instant::now() + timeout;
    until(what, timeout + Duration::from_secs(5), || {
        let answer = ask(process);
        let late = answer.is_none() && std::time::Instant::now() > deadline;
        assert!(!late, "not within {timeout:?}: {what}\n{}", process.shown());
        answer
    })
}

fn read(
    pipe: impl Read + Send + 'static,
    captured: &Arc<Mutex<Captured>>,
    stream: Stream,
) -> JoinHandle<()> {
    let captured = Arc::clone(captured);
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let mut captured = captured.lock().unwrap_or_else(PoisonError::into_inner);
            let text = match stream {
                Stream::Out => &mut captured.stdout,
                Stream::Err => &mut captured.stderr,
            };
            text.push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

/// Whether the program, or one that it is the wrapper of, is Coral.
fn runs_coral(command: &Command) -> bool {
    let mut words = std::iter::once(command.get_program()).chain(command.get_args());
    words.any(|word| Path::new(word).file_name() == Some(OsStr::new("coral")))
}

fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_mins(2);

    #[test]
    fn a_line_is_awaited_and_a_signal_ends_the_process() {
        let script = "echo ready on 1>&2; exec tail -f /dev/null";
        let mut process = Process::start(Command::new("bash").args(["-c", script]));
        assert_eq!(process.wait_for_line("ready", SOON), "ready on");
        assert!(process.is_running());
        process.signal("TERM");
        assert_eq!(process.wait(SOON), 128 + 15);
    }

    /// A program named as Coral is that writes what it should not.
    fn gossip(home: &Path) -> Command {
        let program = home.join("coral");
        let script =
            "#!/bin/sh\necho 'the password is gossip-gossip' >&2\nexec tail -f /dev/null\n";
        std::fs::write(&program, script).expect("scratch is writable");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("scratch is writable");
        let mut command = Command::new("sh");
        command.arg(program);
        command
    }

    #[test]
    #[should_panic(expected = "wrote a secret")]
    fn a_process_of_corals_that_writes_a_secret_fails_when_it_ends() {
        secrets::secret("gossip-gossip");
        let home = crate::run::scratch();
        let mut process = Process::start(&mut gossip(home.path()));
        process.wait_for_line("password", SOON);
        process.signal("TERM");
        process.wait(SOON);
    }

    #[test]
    #[should_panic(expected = "wrote a secret")]
    fn and_when_it_is_dropped() {
        secrets::secret("gossip-gossip");
        let home = crate::run::scratch();
        let mut process = Process::start(&mut gossip(home.path()));
        process.wait_for_line("password", SOON);
    }

    #[test]
    #[should_panic(expected = "ended without a line with `ready`")]
    fn a_process_that_ends_without_the_awaited_line_fails_at_once() {
        let mut process = Process::start(Command::new("sh").args(["-c", "echo no"]));
        process.wait_for_line("ready", Duration::from_mins(10));
    }
}
