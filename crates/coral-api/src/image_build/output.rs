//! Where a built image goes, as it is typed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::object_reference::LocalObjectReference;
use crate::rules;

/// Where the image goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildOutput {
    /// The Registry that it is pushed to. Its `builds.allowFrom` says which namespaces may; its own
    /// always may.
    pub registry: BuildRegistry,
    /// Names of the image in that Registry, 1 to 20, below the object's namespace:
    /// `team-a/shop:3`.
    #[schemars(
        length(min = 1, max = 20),
        inner(
            length(min = 1, max = 384),
            regex(
                pattern = "^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
            )
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tags: Vec<String>,
    /// Who may pull it: `Cluster` if not given. A name that pods may pull stays public, also when a
    /// build fails, is changed or is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<BuildVisibility>,
    /// Registries outside that it is pushed to afterwards, at most 10.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 10), extend("nullable" = true))]
    pub also_to: Vec<AlsoTo>,
    /// Bytes that the build may write to `$CORAL_OUTPUT`, and as many to `$CORAL_SCRATCH`, such as
    /// `4Gi`; at least `1Mi`, `10Gi` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes_of_at_least("1Mi"))]
    pub limit: Option<String>,
}

/// A Registry object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildRegistry {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Who may pull a built image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BuildVisibility {
    /// Every pod of the cluster.
    #[default]
    Cluster,
    /// A value of a newer Coral. Such a build is not run.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A registry outside that the image is pushed to, after the Registry inside has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.plainHTTP) || !self.plainHTTP || !has(self.ca)")
    .message("has plainHTTP with ca: that belongs to HTTPS"))]
pub struct AlsoTo {
    /// The repository with its registry: `ghcr.io/acme/shop`.
    #[schemars(length(min = 1, max = 512))]
    pub repository: String,
    /// The tags there, 1 to 20.
    #[schemars(
        length(min = 1, max = 20),
        inner(
            length(min = 1, max = 128),
            regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tags: Vec<String>,
    /// Secret with the credential, in the object's own namespace (type
    /// `kubernetes.io/dockerconfigjson`). Only the step `push` sees it. Anonymous if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
    /// Certificates of the authority that signed the registry's certificate, as PEM text. They are
    /// trusted in addition to those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    #[x_kube(validation = rules::certificates(), validation = rules::no_private_key())]
    pub ca: Option<String>,
    /// Whether to use plain HTTP for the registry: `false` if not given.
    #[serde(default, rename = "plainHTTP", skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<bool>,
}
