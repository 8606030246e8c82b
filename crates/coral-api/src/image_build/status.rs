//! How a build is doing, as the controller reports it. Every field is optional: a status that was
//! written in part must not look whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a build is doing. All but `observedGeneration`, `phase`, `conditions` and `message` belongs
/// to the run that `job` names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Phase of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BuildPhase>,
    /// Key of the run: a digest of source, build, output, cache and rerun. The controller does not
    /// start a run with the same key twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub run: Option<String>,
    /// The Job of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub job: Option<String>,
    /// The digest of the image, once the Registry inside has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub digest: Option<String>,
    /// The source that was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<BuiltSource>,
    /// What was pushed, the Registry inside first; at most 220.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 220))]
    pub outputs: Option<Vec<BuiltOutput>>,
    /// What the step `push` sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<BuildBytes>,
    /// How long each step took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durations: Option<BuildDurations>,
    /// When the Job of the run was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The last lines of the step that failed, secrets masked, at most 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// The state in conditions: `Ready` is true once everything is pushed. `InQueue` is there while the
    /// run waits for its turn, and says since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Option<Vec<Condition>>,
}

/// How far a run is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum BuildPhase {
    /// Not begun: it waits for a grant, a Registry or a node.
    Pending,
    /// The source is fetched.
    Fetching,
    /// The container builds.
    Building,
    /// The image is pushed.
    Pushing,
    /// Everything is pushed.
    Succeeded,
    /// The run ended without a complete result.
    Failed,
    /// The run was cancelled.
    Cancelled,
    /// A value of a newer version.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl BuildPhase {
    /// Every phase, in the order of a run.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Fetching,
        Self::Building,
        Self::Pushing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether a run in this phase has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As it stands in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Fetching => "Fetching",
            Self::Building => "Building",
            Self::Pushing => "Pushing",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Unknown => "Unknown",
        }
    }
}

/// The source that was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuiltSource {
    /// The commit, of a git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub commit: Option<String>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
}

/// A name that the image was pushed as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuiltOutput {
    /// The name.
    #[schemars(length(max = 700))]
    pub reference: String,
    /// The digest there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub digest: Option<String>,
    /// Whether it is there.
    pub state: OutputState,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Whether an image is where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutputState {
    /// It is there.
    Pushed,
    /// It could not be pushed.
    Failed,
    /// A value of a newer version.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What the step `push` sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildBytes {
    /// Bytes that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<i64>,
    /// Bytes that the destinations had already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<i64>,
}

/// How long the steps of a run took: `0.4s`, `12s`, `2m5s`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildDurations {
    /// The step `fetch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub fetch: Option<String>,
    /// The step `build`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub build: Option<String>,
    /// The step `push`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub push: Option<String>,
}
