//! The registry under test, as a process.

#![allow(dead_code, reason = "each test binary has its own use of the server")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{Process, coral};

const SOON: Duration = Duration::from_mins(2);
const READY: &str = "registry listening on ";

/// A running `coral registry serve`.
pub(crate) struct Server {
    pub(crate) process: Process,
    /// `http` or `https`.
    pub(crate) scheme: String,
    /// Host and port.
    pub(crate) address: String,
}

impl Server {
    /// Starts it on a port of its own.
    pub(crate) fn start(storage: &Path) -> Self {
        let mut command = coral();
        Self::start_with(command.args(arguments(storage)))
    }

    /// Starts a command line that ends in the registry's.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let line = process.wait_for_line(READY, SOON);
        let address = line.split(READY).nth(1).expect("the awaited line has it");
        let address = address.split_whitespace().next().unwrap_or_default();
        let (scheme, address) = address.split_once("://").expect("a URL");
        Self {
            scheme: scheme.to_owned(),
            address: address.trim_end_matches('/').to_owned(),
            process,
        }
    }
}

/// What follows the binary's name.
pub(crate) fn arguments(storage: &Path) -> Vec<String> {
    let storage = storage.display().to_string();
    [
        "registry",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--storage",
        &storage,
        // Disks of tests are small, and what is tried there is that they are full.
        "--storage-min-free",
        "0",
    ]
    .map(str::to_owned)
    .to_vec()
}
