//! The registries that are measured, and what they cost.

use std::fs;
use std::time::Duration;

use e2e::{Kind, Process, RegistryServer, coral, scratch};
use tempfile::TempDir;

/// A registry under measurement.
pub(crate) enum Server {
    Coral {
        process: Process,
        host: String,
        _folder: TempDir,
    },
    Distribution(RegistryServer),
}

impl Server {
    /// `coral registry serve` on an empty folder.
    pub(crate) fn coral() -> Self {
        let folder = scratch();
        let mut command = coral();
        command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--storage"]);
        command.arg(folder.path().join("storage"));
        let mut process = Process::start(&mut command);
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
            _folder: folder,
        }
    }

    /// distribution on an empty folder.
    pub(crate) fn distribution() -> Self {
        Self::Distribution(RegistryServer::start(Kind::Distribution))
    }

    pub(crate) fn host(&self) -> String {
        match self {
            Self::Coral { host, .. } => host.clone(),
            Self::Distribution(server) => server.host(),
        }
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

    fn pid(&mut self) -> u32 {
        match self {
            Self::Coral { process, .. } => process.pid(),
            Self::Distribution(server) => server.process().pid(),
        }
    }
}
