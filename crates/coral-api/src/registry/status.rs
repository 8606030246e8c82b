//! How a registry in a cluster is doing, as the controller reports it. Every field is optional: a
//! status that was written in part must not look whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How a registry is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where pods and nodes reach it: `name.namespace.svc:5000`.
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
    /// The state in conditions: `Ready` and what keeps it from being true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Option<Vec<Condition>>,
}
