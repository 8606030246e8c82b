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
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_says_whether_hangup_is_ignored() {
        assert!(ignores_hangup("Name:\tcoral\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

    #[tokio::test]
    async fn a_hangup_asks_the_process_to_stop_and_a_second_one_does_not_end_it() {
        let Some(_) = hangup_unless_ignored().unwrap() else {
            return;
        };
        let mut seen = signal(SignalKind::hangup()).unwrap();
        let token = shutdown_on_signal().unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
        token.cancelled().await;
        seen.recv().await;
        rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
        seen.recv().await;
    }
}
