//! On what, and with which versions, it was measured.

use std::fs;
use std::process::Command;

use e2e::{coral, run};

/// A line of Markdown: processors, memory, kernel.
pub(crate) fn hardware() -> String {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024 / 1024);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Machine: {cores} cores ({cpu}), {memory} GiB of memory, Linux {}.",
        kernel.trim()
    )
}

/// The machine, and the versions of what is measured on it.
pub(crate) fn describe() -> String {
    format!(
        "{}\nVersions: coral {}; distribution {}; skopeo {}; curl and wrk as clients.",
        hardware(),
        version(coral().arg("--version")),
        version(Command::new("registry").arg("--version")),
        version(Command::new("skopeo").arg("--version")),
    )
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The last word of what a program says of its version.
fn version(command: &mut Command) -> String {
    let finished = run(command);
    let said = finished
        .stdout
        .lines()
        .chain(finished.stderr.lines())
        .next();
    let word = said
        .and_then(|line| line.split_whitespace().last())
        .unwrap_or("unknown");
    word.trim_end_matches("+unknown").to_owned()
}
