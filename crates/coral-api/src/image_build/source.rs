//! Where the source of a build comes from, as it is typed.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::object_reference::LocalObjectReference;
use crate::rules;

/// Where the source comes from: exactly one of `git`, `stream`, `image`, `configMap` and `pvc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.git), has(self.stream), has(self.image), has(self.configMap), has(self.pvc)]\
     .filter(given, given).size() == 1"
).message("needs exactly one of git, stream, image, configMap and pvc"))]
pub struct BuildSource {
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
    /// A folder that `coral build` sends to the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamSource>,
    /// A source that was packed as an OCI artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// The files of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// The folder of a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<VolumeSource>,
    /// Bytes that the source may have, such as `500M`; at least `1Mi`, `2Gi` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes_of_at_least("1Mi"))]
    pub limit: Option<String>,
}

/// A git repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::git_ssh_needs_secret())]
pub struct GitSource {
    /// The repository: `https://host/path`, or `http://host/path` without TLS, and no password; or
    /// over SSH `ssh://user@host:port/path` or `user@host:path`, the user `git` if the first form
    /// has none.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = Rule::new("!self.matches('^[a-z+]+://[^/]*:[^/]*@') && !self.matches('^https?://[^/]*@')")
            .message("holds a user or password: put them into a Secret and name it in secretRef"),
        validation = rules::git_url()
    )]
    pub url: String,
    /// Branch, tag, full name of a ref or commit: the default branch if not given.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_./+@#-]*$")
    )]
    pub reference: Option<String>,
    /// The folder of the repository that is the source: all of it if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::path_within())]
    pub path: Option<String>,
    /// Whether submodules are fetched too, each at its recorded commit, from `https://` URLs and
    /// from those relative to the repository's; over SSH from its own server alone. No other
    /// server gets the credential.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(extend("nullable" = true))]
    pub submodules: bool,
    /// Secret with the credential, in the object's own namespace: `token`, or `username` and
    /// `password`; and with `ca.crt`, if a private authority has signed the server's certificate.
    /// For SSH `ssh-privatekey` without a passphrase and `known_hosts` with the server's host key,
    /// both needed. Only the step `fetch` sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

/// A folder that `coral build` sends to the run. There is nothing to say about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct StreamSource {}

/// A source that was packed as an OCI artifact: its layers are tar archives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The artifact: `registry.example/source/shop@sha256:…`.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
    /// Secret with the credential, in the object's own namespace (type
    /// `kubernetes.io/dockerconfigjson`). Only the step `fetch` sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

/// The files of a ConfigMap: each key is a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Its name, in the object's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The folder of a volume. It is copied, so a run does not see later changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSource {
    /// Name of a PersistentVolumeClaim in the object's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The folder of the volume that is the source: all of it if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::path_within())]
    pub path: Option<String>,
}
