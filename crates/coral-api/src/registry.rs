//! The kind Registry: a managed registry.
//!
//! Two stages, as for mirrors: the types of this file are what was typed; [`RegistrySettings`] is
//! what it means, made by [`Registry::settings`].

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

mod collection;
mod log;
mod scrub;
mod settings;
mod status;
mod storage;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::label_selector::LabelSelector;
use crate::nullable;
use crate::rules;

pub use collection::{CollectionSettings, RegistryCollection};
pub use log::{AccessLog, LogFormat, LogLevel, RegistryLog};
pub use scrub::{RegistryScrub, ScrubSettings};
pub use settings::{
    AuthSettings, GrantSettings, Grantees, LayoutSettings, LimitSettings, RegistrySettings,
    SpaceSettings, StorageSettings,
};
pub use status::{RegistryScrubStatus, RegistryStatus, RegistryStorageStatus, StoredRepository};
pub use storage::{EmptyDir, RegistryStorage};

/// What a registry is like. Without a cluster and without any field it is open to every client,
/// without TLS. In a cluster its certificate and the right to push come from Coral's controller,
/// and anonymous clients read what is public at its source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "Registry",
    plural = "registries",
    namespaced,
    derive = "PartialEq",
    status = "RegistryStatus",
    shortname = "reg",
    category = "coral",
    doc = "A registry: who may use it, and how it is reached. `coral up` runs one, with or without this.",
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Public",
        type_ = "integer",
        json_path = ".status.publicRepositories"
    ),
    printcolumn(
        name = "Stored",
        type_ = "string",
        json_path = ".status.storage.stored"
    ),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.storage.free"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RegistrySpec {
    /// Speaks HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RegistryTls>,
    /// Who may read and write. Without it, anonymous clients may read and write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegistryAuth>,
    /// While true, refuses all writes except those of the mirrors whose destination is this
    /// registry.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub read_only: bool,
    /// OCI image layouts that are served read-only, each as a repository; at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["repository".into()]))]
    pub image_volumes: Vec<ImageVolume>,
    /// Where the registry keeps its blobs in a cluster: a volume claim of 10Gi if not given.
    /// Without a cluster, the command line says where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<RegistryStorage>,
    /// Bounds for what clients do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RegistryLimits>,
    /// When blobs that nothing refers to any more are deleted. Without it, the defaults apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc: Option<RegistryCollection>,
    /// How the registry finds content that the disk has damaged. Without it, the defaults apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<RegistryScrub>,
    /// What the registry writes into its log in a cluster. A change restarts the registry's pod.
    /// `coral up` and `coral registry serve` ignore it and take `--log` and `--log-format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<RegistryLog>,
    /// Who may build into the registry. Has a meaning in a cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builds: Option<RegistryBuilds>,
}

/// Who may build into a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryBuilds {
    /// Namespaces, by their labels, whose ImageBuilds may push to this registry, each below its own
    /// name: `{}` is every namespace. The registry's own namespace always may, and is alone if
    /// this is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<LabelSelector>,
}

/// The certificate of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryTls {
    /// Secret of type `kubernetes.io/tls` in the registry's namespace: `tls.crt`, the certificate
    /// followed by its intermediates, and `tls.key`. Changes take effect at once.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Users, and what they may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryAuth {
    /// Users and the hashes of their passwords.
    pub htpasswd: HtpasswdSource,
    /// Who may read what: 1 to 100 rules. Without it, every user may read everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub pull: Option<Vec<PullRule>>,
    /// Who may write and delete what, and read it too: 1 to 100 rules. Without it, every user may
    /// write everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub push: Option<Vec<PushRule>>,
}

/// Where users come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HtpasswdSource {
    /// Secret in the registry's namespace with the key `htpasswd`: lines as `htpasswd -nB` prints
    /// them, `user:hash`. Only bcrypt hashes are read.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Who may read what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.anonymous) || !self.anonymous || !has(self.users) || size(self.users) == 0"
).message("has both anonymous and users: anonymous means every client"))]
pub struct PullRule {
    /// Applies to every client while true, with or without a login. In place of `users`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub anonymous: bool,
    /// Names of users, at most 1000. None: every user.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 1000),
        inner(length(min = 1, max = 255), regex(pattern = "^([^*:][^:]*|[*][^:]+)$")),
        extend("nullable" = true)
    )]
    pub users: Vec<String>,
    /// Patterns of repository paths, at most 100: `*` matches within a path component, `**` any
    /// number of components (`team/app`, `team/*`, `team/**`). None: every repository.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 255)),
        extend("nullable" = true)
    )]
    pub paths: Vec<String>,
}

/// Who may write what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PushRule {
    /// Names of users, at most 1000. None: every user.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 1000),
        inner(length(min = 1, max = 255), regex(pattern = "^([^*:][^:]*|[*][^:]+)$")),
        extend("nullable" = true)
    )]
    pub users: Vec<String>,
    /// Patterns of repository paths, as for reading. None: every repository.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 255)),
        extend("nullable" = true)
    )]
    pub paths: Vec<String>,
}

/// An OCI image layout, served as a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageVolume {
    /// The repository, such as `base/debian`. It takes the place of what the storage has there.
    #[schemars(length(min = 1, max = 255))]
    pub repository: String,
    /// The layout's folder on the machine that the registry runs on.
    pub host_path: HostPath,
    /// The folder of the blobs, where the layout has none of its own, such as that of a container
    /// runtime's content store: no symbolic link inside a layout is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs_host_path: Option<HostPath>,
}

/// A folder of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// Its absolute path.
    #[schemars(length(min = 1, max = 4096), regex(pattern = "^/"))]
    pub path: String,
}

/// Bounds for what clients do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryLimits {
    /// Largest blob, such as `10Gi` or `500M`. None: as large as the storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes())]
    pub blob_size: Option<String>,
    /// How many uploads may be open at once: 1 to 1000000, 10000 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), extend("format" = "int32"))]
    pub open_uploads: Option<u32>,
    /// How long an upload without progress is kept: `1m` to `720h`, `24h` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration("1m", "720h"))]
    pub upload_expiry: Option<String>,
    /// How many connections are served at once: 1 to 1000000, 4096 if not given. Further ones are
    /// refused with 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), extend("format" = "int32"))]
    pub connections: Option<u32>,
}
