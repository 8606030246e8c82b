//! The kind ImageBuild: an image that is built in the cluster by the user's own container.
//!
//! Two stages, as for mirrors: the types of this folder are what was typed; [`BuildSettings`] is
//! what it means, made by [`ImageBuild::settings`].

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

mod build;
mod output;
pub mod reason;
mod settings;
mod source;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::rules;

pub use build::{
    BuildEnv, BuildResources, BuildStep, BuildToleration, RefusedValueFrom, TolerationOperator,
};
pub use output::{AlsoTo, BuildOutput, BuildRegistry, BuildVisibility};
pub use settings::{AlsoToSettings, BuildSettings, BuildTag, SourceSettings};
pub use source::{
    BuildSource, ConfigMapSource, GitSource, ImageSource, StreamSource, VolumeSource,
};
pub use status::{
    BuildBytes, BuildDurations, BuildPhase, BuiltOutput, BuiltSource, ImageBuildStatus, OutputState,
};

/// An image that is built in the cluster: where its source comes from, the container that builds
/// it, and where the result goes. It runs once for each `source`, `build`, `output`, `cache` and
/// `rerun`: a change of any of them runs it again.
///
/// ```yaml
/// apiVersion: stvz.io/v1
/// kind: ImageBuild
/// metadata: {name: shop, namespace: team-a}
/// spec:
///   source:
///     git: {url: https://git.example/shop.git, ref: main}
///   output:
///     registry: {namespace: coral-system, name: reg}
///     tags: [team-a/shop:3]
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "ImageBuild",
    plural = "imagebuilds",
    singular = "imagebuild",
    namespaced,
    status = "ImageBuildStatus",
    shortname = "ib",
    category = "coral",
    doc = "An image that a container of your choice builds in the cluster.",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".status.outputs[0].reference"
    ),
    printcolumn(
        name = "Digest",
        type_ = "string",
        priority = 1,
        json_path = ".status.digest"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='Ready')].message"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildSpec {
    /// Where the source comes from: exactly one of `git`, `stream`, `image`, `configMap` and `pvc`.
    pub source: BuildSource,
    /// The container that builds: Coral's own builder with a `Dockerfile` in the source if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildStep>,
    /// Where the image goes.
    pub output: BuildOutput,
    /// A folder that is kept between runs, at `$CORAL_CACHE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<BuildCache>,
    /// How long a run may take from its start to its end: `1s` to `168h`, `30m` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration("1s", "168h"))]
    pub timeout: Option<String>,
    /// Any text; changing it runs the build again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub rerun: Option<String>,
    /// How many runs that have ended are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<BuildHistory>,
    /// Runs nothing while true, and cancels a run that has not ended.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub suspend: bool,
}

/// A folder that is kept from run to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildCache {
    /// Name of a PersistentVolumeClaim in the object's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub pvc: String,
}

/// How many Jobs of runs that have ended are kept, with their pods and logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildHistory {
    /// Runs that succeeded: 0 to 100, 3 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("format" = "int32"))]
    pub succeeded: Option<u32>,
    /// Runs that failed or were cancelled: 0 to 100, 3 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("format" = "int32"))]
    pub failed: Option<u32>,
}
