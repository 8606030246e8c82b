//! A containerd of the test's own: its own root, state and socket.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::run::{Finished, run, scratch};
use crate::wait::until;

/// A running containerd without Kubernetes' part. Needs root.
pub struct Containerd {
    process: Process,
    socket: PathBuf,
    _folder: TempDir,
}

impl Containerd {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not answer in time (it must run as root).
    pub fn start() -> Self {
        let folder = scratch();
        let at = |name: &str| folder.path().join(name);
        let shown = |name: &str| at(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\noom_score = 0\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            shown("root"),
            shown("state"),
            shown("sock")
        );
        fs::write(at("config.toml"), config).expect("scratch is writable");
        let mut command = Command::new("containerd");
        let process = Process::start(command.arg("--config").arg(at("config.toml")));
        let mut containerd = Self {
            process,
            socket: at("sock"),
            _folder: folder,
        };
        until("containerd answers", Duration::from_mins(2), || {
            let shown = containerd.process.shown();
            assert!(
                containerd.process.is_running(),
                "containerd ended:\n{shown}"
            );
            (containerd.ctr(&["version"]).code == 0).then_some(())
        });
        containerd
    }

    /// Runs containerd's own client.
    pub fn ctr(&self, arguments: &[&str]) -> Finished {
        run(Command::new("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args(arguments))
    }
}
