//! Real registries as sources: Debian's docker-registry and distribution 3.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::http::get;
use crate::port::free_port;
use crate::process::Process;
use crate::run::{run, scratch};
use crate::wait::until;

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `docker-registry` 2.8 of Debian.
    DockerRegistry,
    /// distribution 3.
    Distribution,
}

/// A user that a registry asks for.
#[derive(Clone, Copy)]
pub struct User {
    /// The name.
    pub name: &'static str,
    /// The password.
    pub password: &'static str,
}

/// A running registry on loopback, on plain HTTP, empty at first.
pub struct RegistryServer {
    kind: Kind,
    process: Process,
    port: u16,
    folder: TempDir,
}

impl RegistryServer {
    /// Starts one that allows anonymous reads and writes.
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, 200, |_| String::new())
    }

    /// Starts one that asks for a user.
    pub fn start_for(kind: Kind, user: User) -> Self {
        crate::secrets::password(user.name, user.password);
        Self::start_with(kind, 401, |folder| htpasswd(folder, user))
    }

    /// Starts one that is a pull-through cache of the registry at a URL.
    pub fn start_cache_of(kind: Kind, url: &str) -> Self {
        let proxy = format!("proxy: {{remoteurl: \"{url}\"}}\n");
        Self::start_with(kind, 200, |_| proxy)
    }

    /// `more` makes further lines of its configuration; `expected` is its answer to an anonymous
    /// client.
    fn start_with(kind: Kind, expected: u16, more: impl FnOnce(&Path) -> String) -> Self {
        let folder = scratch();
        let port = free_port();
        let config = folder.path().join("config.yml");
        let text = configuration(folder.path(), port) + &more(folder.path());
        fs::write(&config, text).expect("scratch is writable");
        let program = kind.program();
        let mut process = launch(kind, folder.path());
        until(
            &format!("{program} answers on port {port}"),
            Duration::from_mins(2),
            || {
                assert!(
                    process.is_running(),
                    "{program} ended:\n{}",
                    process.shown()
                );
                (get(&format!("http://127.0.0.1:{port}/v2/")).status == expected).then_some(())
            },
        );
        Self {
            kind,
            process,
            port,
            folder,
        }
    }

    /// Kills it and starts it again over what it stored; it answers a little later.
    pub fn relaunch(&mut self) {
        self.process.signal("KILL");
        self.process.wait(Duration::from_mins(2));
        self.process = launch(self.kind, self.folder.path());
    }

    /// `127.0.0.1:PORT`, as in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The name of the host as a folder of the mirror: `127.0.0.1_PORT`.
    pub fn folder_name(&self) -> String {
        format!("127.0.0.1_{}", self.port)
    }

    /// Where it keeps its data.
    pub fn storage(&self) -> &Path {
        self.folder.path()
    }

    /// The process, for its output and for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Kind {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::DockerRegistry => "docker-registry",
            Self::Distribution => "registry",
        }
    }
}

fn launch(kind: Kind, folder: &Path) -> Process {
    let mut command = Command::new(kind.program());
    command
        .arg("serve")
        .arg(folder.join("config.yml"))
        .env("OTEL_TRACES_EXPORTER", "none");
    Process::start(&mut command)
}

fn configuration(folder: &Path, port: u16) -> String {
    format!(
        "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n",
        folder.join("data").display()
    )
}

/// The lines of a configuration by which only this user is let in, and the file that they name.
pub(crate) fn htpasswd(folder: &Path, user: User) -> String {
    let file = folder.join("htpasswd");
    let arguments = ["-Bbn", user.name, user.password];
    let line = run(Command::new("htpasswd").args(arguments)).succeeded();
    fs::write(&file, line.stdout).expect("scratch is writable");
    format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        file.display()
    )
}
