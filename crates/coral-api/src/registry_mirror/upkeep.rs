//! What keeps a mirror whole and within bounds, as it is typed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::rules;

/// How a blob at the destination is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerifyMethod {
    /// One HEAD: it is there, with the size that the manifest says.
    Size,
    /// It is read, and its bytes hash to its digest.
    Content,
    /// A value that this version does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What happens to a mirrored tag that is gone at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceGonePolicy {
    /// It stays at the destination, which may hold the last copy.
    Keep,
    /// It is deleted at the destination.
    Delete,
    /// A value that this version does not know; it is treated as `Keep`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What happens when a mirrored tag names another image at its source than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriftPolicy {
    /// The mirror follows.
    Follow,
    /// The mirror follows, with a warning that has both digests.
    Warn,
    /// The mirror keeps the image that it has, with a warning that has both digests.
    Pin,
    /// A value that this version does not know; it is treated as `Pin`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What happens to tags at the destination that are no longer selected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.dryRun) || !self.dryRun || (has(self.enabled) && self.enabled)"
).message("has no effect without enabled: true").field_path(".dryRun"),
    validation = Rule::new("!has(self.sourceGone) || (has(self.enabled) && self.enabled)")
        .message("has no effect without enabled: true")
        .field_path(".sourceGone"))]
pub struct Prune {
    /// Whether such tags are deleted.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub enabled: bool,
    /// Shell patterns of tags that are never deleted, such as `*-lts`; at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 1000)), extend("nullable" = true))]
    pub keep: Vec<String>,
    /// Dry run: reports deletions without making them.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub dry_run: bool,
    /// What happens to a selected tag that no longer exists at the source: `Keep` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_gone: Option<SourceGonePolicy>,
}

/// How much a mirror may do at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorLimits {
    /// Bytes of blobs per second, over all its copies, as a quantity: `500k`, `20M`, `20Mi`; at
    /// least `64k`. No limit if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes_of_at_least("64k"))]
    pub bandwidth: Option<String>,
    /// Images copied at the same time: 1 to 100. As many as the process has workers if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("format" = "int32"))]
    pub copies: Option<u32>,
}

/// What to do when a copy fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Failures in a row after which an image counts as in error: 1 to 100, 5 if not given. After
    /// that, transient failures are still retried every `maxBackoff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("format" = "int32"))]
    pub limit: Option<u32>,
    /// Longest wait between two attempts: `100ms` to `10m`, `10m` if not given. Exponential backoff
    /// with jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration("100ms", "10m"))]
    pub max_backoff: Option<String>,
}
