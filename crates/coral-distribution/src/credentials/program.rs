//! Credential helpers: programs `docker-credential-NAME` that store credentials. They are run with
//! Docker's protocol: the argument `get`, the server on standard input, JSON on standard output.

use std::collections::HashMap;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coral_image::Host;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{Credential, CredentialKind};
use crate::redacted::Redacted;
use crate::transport::clean;

/// How long a helper may take; some call a cloud's API.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than any credential.
const MAX_OUTPUT: u64 = 256 * 1024;
/// How long an answer is reused. Helpers cache on their own, and the credentials that they return
/// may expire.
const ANSWER_LIFETIME: Duration = Duration::from_mins(5);
/// How long a helper is not run again after a failure.
const FAILURE_LIFETIME: Duration = Duration::from_secs(30);
/// The messages that helpers print for an unknown server.
const UNKNOWN: [&str; 2] = ["credentials not found", "no credentials"];
/// The user name that marks an identity token.
const TOKEN_USER: &str = "<token>";

/// Why a helper returned no credential. Contains no output of a successful helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelperError {
    pub(crate) text: String,
    /// Whether the failure is transient.
    pub(crate) transient: bool,
}

type HelperResult = Result<Option<Arc<Credential>>, HelperError>;
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, HelperResult)>>>;

/// A helper that a configuration file names.
#[derive(Debug)]
pub(crate) struct Helper {
    program: String,
    /// The file and the field that name the helper.
    origin: String,
    patience: Duration,
    answers: Mutex<HashMap<String, Slot>>,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

impl Helper {
    /// The helper of this name; `None` if the name cannot be part of a program's name.
    pub(crate) fn new(name: &str, origin: String) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        Some(Self {
            program: format!("docker-credential-{name}"),
            origin,
            patience: TIMEOUT,
            answers: Mutex::default(),
        })
    }

    /// A description for messages: the program, and the file that names it.
    pub(crate) fn described(&self) -> String {
        format!(
            "credential helper {}, named by {}",
            self.program, self.origin
        )
    }

    /// The credential for a host; `None` if the helper has none. Of many concurrent callers, only
    /// one runs the helper.
    pub(crate) async fn get(&self, host: &Host) -> HelperResult {
        let server = server_name(host);
        let slot = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(answers.entry(server.clone()).or_default())
        };
        let mut kept = slot.lock().await;
        if let Some((until, answer)) = &*kept
            && Instant::now() < *until
        {
            return answer.clone();
        }
        let answer = self.run(&server).await;
        let life = if answer.is_ok() {
            ANSWER_LIFETIME
        } else {
            FAILURE_LIFETIME
        };
        *kept = Some((Instant::now() + life, answer.clone()));
        answer
    }

    async fn run(&self, server: &str) -> HelperResult {
        let output = tokio::time::timeout(self.patience, self.output(server)).await;
        let output = output.map_err(|_| {
            let text = format!("no answer within {} s", self.patience.as_secs_f32());
            self.failed(&text, true)
        })?;
        let output = output.map_err(|error| self.failed(&start_problem(&error), false))?;
        if !output.status.success() {
            return self.refused(server, &output);
        }
        let given: HelperAnswer = serde_json::from_slice(&output.stdout)
            // The parser's own message may quote the secret.
            .map_err(|_| self.failed("its answer is not a credential in JSON", false))?;
        self.credential(given)
    }

    /// The error of a failed helper. Its output is not shown, because it may contain the secret.
    fn refused(&self, server: &str, output: &Output) -> HelperResult {
        let said = clean(&String::from_utf8_lossy(&output.stdout));
        if UNKNOWN
            .iter()
            .any(|unknown| said.to_ascii_lowercase().contains(unknown))
        {
            return Ok(None);
        }
        let (status, program) = (output.status, &self.program);
        let text =
            format!("it ended with {status}; to see why, run: echo {server} | {program} get");
        Err(self.failed(&text, false))
    }

    fn credential(&self, given: HelperAnswer) -> HelperResult {
        if given.secret.is_empty() {
            return Ok(None);
        }
        if given.username.contains(':') {
            // The text after the colon would be sent as a part of the password.
            let text = "it returns a user name with a colon, which cannot be sent to a registry";
            return Err(self.failed(text, false));
        }
        let kind = if given.username == TOKEN_USER {
            CredentialKind::IdentityToken
        } else {
            CredentialKind::Password
        };
        Ok(Some(Arc::new(Credential {
            username: given.username,
            password: Redacted::new(given.secret),
            kind,
            origin: self.described(),
        })))
    }

    async fn output(&self, server: &str) -> std::io::Result<Output> {
        let mut child = Command::new(&self.program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A helper may print secrets to standard error.
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // Created before the first await, so that the helper's children are killed whenever this
        // future is dropped.
        let group = ProcessGroup::for_child(&child);
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input may still answer.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let output = read_output(&mut child).await?;
        group.leave();
        Ok(output)
    }

    fn failed(&self, what: &str, transient: bool) -> HelperError {
        HelperError {
            text: format!("{}: {what}", self.described()),
            transient,
        }
    }
}

/// The process group of a helper, which is killed when the helper is no longer awaited.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn for_child(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// The helper has exited on its own; processes that it left running are intended.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read_output(child: &mut Child) -> std::io::Result<Output> {
    let mut stdout = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(MAX_OUTPUT + 1).read_to_end(&mut stdout).await?;
    }
    if stdout.len() as u64 > MAX_OUTPUT {
        return Err(std::io::Error::other(format!(
            "more than {MAX_OUTPUT} bytes came"
        )));
    }
    let status = child.wait().await?;
    Ok(Output {
        status,
        stdout,
        stderr: Vec::new(),
    })
}

fn start_problem(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "it is not on PATH; install it, or remove it from that file".to_owned()
        }
        _ => format!("it cannot be run: {error}"),
    }
}

/// Docker's name for the server: its own registry has a historical one.
fn server_name(host: &Host) -> String {
    if host.is_docker_hub() {
        "https://index.docker.io/v1/".to_owned()
    } else {
        host.to_string()
    }
}

#[cfg(test)]
mod tests;
