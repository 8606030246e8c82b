//! The kind Image: these images, on those nodes.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

mod selector;
mod settings;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::object_reference::LocalObjectReference;
use crate::registry_mirror::{ListSelection, Retry};

pub use selector::{NodeSelector, Operator, Requirement, SelectorError};
pub use settings::ImageSettings;
pub use status::{
    ImageCondition, ImageData, ImageFailure, ImageNodeCounts, ImageStatus, ImageTagState,
    ImageTagStatus, MAX_FAILURES, MAX_IMAGES,
};

/// Images that Coral places on nodes before pods ask for them.
///
/// ```yaml
/// apiVersion: stvz.io/v1
/// kind: Image
/// metadata:
///   name: web
/// spec:
///   selector:
///     - key: node-role.kubernetes.io/worker
///       operator: exists
///   repositories:
///     - name: debian
///       tags: [bookworm-slim]
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "Image",
    plural = "images",
    singular = "image",
    namespaced,
    status = "ImageStatus",
    shortname = "img",
    category = "coral",
    doc = "Images that Coral places on nodes before pods need them.",
    derive = "PartialEq",
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.totalImages"),
    printcolumn(
        name = "Available",
        type_ = "integer",
        json_path = ".status.condition.available"
    ),
    printcolumn(
        name = "Pending",
        type_ = "integer",
        json_path = ".status.condition.pending"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Unknown",
        type_ = "integer",
        json_path = ".status.condition.unknown",
        priority = 1
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.totalNodes",
        priority = 1
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
pub struct ImageSpec {
    /// Which nodes: every requirement must hold. None: every node.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    pub selector: Vec<Requirement>,
    /// Which images: 1 to 100 repositories, with at most 500 tags and digests together.
    #[schemars(length(min = 1, max = 100))]
    pub repositories: Vec<ImageRepository>,
    /// Secrets with the credentials of the registries, in the Image's own namespace. Accepted;
    /// private images are not placed yet, and a condition says so.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// How often tags are resolved to digests again: a duration such as `30m`, at least `1m`. `1h`
    /// if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(h|m|s|ms))+$') && duration(self) >= duration('1m')").message("must be a duration of at least 1m, such as 30m or 1h30m"))]
    pub refresh: Option<String>,
    /// What to do when a pull fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Whether the images are protected from the garbage collection of kubelet: `true` if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// What happens to the images on the nodes when this object is deleted or no longer names
    /// them: `Keep` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// While true, nothing new is pulled. What is on the nodes stays.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub suspend: bool,
}

/// One repository, and what of it. At least one of `tags`, `digests` and `listSelection`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.tags) && size(self.tags) > 0) || (has(self.digests) && size(self.digests) > 0) || has(self.listSelection)").message("selects nothing: give tags or digests"))]
pub struct ImageRepository {
    /// The repository, without tag: `debian`, `quay.io/prometheus/node-exporter`. Docker's short
    /// names are expanded.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// Tags, at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")), extend("nullable" = true))]
    pub tags: Vec<String>,
    /// Digests, at most 100, such as `sha256:` with 64 hexadecimal digits.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 135), regex(pattern = "^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$")), extend("nullable" = true))]
    pub digests: Vec<String>,
    /// The older way to name every tag. Accepted; it places nothing, and a condition says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_selection: Option<ListSelection>,
}

/// What happens to placed images that are no longer named.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum OnDelete {
    /// They stay on the nodes, unprotected: kubelet removes them when it needs space.
    #[default]
    Keep,
    /// The agents remove them, unless another Image names them or another name of the same image
    /// is there.
    Remove,
    /// A value of a newer Coral.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
