//! Where a registry in a cluster keeps its blobs, as it is typed.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// Where a registry in a cluster keeps its blobs: a volume claim of `size`, or an `emptyDir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.emptyDir) || (!has(self.size) && !has(self.storageClassName))"
).message("has emptyDir with size or storageClassName: those belong to a volume claim"))]
pub struct RegistryStorage {
    /// Size of the volume claim, such as `500M` or `10Gi`; at least `1Mi`, `10Gi` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes_of_at_least("1Mi"))]
    pub size: Option<String>,
    /// Class of the volume claim: the cluster's default class if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Bytes that the registry stores at most, with open uploads, such as `8Gi`; at least `1Mi`.
    /// Pushes over it are refused with 507. As many as the volume or disk takes if
    /// not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes_of_at_least("1Mi"))]
    pub limit: Option<String>,
    /// Bytes of the volume or disk that pushes leave free: pushes that would take them are refused
    /// with 507. `0`: none. 5 % of the disk and at most `1Gi` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes())]
    pub min_free: Option<String>,
    /// A folder of the node that is gone when the registry's pod goes to another node. In place of
    /// a volume claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
}

/// A folder that lives as long as its pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// Bytes after which the pod is evicted, such as `10Gi`. No bound but the node's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes_of_at_least("1Mi"))]
    pub size_limit: Option<String>,
}
