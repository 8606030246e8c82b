//! Git over a command on an SSH server, from a blocking thread.
//!
//! The server's host key has to be in `known_hosts` of the Secret: no key is trusted on first use.
//! Everything has a timeout, and received bytes are bounded by the limit of the source.

mod channel;
mod known_hosts;
mod secret;

use std::borrow::Cow;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult};
use russh::keys::{
    Algorithm, EcdsaCurve, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate,
};
use russh::{AlgorithmKind, Channel, ChannelMsg, Preferred, SshId, compression};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::GitError;
use super::address::SshAddress;
use super::remote::FetchTrace;
use channel::{Reader, Writer};
use known_hosts::{KnownHosts, named};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the session may take until the command runs, including the key exchange and the
/// authentication.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Types of host keys that are verified, the preferred one first.
const HOST_KEYS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
];

/// The message about a server that exceeds these times.
const NO_ANSWER: &str = "it does not answer in time";

/// A session and the channel of the command that runs in it.
type Running = (client::Handle<HostKey>, Channel<client::Msg>);

/// How the repository's own server is reached.
pub(super) struct Ssh {
    key: Arc<PrivateKey>,
    known: Arc<KnownHosts>,
    runtime: Handle,
    limit: u64,
}

impl Ssh {
    /// Access with the key and the `known_hosts` in the folder of a Secret. Responses may have at
    /// most `limit` bytes. Call it on a thread of the async runtime.
    pub(super) fn new(address: &SshAddress, secret: &Path, limit: u64) -> Result<Self, GitError> {
        let secret = secret::read(secret, &address.server())?;
        Ok(Self {
            key: Arc::new(secret.key),
            known: Arc::new(secret.known),
            runtime: Handle::current(),
            limit,
        })
    }

    /// Runs the command that serves a repository. Called from a thread that may wait.
    pub(super) fn open(
        &self,
        address: &SshAddress,
    ) -> Result<(Reader, Writer, Rc<FetchTrace>), GitError> {
        let (session, channel) = self.runtime.block_on(self.run_in_time(address))?;
        Ok(channel::split(
            self.runtime.clone(),
            session,
            channel,
            self.limit,
        ))
    }

    async fn run_in_time(&self, address: &SshAddress) -> Result<Running, GitError> {
        let running = timeout(OPEN_TIMEOUT, self.run(address)).await;
        running.map_err(|_| unreachable(address, NO_ANSWER))?
    }

    async fn run(&self, address: &SshAddress) -> Result<Running, GitError> {
        let session = self.log_in(address).await?;
        let lost = |error: russh::Error| failed(address, &error);
        let mut channel = session.channel_open_session().await.map_err(lost)?;
        // Servers that do not accept the variable use an older version of the protocol.
        let version = channel.set_env(false, "GIT_PROTOCOL", "version=2");
        version.await.map_err(lost)?;
        let command = format!("git-upload-pack {}", quoted(&address.path));
        channel.exec(true, command).await.map_err(lost)?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok((session, channel)),
                Some(ChannelMsg::Failure) => {
                    return Err(GitError::NoRepository {
                        url: address.to_string(),
                        problem: "the server does not run git-upload-pack".to_owned(),
                    });
                }
                Some(_) => {}
                None => return Err(unreachable(address, "it ended the connection")),
            }
        }
    }

    /// Opens a connection to a server whose host key is trusted, and authenticates the user.
    async fn log_in(&self, address: &SshAddress) -> Result<client::Handle<HostKey>, GitError> {
        let target = (address.host.as_str(), address.port);
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
        let stream = connecting.map_err(|_| unreachable(address, NO_ANSWER))?;
        let stream = stream.map_err(|error| unreachable(address, &error.to_string()))?;
        let host_key = HostKey {
            server: address.server(),
            known: Arc::clone(&self.known),
        };
        let config = Arc::new(self.config(&host_key.server));
        let session = client::connect_stream(config, stream, host_key).await;
        let mut session = session.map_err(|refused| match refused {
            ConnectError::HostKey(error) => error,
            ConnectError::Ssh(error) => failed(address, &error),
        })?;
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        let answer = session.authenticate_publickey(&address.user, key).await;
        match answer.map_err(|error| failed(address, &error))? {
            AuthResult::Success => Ok(session),
            AuthResult::Failure { .. } if session.is_closed() => {
                Err(unreachable(address, "it ended the connection"))
            }
            AuthResult::Failure { .. } => Err(GitError::SshKey {
                server: address.server(),
                key: named(self.key.public_key()),
                user: address.user.clone(),
            }),
        }
    }

    /// Prefers host keys of the types in `known_hosts`, since a server may have several keys.
    fn config(&self, server: &str) -> client::Config {
        let known = self.known.algorithms(server);
        let mut types = HOST_KEYS.to_vec();
        types.sort_by_key(|algorithm| !known.contains(algorithm));
        client::Config {
            client_id: SshId::Standard(Cow::Borrowed("SSH-2.0-coral")),
            preferred: Preferred {
                key: Cow::Owned(types),
                compression: Cow::Borrowed(&[compression::NONE]),
                ..Preferred::DEFAULT
            },
            nodelay: true,
            ..client::Config::default()
        }
    }
}

