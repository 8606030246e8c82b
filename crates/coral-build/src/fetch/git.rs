//! A source that is a git repository, over HTTP or SSH.
//!
//! The library implements the protocol and the packs; requests go through the HTTP client that the
//! rest of Coral uses, or through a command on an SSH server whose host key is known. One commit is
//! fetched without its history, and its files are written like those of any other source: within
//! the limit, and never through a link.

mod address;
mod checkout;
mod error;
mod http;
mod remote;
mod ssh;
mod submodules;

use std::path::Path;
use std::time::Duration;

use coral_distribution::Redacted;
use gix_hash::ObjectId;

use super::FetchError;
use super::destination::Destination;
use crate::beneath::{Folder, components};
use crate::contract::GitSource;
use crate::pod;
use address::Address;
use checkout::Checkout;
pub use error::GitError;
use http::{GitHttp, Login};
use remote::Remote;
use ssh::Ssh;

/// User name beside a token, as GitHub wants it; other servers take any.
const TOKEN_USER: &str = "x-access-token";
/// How many times a server is tried that cannot be reached or that fails.
const MAX_ATTEMPTS: u32 = 4;
/// The wait after the first attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Fetches one commit and writes its files. Returns the commit. `secret` is the folder of the
/// Secret.
pub(super) async fn fetch(
    source: &GitSource,
    secret: &Path,
    limit: u64,
    to: Destination,
) -> Result<(String, Destination), FetchError> {
    let address = Address::parse(&source.url)?;
    let access = GitAccess::new(&address, secret, limit)?;
    let source = source.clone();
    let mut to = to;
    let fetching = tokio::task::spawn_blocking(move || {
        let commit = fetch_blocking(&source, &address, &access, &mut to)?;
        Ok((commit, to))
    });
    fetching.await.expect("fetching from git does not panic")
}

/// How repositories are reached: that of the source, and those of its submodules.
struct GitAccess {
    http: GitHttp,
    /// Its server, if the repository of the source is on one of SSH.
    ssh: Option<Ssh>,
}

impl GitAccess {
    /// Access with the credential in the folder of a Secret, which is sent only to the repository's
    /// own server. Call it on a thread of the async runtime.
    fn new(address: &Address, secret: &Path, limit: u64) -> Result<Self, GitError> {
        let client = http::client(pod::optional(&secret.join("ca.crt"))?)?;
        let (login, ssh) = match address {
            Address::Http(url) => (login(secret)?.map(|login| (url.clone(), login)), None),
            Address::Ssh(address) => (None, Some(Ssh::new(address, secret, limit)?)),
        };
        let http = GitHttp::new(client, login, limit);
        Ok(Self { http, ssh })
    }
}

fn fetch_blocking(
    source: &GitSource,
    address: &Address,
    access: &GitAccess,
    to: &mut Destination,
) -> Result<String, FetchError> {
    let resolve = |remote: &mut Remote<'_>| remote.resolve(source.reference.as_deref());
    let checkout = write_one(address, access, resolve, Path::new(""), to)?;
    let commit = checkout.commit.to_string();
    if source.submodules {
        submodules::write(checkout, address, access, to)?;
    }
    if let Some(path) = &source.path {
        to.holds(path)?;
    }
    Ok(commit)
}

/// Fetches one commit of a repository and writes its files into a folder of the source.
fn write_one(
    address: &Address,
    access: &GitAccess,
    mut commit: impl FnMut(&mut Remote<'_>) -> Result<ObjectId, remote::RemoteError>,
    folder: &Path,
    to: &mut Destination,
) -> Result<Checkout, FetchError> {
    // The pack stays in a temporary folder until the files are written.
    let pack = tempfile::tempdir().map_err(|error| FetchError::write(Path::new("/tmp"), error))?;
    let received = with_retries(|| {
        let mut remote = Remote::connect(address, access)?;
        let wanted = commit(&mut remote)?;
        remote.receive(wanted, pack.path())
    });
    let received = received.map_err(|error| match error {
        remote::RemoteError::TooLarge(limit) => FetchError::TooLarge { limit },
        remote::RemoteError::Git(error) => error.into(),
    })?;
    checkout::checkout(received, address, folder, to)
}

fn with_retries<T>(
    mut work: impl FnMut() -> Result<T, remote::RemoteError>,
) -> Result<T, remote::RemoteError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..MAX_ATTEMPTS {
        match work() {
            Err(remote::RemoteError::Git(error)) if error.may_pass() => {
                tracing::warn!(%error, seconds = wait.as_secs(), "retrying the git server");
                std::thread::sleep(wait);
                wait *= 2;
            }
            done => return done,
        }
    }
    work()
}

/// The credential in the folder of a Secret.
fn login(secret: &Path) -> Result<Option<Login>, GitError> {
    let read = |key: &str| -> Result<Option<String>, GitError> {
        let bytes = pod::optional(&secret.join(key))?;
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(text.filter(|text| !text.is_empty()))
    };
    let username = read("username")?;
    let (user, password) = match (read("token")?, read("password")?) {
        (Some(token), _) => (username.unwrap_or_else(|| TOKEN_USER.to_owned()), token),
        (None, Some(password)) => (username.unwrap_or_default(), password),
        (None, None) => return Ok(None),
    };
    Ok(Some(Login {
        user,
        password: Redacted::new(password),
    }))
}

impl Destination {
    /// Whether a path is a folder of what was written.
    fn holds(&self, path: &str) -> Result<(), FetchError> {
        let fail = |problem| FetchError::Path {
            path: path.to_owned(),
            problem,
        };
        let wanted = Path::new(path.trim_matches('/'));
        let parts = components(wanted).ok_or_else(|| fail("it leads out of the repository"))?;
        let mut folder: Option<Folder> = None;
        for part in parts {
            let next = match &folder {
                Some(folder) => folder.folder(part),
                None => self.inner(part),
            };
            folder = Some(next.map_err(|_| fail("the repository has no such folder"))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_a_token_or_a_user_and_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let write = |key: &str, value: &str| std::fs::write(dir.path().join(key), value).unwrap();
        assert!(login(dir.path()).unwrap().is_none());
        write("password", "word\n");
        write("username", "me\n");
        let found = login(dir.path()).unwrap().unwrap();
        assert_eq!(
            (found.user.as_str(), found.password.expose().as_str()),
            ("me", "word")
        );
        std::fs::remove_file(dir.path().join("username")).unwrap();
        write("token", "t0ken");
        let found = login(dir.path()).unwrap().unwrap();
        assert_eq!(found.user, TOKEN_USER);
        assert_eq!(found.password.expose(), "t0ken");
        assert!(!format!("{found:?}").contains("t0ken"));
    }
}
