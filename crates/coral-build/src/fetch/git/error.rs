//! Why a repository could not be fetched.

use crate::pod::PodError;

/// Why a git repository could not be fetched. The URL in the messages has no credential.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The URL is none that is fetched from.
    #[error("the git URL {url:?} cannot be fetched from: {problem}")]
    Url {
        /// The URL, without user and password.
        url: String,
        /// What is wrong, and what is right.
        problem: &'static str,
    },
    /// The server does not exist or cannot be reached.
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
    /// The server requires a credential, and none was given.
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
    /// The repository, or the response of the server, cannot be used.
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
    /// The list of submodules in the repository cannot be used.
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
    /// A key of the Secret that SSH needs is missing or cannot be used.
    #[error("the Secret of source.git.secretRef cannot be used for SSH: {0}")]
    SshSecret(String),
    /// The server's host key is not trusted.
    #[error("the SSH server {server} is not trusted: {problem}")]
    HostKey {
        /// The server, as `known_hosts` names it.
        server: String,
        /// The key that the server presented, the entry in `known_hosts`, and what to do.
        problem: String,
    },
    /// The server refused the key.
    #[error(
        "the SSH server {server} refused the key of source.git.secretRef ({key}) for the user {user:?}: \
         register its public half there, or check the user in source.git.url"
    )]
    SshKey {
        /// The server, as `known_hosts` names it.
        server: String,
        /// Type and fingerprint of the key.
        key: String,
        /// The user.
        user: String,
    },
    /// SSH with the server is not possible.
    #[error("cannot talk to the SSH server {server}: {problem}")]
    Ssh {
        /// The server, as `known_hosts` names it.
        server: String,
        /// Why not.
        problem: String,
    },
}

impl GitError {
    /// Whether the failure may be transient, so that a retry can succeed.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Server { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_asked_again_and_one_that_refuses_a_credential_is_not() {
        let url = || "https://git.example/shop.git".to_owned();
        let unreachable = GitError::Unreachable {
            url: url(),
            problem: "refused".to_owned(),
        };
        let status = 503;
        let failed = GitError::Server { url: url(), status };
        assert!(unreachable.may_pass() && failed.may_pass());
        let status = 401;
        let refused = GitError::Credential { url: url(), status };
        let without = GitError::NoCredential { url: url(), status };
        assert!(!refused.may_pass() && !without.may_pass());
    }
}
