//! How a registry in a cluster is doing, as the controller reports it. Every field is optional: a
//! status that was written in part must not look whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How a registry is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The address at which pods and nodes reach it: `name.namespace.svc:5000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260))]
    pub address: Option<String>,
    /// The address of its Service, which nodes connect to.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub cluster_ip: Option<String>,
    /// The generation of the list of public repositories that the registry has loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_generation: Option<i64>,
    /// How many repositories everyone may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_repositories: Option<i64>,
    /// Its used and free space, as last reported by the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<RegistryStorageStatus>,
    /// State of its scrub, which reads all content in turn, as last reported by the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<RegistryScrubStatus>,
    /// The state in conditions: `Ready` and what keeps it from being true, and `StorageAvailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Option<Vec<Condition>>,
}

/// What a registry stores and what is free. Quantities are rounded down to three digits or more, and
/// one that changed by less than 2 % stays as it was. The registry itself reports exact bytes, also
/// for every repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStorageStatus {
    /// Content, each blob once, and open uploads, such as `11913Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub stored: Option<String>,
    /// What can still be pushed: what `spec.storage.limit` and the disk, less `spec.storage.minFree`,
    /// leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub free: Option<String>,
    /// Number of repositories that are not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<i64>,
    /// The largest repositories, at most 20, in descending order of size. Private ones are
    /// included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub largest: Option<Vec<StoredRepository>>,
}

/// What one repository of a registry holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredRepository {
    /// Its path in the registry, such as `base/debian`.
    #[schemars(length(max = 255))]
    pub name: String,
    /// Its content, such as `11913Mi`. A blob in several repositories is stored once and counted in
    /// each.
    #[schemars(length(max = 40))]
    pub stored: String,
}

/// How the scrub of a registry is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryScrubStatus {
    /// When the last complete round ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_completed: Option<Time>,
    /// How much of the content the current round has read, in percent, in steps of 10. Absent
    /// between rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<i64>,
    /// Bytes read by that round, or by the last one, such as `11913Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub checked: Option<String>,
    /// Blobs and manifests that it found damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<i64>,
    /// Blobs and manifests that were found damaged in any round and have not been restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<i64>,
}
