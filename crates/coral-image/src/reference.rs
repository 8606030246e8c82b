//! Image references, as in the grammar of the distribution project with Docker's normalisation.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};

/// Longest repository path, host not counted (distribution's `NameTotalLengthMax`).
const MAX_PATH: usize = 255;
/// Longest tag (OCI distribution-spec, "Pulling manifests").
const MAX_TAG: usize = 128;
/// Longest host with port: a DNS name has at most 253 letters.
const MAX_HOST: usize = 260;
const DOCKER_HUB: &str = "docker.io";
const LEGACY_DOCKER_HUB: &str = "index.docker.io";
/// Where Docker Hub keeps what is named by one component.
const OFFICIAL: &str = "library/";

/// Why a text is not a reference. The text is given back as it was, cut to a printable length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("the image reference is empty")]
    Empty,
    /// The host part is malformed.
    #[error(
        "{0:?} is not a registry host: expected a name or address with an optional port, such as quay.io, localhost:5000 or [::1]:5000"
    )]
    Host(String),
    /// The path has a letter or separator that the grammar does not have.
    #[error(
        "{0:?} is not a repository name: lower-case letters, digits and single separators (. _ __ - /) between them"
    )]
    Path(String),
    /// The path has upper-case letters, the most frequent mistake.
    #[error("repository name {0:?} must be in lower case")]
    Uppercase(String),
    /// The path is too long.
    #[error("repository name is {0} letters long, at most {MAX_PATH} are allowed")]
    TooLong(usize),
    /// The tag is malformed.
    #[error(
        "{0:?} is not a tag: at most {MAX_TAG} letters, digits, underscores, dots and dashes, not beginning with a dot or a dash"
    )]
    Tag(String),
    /// The digest is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// 64 hexadecimal digits stand for an image id, not for a repository.
    #[error("{0:?} is an image id, not a repository name")]
    ImageId(String),
    /// A digest was needed.
    #[error("{0:?} has no digest: expected repository@sha256:…")]
    NotPinned(String),
    /// Something is wrong with a scheme in front.
    #[error("{0:?} begins with a URL scheme: write host/path:tag")]
    Scheme(String),
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

/// A registry's host with optional port, in lower case: `docker.io`, `localhost:5000`,
/// `[::1]:5000`. An IPv6 address always has brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl Host {
    /// Reads a host; `index.docker.io` becomes `docker.io`. Letters become lower case, an IPv6
    /// address and a port get their one usual spelling.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let error = || ReferenceError::Host(shown(text));
        if text.len() > MAX_HOST {
            return Err(error());
        }
        let (name, port) = split_port(text).ok_or_else(error)?;
        let name = normal_host_name(name).ok_or_else(error)?;
        let host = match port {
            Some(port) => format!("{name}:{}", port_number(port).ok_or_else(error)?),
            None if name == LEGACY_DOCKER_HUB => DOCKER_HUB.to_owned(),
            None => name,
        };
        Ok(Self(host))
    }

    /// The host as written, port included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name or address without port; an IPv6 address keeps its brackets.
    pub fn name(&self) -> &str {
        split_port(&self.0).map_or(self.0.as_str(), |(name, _)| name)
    }

    /// The port, if one is written.
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).and_then(|(_, port)| port)?.parse().ok()
    }

    /// Whether this is Docker Hub.
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// Whether the host is this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        let name = self.name().trim_matches(['[', ']']);
        name == "localhost"
            || name
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

/// `name[:port]` or `[v6][:port]`; `None` when brackets or colons do not fit.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (name, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Some((name, Some(port))),
            None if rest.is_empty() => Some((name, None)),
            None => None,
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((name, port)) => Some((name, Some(port))),
        None => Some((text, None)),
    }
}

fn port_number(text: &str) -> Option<u16> {
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// A DNS name, an IPv4 address or an IPv6 address in brackets.
fn normal_host_name(name: &str) -> Option<String> {
    if let Some(inner) = name.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.')
        .all(label)
        .then(|| name.to_ascii_lowercase())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository's path inside its registry: `library/debian`. At most 255 letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryPath(String);

impl RepositoryPath {
    /// Reads a path of one or more components.
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

    /// The path as written.
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
    /// Puts host and path together; a single-component path on Docker Hub gets `library/`.
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

    /// Reads a repository name without tag or digest, with Docker's normalisation.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_image_id(text) {
            return Err(ReferenceError::ImageId(text.to_owned()));
        }
        Self::parse_name(text)
    }

    fn parse_name(text: &str) -> Result<Self, ReferenceError> {
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

/// 64 hexadecimal digits and nothing else: Docker's `image ls --no-trunc` prints them.
fn is_image_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

/// The first component is a host when it has a dot or a colon, or is `localhost` (distribution's
/// `splitDockerDomain`). There an upper-case letter makes a host too; here such a name is refused
/// for its letters, for hosts are in lower case and `Team/app` would come to be read as `team/app`
/// on Docker Hub.
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

/// A tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// Reads a tag.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Tag(shown(text)))
        }
    }

    /// What a reference without tag or digest means.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// The tag as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names one manifest inside a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// A tag, which may move.
    Tag(Tag),
    /// A digest, which cannot.
    Digest(Digest),
}

impl Version {
    /// Reads a tag or a digest, as it stands in `/v2/<name>/manifests/<reference>`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            return Ok(Self::Digest(Digest::parse(text)?));
        }
        Tag::parse(text).map(Self::Tag)
    }

    /// The digest, if it is one.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Digest(digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<Tag> for Version {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Version {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

/// An image reference, normalised: host, path, and a tag, a digest or both. One without either
/// means the tag `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Reads `[host/]path[:tag][@digest]`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_image_id(text) {
            return Err(ReferenceError::ImageId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it belongs to the host's port.
        let after_slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(i) if !rest.contains("://") => {
                let (name, tag) = rest.split_at(after_slash + i);
                (name, Some(Tag::parse(&tag[1..])?))
            }
            _ => (rest, None),
        };
        let repository = Repository::parse_name(name)?;
        let tag = tag.or_else(|| digest.is_none().then(Tag::latest));
        Ok(Self {
            repository,
            tag,
            digest,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if written or implied.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask a registry for: the digest if there is one, else the tag.
    pub fn version(&self) -> Version {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Version::Digest(*digest),
            (None, Some(tag)) => Version::Tag(tag.clone()),
            (None, None) => Version::Tag(Tag::latest()),
        }
    }

    /// The same repository at a digest.
    pub fn pinned(&self, digest: Digest) -> PinnedRef {
        self.repository.pinned(digest)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest
            .iter()
            .try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A repository and a digest: the only kind of reference that names content for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinnedRef {
    repository: Repository,
    digest: Digest,
}

impl PinnedRef {
    /// Reads `[host/]path[:tag]@digest`; the tag is dropped.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let image = ImageRef::parse(text)?;
        let digest = image
            .digest
            .ok_or_else(|| ReferenceError::NotPinned(shown(text)))?;
        Ok(Self {
            repository: image.repository,
            digest,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl fmt::Display for PinnedRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

impl FromStr for PinnedRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl From<PinnedRef> for ImageRef {
    fn from(pinned: PinnedRef) -> Self {
        Self {
            repository: pinned.repository,
            tag: None,
            digest: Some(pinned.digest),
        }
    }
}

macro_rules! text_serde {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )+};
}

text_serde!(
    Host,
    RepositoryPath,
    Repository,
    Tag,
    Version,
    ImageRef,
    PinnedRef
);
