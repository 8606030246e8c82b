//! The kind MirroredImages: what a mirror holds, in bounded pieces. Written by the controller
//! only; it is the index that injection reads, and what a restarted controller goes on from.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most images of one shard.
pub const MAX_SHARD_IMAGES: usize = 1000;

/// One shard of what a mirror holds. The object is owned by its RegistryMirror and named
/// `MIRROR-SHARD`.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema,
)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "MirroredImages",
    plural = "mirroredimages",
    singular = "mirroredimages",
    namespaced,
    status = "MirroredImagesStatus",
    shortname = "mimg",
    category = "coral",
    doc = "The images of a RegistryMirror. Coral writes this object; do not change it.",
    derive = "PartialEq",
    printcolumn(name = "Mirror", type_ = "string", json_path = ".spec.mirror"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Mirrored", type_ = "integer", json_path = ".status.mirrored"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MirroredImagesSpec {
    /// Name of the RegistryMirror, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub mirror: String,
    /// Number of this shard, from 0.
    #[schemars(extend("format" = "int32"))]
    pub shard: u32,
    /// The registry as it stands in references: `reg.coral-system.svc:5000`.
    #[schemars(length(min = 1, max = 261))]
    pub registry: String,
}

/// What a shard holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredImagesStatus {
    /// Number of images that are complete at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub mirrored: Option<u32>,
    /// Number of images that failed the last time, those in error included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub failed: Option<u32>,
    /// The images, in the order of their references.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reference".into()]))]
    pub images: Vec<MirroredImage>,
    /// `Ready` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One image of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredImage {
    /// The source, canonical: `host/path:tag` or `host/path@digest`.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// Where it is mirrored, as pods can name it: `REGISTRY/host/path:tag`.
    #[schemars(length(min = 1, max = 1024))]
    pub destination: String,
    /// State of the image.
    pub state: MirroredState,
    /// The digest at the destination; absent while it was never complete there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 135))]
    pub digest: Option<String>,
    /// Whether platforms that its index names, or foreign layers, were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sparse: bool,
    /// Parts of the image that the destination lacks; absent if none are known to be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub missing: Vec<MissingPart>,
    /// What is wrong, in words; absent while nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub attempts: Option<u32>,
    /// When it is tried again, in RFC 3339; absent while it waits for the next pass or a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub next_attempt: Option<String>,
    /// When its blobs at the destination were last verified, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub verified: Option<String>,
}

impl MirroredImage {
    /// An image of which nothing but this is known.
    pub fn new(
        reference: impl Into<String>,
        destination: impl Into<String>,
        state: MirroredState,
    ) -> Self {
        Self {
            reference: reference.into(),
            destination: destination.into(),
            state,
            digest: None,
            sparse: false,
            missing: vec![],
            message: None,
            attempts: None,
            next_attempt: None,
            verified: None,
        }
    }

    /// Whether the destination holds the image, even if a later check failed.
    pub fn is_held(&self) -> bool {
        self.digest.is_some()
    }

    /// Whether the last check or copy of the image failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, MirroredState::Failing | MirroredState::Error)
    }
}

/// Something that belongs to an image and is not at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MissingPart {
    /// Platforms that its index names, and that were not asked for.
    Platforms,
    /// Foreign layers that were not asked for, or could not be copied so far.
    ForeignLayers,
    /// Foreign layers that its source does not have either.
    ForeignLayersAtSource,
    /// Referrers, or tags of signatures, that could not be copied so far.
    Referrers,
    /// A value of a newer Coral.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MirroredState {
    /// It is complete at the destination.
    Mirrored,
    /// It waits to be looked at or copied for the first time.
    Pending,
    /// It failed and is tried again.
    Failing,
    /// It failed as often as `retry.limit` says.
    Error,
    /// It waits for space at the destination, which is full.
    Waiting,
    /// It is complete at the destination, and gone at its source.
    SourceGone,
    /// A value of a newer Coral.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
