//! The cluster's processes: started in sessions of their own, found again by later calls.
//!
//! A file of `pids` holds a process id and the time at which that process started, so that a
//! number which the kernel has given to another process is not taken for ours.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::settings::{Cluster, write};
use crate::command::output;

/// How long a process may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a killed one.
const KILLED: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(25);

/// Starts a process that outlives this one; its output goes into `logs/NAME.log`.
pub(super) fn spawn(cluster: &Cluster, name: &str, command: &Command) -> Result<()> {
    let path = cluster.file(&format!("logs/{name}.log"));
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let mut session = Command::new("setsid");
    session.arg(command.get_program()).args(command.get_args());
    for (variable, value) in command.get_envs() {
        if let Some(value) = value {
            session.env(variable, value);
        }
    }
    let child = session
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let id = child.id();
    let started =
        started(id).with_context(|| format!("{name} ended at once: {}", path.display()))?;
    write(&pid_file(cluster, name), &format!("{id} {started}"))
}

/// The process id, if the process runs.
pub(super) fn running(cluster: &Cluster, name: &str) -> Option<u32> {
    let text = fs::read_to_string(pid_file(cluster, name)).ok()?;
    let (id, when) = text.split_once(' ')?;
    let id = id.parse().ok()?;
    let when: u64 = when.parse().ok()?;
    (started(id)? == when).then_some(id)
}

/// The process that does the work: `nsenter` and `unshare` stay as parents of what they start.
pub(super) fn worker(cluster: &Cluster, name: &str) -> Option<u32> {
    let id = running(cluster, name)?;
    let program = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    if matches!(program.trim(), "nsenter" | "unshare") {
        return child_of(id);
    }
    Some(id)
}

/// Ends a process, by force if it does not end by itself.
pub(super) fn halt(cluster: &Cluster, name: &str) -> Result<()> {
    if let Some(id) = worker(cluster, name) {
        signal("TERM", id)?;
        if !is_gone(cluster, name, GRACE) {
            return kill(cluster, name);
        }
    }
    forget(cluster, name)
}

/// Ends a process by force.
pub(super) fn kill(cluster: &Cluster, name: &str) -> Result<()> {
    if let Some(id) = worker(cluster, name).or_else(|| running(cluster, name)) {
        signal("KILL", id)?;
        if !is_gone(cluster, name, KILLED) {
            bail!("{name} (process {id}) does not end");
        }
    }
    forget(cluster, name)
}

/// The names of all processes that were started and not ended.
pub(super) fn names(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.file("pids")).into_iter().flatten();
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Asks again until the answer is yes.
pub(super) fn wait_for(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> bool,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !ask() {
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", patience.as_secs());
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether a command succeeds; it is run without output.
pub(super) fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// The command lines of processes that look like the cluster's, with their ids; a user's `tail` of
/// a log is none.
pub(super) fn lookalikes(cluster: &Cluster) -> Vec<String> {
    let path = format!("{}/", cluster.folder.display());
    let tools = cluster.cache.display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let line = line.replace('\0', " ");
        let program = line.split(' ').next().unwrap_or_default();
        let is_ours = program.starts_with(&tools)
            || ["docker-registry", "unshare", "nsenter"].contains(&program);
        (is_ours && line.contains(&path)).then(|| format!("process {id}: {line}"))
    });
    lines.collect()
}

/// Forgets a process that ended with its node.
pub(super) fn forget(cluster: &Cluster, name: &str) -> Result<()> {
    let file = pid_file(cluster, name);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn is_gone(cluster: &Cluster, name: &str, patience: Duration) -> bool {
    wait_for("", patience, || running(cluster, name).is_none()).is_ok()
}

fn pid_file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.file("pids").join(name)
}

/// The shell's own `kill`, since not every system has the program.
fn signal(signal: &str, id: u32) -> Result<()> {
    let script = format!("kill -s {signal} {id} 2>/dev/null || true");
    output(Command::new("sh").args(["-c", &script])).map(drop)
}

/// When a process started, in the kernel's ticks; none for one that has ended, reaped or not.
fn started(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // The fields after the name; the start time is the 22nd of all.
    (*fields.first()? != "Z")
        .then(|| fields.get(19)?.parse().ok())
        .flatten()
}

fn child_of(parent: u32) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        after.split(' ').nth(1) == Some(&parent.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::process::id();
        assert!(started(own).is_some());
        assert_eq!(started(own), started(own));
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn a_wait_that_is_too_long_says_what_was_awaited() {
        let error = wait_for("etcd answers", Duration::ZERO, || false).unwrap_err();
        assert!(error.to_string().ends_with("etcd answers"), "{error}");
    }
}
