//! Stopping on SIGINT, SIGTERM and SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT, SIGTERM or SIGHUP, which a terminal sends when it
/// is closed. A second one ends the process at once with exit code 130, so that a user need not
/// wait.
///
/// A process that was started with SIGHUP ignored, as `nohup` does, keeps running when its terminal
/// is closed.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = hangup_unless_ignored()?;
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = received(hangup.as_mut()) => {}
        }
        stop.cancel();
        // A terminal that is closed may send more than one SIGHUP: a second one does not mean that
        // the user is in a hurry.
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(token)
}

/// SIGHUP, unless the process was started with the signal ignored.
fn hangup_unless_ignored() -> std::io::Result<Option<Signal>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if ignores_hangup(&status) {
        return Ok(None);
    }
    signal(SignalKind::hangup()).map(Some)
}

/// Whether `/proc/self/status` says that SIGHUP is ignored. Bit 0 of the mask is signal 1.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_says_whether_hangup_is_ignored() {
        assert!(ignores_hangup("Name:\tcoral\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

    /// How long a child may take, on the slowest machine.
    const PATIENCE: Duration = Duration::from_mins(1);
    /// Tells the test below that it is the child.
    const CHILD: &str = "CORAL_TEST_OF_HANGUP";

    /// Runs the test `it` of the same name in a process of its own, so that signals do not depend on
    /// how this one was started. `sh` sets the disposition.
    async fn in_a_child(it: &str, trap: &str) {
        // A signal with a handler has its default disposition in a new program, and one that is
        // ignored stays ignored.
        let _handler = signal(SignalKind::hangup()).unwrap();
        let mut child = tokio::process::Command::new("sh");
        child.args(["-c", &format!("{trap} exec \"$@\""), "sh"]);
        child.arg(std::env::current_exe().unwrap());
        child.args(["--exact", &format!("shutdown::tests::{it}"), "--nocapture"]);
        child.env(CHILD, "1").kill_on_drop(true);
        let ended = tokio::time::timeout(PATIENCE, child.output()).await;
        let output = ended.expect("the child hangs").unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {said}", output.status);
        assert!(said.contains("1 passed"), "{said}");
    }

    fn is_the_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    fn hang_up() {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
    }

    /// Awaits it for at most half of what the parent waits.
    async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
        let ended = tokio::time::timeout(PATIENCE / 2, it).await;
        ended.unwrap_or_else(|_| panic!("{what} does not come"))
    }

    #[tokio::test]
    async fn a_hangup_asks_the_process_to_stop_and_a_second_one_does_not_end_it() {
        if !is_the_child() {
            let name = "a_hangup_asks_the_process_to_stop_and_a_second_one_does_not_end_it";
            return in_a_child(name, "").await;
        }
        assert!(hangup_unless_ignored().unwrap().is_some());
        let mut seen = signal(SignalKind::hangup()).unwrap();
        let token = shutdown_on_signal().unwrap();
        hang_up();
        soon("the end", token.cancelled()).await;
        soon("the first", seen.recv()).await;
        hang_up();
        soon("the second", seen.recv()).await;
        // The task that may end the process was woken at the same time.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_process_that_was_started_with_hangup_ignored_keeps_running() {
        if !is_the_child() {
            let name = "a_process_that_was_started_with_hangup_ignored_keeps_running";
            return in_a_child(name, "trap '' HUP;").await;
        }
        let token = shutdown_on_signal().unwrap();
        hang_up();
        // Had it been heard, then before this one.
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
        soon("the end", token.cancelled()).await;
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(ignores_hangup(&status), "{status}");
    }
}
