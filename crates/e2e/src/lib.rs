//! The harness of the black-box acceptance tests: only the shipped binary and real peers.
//!
//! Nothing here knows a crate of Coral's; a test sees what a user sees. `cargo xtask test` builds
//! the binary, sets `CORAL_BIN` and puts the peers on `PATH`; by hand it is
//! `CORAL_BIN=target/release/coral cargo test -p e2e --test quickstart -- --ignored`.
//!
//! Start reading at [`run()`] (a command that ends), [`Process`] (one that stays) and [`until()`] (the
//! only place that waits).

#![allow(
    clippy::print_stdout,
    reason = "tests report to the recipe that runs them by lines"
)]

mod binary;
pub mod browser;
pub mod cluster;
mod compare;
mod containerd;
mod fault_server;
mod gate;
mod git_server;
mod layout;
mod pending;
mod port;
mod process;
mod registry;
mod run;
mod secrets;
mod ssh_server;
mod up;
mod wait;

pub mod http;
pub mod image;
pub mod peers;

pub use binary::{coral, faults};
pub use compare::{Compared, ImageRepository, assert_same};
pub use containerd::Containerd;
pub use fault_server::{FaultServer, Request};
pub use gate::Gate;
pub use git_server::GitServer;
pub use layout::{Layout, sha256};
pub use pending::pending;
pub use port::free_port;
pub use process::Process;
pub use registry::{RegistryProgram, RegistryServer, User};
pub use run::{Finished, run, scratch};
pub use secrets::{password, passwords_in, secret};
pub use ssh_server::SshServer;
pub use up::{Up, mirror_yaml, write_yaml};
pub use wait::{until, until_every};

/// Prints a line that the table of `cargo xtask test` repeats, such as totals and figures.
#[macro_export]
macro_rules! report {
    ($($argument:tt)*) => {
        println!("\nreport: {}", format_args!($($argument)*))
    };
}
