//! A source that is a git repository, over HTTP.
//!
//! The library brings the protocol and the packs; requests go through the HTTP client that the rest of
//! Coral uses. One commit is fetched without its history, and its files are written like those of any
//! other source: within the limit, and never through a link.

mod checkout;
mod http;
mod remote;
mod submodules;

use std::path::Path;
use std::time::Duration;

use coral_distribution::Redacted;
use gix_hash::ObjectId;
use url::Url;

use super::FetchError;
use super::destination::Destination;
use crate::beneath::{Folder, components};
use crate::contract::GitSource;
use crate::pod::{self, PodError};
use checkout::Checkout;
use http::{GitHttp, Login};
use remote::Remote;

/// User name beside a token, as GitHub wants it; other servers take any.
const TOKEN_USER: &str = "x-access-token";
/// How often a server that cannot be reached, or that fails, is asked.
const MAX_ATTEMPTS: u32 = 4;
/// The wait after the first attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Why a git repository could not be fetched. The URL in the messages has no credential.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The URL is none that is fetched from.
    #[error("the git URL {url:?} cannot be fetched from: {problem}")]
    Url {
        /// The URL, without what stands before its host.
        url: String,
        /// What is wrong, and what is right.
        problem: &'static str,
    },
    /// There is no server, or no connection to it.
    #[error("the git server of {url} cannot be reached: {problem}")]
    Unreachable {
        /// The URL.
        url: String,
        /// Why not.
        problem: String,
    },
    /// The server has no such repository.
    #[error(
        "there is no git repository at {url}: {problem}; check source.git.url, and source.git.secretRef if \
         the repository is private"
    )]
    NoRepository {
        /// The URL.
        url: String,
        /// What the server answered.
        problem: String,
    },
    /// The server refused the credential.
    #[error(
        "the git server refused the credential of source.git.secretRef for {url} (status {status})"
    )]
    Credential {
        /// The URL.
        url: String,
        /// The status of the answer.
        status: u16,
    },
    /// The server wants a credential and there is none.
    #[error(
        "the git server asks for a credential for {url}, or has no such repository (status {status}): name \
         a Secret with the key token, or username and password, in source.git.secretRef"
    )]
    NoCredential {
        /// The URL.
        url: String,
        /// The status of the answer.
        status: u16,
    },
    /// The repository has no such reference.
    #[error("the repository {url} has no branch, tag or commit {reference:?}")]
    Reference {
        /// The URL.
        url: String,
        /// What was asked for.
        reference: String,
    },
    /// The server failed.
    #[error("the git server of {url} failed with status {status}")]
    Server {
        /// The URL.
        url: String,
        /// The status of the answer.
        status: u16,
    },
    /// The repository, or what the server sent, cannot be used.
    #[error("the repository {url} cannot be fetched: {problem}")]
    Broken {
        /// The URL.
        url: String,
        /// Why.
        problem: String,
    },
    /// The repository of a submodule.
    #[error("submodule {path:?}: {error}")]
    Submodule {
        /// Its folder.
        path: String,
        /// What happened.
        error: Box<Self>,
    },
    /// What the repository says of its submodules cannot be followed.
    #[error("submodule {path:?}: {problem}")]
    Modules {
        /// The submodule's folder.
        path: String,
        /// Why.
        problem: String,
    },
    /// A file of the Secret.
    #[error("the Secret of source.git.secretRef cannot be read")]
    Secret(#[from] PodError),
    /// The HTTP client.
    #[error("the certificates in the key ca.crt of source.git.secretRef cannot be used: {0}")]
    Certificates(String),
}

impl GitError {
    /// Whether another attempt may end otherwise.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Server { .. })
    }
}

/// Fetches one commit and writes its files; the commit. `secret` is the folder of the Secret.
pub(super) async fn fetch(
    source: &GitSource,
    secret: &Path,
    limit: u64,
    to: Destination,
) -> Result<(String, Destination), FetchError> {
    let url = checked_url(&source.url)?;
    let login = login(secret)?;
    let client = http::client(pod::optional(&secret.join("ca.crt")).map_err(GitError::from)?)?;
    let http = GitHttp::new(client, &url, login, limit);
    let source = source.clone();
    let mut to = to;
    let fetching = tokio::task::spawn_blocking(move || {
        let commit = fetch_blocking(&source, &url, &http, &mut to)?;
        Ok((commit, to))
    });
    fetching.await.expect("fetching from git does not panic")
}

