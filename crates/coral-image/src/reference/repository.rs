//! A repository: host and path.

use std::fmt;
use std::str::FromStr;

use super::host::DOCKER_HUB;
use super::{Host, ImageRef, MAX_PATH, PinnedRef, ReferenceError, Tag, shown};
use crate::digest::Digest;

/// The namespace of Docker Hub for names with a single component.
const OFFICIAL: &str = "library/";

/// The path of a repository inside its registry: `library/debian`. At most 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryPath(String);

impl RepositoryPath {
    /// Parses a path of one or more components.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > MAX_PATH {
            return Err(ReferenceError::TooLong(text.len()));
        }
        if text.split('/').all(valid_component) {
            return Ok(Self(text.to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        if lower != text && lower.split('/').all(valid_component) {
            return Err(ReferenceError::Uppercase(shown(text)));
        }
        Err(ReferenceError::Path(shown(text)))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository: host and path. `debian` is `docker.io/library/debian`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    host: Host,
    path: RepositoryPath,
}

impl Repository {
    /// Combines host and path; a single-component path on Docker Hub gets `library/`.
    pub fn new(host: Host, path: RepositoryPath) -> Self {
        let official = host.is_docker_hub()
            && !path.as_str().contains('/')
            && path.as_str().len() + OFFICIAL.len() <= MAX_PATH;
        if official {
            let path = RepositoryPath(format!("{OFFICIAL}{path}"));
            return Self { host, path };
        }
        Self { host, path }
    }

    /// Parses a repository name without tag or digest, with Docker's normalisation.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_image_id(text) {
            return Err(ReferenceError::ImageId(text.to_owned()));
        }
        Self::parse_name(text)
    }

    pub(super) fn parse_name(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.contains("://") {
            return Err(ReferenceError::Scheme(shown(text)));
        }
        let (host, path) = split_host(text);
        let host = Host::parse(host.unwrap_or(DOCKER_HUB))?;
        let path = RepositoryPath::parse(path)?;
        let repository = Self::new(host, path);
        if repository.host.is_docker_hub() && !repository.path.0.contains('/') {
            return Err(ReferenceError::TooLong(
                repository.path.0.len() + OFFICIAL.len(),
            ));
        }
        Ok(repository)
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The path.
    pub fn path(&self) -> &RepositoryPath {
        &self.path
    }

    /// The reference of one tag of this repository.
    pub fn tagged(&self, tag: Tag) -> ImageRef {
        ImageRef {
            repository: self.clone(),
            tag: Some(tag),
            digest: None,
        }
    }

    /// The reference of one digest of this repository.
    pub fn pinned(&self, digest: Digest) -> PinnedRef {
        PinnedRef {
            repository: self.clone(),
            digest,
        }
    }
}

/// Whether the text is 64 hexadecimal digits and nothing else, as `docker image ls --no-trunc`
/// prints them.
pub(super) fn is_image_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

/// Splits off the host. The first component is a host if it has a dot or a colon, or is `localhost`
/// (distribution's `splitDockerDomain`). There, an upper-case letter makes it a host too. Here such
/// a name is refused for its upper-case letters: hosts are in lower case, so `Team/app` would end
/// up as `team/app` on Docker Hub.
fn split_host(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost") =>
        {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
