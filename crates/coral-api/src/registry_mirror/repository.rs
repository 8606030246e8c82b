//! What of one repository is copied, as it is typed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::rules;
use crate::selection::TagSelect;

/// One repository to copy from, and what of it. At least one of `tags`, `digests` and `select`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.tags) && size(self.tags) > 0) || (has(self.digests) && size(self.digests) > 0) \
         || has(self.select) || has(self.listSelection)"
    ).message("names nothing to copy: give tags, digests or select"),
    validation = Rule::new(
        "!has(self.select) || has(self.listSelection) || (has(self.select.all) && self.select.all) \
         || has(self.select.regex) || has(self.select.glob) || has(self.select.semver) \
         || has(self.select.newerThan) || has(self.select.latest)"
    ).message(
        "nothing is selected: give regex, glob, semver, newerThan or latest, or all: true for \
         every tag"
    ).field_path(".select"),
    validation = rules::tls_options_need_tls()
)]
pub struct MirrorRepository {
    /// The repository, without tag: `debian`, `quay.io/prometheus/node-exporter`,
    /// `localhost:5001/a/b`. Docker's short names are expanded.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// Tags to copy, at most 100. They are copied as named, without listing the repository.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$")),
        extend("nullable" = true)
    )]
    pub tags: Vec<String>,
    /// Digests to copy, at most 100, such as `sha256:` with 64 hexadecimal digits.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        length(max = 100),
        inner(
            length(min = 1, max = 135),
            regex(pattern = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")
        ),
        extend("nullable" = true)
    )]
    pub digests: Vec<String>,
    /// Selects tags of the repository, in addition to `tags` and `digests`. A tag must match all of
    /// `regex`, `glob`, `semver` and `newerThan` that are given; then `exclude` removes tags; then
    /// `latest` keeps the newest of the remaining ones.
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
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 122)),
        extend("nullable" = true)
    )]
    pub platforms: Vec<String>,
    /// Whether foreign layers are copied, where the source has them: `false` if not given. These are
    /// layers that must not be distributed, such as those of Windows base images: nodes fetch them
    /// from the URLs that the manifest names. An image without them is called sparse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_layers: Option<bool>,
    /// Whether signatures, attestations and other artifacts that refer to an image are copied
    /// with it: `Copy` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrers: Option<ReferrersPolicy>,
    /// Whether the certificate of the source's registry is verified: `true` if not given. The
    /// mirror's other repositories on the same host must have the same value or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
    /// Certificates of the authority that signed the certificate of the source's registry, as PEM
    /// text of at most 12000 letters. They are trusted in addition to those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The rule about certificates is a pattern here: in a thousand repositories, CEL's `contains`
    // would cost more than the API server allows.
    #[schemars(length(max = 12000), regex(pattern = "-----BEGIN CERTIFICATE-----"))]
    #[x_kube(validation = rules::no_private_key())]
    pub ca: Option<String>,
    /// Whether to use plain HTTP for the source's registry: `false` if not given.
    #[serde(default, rename = "plainHTTP", skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<bool>,
}

/// Which tags of a repository, in the older spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ListSelection {
    /// Every tag.
    All,
    /// A value that this version does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What happens to artifacts that refer to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReferrersPolicy {
    /// They are copied with the image.
    Copy,
    /// They are left where they are.
    Skip,
    /// A value that this version does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
