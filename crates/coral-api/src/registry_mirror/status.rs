//! How a mirror is doing: the status of the object, and what the status page and the commands
//! print as JSON. Every field is optional: a status that was written in part must not look whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a mirror is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryMirrorStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many images the spec selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<i64>,
    /// How many of them the destination holds, also while a later look at them fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<i64>,
    /// How many of them are still to be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// How many of them could not be copied at the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<i64>,
    /// How many of the mirrored images their source has no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_gone: Option<i64>,
    /// Whether tags are deleted at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningStatus>,
    /// A digest of the spec without `suspend` and `prune.dryRun`. Only a change of it ends a pause
    /// of `pruning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub spec_digest: Option<String>,
    /// Bytes copied since the mirror was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_copied: Option<i64>,
    /// When the last pass over the sources ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<Time>,
    /// When the next pass begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sync: Option<Time>,
    /// The first failures, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub failures: Option<Vec<MirrorFailure>>,
    /// How many failures are left out of `failures`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_omitted: Option<i64>,
    /// The mirrored repositories, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub repositories: Option<Vec<MirroredRepository>>,
    /// The state in conditions: `Ready` and what keeps it from being true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Option<Vec<Condition>>,
}

/// Whether a mirror deletes tags. It stops by itself when more than a fifth of its images vanish
/// at their sources in one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PruningStatus {
    /// Whether no tag is deleted until a person confirms it, or changes more of the spec than
    /// `suspend` and `prune.dryRun`.
    pub paused: bool,
    /// How many vanished images were taken note of: those that vanish beyond them are counted. -1
    /// takes note of all that are found next.
    pub accepted: i64,
    /// While paused: how many images had vanished at the end of the last pass. A change of the spec
    /// takes note of so many.
    pub counted: i64,
}

impl PruningStatus {
    /// A person has looked at what vanished.
    pub const CONFIRMED: Self = Self {
        paused: false,
        accepted: -1,
        counted: 0,
    };

    /// How it goes on once the spec was changed in more than `suspend` and `prune.dryRun`. That
    /// ends a pause, since the person who changed the spec has looked; it confirms nothing that no
    /// pass has counted yet: what vanishes later is judged again.
    #[must_use]
    pub fn after_change_of_spec(self) -> Self {
        if self.paused {
            Self {
                paused: false,
                accepted: self.counted.max(0),
                counted: 0,
            }
        } else {
            self
        }
    }
}

/// An image that could not be copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorFailure {
    /// The image, as the source names it.
    #[schemars(length(max = 512))]
    pub reference: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What the registry said, at most 1024 letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// When it is tried again; never without a change if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
}

/// A repository that the mirror copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredRepository {
    /// The source, with its host: `docker.io/library/debian`.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Whether everyone may read it. A repository of which nothing is known yet is private.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Whether the Registry has said that it serves the repository to everyone now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<bool>,
    /// How many images are selected; absent until that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<i64>,
    /// How many tags the source has, where `select` fits none of them; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmatched_tags: Option<i64>,
    /// Why its tags could not be listed or deleted, at most 1024 letters; absent while they could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
}

/// Who may read a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// A manifest of it was read anonymously at the source.
    Public,
    /// The credential reads it at the source, and anonymous access is refused.
    Private,
    /// A value that this version does not know; to be treated as private.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
