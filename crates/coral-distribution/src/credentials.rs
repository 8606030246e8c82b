//! Credentials, and the hosts that they apply to.

mod docker_config;
mod files;
mod program;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coral_image::{Host, Repository};

use crate::redacted::Redacted;

pub(crate) use program::{Helper, HelperError};

/// A user name and a password or token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: Redacted<String>,
    /// What the secret is.
    pub kind: CredentialKind,
    /// Where the credential was configured, for messages: file and entry. Contains no secret.
    pub origin: String,
}

/// What the secret of a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A password, sent to a host that asks for user and password.
    Password,
    /// An identity token, exchanged at a token server for short-lived tokens (OAuth 2).
    IdentityToken,
}

/// One way to authenticate at a host: with a credential, or anonymously.
#[derive(Debug, Clone)]
pub(crate) enum Candidate {
    Anonymous,
    Known(Arc<Credential>),
    /// The credential that the helper returns once the host asks for one.
    Helper(Arc<Helper>, Host),
}

impl Candidate {
    /// The credential, if there is one.
    pub(crate) async fn credential(&self) -> Result<Option<Arc<Credential>>, HelperError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Known(credential) => Ok(Some(Arc::clone(credential))),
            Self::Helper(helper, host) => helper.get(host).await,
        }
    }

    /// Whether both candidates are the same, so that trying one of them is enough.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => {
                a.username == b.username && a.password == b.password && a.kind == b.kind
            }
            (Self::Helper(a, _), Self::Helper(b, _)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// A description for messages.
    pub(crate) fn described(&self) -> Option<String> {
        match self {
            Self::Anonymous => None,
            Self::Known(credential) => Some(credential.origin.clone()),
            Self::Helper(helper, _) => Some(helper.described()),
        }
    }
}

/// Why credentials could not be read. Contains no secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read the credentials in {path}")]
    Read {
        /// The path of the file.
        path: String,
        /// The error of the file system.
        #[source]
        source: std::io::Error,
    },
    /// The file or object is larger than any valid one.
    #[error("the credentials in {origin} are larger than {limit} bytes")]
    TooLarge {
        /// The file or object.
        origin: String,
        /// Largest size that is accepted, in bytes.
        limit: usize,
    },
    /// The content is not JSON, or has another shape. The parser's own message may quote secrets,
    /// so it is not included.
    #[error("{origin} is not a Docker configuration: {problem} (line {line}, column {column})")]
    Form {
        /// The file or object.
        origin: String,
        /// What is wrong.
        problem: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
    },
    /// One entry is invalid.
    #[error("entry {entry:?} of {origin}: {problem}")]
    Entry {
        /// The file or object.
        origin: String,
        /// The key of the entry.
        entry: String,
        /// What is wrong, and what is expected.
        problem: &'static str,
    },
}

/// Which registries and repositories an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    /// A host, or a pattern with `*` in its labels as in Kubernetes.
    host: HostPattern,
    /// Leading components of the path; an empty path matches every repository.
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exact(Host),
    Glob(String),
    Any,
}

/// Whether the credential helpers that a configuration names are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helpers {
    Run,
    Refused,
}

/// What an entry provides.
#[derive(Debug, Clone)]
enum Grant {
    Credential(Credential),
    /// A helper, which is run when a host asks for a credential.
    Helper(Arc<Helper>),
    /// An entry that Coral cannot use, and why.
    Unusable(String),
}

/// A set of credentials, each for a host and an optional path prefix.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    entries: Vec<(Scope, Grant)>,
    /// Where credentials were looked up, for messages.
    places: Vec<ConsultedFile>,
}

/// A file or an object that was read for credentials. Contains no secret.
#[derive(Debug, Clone)]
struct ConsultedFile {
    /// The name of the file or object.
    name: String,
    /// The registries that it has entries for; `None` if it does not exist.
    hosts: Option<Vec<String>>,
}

/// Most registries that one message lists.
const MAX_NAMED: usize = 5;

impl ConsultedFile {
    fn new(name: &str, entries: &[(Scope, Grant)]) -> Self {
        let mut hosts: Vec<String> = Vec::new();
        let usable = |grant: &Grant| !matches!(grant, Grant::Unusable(_));
        for (scope, _) in entries.iter().filter(|(_, grant)| usable(grant)) {
            let shown = scope.to_string();
            if !hosts.contains(&shown) {
                hosts.push(shown);
            }
        }
        Self {
            name: name.to_owned(),
            hosts: Some(hosts),
        }
    }

