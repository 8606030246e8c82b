//! Manifests and indexes: the bytes as they are, and what Coral reads in them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{Algorithm, Digest};
use crate::media_type;
use crate::null::null_as_default;
use crate::platform::Platform;

/// Largest manifest that is read or taken: what the field's clients accept (containerd: 4 MiB).
pub const MAX_MANIFEST_SIZE: usize = 4 * 1024 * 1024;

/// A descriptor (OCI image-spec, `descriptor.md`). Unknown fields are not kept: a descriptor is
/// read to find content, never to write a manifest back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default, deserialize_with = "null_as_default")]
    pub media_type: String,
    /// What it hashes to.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For manifests in an index: whom it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// For referrers: the kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(
        default,
        deserialize_with = "texts",
        skip_serializing_if = "Option::is_none"
    )]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where else the content is; foreign layers have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    /// A descriptor with the fields that every one has.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: None,
            urls: None,
        }
    }

    /// Whether this is a foreign layer: it names URLs to have its content from, which may be missing
    /// where its manifest is. Whatever its type says, what names none can be had only from there.
    pub fn is_foreign(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }

    /// Whether this is a foreign layer that must not be distributed.
    pub fn stays_at_its_urls(&self) -> bool {
        self.is_foreign() && media_type::is_nondistributable(&self.media_type)
    }
}

/// What kind of manifest it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image or artifact: it points at blobs.
    Image,
    /// An index or manifest list: it points at manifests.
    Index,
}

/// What Coral reads in a manifest of any type; everything else stays in the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestBody {
    /// 2 for everything that Coral takes.
    #[serde(default)]
    pub schema_version: Option<u64>,
    /// The type, where the manifest says it itself.
    #[serde(default)]
    pub media_type: Option<String>,
    /// The configuration of an image.
    #[serde(default)]
    pub config: Option<Descriptor>,
    /// The layers of an image. `null`, which Go writes for an empty list, is one.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub layers: Option<Vec<Descriptor>>,
    /// The content of an artifact manifest.
    #[serde(default)]
    pub blobs: Option<Vec<Descriptor>>,
    /// The children of an index. `null` is an empty list here too.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub manifests: Option<Vec<Descriptor>>,
    /// What this manifest is about; it makes the manifest a referrer.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    /// The kind of artifact.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(default, deserialize_with = "texts")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A manifest: its bytes, untouched, with type, digest and what Coral reads in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    bytes: Bytes,
    media_type: String,
    digest: Digest,
    kind: ManifestKind,
    body: ManifestBody,
    /// What an index lists that is no manifest.
    leaves: Vec<Descriptor>,
}

/// Why bytes are not a manifest that Coral takes.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than any client would read.
    #[error("the manifest is larger than {MAX_MANIFEST_SIZE} bytes")]
    TooLarge,
    /// Not JSON, or a known field has the wrong shape.
    #[error("the manifest is not valid JSON of its kind")]
    Json(#[source] serde_json::Error),
    /// The header and the manifest disagree about the type.
    #[error("the manifest says it is {inside:?}, but was sent as {outside:?}")]
    MediaType {
        /// The `mediaType` field.
        inside: String,
        /// The `Content-Type`.
        outside: String,
    },
    /// Neither the sender nor the manifest says what it is.
    #[error("neither the Content-Type nor the manifest says what type it is")]
    Untyped,
    /// Docker's schema 1, signed or not.
    #[error(
        "Docker manifests of schema version 1 are not supported; push the image again with a current tool"
    )]
    Schema1,
    /// A field that its type must have is missing.
    #[error("a manifest of type {media_type:?} needs the field {field:?}")]
    Missing {
        /// The manifest's type.
        media_type: String,
        /// The field.
        field: &'static str,
    },
    /// Parts of an image and of an index in one document: readers would disagree about what it is
    /// (CVE-2021-41190).
    #[error("a manifest of type {media_type:?} must not have the field {field:?}")]
    Ambiguous {
        /// The manifest's type.
        media_type: String,
        /// The field.
        field: &'static str,
    },
    /// The bytes do not hash to the digest that was asked for.
    #[error("the manifest hashes to {actual}, not to {expected}")]
    Digest {
        /// What was asked for.
        expected: Box<Digest>,
        /// What came.
        actual: Box<Digest>,
    },
}

impl Manifest {
    /// Reads a manifest sent as `content_type`. The digest is computed with SHA-256.
    ///
    /// An empty or generic content type is replaced by what the manifest says of itself.
    pub fn parse(bytes: Bytes, content_type: Option<&str>) -> Result<Self, ManifestError> {
        Self::parse_with(bytes, content_type, Algorithm::Sha256)
    }

