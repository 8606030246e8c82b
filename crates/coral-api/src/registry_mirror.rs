//! The kind RegistryMirror: these images, in that registry.
//!
//! Two stages: the types of this file are what was typed, in a file or in a cluster;
//! [`MirrorSettings`] is what it means, made by [`RegistryMirror::settings`], with every reference
//! parsed and every default filled in.
//!
//! The types take unknown fields and values, because a cluster may hold objects of a newer
//! version and one of them must not hide the others. The reader of files is strict, and so is the
//! API server with field validation.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema expands a second public struct, and printer columns repeat their types"
)]

mod repository;
mod settings;
mod status;
mod upkeep;

use coral_image::Digest;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::label_selector::LabelSelector;
use crate::nullable;
use crate::object_reference::LocalObjectReference;
use crate::rules;

pub use repository::{ListSelection, MirrorRepository, ReferrersPolicy};
pub use settings::{
    Cadence, Drift, MirrorLimitSettings, MirrorSettings, PruneSettings, Referrers, RegistryAddress,
    RepositorySettings, RetrySettings, Target, TransportSettings, VerifyBy, VerifySettings,
};
pub(crate) use settings::{object_name, object_names, retry};
pub use status::{
    MirrorFailure, MirroredRepository, PruningStatus, RegistryMirrorStatus, Visibility,
};
pub use upkeep::{DriftPolicy, MirrorLimits, Prune, Retry, SourceGonePolicy, VerifyMethod};

/// What a mirror copies, from where, to where, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "stvz.io",
    version = "v1",
    kind = "RegistryMirror",
    plural = "registrymirrors",
    namespaced,
    derive = "PartialEq",
    status = "RegistryMirrorStatus",
    shortname = "rm",
    category = "coral",
    doc = "A mirror: images from outside, copied into a registry and kept fresh there.",
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
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desired"),
    printcolumn(name = "Mirrored", type_ = "integer", json_path = ".status.mirrored"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "Last-Sync", type_ = "date", json_path = ".status.lastSync"),
    printcolumn(
        name = "Pending",
        type_ = "integer",
        priority = 1,
        json_path = ".status.pending"
    ),
    printcolumn(
        name = "Bytes",
        type_ = "integer",
        priority = 1,
        json_path = ".status.bytesCopied"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.schedule) || !has(self.interval)")
    .message("has both schedule and interval: give one of them"))]
pub struct RegistryMirrorSpec {
    /// The registry that images are copied to: the `name` of a Registry object, or a `host` with
    /// port, TLS and credential. With `coral up`, a `name` is the registry it runs itself: that of
    /// the Registry document, or any name where there is none.
    pub registry: RegistryTarget,
    /// Repositories to copy: 1 to 1000.
    #[schemars(length(min = 1, max = 1000))]
    pub repositories: Vec<MirrorRepository>,
    /// Secrets with the credentials of the sources (type `kubernetes.io/dockerconfigjson` or
    /// `kubernetes.io/dockercfg`), in the mirror's own namespace. None: the user's Docker
    /// configuration without a cluster, anonymous access with one.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// When passes begin: five cron fields, minute first, in UTC (`0 3 * * *` is 03:00 every day),
    /// or `@hourly`, `@daily`, `@weekly`, `@monthly`. In place of `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub schedule: Option<String>,
    /// Time between two passes: hours, minutes and seconds, such as `1h30m`. At least `1s`, `1h` if
    /// not given. In place of `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration_of_at_least("1s"))]
    pub interval: Option<String>,
    /// How often each mirrored image is verified at the destination: missing or damaged blobs are
    /// copied again. A duration of at least `1s`, `24h` if not given, `0` for never. The images are
    /// verified one after the other, spread over that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration_or_never("1s"))]
    pub verify: Option<String>,
    /// How `verify` checks a blob: `Size` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_by: Option<VerifyMethod>,
    /// What to do when a copy fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What happens to tags at the destination that are no longer selected. Pruning is limited to
    /// the repositories that this mirror names, and keeps tags that another mirror selects.
    /// Manifests stay available by digest until the registry's garbage collection deletes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
    /// What happens when a mirrored tag names another image at its source than before: `Follow` if
    /// not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_policy: Option<DriftPolicy>,
    /// Bandwidth and concurrency of this mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<MirrorLimits>,
    /// Namespaces, by their labels, whose pods may be pointed at what this mirror holds: `{}` is
    /// every namespace. Without it, only the mirror's own namespace. Applies only to mirrors in the
    /// namespace `coral-system` of a cluster: pods are pointed at a mirror of another tenant's
    /// namespace only if an InjectionPolicy names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<LabelSelector>,
    /// Copies nothing while true.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub suspend: bool,
}

impl RegistryMirrorSpec {
    /// Differs whenever `prune` differs in more than `dryRun`, which is set in order to look at what
    /// vanished; `None` while nothing is pruned. Other changes of a spec are made for other reasons,
    /// also by persons who know of no pause, and confirm no deletion.
    pub fn prune_digest(&self) -> Option<Digest> {
        let mut prune = self.prune.clone().filter(|prune| prune.enabled)?;
        prune.dry_run = false;
        Some(Digest::sha256(
            &serde_json::to_vec(&prune).unwrap_or_default(),
        ))
    }
}

/// A registry to copy to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.name) || !has(self.host)")
        .message("has both name and host: give one of them"),
    validation = Rule::new("has(self.name) || has(self.host)").message(
        "has neither name nor host: give the name of a Registry, or the host of any registry"
    ),
    validation = Rule::new(
        "!has(self.name) || (!has(self.port) && !has(self.prefix) && !has(self.tlsVerify) \
         && !has(self.ca) && !has(self.plainHTTP) && !has(self.secretRef))"
    ).message(
        "has name with port, prefix, tlsVerify, ca, plainHTTP or secretRef: those belong to host"
    ),
    validation = Rule::new("!has(self.port) || !has(self.host) || !self.host.matches(':[0-9]+$')")
        .message("has a port, and port is given too: give one of them")
        .field_path(".host"),
    validation = rules::tls_options_need_tls()
)]
pub struct RegistryTarget {
    /// Name of a Registry object in the mirror's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Host name or address of the registry, without scheme and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260))]
    pub host: Option<String>,
    /// Port of the registry: 1 to 65535, 5000 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<u16>,
    /// Path below which all images of this mirror lie at the host, such as the project of a Harbor,
    /// the project and repository of an Artifact Registry, or the owner at ghcr.io: with
    /// `prefix: team/mirror`, `quay.io/a/b` is copied to `team/mirror/quay.io/a/b`. Components of a
    /// repository name with slashes between them. Nothing outside it is read, written or pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 200),
        regex(
            pattern = "^[a-z0-9]+((__|[._]|-+)[a-z0-9]+)*(/[a-z0-9]+((__|[._]|-+)[a-z0-9]+)*)*$"
        )
    )]
    pub prefix: Option<String>,
    /// Whether the registry's certificate is verified: `true` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
    /// Certificates of the authority that signed the registry's certificate, as PEM text. They are
    /// trusted in addition to those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    #[x_kube(validation = rules::certificates(), validation = rules::no_private_key())]
    pub ca: Option<String>,
    /// Whether to use plain HTTP for the registry: `false` if not given.
    #[serde(default, rename = "plainHTTP", skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<bool>,
    /// Secret with the credential for pushing, in the mirror's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}
