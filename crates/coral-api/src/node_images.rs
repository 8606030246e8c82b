//! The kind NodeImages: what one node should hold. Written by the controller (spec) and by that
//! node's agent (status); people only read it.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::ImageTagState;

/// Most images of one node. The controller names what it leaves out in a condition of the Image.
pub const MAX_NODE_IMAGES: usize = 2000;
/// Most images of one node that its Node object has labels for: every label is sent to everything
/// that watches nodes whenever kubelet writes its status.
pub const MAX_IMAGE_LABELS: usize = 500;
/// The reason of an image whose pull was ended in favour of others: it waits, nothing failed.
pub const YIELDED: &str = "Yielded";
/// Most registry hosts of one node.
pub const MAX_NODE_REGISTRIES: usize = 2000;

/// What one node should hold: images, and where its container runtime finds registries. The object
/// is named after the node, and owned by it. It holds nothing secret.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema,
)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "NodeImages",
    plural = "nodeimages",
    singular = "nodeimages",
    status = "NodeImagesStatus",
    shortname = "ni",
    category = "coral",
    doc = "What one node should hold. Coral writes this object; do not change it.",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.available"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Error", type_ = "integer", json_path = ".status.error"),
    printcolumn(
        name = "Registries",
        type_ = "string",
        json_path = ".status.registriesReady"
    ),
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
pub struct NodeImagesSpec {
    /// Images that the agent pulls, at most 2000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reference".into()]))]
    pub images: Vec<NodeImage>,
    /// Images that are protected from kubelet's garbage collection while they are there, and never
    /// pulled: Coral's own. References as pods write them, canonical.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 1024)))]
    pub pins: Vec<String>,
    /// Registries and routed hosts that the container runtime is pointed at, at most 2000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub registries: Vec<NodeRegistry>,
}

/// One image that a node should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImage {
    /// The name that pods use, canonical: `host/path:tag` or `host/path@digest`.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// The digest to pull.
    #[schemars(length(min = 1, max = 135))]
    pub digest: String,
    /// Size in bytes of what is pulled, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Whether the pull needs a credential.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credential: bool,
    /// Images of a higher priority are pulled first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Whether the image is protected from kubelet's garbage collection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin: bool,
    /// Whether the agent removes the image when it leaves this list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// Failures in a row after which the image is in error: 5 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"), range(min = 1, max = 100))]
    pub retry_limit: Option<u32>,
    /// Longest wait between two attempts, in seconds: 600 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"), range(min = 1, max = 600))]
    pub max_backoff_seconds: Option<u32>,
    /// A number that changes whenever what failed should be tried again at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// Where the container runtime finds the images of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRegistry {
    /// The host as it stands in references: `reg.coral-system.svc:5000`, `docker.io`.
    #[schemars(length(min = 1, max = 261))]
    pub host: String,
    /// The registry's own host, whose probe has to succeed first: for the registry itself the same
    /// as `host`.
    #[schemars(length(min = 1, max = 261))]
    pub registry: String,
    /// Where requests go: `https://CLUSTER_IP:5000`.
    #[schemars(length(min = 1, max = 300))]
    pub endpoint: String,
    /// Whether the source may be asked.
    pub policy: NodeRegistryPolicy,
}

/// Whether the container runtime may ask a host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeRegistryPolicy {
    /// The host is a Registry's own name: there is no other source.
    Registry,
    /// The registry is asked first, the source after a miss.
    AllowContactingSource,
    /// Only the registry is asked.
    NeverContactSource,
    /// A value of a newer Coral. The agent leaves such a host as it is.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What a node holds, as its agent sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImagesStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of images that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub available: Option<u32>,
    /// Number of images that the node does not have yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub pending: Option<u32>,
    /// Number of images in error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub error: Option<u32>,
    /// Registries that are ready, of all: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub registries_ready: Option<String>,
    /// What is wrong with the node as a whole, and what to do: for example that the container
    /// runtime reads no `hosts.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// Name and version of the container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub runtime: Option<String>,
    /// State of each image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reference".into()]))]
    pub images: Vec<NodeImageStatus>,
    /// Pinned images that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 1024)))]
    pub pins: Vec<String>,
    /// State of each registry and routed host, files that still have to go included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub registries: Vec<NodeRegistryStatus>,
    /// `Ready` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// State of an image on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageStatus {
    /// As in the spec.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// The digest that this state is about.
    #[schemars(length(max = 135))]
    pub digest: String,
    /// The entry's `generation` that this state is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the image is there.
    pub state: ImageTagState,
    /// Whether the agent put it there, so that it may remove it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub placed: bool,
    /// Whether the image still has to be removed: it left the spec.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removing: bool,
    /// Size in bytes, as the runtime says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// One word, such as `NotFound`; absent while nothing is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What happened, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub attempts: Option<u32>,
    /// When it is tried again, in RFC 3339; absent while it waits for a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub next_attempt: Option<String>,
}

/// State of a registry host on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRegistryStatus {
    /// As in the spec.
    #[schemars(length(min = 1, max = 261))]
    pub host: String,
    /// The endpoint and policy that this state is about, so that an old success does not count for
    /// a changed entry.
    #[schemars(length(max = 300))]
    pub endpoint: String,
    /// As in the spec.
    pub policy: NodeRegistryPolicy,
    /// Whether a probe pull succeeded.
    pub state: NodeRegistryState,
    /// What is wrong, in words; absent while nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Whether pods of the node can pull from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeRegistryState {
    /// A probe pull succeeded.
    Ready,
    /// The files are there, and the probe has not succeeded yet.
    Pending,
    /// The probe failed, or the files could not be written.
    Error,
    /// The host left the spec, and its files are not removed yet.
    Removing,
    /// A value of a newer Coral.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
