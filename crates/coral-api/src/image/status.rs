//! What the controller says of an Image.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most images that one Image may name, and most entries of [`ImageStatus::images`].
pub const MAX_IMAGES: usize = 500;
/// Most failures that are listed for one image.
pub const MAX_FAILURES: usize = 5;

/// State of an Image over all nodes that it selects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of selected nodes that have an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub total_nodes: Option<u32>,
    /// Number of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub total_images: Option<u32>,
    /// Number of images by state: an image counts as available once every node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<ImageCondition>,
    /// Each image and the label that nodes carry for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub data: Vec<ImageData>,
    /// State of each image, at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub images: Vec<ImageTagStatus>,
    /// Number of images that `data` and `images` leave out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub omitted_images: Option<u32>,
    /// `Ready`, `Progressing` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Number of images by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageCondition {
    /// Images that every node has.
    #[schemars(extend("format" = "int32"))]
    pub available: u32,
    /// Images that some node still lacks.
    #[schemars(extend("format" = "int32"))]
    pub pending: u32,
    /// Images in an unknown state: no node is selected, or no agent has reported.
    #[schemars(extend("format" = "int32"))]
    pub unknown: u32,
}

/// An image and its label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageData {
    /// The canonical reference.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// The key of the node label.
    #[schemars(length(max = 317))]
    pub label: String,
}

/// State of one image over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageTagStatus {
    /// The canonical reference, `host/path:tag` or `host/path@digest`.
    #[schemars(length(max = 1024))]
    pub reference: String,
    /// The digest that the tag stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 135))]
    pub digest: Option<String>,
    /// Size in bytes for a node's platform, as an agent reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The key of the node label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub label: String,
    /// State over all nodes: the worst of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ImageTagState>,
    /// Why the image could not be resolved, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Number of nodes by state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<ImageNodeCounts>,
    /// The first failures, at most five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub failures: Vec<ImageFailure>,
}

/// State of an image, on one node or over all of them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ImageTagState {
    /// It is there.
    Available,
    /// It is waited for.
    Pending,
    /// It failed as often as `retry.limit` says, or was refused.
    Error,
    /// A value of a newer Coral.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Number of nodes by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageNodeCounts {
    /// Nodes that have the image.
    #[schemars(extend("format" = "int32"))]
    pub available: u32,
    /// Nodes that wait for it.
    #[schemars(extend("format" = "int32"))]
    pub pending: u32,
    /// Nodes on which it is in error.
    #[schemars(extend("format" = "int32"))]
    pub error: u32,
}

/// A failure on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageFailure {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// One word, such as `NotFound`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What happened, in words.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Failures in a row.
    #[schemars(extend("format" = "int32"))]
    pub attempts: u32,
    /// When it is tried again, in RFC 3339; absent while it waits for a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub next_attempt: Option<String>,
}
