//! Image references, in the grammar of the distribution project with Docker's normalisation.

mod host;
mod repository;
mod version;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};
pub use host::Host;
use repository::is_image_id;
pub use repository::{Repository, RepositoryPath};
pub use version::{Tag, Version};

/// Longest repository path without the host (distribution's `NameTotalLengthMax`).
const MAX_PATH: usize = 255;
/// Longest tag (OCI distribution-spec, "Pulling manifests").
const MAX_TAG: usize = 128;

/// Why a text is not a reference. The text is quoted unchanged, truncated for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is empty.
    #[error("the image reference is empty")]
    Empty,
    /// The host part is malformed.
    #[error(
        "{0:?} is not a registry host: expected a name or address with an optional port, such as quay.io, localhost:5000 or [::1]:5000"
    )]
    Host(String),
    /// The path has a character or separator that the grammar does not allow.
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
    /// The text is an image ID (64 hexadecimal digits), which is not a repository.
    #[error("{0:?} is an image id, not a repository name")]
    ImageId(String),
    /// A digest is required.
    #[error("{0:?} has no digest: expected repository@sha256:…")]
    NotPinned(String),
    /// A URL scheme in front is wrong.
    #[error("{0:?} begins with a URL scheme: write host/path:tag")]
    Scheme(String),
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

/// A normalised image reference: host, path, and a tag, a digest or both. A reference without
/// either has the tag `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Parses `[host/]path[:tag][@digest]`.
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

    /// The tag, written or implied.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The version to request from a registry: the digest if there is one, else the tag.
    pub fn version(&self) -> Version {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Version::Digest(*digest),
            (None, Some(tag)) => Version::Tag(tag.clone()),
            (None, None) => Version::Tag(Tag::latest()),
        }
    }

    /// The same repository with this digest.
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

/// A repository and a digest: the only kind of reference whose content never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinnedRef {
    repository: Repository,
    digest: Digest,
}

impl PinnedRef {
    /// Parses `[host/]path[:tag]@digest`; the tag is dropped.
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
