//! The registries that are measured, and what they cost.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Kind, Process, RegistryServer, coral, scratch};
use tempfile::TempDir;

use crate::wire::Wire;

/// A registry under measurement.
pub(crate) enum Server {
    Coral {
        process: Process,
        host: String,
        folder: TempDir,
    },
    Distribution(RegistryServer),
}

impl Server {
    /// `coral registry serve` on an empty folder.
    pub(crate) fn coral() -> Self {
        Self::coral_with(&[])
    }

    /// The same as a pull-through cache of `host:port`.
    pub(crate) fn coral_in_front_of(source: &str) -> Self {
        Self::coral_with(&["--pull-through", source])
    }

    fn coral_with(arguments: &[&str]) -> Self {
        let folder = scratch();
        let mut process = launch("127.0.0.1:0", folder.path(), arguments);
        let line = process.wait_for_line("listening on http://", Duration::from_secs(20));
        let host = line
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        Self::Coral {
            process,
            host,
            folder,
        }
    }

    /// distribution on an empty folder.
    pub(crate) fn distribution() -> Self {
        Self::Distribution(RegistryServer::start(Kind::Distribution))
    }

    /// distribution as a pull-through cache of `host:port`.
    pub(crate) fn distribution_in_front_of(source: &str) -> Self {
        let url = format!("http://{source}");
        Self::Distribution(RegistryServer::start_cache_of(Kind::Distribution, &url))
    }

    pub(crate) fn host(&self) -> String {
        match self {
            Self::Coral { host, .. } => host.clone(),
            Self::Distribution(server) => server.host(),
        }
    }

    /// Kills it and starts it again over what it stored; seconds until it answers.
    pub(crate) fn restart(&mut self) -> f64 {
        self.restart_with(&[])
    }

    /// The same, with further arguments for Coral.
    pub(crate) fn restart_with(&mut self, arguments: &[&str]) -> f64 {
        let host = self.host();
        let began = match self {
            Self::Coral {
                process, folder, ..
            } => {
                process.signal("KILL");
                process.wait(Duration::from_secs(20));
                let began = Instant::now();
                *process = launch(&host, folder.path(), arguments);
                began
            }
            Self::Distribution(server) => {
                let began = Instant::now();
                server.relaunch();
                began
            }
        };
        let answers = || Wire::connect(&host)?.call("GET", "/v2/", &[], b"");
        while !answers().is_ok_and(|reply| reply.status == 200) {
            std::thread::yield_now();
        }
        began.elapsed().as_secs_f64()
    }

    /// Anonymous memory at this moment, in megabytes.
    pub(crate) fn anonymous_megabytes(&mut self) -> f64 {
        anonymous_megabytes(self.pid())
    }

    /// User and system time so far, in seconds.
    pub(crate) fn cpu_seconds(&mut self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut ticks = fields.split_whitespace().skip(11).take(2);
        let mut next = || {
            ticks
                .next()
                .and_then(|text| text.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        // The kernel counts in hundredths of a second on every platform of Linux.
        (next() + next()) / 100.0
    }

    pub(crate) fn pid(&mut self) -> u32 {
        match self {
            Self::Coral { process, .. } => process.pid(),
            Self::Distribution(server) => server.process().pid(),
        }
    }
}

/// Anonymous memory of a process at this moment, in megabytes.
pub(crate) fn anonymous_megabytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap() * 1024.0 / 1e6
}

fn launch(listen: &str, folder: &Path, arguments: &[&str]) -> Process {
    let mut command = coral();
    command.args(["registry", "serve", "--listen", listen, "--storage"]);
    command.arg(folder.join("storage")).args(arguments);
    Process::start(&mut command)
}
