//! The container that builds, as it is typed.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;

/// The container that builds. It reads `$CORAL_SOURCE`, writes an OCI layout or archive to
/// `$CORAL_OUTPUT` and exits with 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.runAsUser) || has(self.image)")
    .message("has runAsUser without image: the offered builder runs as root, so name a container that does not need to"))]
pub struct BuildStep {
    /// The container's image: the builder that the controller offers (`--builder-image`) if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// What is run in place of the image's entry point; at most 100 words.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 100),
        inner(length(max = 32768)),
        extend("nullable" = true)
    )]
    pub command: Vec<String>,
    /// Arguments, at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 100),
        inner(length(max = 32768)),
        extend("nullable" = true)
    )]
    pub args: Vec<String>,
    /// Environment variables, at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<BuildEnv>,
    /// Resource requests and limits of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<BuildResources>,
    /// Labels that a node must have to run the build, at most 50.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(extend(
        "nullable" = true,
        "maxProperties" = 50,
        "additionalProperties" = {"type": "string", "maxLength": 63}
    ))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the run's pod tolerates, at most 50.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 50), extend("nullable" = true))]
    pub tolerations: Vec<BuildToleration>,
    /// The RuntimeClass of the run's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Whether the run's pod shares the user namespace of its node. Root in the container is then
    /// root of the node, so use it only in clusters without user namespaces, and with builders that
    /// you trust that far. `false` if not given.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub host_users: bool,
    /// User ID, 1 to 65535, of all three steps of the run, which then have no capabilities, as the
    /// Pod Security level `restricted` requires. It requires an `image` that builds without root.
    /// If not given, the container runs as the user of its image, or as 65532 in a namespace that
    /// enforces `restricted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub run_as_user: Option<u32>,
}

/// An environment variable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.valueFrom)").message(
    "has valueFrom: secrets and other objects do not enter a build, since its container could send or keep them; give a plain value"
))]
pub struct BuildEnv {
    /// Its name. Names that begin with `CORAL_` are Coral's own.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[A-Za-z_.-][A-Za-z0-9_.-]*$")
    )]
    #[x_kube(validation = Rule::new("!self.startsWith('CORAL_')")
        .message("begins with CORAL_: these names are Coral's own"))]
    pub name: String,
    /// Its value; empty if not given.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(length(max = 32768), extend("nullable" = true))]
    pub value: String,
    /// Always refused: secrets do not enter a build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<RefusedValueFrom>,
}

/// Where a value would come from. It is only there to be refused with a reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct RefusedValueFrom {}

/// What a container asks for and may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildResources {
    /// What it may use at most, such as `cpu: 2`, `memory: 4Gi`; at most 20.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(extend("nullable" = true, "maxProperties" = 20))]
    pub limits: BTreeMap<String, IntOrString>,
    /// What is set aside for it, at most 20.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(extend("nullable" = true, "maxProperties" = 20))]
    pub requests: BTreeMap<String, IntOrString>,
}

/// A taint that the pod of a run tolerates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildToleration {
    /// The taint's key: every key if not given, with the operator `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,
    /// How the value is compared: `Equal` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// The taint's value, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// The taint's effect: every effect if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub effect: Option<String>,
    /// How long a taint of the effect `NoExecute` is tolerated: for ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares the value of a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// The taint has the value.
    Equal,
    /// The taint is there.
    Exists,
    /// A value of a newer Coral. Such a build is not run.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
