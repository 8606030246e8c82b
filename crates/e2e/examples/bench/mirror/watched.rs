//! A command, timed, with an eye on its memory.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::Process;

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Watched {
    pub(super) seconds: f64,
    /// The most anonymous memory seen (`RssAnon`).
    pub(super) megabytes: f64,
    pub(super) succeeded: bool,
    pub(super) shown: String,
}

pub(super) fn watch(command: &mut Command) -> Watched {
    let began = Instant::now();
    let mut process = Process::start(command);
    let mut peak = 0;
    while process.is_running() {
        peak = peak.max(anonymous_kib(process.pid()).unwrap_or_default());
        std::thread::park_timeout(LOOK);
    }
    let seconds = began.elapsed().as_secs_f64();
    let code = process.wait(Duration::from_secs(5));
    Watched {
        seconds,
        megabytes: peak as f64 * 1024.0 / 1e6,
        succeeded: code == 0,
        shown: format!("{}: {code}\n{}", process.name(), process.shown()),
    }
}

fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
