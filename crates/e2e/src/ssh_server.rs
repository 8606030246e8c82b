//! OpenSSH's server over the repositories of a folder, for one key.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::port::free_port;
use crate::process::Process;
use crate::run::{run, scratch};

/// How long the server may take to listen.
const START: Duration = Duration::from_mins(2);
/// The folder that the server wants to be there, for its part without rights.
const EMPTY: &str = "/run/sshd";

/// A server that runs git's commands for clients that have the key of a user. It ends when it is
/// dropped.
pub struct SshServer {
    _process: Process,
    url: String,
    key: String,
    known_hosts: String,
}

impl SshServer {
    /// Serves on a free port of an address. The user is the one that runs the tests, which is root.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(address: &str, repository: &Path) -> Self {
        let folder = scratch();
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "user"] {
            let file = at(name);
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]);
            let _ = run(keygen.arg(file)).succeeded();
        }
        let read = |name: &str| fs::read_to_string(at(name)).expect("ssh-keygen wrote it");
        let allowed = format!(
            "restrict,command=\"git-shell -c \\\"$SSH_ORIGINAL_COMMAND\\\"\" {}",
            read("user.pub")
        );
        fs::write(at("authorized_keys"), allowed).expect("scratch is writable");
        let port = free_port();
        let shown = folder.path().display();
        let config = format!(
            "ListenAddress {address}:{port}\nHostKey {shown}/host\nPidFile none\nUsePAM no\n\
             StrictModes no\nAuthorizedKeysFile {shown}/authorized_keys\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             AcceptEnv GIT_PROTOCOL\n"
        );
        fs::write(at("config"), config).expect("scratch is writable");
        fs::create_dir_all(EMPTY).expect("tests run as root");
        let mut sshd = Command::new("/usr/sbin/sshd");
        let mut process = Process::start(sshd.args(["-D", "-e", "-f"]).arg(at("config")));
        process.wait_for_line("Server listening on", START);
        let key = read("user");
        crate::secrets::secret(key.lines().nth(1).expect("the body of the key"));
        let known_hosts = format!("[{address}]:{port} {}", read("host.pub"));
        process.keep(folder);
        Self {
            _process: process,
            url: format!("ssh://root@{address}:{port}{}", repository.display()),
            key,
            known_hosts,
        }
    }

    /// The URL of the repository.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The private key of the user.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The file `known_hosts` with the server's own key.
    pub fn known_hosts(&self) -> &str {
        &self.known_hosts
    }
}