    /// Says that this file has no credential for the host.
    fn described(&self) -> String {
        let name = &self.name;
        match self.hosts.as_deref() {
            None => format!("{name} is not there"),
            Some([]) => format!("{name} has none"),
            Some(hosts) => {
                let named = hosts[..hosts.len().min(MAX_NAMED)].join(", ");
                let more = match hosts.len().saturating_sub(MAX_NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("{name} has none for it (it has {named}{more})")
            }
        }
    }
}

impl Credentials {
    /// An empty set.
    pub fn none() -> Self {
        Self::default()
    }

    /// One credential for all repositories of a host. `origin` says where it was configured.
    pub fn for_one_host(host: Host, username: &str, password: &str, origin: &str) -> Self {
        let credential = Credential {
            username: username.to_owned(),
            password: Redacted::new(password.to_owned()),
            kind: CredentialKind::Password,
            origin: origin.to_owned(),
        };
        let scope = Scope {
            host: HostPattern::Exact(host),
            path: String::new(),
        };
        Self {
            entries: vec![(scope, Grant::Credential(credential))],
            places: Vec::new(),
        }
    }

    /// Reads a Docker `config.json`, a Kubernetes `.dockerconfigjson` or the legacy `.dockercfg`.
    /// `origin` names it in messages. The credential helpers that it names are not run: a
    /// configuration from elsewhere, such as a Secret, must not start programs here.
    pub fn from_docker_config(json: &[u8], origin: &str) -> Result<Self, CredentialsError> {
        Self::read(json, origin, Helpers::Refused)
    }

    /// Like [`Self::from_docker_config`], but for a file of this machine, whose helpers are run
    /// when they are needed.
    fn from_own_docker_config(json: &[u8], origin: &str) -> Result<Self, CredentialsError> {
        Self::read(json, origin, Helpers::Run)
    }

    fn read(json: &[u8], origin: &str, helpers: Helpers) -> Result<Self, CredentialsError> {
        let entries = docker_config::read(json, origin, helpers)?;
        let places = vec![ConsultedFile::new(origin, &entries)];
        Ok(Self { entries, places })
    }

    /// No credentials, because the file does not exist.
    fn not_there(path: &Path) -> Self {
        let place = ConsultedFile {
            name: path.display().to_string(),
            hosts: None,
        };
        Self {
            places: vec![place],
            ..Self::default()
        }
    }

    /// No credentials, because the file cannot be used.
    fn unusable(error: &CredentialsError) -> Self {
        let cause = std::error::Error::source(error);
        let why = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        tracing::warn!(%why, "credentials are looked for elsewhere");
        Self {
            entries: vec![(Scope::ANY, Grant::Unusable(why))],
            ..Self::default()
        }
    }

    /// The user's own: `explicit`, else `$REGISTRY_AUTH_FILE`, else what is in
    /// `$DOCKER_CONFIG/config.json` (or `~/.docker/config.json`) and then in
    /// `$XDG_RUNTIME_DIR/containers/auth.json` (without that variable
    /// `/run/containers/UID/auth.json`) and `$XDG_CONFIG_HOME/containers/auth.json` (or
    /// `~/.config/containers/auth.json`). The last three may be missing; if one cannot be read,
    /// that is an error only for a registry that asks for a credential.
    pub fn load_user(explicit: Option<&Path>) -> Result<Self, CredentialsError> {
        files::load(files::CredentialFiles::find(explicit, |name| {
            std::env::var_os(name)
        }))
    }

    /// The files that [`Credentials::load_user`] reads, whether or not they exist.
    pub fn user_files(explicit: Option<&Path>) -> Vec<PathBuf> {
        files::CredentialFiles::find(explicit, |name| std::env::var_os(name)).into_paths()
    }

    /// Merges two sets; entries of `self` come first where two are equally specific.
    #[must_use]
    pub fn merged_with(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self.places.extend(other.places);
        self
    }

    /// The credentials that apply to a repository, most specific first. Credentials that helpers
    /// would return are not included.
    pub fn for_repository(&self, repository: &Repository) -> Vec<&Credential> {
        let path = repository.path().as_str();
        credentials(self.applicable(repository.host(), Some(path)))
    }

    /// The candidates for a host and one repository of it, most specific first.
    pub(crate) fn candidates(&self, host: &Host, path: Option<&str>) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        for grant in self.applicable(host, path) {
            let candidate = match grant {
                Grant::Credential(credential) => Candidate::Known(Arc::new(credential.clone())),
                Grant::Helper(helper) => Candidate::Helper(Arc::clone(helper), host.clone()),
                Grant::Unusable(_) => continue,
            };
            if !found.iter().any(|known| known.is_same(&candidate)) {
                found.push(candidate);
            }
        }
        found
    }