fn fetch_blocking(
    source: &GitSource,
    url: &Url,
    http: &GitHttp,
    to: &mut Destination,
) -> Result<String, FetchError> {
    let resolve = |remote: &mut Remote<'_>| remote.resolve(source.reference.as_deref());
    let checkout = write_one(url, http, resolve, Path::new(""), to)?;
    let commit = checkout.commit.to_string();
    if source.submodules {
        submodules::write(checkout, url, http, to)?;
    }
    if let Some(path) = &source.path {
        to.holds(path)?;
    }
    Ok(commit)
}

/// Fetches one commit of a repository and writes its files into a folder of the source.
fn write_one(
    url: &Url,
    http: &GitHttp,
    mut commit: impl FnMut(&mut Remote<'_>) -> Result<ObjectId, remote::RemoteError>,
    folder: &Path,
    to: &mut Destination,
) -> Result<Checkout, FetchError> {
    // It lies there until the files are written, and no longer.
    let pack = tempfile::tempdir().map_err(|error| FetchError::write(Path::new("/tmp"), error))?;
    let received = with_retries(|| {
        let mut remote = Remote::connect(url, http)?;
        let wanted = commit(&mut remote)?;
        remote.receive(wanted, pack.path())
    });
    let received = received.map_err(|error| match error {
        remote::RemoteError::TooLarge(limit) => FetchError::TooLarge { limit },
        remote::RemoteError::Git(error) => error.into(),
    })?;
    checkout::checkout(received, url, folder, to)
}

fn with_retries<T>(
    mut work: impl FnMut() -> Result<T, remote::RemoteError>,
) -> Result<T, remote::RemoteError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..MAX_ATTEMPTS {
        match work() {
            Err(remote::RemoteError::Git(error)) if error.may_pass() => {
                tracing::warn!(%error, seconds = wait.as_secs(), "git is asked again");
                std::thread::sleep(wait);
                wait *= 2;
            }
            done => return done,
        }
    }
    work()
}

/// The URL, if it is one that can be fetched from.
fn checked_url(text: &str) -> Result<Url, GitError> {
    // What stands before the host may be a password.
    let shown = || {
        let after = text.rsplit('@').next().unwrap_or_default();
        after.chars().take(200).collect::<String>()
    };
    let fail = |problem| GitError::Url {
        url: shown(),
        problem,
    };
    let is_scp = !text.contains("://") && text.contains('@') && text.contains(':');
    if text.starts_with("ssh://") || text.starts_with("git+ssh://") || is_scp {
        return Err(fail("SSH is not supported; use the https:// URL"));
    }
    let expected = "expected https://HOST/PATH, or http://HOST/PATH without TLS";
    let url = Url::parse(text).map_err(|_| fail(expected))?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Err(fail(expected));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fail(
            "it holds a user or a credential; put it into the Secret of source.git.secretRef",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(fail("a repository's URL has no ? and no #"));
    }
    Ok(url)
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
    fn a_url_that_cannot_be_fetched_from_is_refused_without_its_credential() {
        for (url, said) in [
            ("git@github.com:acme/shop.git", "SSH is not supported"),
            ("ssh://git@github.com/acme/shop", "SSH is not supported"),
            (
                "https://user:s3cret@git.example/shop",
                "it holds a user or a credential",
            ),
            (
                "https://s3cret@git.example/shop",
                "it holds a user or a credential",
            ),
            ("file:///etc", "expected https://"),
            ("git://git.example/shop", "expected https://"),
            ("/etc", "expected https://"),
            ("https://git.example/shop?a=b", "has no ?"),
        ] {
            let error = checked_url(url).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(checked_url("https://git.example/shop.git").is_ok());
        assert!(checked_url("http://git.team-a.svc:3000/shop.git").is_ok());
    }

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
