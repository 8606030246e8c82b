//! An SSH server that runs git's own `upload-pack`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

/// A key that is the same for the same number.
pub(crate) fn key(number: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[number; 32]).into()
}

/// A private key as a file has it.
pub(crate) fn file(key: &PrivateKey) -> String {
    key.to_openssh(LineEnding::LF).unwrap().to_string()
}

/// The fingerprint of a key.
pub(crate) fn fingerprint(key: &PrivateKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// A server that knows one user, `git`, by one key.
pub(crate) struct SshServer {
    address: SocketAddr,
    host_key: PrivateKey,
    state: Arc<State>,
}

/// What a server does, and what it saw.
struct State {
    root: PathBuf,
    user_key: PublicKey,
    takes_variables: bool,
    /// Connections that are closed as soon as they are there.
    refusals: Mutex<usize>,
    commands: Mutex<Vec<String>>,
    log_ins: Mutex<usize>,
}

impl SshServer {
    /// Serves the repositories of a folder.
    pub(crate) async fn start(root: &Path) -> Self {
        Self::with(root, true, 0).await
    }

    /// A server that leaves out the variable with git's version.
    pub(crate) async fn without_variables(root: &Path) -> Self {
        Self::with(root, false, 0).await
    }

    /// A server that ends the first connections at once.
    pub(crate) async fn refusing(root: &Path, refusals: usize) -> Self {
        Self::with(root, true, refusals).await
    }

    async fn with(root: &Path, takes_variables: bool, refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: root.to_owned(),
            user_key: key(1).public_key().clone(),
            takes_variables,
            refusals: Mutex::new(refusals),
            commands: Mutex::default(),
            log_ins: Mutex::default(),
        });
        let host_key = key(2);
        let config = Arc::new(server::Config {
            keys: vec![host_key.clone()],
            auth_rejection_time: std::time::Duration::ZERO,
            ..server::Config::default()
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if shared.refuses() {
                    continue;
                }
                let user = User {
                    state: Arc::clone(&shared),
                    channel: None,
                    version: None,
                };
                let config = Arc::clone(&config);
                tokio::spawn(async move { server::run_stream(config, stream, user).await?.await });
            }
        });
        Self {
            address,
            host_key,
            state,
        }
    }

    /// The URL of a repository of the folder.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("ssh://git@{}/{name}", self.address)
    }

    /// The server as `known_hosts` names it.
    pub(crate) fn name(&self) -> String {
        format!("[127.0.0.1]:{}", self.address.port())
    }

    /// A line of `known_hosts` with this key.
    pub(crate) fn line(&self, key: &PrivateKey) -> String {
        let key = key.public_key().to_openssh().unwrap();
        format!("{} {key}\n", self.name())
    }

    /// The file `known_hosts` that names the server's own key.
    pub(crate) fn known_hosts(&self) -> String {
        self.line(&self.host_key)
    }

    /// The server's key.
    pub(crate) fn host_key(&self) -> &PrivateKey {
        &self.host_key
    }

    /// The commands that were run.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.state.commands.lock().unwrap().clone()
    }

    /// How often a user was asked for.
    pub(crate) fn log_ins(&self) -> usize {
        *self.state.log_ins.lock().unwrap()
    }
}

impl State {
    fn refuses(&self) -> bool {
        let mut left = self.refusals.lock().unwrap();
        let refuses = *left > 0;
        *left = left.saturating_sub(1);
        refuses
    }
}

/// One connection.
struct User {
    state: Arc<State>,
    channel: Option<Channel<Msg>>,
    version: Option<String>,
}

impl server::Handler for User {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        *self.state.log_ins.lock().unwrap() += 1;
        let is_known = key.public_key.key_data() == self.state.user_key.key_data();
        Ok(if is_known && user == "git" {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn env_request(
        &mut self,
        _: ChannelId,
        name: &str,
        value: &str,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        if name == "GIT_PROTOCOL" && self.state.takes_variables {
            self.version = Some(value.to_owned());
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let command = String::from_utf8(command.to_vec()).unwrap();
        session.channel_success(id)?;
        self.state.commands.lock().unwrap().push(command.clone());
        let (channel, version) = (self.channel.take().unwrap(), self.version.take());
        let root = self.state.root.clone();
        tokio::spawn(async move { run(channel, &root, &command, version).await });
        Ok(())
    }
}

/// Runs git for a command.
async fn run(channel: Channel<Msg>, root: &Path, command: &str, version: Option<String>) {
    let path = command.strip_prefix("git-upload-pack '").unwrap();
    let path = path.strip_suffix('\'').unwrap().trim_start_matches('/');
    let mut git = Command::new("git");
    git.args(["upload-pack", path]).current_dir(root);
    git.envs(version.map(|version| ("GIT_PROTOCOL", version)));
    git.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut git = git.stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (git.stdin.take().unwrap(), git.stdout.take().unwrap());
    let error = git.stderr.take().unwrap();
    let (mut read, write) = channel.split();
    let asking = async move {
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } if input.write_all(&data).await.is_err() => return,
                ChannelMsg::Eof | ChannelMsg::Close => return,
                _ => {}
            }
        }
    };
    let asking = tokio::spawn(asking);
    tokio::join!(send(&write, output, None), send(&write, error, Some(1)));
    let status = git.wait().await.unwrap();
    asking.abort();
    // A client that went away wants no more.
    let code = status.code().unwrap_or(1).unsigned_abs();
    let _ = write.exit_status(code).await;
    let _ = write.eof().await;
    let _ = write.close().await;
}

async fn send(to: &ChannelWriteHalf<Msg>, mut from: impl AsyncRead + Unpin, ext: Option<u32>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap();
        let bytes = buffer[..length].to_vec();
        let sent = match ext {
            _ if length == 0 => return,
            None => to.data_bytes(bytes).await,
            Some(ext) => to.extended_data_bytes(ext, bytes).await,
        };
        if sent.is_err() {
            return;
        }
    }
}
