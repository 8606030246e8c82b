//! Manifests and indexes: their unchanged bytes, and the fields that Coral reads.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{Algorithm, Digest};
use crate::media_type;
use crate::null::null_as_default;
use crate::platform::Platform;

/// Largest manifest that is read or accepted, in bytes: the limit of common clients (containerd: 4
/// MiB).
pub const MAX_MANIFEST_SIZE: usize = 4 * 1024 * 1024;

/// A descriptor (OCI image-spec, `descriptor.md`). Unknown fields are dropped: a descriptor is read
/// to find content, never to write a manifest back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default, deserialize_with = "null_as_default")]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
    /// For a manifest in an index: the platform that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// For a referrer: the type of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(
        default,
        deserialize_with = "texts",
        skip_serializing_if = "Option::is_none"
    )]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Other places to get the content from; foreign layers have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    /// A descriptor with the fields that every descriptor has.
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

    /// Whether this is a foreign layer: it names URLs to fetch its content from, and the content
    /// may be missing in the registry of the manifest. A blob without URLs is not foreign whatever
    /// its type says, because it can be fetched only from that registry.
    pub fn is_foreign(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }

    /// Whether this is a foreign layer that must not be distributed.
    pub fn must_not_be_distributed(&self) -> bool {
        self.is_foreign() && media_type::is_nondistributable(&self.media_type)
    }
}

/// The kind of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// A single image or artifact: it references blobs.
    Image,
    /// An index or manifest list: it references manifests.
    Index,
}

/// The fields that Coral reads in a manifest of any type; all other content stays in the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestBody {
    /// 2 for every manifest that Coral accepts.
    #[serde(default)]
    pub schema_version: Option<u64>,
    /// The media type, if the manifest states it.
    #[serde(default)]
    pub media_type: Option<String>,
    /// The configuration of an image.
    #[serde(default)]
    pub config: Option<Descriptor>,
    /// The layers of an image. `null`, which Go writes for an empty list, is an empty list.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub layers: Option<Vec<Descriptor>>,
    /// The content of an artifact manifest.
    #[serde(default)]
    pub blobs: Option<Vec<Descriptor>>,
    /// The children of an index. `null` is an empty list, too.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub manifests: Option<Vec<Descriptor>>,
    /// The manifest that this one refers to; it makes this manifest a referrer.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    /// The type of the artifact.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(default, deserialize_with = "texts")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A manifest: its unchanged bytes, with type, digest and the fields that Coral reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    bytes: Bytes,
    media_type: String,
    digest: Digest,
    kind: ManifestKind,
    body: ManifestBody,
    /// Entries of an index that are not manifests.
    non_manifests: Vec<Descriptor>,
}

/// Why bytes are not a manifest that Coral accepts.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is larger than any client would read.
    #[error("the manifest is larger than {MAX_MANIFEST_SIZE} bytes")]
    TooLarge,
    /// It is not JSON, or a known field has the wrong shape.
    #[error("the manifest is not valid JSON of its kind")]
    Json(#[source] serde_json::Error),
    /// The header and the manifest disagree about the type.
    #[error("the manifest says it is {inside:?}, but was sent as {outside:?}")]
    MediaType {
        /// The `mediaType` field of the manifest.
        inside: String,
        /// The `Content-Type` header.
        outside: String,
    },
    /// Neither the sender nor the manifest states the media type.
    #[error("neither the Content-Type nor the manifest says what type it is")]
    Untyped,
    /// It is a manifest of Docker's schema 1, signed or not.
    #[error(
        "Docker manifests of schema version 1 are not supported; push the image again with a current tool"
    )]
    Schema1,
    /// A field that its type requires is missing.
    #[error("a manifest of type {media_type:?} needs the field {field:?}")]
    Missing {
        /// The manifest's type.
        media_type: String,
        /// The field.
        field: &'static str,
    },
    /// It has fields of an image and of an index, so that clients would disagree about its kind
    /// (CVE-2021-41190).
    #[error("a manifest of type {media_type:?} must not have the field {field:?}")]
    Ambiguous {
        /// The manifest's type.
        media_type: String,
        /// The field.
        field: &'static str,
    },
    /// The bytes do not match the requested digest.
    #[error("the manifest hashes to {actual}, not to {expected}")]
    Digest {
        /// The requested digest.
        expected: Box<Digest>,
        /// The digest of the bytes.
        actual: Box<Digest>,
    },
}

impl Manifest {
    /// Parses a manifest that was sent as `content_type`. The digest is computed with SHA-256.
    ///
    /// If the content type is empty or generic, the manifest's own `mediaType` is used.
    pub fn parse(bytes: Bytes, content_type: Option<&str>) -> Result<Self, ManifestError> {
        Self::parse_with(bytes, content_type, Algorithm::Sha256)
    }

    /// Parses a manifest and compares it with the requested digest.
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
        let kind = detect_kind(&media_type, &body)?;
        let digest = algorithm.digest(&bytes);
        let non_manifests = match &mut body.manifests {
            Some(entries) => split_off_non_manifests(entries),
            None => vec![],
        };
        Ok(Self {
            bytes,
            media_type,
            digest,
            kind,
            body,
            non_manifests,
        })
    }

    /// The bytes, exactly as received.
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

    /// Whether this is an image or an index.
    pub fn kind(&self) -> ManifestKind {
        self.kind
    }

    /// The fields that Coral reads; of an index's entries, only the manifests.
    pub fn body(&self) -> &ManifestBody {
        &self.body
    }

    /// The manifest that this one refers to, if it is a referrer.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.body.subject.as_ref()
    }

    /// The blobs that it references, in the order in which they are copied. No client depends on
    /// that order, so the configuration comes first. For an index, these are its entries that are
    /// not manifests.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let body = &self.body;
        body.config
            .iter()
            .chain(body.layers.iter().flatten())
            .chain(body.blobs.iter().flatten())
            .chain(&self.non_manifests)
    }

    /// All entries of an index, of whatever type.
    pub fn entries(&self) -> impl Iterator<Item = &Descriptor> {
        self.children().iter().chain(&self.non_manifests)
    }

    /// The child manifests of an index: the entries with the media type of a manifest.
    pub fn children(&self) -> &[Descriptor] {
        self.body.manifests.as_deref().unwrap_or_default()
    }

    /// The artifact type as the referrers API reports it: the manifest's own, or else the media
    /// type of its configuration (OCI distribution-spec, "Listing Referrers").
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

    /// The descriptor of this manifest for a list of referrers.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            artifact_type: self.artifact_type().map(ToOwned::to_owned),
            annotations: self.body.annotations.clone(),
            ..Descriptor::new(self.media_type.clone(), self.digest, self.size())
        }
    }
}

fn body(bytes: &[u8]) -> Result<ManifestBody, serde_json::Error> {
    // serde would accept a JSON array as the fields in their order.
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

fn detect_kind(media_type: &str, body: &ManifestBody) -> Result<ManifestKind, ManifestError> {
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

/// Removes and returns the entries whose media type is not that of a manifest.
fn split_off_non_manifests(entries: &mut Vec<Descriptor>) -> Vec<Descriptor> {
    entries
        .extract_if(.., |entry| !media_type::is_manifest(&entry.media_type))
        .collect()
}

fn has_any(list: Option<&Vec<Descriptor>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// Reads `null`, which Go writes for an empty list, as an empty list; a missing field stays `None`.
fn null_as_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Descriptor>>, D::Error> {
    null_as_default(deserializer).map(Some)
}

/// Annotations are texts. A value of another type is left out; it does not make the image invalid.
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
