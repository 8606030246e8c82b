//! Which tags of a repository, as people write it.

#![allow(unreachable_pub, reason = "KubeSchema expands a public struct")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;

/// Selects tags of a repository. A tag must match all of `regex`, `glob`, `semver` and `newerThan`
/// that are given; then `exclude` removes tags; then `latest` keeps the newest of the remaining ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.latestBy) || has(self.latest)")
    .message("has no effect without latest")
    .field_path(".latestBy"))]
pub struct TagSelect {
    /// Starts from every tag; the other filters still apply.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub all: bool,
    /// A regular expression that the whole tag matches, such as `v1\.[0-9]+`. At most 1000 letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub regex: Option<String>,
    /// A shell pattern that the whole tag matches: `*`, `?`, `[a-z]`, `{a,b}`. At most 1000 letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub glob: Option<String>,
    /// A range of versions: `>=1.2 <2`, `^1.2`, `~1.2.3`, `1.x`, `1.2 - 1.4`, `^1 || ^2`; `1.2`
    /// alone is every 1.2.x. Tags may begin with `v` and leave out minor and patch; other tags do
    /// not match. What follows a dash (`-rc.1`, `-alpine`) makes a pre-release, which only matches
    /// a range that names one of the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub semver: Option<String>,
    /// Only images created later: a date (`2026-01-31`, `2026-01-31T12:00:00Z`) or an age (`720h`,
    /// `30d`, `4w`). One request per tag that the other filters let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub newer_than: Option<String>,
    /// Shell patterns of tags to leave out, at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 1000)), extend("nullable" = true))]
    pub exclude: Vec<String>,
    /// How many to keep at most, the newest first: 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000), extend("format" = "int32"))]
    pub latest: Option<u32>,
    /// What makes a tag newer than another for `latest`: `semver` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_by: Option<LatestOrder>,
}

/// What makes one tag newer than another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LatestOrder {
    /// The higher version. Tags that are not versions are left out, pre-releases where there is a
    /// release.
    #[default]
    Semver,
    /// The later time of creation.
    Creation,
    /// A value that this version does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