    /// A hint for a refusal when no applicable credential can be used: why an entry cannot be used,
    /// or where credentials were looked up.
    pub(crate) fn hint_for(&self, repository: &Repository) -> Option<String> {
        let path = repository.path().as_str();
        let hint = self
            .applicable(repository.host(), Some(path))
            .find_map(|grant| match grant {
                Grant::Unusable(why) => Some(why.clone()),
                Grant::Credential(_) | Grant::Helper(_) => None,
            });
        let places = || {
            let described: Vec<String> = self.places.iter().map(ConsultedFile::described).collect();
            (!described.is_empty()).then(|| described.join("; "))
        };
        let has_none = self.candidates(repository.host(), Some(path)).is_empty();
        has_none.then(|| hint.or_else(places)).flatten()
    }

    /// Whether the set has no entries.
    pub fn is_empty(&self) -> bool {
        !self
            .entries
            .iter()
            .any(|(_, grant)| matches!(grant, Grant::Credential(_) | Grant::Helper(_)))
    }

    /// The entries that apply: longest path first, exact hosts before patterns, then in the order
    /// of the configuration.
    fn applicable<'a>(
        &'a self,
        host: &Host,
        path: Option<&str>,
    ) -> impl Iterator<Item = &'a Grant> {
        let mut applicable: Vec<_> = self
            .entries
            .iter()
            .filter(|(scope, _)| scope.fits(host, path))
            .collect();
        applicable.sort_by_key(|(scope, _)| {
            (
                std::cmp::Reverse(scope.path.len()),
                match scope.host {
                    HostPattern::Exact(_) => 0,
                    HostPattern::Glob(_) => 1,
                    HostPattern::Any => 2,
                },
            )
        });
        applicable.into_iter().map(|(_, grant)| grant)
    }
}

fn credentials<'a>(grants: impl Iterator<Item = &'a Grant>) -> Vec<&'a Credential> {
    let mut found: Vec<&Credential> = Vec::new();
    for grant in grants {
        if let Grant::Credential(credential) = grant
            && !found.iter().any(|known| {
                known.username == credential.username && known.password == credential.password
            })
        {
            found.push(credential);
        }
    }
    found
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Exact(host) => write!(f, "{host}")?,
            HostPattern::Glob(pattern) => f.write_str(&crate::transport::clean(pattern))?,
            HostPattern::Any => f.write_str("*")?,
        }
        if !self.path.is_empty() {
            write!(f, "/{}", crate::transport::clean(&self.path))?;
        }
        Ok(())
    }
}

impl Scope {
    /// Matches all repositories of every host.
    const ANY: Self = Self {
        host: HostPattern::Any,
        path: String::new(),
    };

    fn fits(&self, host: &Host, path: Option<&str>) -> bool {
        let host_fits = match &self.host {
            HostPattern::Exact(own) => is_same_host(own, host),
            HostPattern::Glob(pattern) => glob_host(pattern, host),
            HostPattern::Any => true,
        };
        host_fits
            && match path {
                _ if self.path.is_empty() => true,
                None => false,
                Some(path) => path
                    .strip_prefix(&self.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            }
    }
}

/// A host with `:443` is the same as one without a port.
const DEFAULT_PORT: u16 = 443;

fn is_same_host(one: &Host, other: &Host) -> bool {
    one.name() == other.name() && is_same_port(one.port(), other.port())
}

fn is_same_port(one: Option<u16>, other: Option<u16>) -> bool {
    one.unwrap_or(DEFAULT_PORT) == other.unwrap_or(DEFAULT_PORT)
}

/// The rule of Kubernetes: both sides have the same number of labels, and `*` stands for characters
/// within one label.
fn glob_host(pattern: &str, host: &Host) -> bool {
    let (name, port) = match pattern.rsplit_once(':') {
        Some((name, port)) => (name, port.parse::<u16>().ok()),
        None => (pattern, None),
    };
    let labels: Vec<_> = name.split('.').collect();
    let host_labels: Vec<_> = host.name().split('.').collect();
    is_same_port(port, host.port())
        && labels.len() == host_labels.len()
        && labels
            .iter()
            .zip(&host_labels)
            .all(|(pattern, label)| glob_label(pattern, label))
}

fn glob_label(pattern: &str, label: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(mut label) = label.strip_prefix(first) else {
        return false;
    };
    let Some((middle, last)) = rest.rsplit_once('*') else {
        return label.ends_with(rest);
    };
    for part in middle.split('*') {
        let Some(at) = label.find(part) else {
            return false;
        };
        label = &label[at + part.len()..];
    }
    label.ends_with(last)
}