/// Decides on the server's host key.
struct HostKey {
    server: String,
    known: Arc<KnownHosts>,
}

/// Why there is no session.
#[derive(Debug)]
enum ConnectError {
    HostKey(GitError),
    Ssh(russh::Error),
}

impl From<russh::Error> for ConnectError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl client::Handler for HostKey {
    type Error = ConnectError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, ConnectError> {
        // Certificates are not asked for.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let checked = self.known.check(&self.server, key);
        let refused = |problem| {
            ConnectError::HostKey(GitError::HostKey {
                server: self.server.clone(),
                problem,
            })
        };
        checked.map_err(refused)?;
        Ok(true)
    }
}

/// What a failure of the connection means.
fn failed(address: &SshAddress, error: &russh::Error) -> GitError {
    let server = address.server();
    match error {
        russh::Error::NoCommonAlgo {
            kind: AlgorithmKind::Key,
            theirs,
            ..
        } => GitError::Ssh {
            server,
            problem: format!(
                "its host keys are of the types {}; only ed25519 and ecdsa are verified",
                crate::contract::failure_text(&theirs.join(", "))
            ),
        },
        russh::Error::IO(_)
        | russh::Error::HUP
        | russh::Error::Disconnect
        | russh::Error::SendError
        | russh::Error::RecvError => unreachable(address, &error.to_string()),
        other => GitError::Ssh {
            server,
            problem: crate::contract::failure_text(&other.to_string()),
        },
    }
}

fn unreachable(address: &SshAddress, problem: &str) -> GitError {
    GitError::Unreachable {
        url: address.to_string(),
        problem: problem.to_owned(),
    }
}

/// A word of a shell's command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use russh::keys::ssh_key::private::Ed25519Keypair;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_not_waited_for_without_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = SshAddress {
            user: "git".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            path: "/shop".to_owned(),
        };
        let ssh = Ssh {
            key: Arc::new(Ed25519Keypair::from_seed(&[1; 32]).into()),
            known: Arc::default(),
            runtime: Handle::current(),
            limit: 1,
        };
        let Err(error) = ssh.run_in_time(&address).await else {
            panic!("a session")
        };
        assert!(error.to_string().contains(NO_ANSWER), "{error}");
        assert!(error.may_pass());
    }

    #[test]
    fn a_server_with_host_keys_of_rsa_alone_is_told_from_one_that_is_away() {
        let address = SshAddress {
            user: "git".to_owned(),
            host: "git.example".to_owned(),
            port: 22,
            path: "/shop".to_owned(),
        };
        let error = russh::Error::NoCommonAlgo {
            kind: AlgorithmKind::Key,
            ours: vec!["ssh-ed25519".to_owned()],
            theirs: vec!["rsa-sha2-512".to_owned(), "rsa-sha2-256".to_owned()],
        };
        let error = failed(&address, &error);
        assert!(!error.may_pass());
        let said = error.to_string();
        assert!(said.contains("rsa-sha2-512, rsa-sha2-256"), "{said}");
        assert!(said.contains("only ed25519 and ecdsa"), "{said}");
    }

    #[test]
    fn a_path_is_one_word_of_the_command() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("/a'; id; '"), r"'/a'\''; id; '\'''");
    }
}
