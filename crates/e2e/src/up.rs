//! A running `coral up`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::binary::coral;
use crate::http::head;
use crate::process::Process;
use crate::wait::until;

/// The line on standard error that says the registry is there.
const READY: &str = "registry listening on ";

/// One `coral up`, on a port of its own choice.
pub struct Up {
    process: Process,
    scheme: String,
    host: String,
}

impl Up {
    /// Starts it on a folder or file of YAML, and waits for its registry.
    pub fn start(yaml: &Path, data: &Path, arguments: &[&str]) -> Self {
        Self::start_command(Self::command(yaml, data).args(arguments))
    }

    /// The command line, to be changed before it is started.
    pub fn command(yaml: &Path, data: &Path) -> Command {
        let mut command = coral();
        command
            .arg("up")
            .arg(yaml)
            .arg("--data")
            .arg(data)
            .args(["--listen", "127.0.0.1:0"]);
        command.env("HOME", data.parent().unwrap_or(data));
        command
    }

    /// Starts a command made by [`Up::command`].
    pub fn start_command(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let line = process.wait_for_line(READY, Duration::from_mins(2));
        let after = line.split_once(READY).map_or("", |(_, address)| address);
        let url = after.split_whitespace().next().unwrap_or_default();
        let (scheme, host) = url.split_once("://").expect("a URL follows");
        Self {
            process,
            scheme: scheme.to_owned(),
            host: host.to_owned(),
        }
    }

    /// `127.0.0.1:PORT` of the registry it runs.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The process, for its output and for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until the registry has a manifest under a tag or digest, and returns its digest.
    pub fn wait_for(&mut self, repository: &str, reference: &str, timeout: Duration) -> String {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.host);
        until(
            &format!("{repository}:{reference} in the registry"),
            timeout,
            || {
                assert!(
                    self.process.is_running(),
                    "coral up ended:\n{}",
                    self.process.shown()
                );
                let answer = head(&url);
                let digest = answer.header("docker-content-digest").map(str::to_owned);
                digest.filter(|_| answer.status == 200)
            },
        )
    }

    /// Waits until the tag is at this digest.
    pub fn wait_for_digest(
        &mut self,
        repository: &str,
        tag: &str,
        digest: &str,
        timeout: Duration,
    ) {
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.host);
        until(&format!("{repository}:{tag} at {digest}"), timeout, || {
            assert!(
                self.process.is_running(),
                "coral up ended:\n{}",
                self.process.shown()
            );
            (head(&url).header("docker-content-digest") == Some(digest)).then_some(())
        });
    }
}

/// A mirror into the embedded registry, as YAML: repositories with their tags.
pub fn mirror_yaml(name: &str, repositories: &[(&str, &str)], more: &str) -> String {
    let list = repositories
        .iter()
        .map(|(repository, tag)| format!("    - name: {repository}\n      tags: [\"{tag}\"]\n"));
    format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: {name}\nspec:\n  \
         registry:\n    name: local\n{more}  repositories:\n{}",
        list.collect::<String>()
    )
}

/// Writes YAML into a folder of its own below `home`.
///
/// # Panics
/// If it cannot be written.
pub fn write_yaml(home: &Path, text: &str) -> PathBuf {
    let folder = home.join("mirrors");
    fs::create_dir_all(&folder).expect("scratch is writable");
    fs::write(folder.join("mirrors.yaml"), text).expect("scratch is writable");
    folder
}
