//! The kind RegistryRoute: image names unchanged, pulls from inside.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::Requirement;
use crate::nullable;

/// Hosts whose images nodes pull from a Registry, under their own names.
///
/// ```yaml
/// apiVersion: stvz.io/v1
/// kind: RegistryRoute
/// metadata:
///   name: outside
/// spec:
///   hosts: [docker.io, quay.io]
///   registry: {namespace: coral-system, name: reg}
///   sourcePolicy: NeverContactSource
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "RegistryRoute",
    plural = "registryroutes",
    singular = "registryroute",
    status = "RegistryRouteStatus",
    shortname = "rr",
    category = "coral",
    doc = "Hosts whose images nodes pull from a Registry in the cluster.",
    derive = "PartialEq",
    printcolumn(name = "Hosts", type_ = "string", json_path = ".spec.hosts"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.sourcePolicy"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes"),
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
pub struct RegistryRouteSpec {
    /// Hosts as references name them, 1 to 100: `docker.io`, `quay.io`, `registry.example.com:5000`.
    /// Not the name of a Service.
    #[schemars(
        length(min = 1, max = 100),
        inner(
            length(min = 1, max = 259),
            regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = Rule::new("self.all(h, !h.contains('..'))").message("a host must not have two dots in a row"))]
    #[x_kube(validation = Rule::new("self.all(h, !h.endsWith('.svc') && !h.contains('.svc:') && !h.contains('.svc.'))").message("a host must not be the name of a Service: Registry objects are reached by their own names without a route"))]
    pub hosts: Vec<String>,
    /// The Registry that answers for them.
    pub registry: RouteRegistry,
    /// Whether nodes may ask the hosts themselves after a miss: `AllowContactingSource` if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_policy: Option<SourcePolicy>,
    /// Which nodes: every requirement must hold. None: every node.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    pub node_selector: Vec<Requirement>,
}

/// A Registry object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRegistry {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Whether nodes may ask a routed host themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourcePolicy {
    /// The registry is asked first; what it does not have comes from the host itself.
    #[default]
    AllowContactingSource,
    /// Only the registry is asked; what it does not have is refused with a message.
    NeverContactSource,
    /// A value of a newer Coral. Such a route has no effect.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// State of a route over all nodes that it selects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryRouteStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that reach every host through the registry, of all that are selected: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub nodes: Option<String>,
    /// Hosts that every Ready Linux node has reported as routed; the lock of an InjectionPolicy
    /// allows them. A node that lacks one later does not remove it from this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 259)))]
    pub proved_hosts: Vec<String>,
    /// The first nodes that lack a host, at most ten, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 1024)))]
    pub lacking: Vec<String>,
    /// `Ready`, `Progressing` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
