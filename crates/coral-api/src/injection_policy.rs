//! The kind InjectionPolicy: what administrators allow and force for pods.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;

/// Which features annotations may use, which mirrors pods may be pointed at, and the lock.
///
/// ```yaml
/// apiVersion: stvz.io/v1
/// kind: InjectionPolicy
/// metadata:
///   name: cluster
/// spec:
///   mirrors:
///     - {namespace: coral-system, name: outside}
///   lock:
///     mode: Mirrored
///     registries: [reg.coral-system.svc:5000]
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "InjectionPolicy",
    plural = "injectionpolicies",
    singular = "injectionpolicy",
    status = "InjectionPolicyStatus",
    shortname = "ipol",
    category = "coral",
    doc = "What annotations of pods may ask for, and the lock.",
    derive = "PartialEq",
    printcolumn(name = "Lock", type_ = "string", json_path = ".spec.lock.mode"),
    printcolumn(
        name = "Enforcement",
        type_ = "string",
        json_path = ".status.enforcement"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
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
#[x_kube(validation = Rule::new("!has(self.lock) || (!has(self.podSelector) && !has(self.namespaceSelector))").message("a policy with a lock must not have a podSelector or namespaceSelector: users who may set such a label could bypass the lock. Exempt namespaces by name with lock.exemptNamespaces"))]
pub struct InjectionPolicySpec {
    /// Namespaces that the policy is for. None: every namespace but the excluded ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods that the policy is for. None: every pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Whether annotations may ask for a pull policy: `Allow` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<FeatureMode>,
    /// Whether annotations may ask for node selectors: `Allow` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selectors: Option<FeatureMode>,
    /// Whether annotations may ask for the registry: `Allow` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<FeatureMode>,
    /// Mirrors that pods may be pointed at, in this order, at most 100. None: those of the pod's
    /// own namespace, then those of `coral-system` whose `allowFrom` selects the namespace. A mirror
    /// of any other namespace is used only if it is named here.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    pub mirrors: Vec<PolicyMirror>,
    /// Refuses pods whose images come from other registries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

/// Whether annotations may use a feature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureMode {
    /// Annotations are ignored.
    Off,
    /// Annotations decide.
    #[default]
    Allow,
    /// A value of a newer Coral, which counts as `Off`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A RegistryMirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyMirror {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Which pods are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// What an image must be.
    #[serde(default)]
    pub mode: LockMode,
    /// Registries that images may name, 1 to 100, as written in references:
    /// `reg.coral-system.svc:5000`. Hosts that a RegistryRoute with `NeverContactSource` covers on
    /// every node are allowed too.
    #[schemars(
        length(min = 1, max = 100),
        inner(
            length(min = 1, max = 261),
            regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$")
        )
    )]
    pub registries: Vec<String>,
    /// What happens to other pods: `Enforce` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// Names of namespaces that are exempt from the lock, in addition to `kube-system`,
    /// `coral-system` and `coral-nodes`; at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")), extend("nullable" = true))]
    pub exempt_namespaces: Vec<String>,
}

/// What an image of a pod must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LockMode {
    /// From one of the registries, or from a host that is routed to one and never contacted.
    #[default]
    Mirrored,
    /// A value of a newer Coral. Such a lock is not put in place, and a condition says so.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What happens to a pod that the lock does not allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Enforcement {
    /// It is refused.
    #[default]
    Enforce,
    /// Its author is warned.
    Warn,
    /// The audit log names it.
    Audit,
    /// A value of a newer Coral, which counts as `Enforce`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// State of a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InjectionPolicyStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How the lock is enforced now; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub enforcement: Option<String>,
    /// Hosts that the lock allows now, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 261)))]
    pub allowed_hosts: Vec<String>,
    /// Number of hosts that `allowedHosts` leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub omitted_hosts: Option<u32>,
    /// `Ready`, `Degraded`, and with a lock `LockComplete`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