    /// Reads a manifest and compares it with the requested digest.
    pub fn parse_pinned(
        bytes: Bytes,
        content_type: Option<&str>,
        expected: &Digest,
    ) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge);
        }
        let actual = expected.algorithm().digest(&bytes);
        if actual != *expected {
            let (expected, actual) = (Box::new(*expected), Box::new(actual));
            return Err(ManifestError::Digest { expected, actual });
        }
        Self::parse_with(bytes, content_type, expected.algorithm())
    }

    fn parse_with(
        bytes: Bytes,
        content_type: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge);
        }
        let mut body = body(&bytes).map_err(ManifestError::Json)?;
        let media_type = agree_on_type(content_type, &body)?;
        let kind = kind_of(&media_type, &body)?;
        let digest = algorithm.digest(&bytes);
        let leaves = match &mut body.manifests {
            Some(entries) => take_leaves(entries),
            None => vec![],
        };
        Ok(Self {
            bytes,
            media_type,
            digest,
            kind,
            body,
            leaves,
        })
    }

    /// The bytes, exactly as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Image or index.
    pub fn kind(&self) -> ManifestKind {
        self.kind
    }

    /// The fields Coral reads; of what an index lists, the manifests.
    pub fn body(&self) -> &ManifestBody {
        &self.body
    }

    /// What this manifest refers to, if it is a referrer.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.body.subject.as_ref()
    }

    /// The blobs it needs, in the order they are written: layers before configuration does not
    /// matter to any client, so configuration comes first. An index needs those that it lists itself.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let body = &self.body;
        body.config
            .iter()
            .chain(body.layers.iter().flatten())
            .chain(body.blobs.iter().flatten())
            .chain(&self.leaves)
    }

    /// Everything that an index lists, of whatever type.
    pub fn entries(&self) -> impl Iterator<Item = &Descriptor> {
        self.children().iter().chain(&self.leaves)
    }

    /// The child manifests of an index: what it lists with a manifest's media type.
    pub fn children(&self) -> &[Descriptor] {
        self.body.manifests.as_deref().unwrap_or_default()
    }

    /// The artifact type as the referrers API reports it: the manifest's own, else the type of
    /// its configuration (OCI distribution-spec, "Listing Referrers").
    pub fn artifact_type(&self) -> Option<&str> {
        self.body
            .artifact_type
            .as_deref()
            .filter(|t| !t.is_empty())
            .or_else(|| {
                self.body
                    .config
                    .as_ref()
                    .map(|config| config.media_type.as_str())
            })
            .filter(|t| !t.is_empty())
    }

    /// A descriptor of this manifest as it stands in a referrers list.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            artifact_type: self.artifact_type().map(ToOwned::to_owned),
            annotations: self.body.annotations.clone(),
            ..Descriptor::new(self.media_type.clone(), self.digest, self.size())
        }
    }
}

fn body(bytes: &[u8]) -> Result<ManifestBody, serde_json::Error> {
    // serde would read a list as the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("a list in place of an object"));
    }
    serde_json::from_slice(bytes)
}

fn agree_on_type(content_type: Option<&str>, body: &ManifestBody) -> Result<String, ManifestError> {
    let outside = content_type.map(media_type::essence).filter(|t| {
        !matches!(
            t.as_str(),
            "" | "application/json" | "application/octet-stream" | "text/plain"
        )
    });
    let inside = body
        .media_type
        .as_deref()
        .map(media_type::essence)
        .filter(|t| !t.is_empty());
    match (inside, outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            Err(ManifestError::MediaType { inside, outside })
        }
        (Some(known), _) | (None, Some(known)) => Ok(known),
        (None, None) if body.schema_version == Some(1) => Err(ManifestError::Schema1),
        (None, None) if body.config.is_some() => Ok(media_type::OCI_MANIFEST.to_owned()),
        (None, None) if body.manifests.is_some() => Ok(media_type::OCI_INDEX.to_owned()),
        (None, None) => Err(ManifestError::Untyped),
    }
}

fn kind_of(media_type: &str, body: &ManifestBody) -> Result<ManifestKind, ManifestError> {
    if body.schema_version == Some(1) || media_type.contains("distribution.manifest.v1") {
        return Err(ManifestError::Schema1);
    }
    let kind = match media_type {
        media_type::OCI_INDEX | media_type::DOCKER_INDEX => ManifestKind::Index,
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => ManifestKind::Image,
        _ if has_any(body.manifests.as_ref()) => ManifestKind::Index,
        _ => return Ok(ManifestKind::Image),
    };
    let media_type = || media_type.to_owned();
    let missing = |field| ManifestError::Missing {
        media_type: media_type(),
        field,
    };
    let ambiguous = |field| ManifestError::Ambiguous {
        media_type: media_type(),
        field,
    };
    match kind {
        ManifestKind::Index if body.manifests.is_none() => Err(missing("manifests")),
        ManifestKind::Index if body.config.is_some() => Err(ambiguous("config")),
        ManifestKind::Index if has_any(body.layers.as_ref()) => Err(ambiguous("layers")),
        ManifestKind::Image if has_any(body.manifests.as_ref()) => Err(ambiguous("manifests")),
        ManifestKind::Image if body.config.is_none() => Err(missing("config")),
        ManifestKind::Image if body.layers.is_none() => Err(missing("layers")),
        kind => Ok(kind),
    }
}

/// Takes out what is no manifest by its media type.
fn take_leaves(entries: &mut Vec<Descriptor>) -> Vec<Descriptor> {
    entries
        .extract_if(.., |entry| !media_type::is_manifest(&entry.media_type))
        .collect()
}

fn has_any(list: Option<&Vec<Descriptor>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// Go writes `null` for an empty list; a field that is not there stays `None`.
fn null_as_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Descriptor>>, D::Error> {
    null_as_default(deserializer).map(Some)
}

/// Annotations are texts; what is not one is left out rather than counted against the image.
fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let values = Option::<BTreeMap<String, serde_json::Value>>::deserialize(deserializer)?;
    let text = |(key, value)| match value {
        serde_json::Value::String(text) => Some((key, text)),
        _ => None,
    };
    Ok(values.map(|values| values.into_iter().filter_map(text).collect()))
}
