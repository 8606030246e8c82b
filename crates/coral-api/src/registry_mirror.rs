//! The kind RegistryMirror: these images, in that registry.
//!
//! Two stages: the types of this file are what was typed; [`MirrorSettings`] is what it means,
//! made by [`RegistryMirror::settings`], with every reference parsed and every default filled in.

mod quantity;
mod settings;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{LocalObjectReference, ObjectMeta};
use crate::nullable;
use crate::selection::TagSelect;

pub use settings::{
    Cadence, MirrorLimitSettings, MirrorSettings, PruneSettings, RegistryAddress,
    RepositorySettings, RetrySettings, Target, VerifySettings,
};
pub(crate) use settings::{object_name, retry};

/// A mirror: images from outside, copied into a registry and kept fresh there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryMirror {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wished for.
    pub spec: RegistryMirrorSpec,
}

/// What a mirror copies, from where, to where, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryMirrorSpec {
    /// The registry that images are copied to: either `name` alone, or `host` and what belongs to it.
    pub registry: RegistryTarget,
    /// What is copied: 1 to 1000 repositories.
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
    #[schemars(length(max = 100))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// When to look again: five cron fields, minute first, in UTC (`0 3 * * *` is 03:00 every
    /// day), or `@hourly`, `@daily`, `@weekly`, `@monthly`. In place of `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub schedule: Option<String>,
    /// How often to look again: hours, minutes and seconds, such as `1h30m`. At least `1s`,
    /// `1h` if not given. In place of `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub interval: Option<String>,
    /// How often the blobs of mirrored images are looked for at the destination too, and copied
    /// again where they are gone or broken: a duration of at least `1s`, `24h` if not given, `0`
    /// for never. Images have their turns spread over that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub verify: Option<String>,
    /// How `verify` looks at a blob: `Size` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_by: Option<VerifyBy>,
    /// What to do when a copy fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What happens to tags at the destination that are no longer selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
    /// How much this mirror may do at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<MirrorLimits>,
    /// Copies nothing while true.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub suspend: bool,
}

/// A registry to copy to: the `name` of a Registry object, or a `host` with port, TLS and
/// credentials. With `coral up`, a `name` is the registry it runs itself: that of the Registry
/// document, or any name where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryTarget {
    /// Name of a Registry object in the mirror's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Host name or address of the registry, without scheme and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub host: Option<String>,
    /// Port of the registry: 1 to 65535, 5000 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Whether the registry's certificate is verified: `true` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
    /// Certificates of the authority that signed the registry's certificate, as PEM text. The
    /// system's authorities stay trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca: Option<String>,
    /// Secret with the credential for pushing, in the mirror's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

/// One repository to copy from, and what of it. At least one of `tags`, `digests` and `select`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorRepository {
    /// The repository, without tag: `debian`, `quay.io/prometheus/node-exporter`,
    /// `localhost:5001/a/b`. Docker's short names are understood.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Tags to copy, at most 100. They are taken as they are: the repository is not listed.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100))]
    pub tags: Vec<String>,
    /// Digests to copy, at most 100, such as `sha256:` with 64 hexadecimal digits.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100))]
    pub digests: Vec<String>,
    /// Which of the repository's tags to copy beside `tags` and `digests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<TagSelect>,
    /// The older way to write `select: {all: true}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_selection: Option<ListSelection>,
    /// Platforms to copy, such as `linux/amd64` or `linux/arm/v7`, or patterns of them, such as
    /// `linux/*` or `linux/arm*`; at most 32. None: all of them. The index is copied byte for byte
    /// in any case: an image whose index names platforms that were left out is called sparse.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 32))]
    pub platforms: Vec<String>,
    /// Whether signatures, attestations and other artifacts that refer to an image are copied
    /// with it: `Copy` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrers: Option<Referrers>,
}

/// Which tags of a repository, in the older spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ListSelection {
    /// Every tag.
    All,
}

/// What happens to artifacts that refer to an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Referrers {
    /// They are copied with the image.
    #[default]
    Copy,
    /// They are left where they are.
    Skip,
}

/// How a blob at the destination is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerifyBy {
    /// One HEAD: it is there, with the size that the manifest says.
    #[default]
    Size,
    /// It is read, and its bytes hash to its digest.
    Content,
}

/// What happens to tags at the destination that are no longer selected. Only repositories that
/// this mirror names are looked at, and no tag goes that another mirror wants. Manifests stay
/// under their digests; whether the registry clears those away is its own affair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prune {
    /// Whether such tags are deleted.
    #[serde(default, deserialize_with = "nullable")]
    pub enabled: bool,
    /// Shell patterns of tags that are never deleted, such as `*-lts`; at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 1000)))]
    pub keep: Vec<String>,
    /// Only says what would be deleted.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub dry_run: bool,
}

/// How much a mirror may do at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorLimits {
    /// Bytes of blobs a second, over all its copies, as a quantity: `500k`, `20M`, `20Mi`; at
    /// least `64k`. No limit if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub bandwidth: Option<String>,
    /// Images copied at the same time: 1 to 100. As many as the process has workers if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub copies: Option<u32>,
}

/// What to do when a copy fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Failures in a row after which an image counts as in error: 1 to 100, 5 if not given. Even
    /// then a passing cause is tried again every `maxBackoff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub limit: Option<u32>,
    /// Longest wait between two attempts: `100ms` to `10m`, `10m` if not given. Waits begin short
    /// and double, with jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub max_backoff: Option<String>,
}
