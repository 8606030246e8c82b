//! What a token says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Who signs tokens.
pub const ISSUER: &str = "coral";
/// The kind of access that tokens give.
pub(crate) const REPOSITORY: &str = "repository";

/// The claims of a token: those of RFC 7519 and those that registries use for access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed: [`ISSUER`].
    pub iss: String,
    /// The hosts of the registries that it is for.
    pub aud: Vec<String>,
    /// The holder, such as `build/team-a/shop/push`.
    pub sub: String,
    /// The second of Unix time from which it is valid.
    pub nbf: u64,
    /// The second of Unix time until which it is valid.
    pub exp: u64,
    /// What its holder may do.
    pub access: Vec<RepositoryAccess>,
}

/// What the holder may do in some repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryAccess {
    /// The kind of resource: `repository`. Other kinds grant nothing.
    #[serde(rename = "type")]
    kind: String,
    /// The repositories: a path, or a path with `/**` behind it.
    pub name: String,
    /// The allowed actions: `pull` and `push`. Others grant nothing.
    actions: Vec<String>,
}

/// What can be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read.
    Pull,
    /// Write; deleting is no part of it.
    Push,
}

impl Action {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}

impl Claims {
    /// Claims of a token for one registry that is valid from `now` for `life`.
    pub fn new(
        registry: &str,
        subject: &str,
        access: Vec<RepositoryAccess>,
        now: SystemTime,
        life: Duration,
    ) -> Self {
        Self {
            iss: ISSUER.to_owned(),
            aud: vec![registry.to_owned()],
            sub: subject.to_owned(),
            nbf: seconds(now),
            exp: seconds(now + life),
            access,
        }
    }
}

impl RepositoryAccess {
    /// Access to the repositories that `name` means.
    pub fn new(name: impl Into<String>, actions: &[Action]) -> Self {
        Self {
            kind: REPOSITORY.to_owned(),
            name: name.into(),
            actions: actions.iter().map(|it| it.word().to_owned()).collect(),
        }
    }

    pub(crate) fn is_for_repositories(&self) -> bool {
        self.kind == REPOSITORY
    }

    pub(crate) fn has(&self, action: Action) -> bool {
        self.actions.iter().any(|it| it == action.word())
    }
}

/// Seconds of Unix time; 0 before 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
