//! Who we are to whom.

use std::path::Path;

use coral_image::Repository;

use crate::redacted::Redacted;

/// A user name and a password or token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: Redacted<String>,
}

/// Why credentials could not be read. Never tells a secret.
#[derive(Debug, thiserror::Error)]
#[error("todo")]
pub struct CredentialsError {}

/// A set of credentials, each for a host and an optional path prefix.
#[derive(Debug, Clone, Default)]
pub struct Credentials {}

impl Credentials {
    /// No credential at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a Docker `config.json`, a Kubernetes `.dockerconfigjson` or the legacy `.dockercfg`.
    /// `origin` names it in messages.
    pub fn from_docker_config(json: &[u8], origin: &str) -> Result<Self, CredentialsError> {
        let _ = (json, origin);
        todo!()
    }

    /// The user's own: `explicit`, else `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json`,
    /// `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`; none of them is no
    /// error.
    pub fn load_user(explicit: Option<&Path>) -> Result<Self, CredentialsError> {
        let _ = explicit;
        todo!()
    }

    /// Both; entries of `self` come first where they are equally specific.
    #[must_use]
    pub fn merged_with(self, other: Self) -> Self {
        let _ = other;
        todo!()
    }

    /// The credentials that fit a repository, most specific first.
    pub fn for_repository(&self, repository: &Repository) -> Vec<&Credential> {
        let _ = repository;
        todo!()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}
