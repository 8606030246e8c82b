//! The Secrets that Coral reads: Docker credentials, certificates, users.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::metadata;

/// Type of a Secret with a Docker `config.json`.
const DOCKER_CONFIG_JSON: &str = "kubernetes.io/dockerconfigjson";
/// Type of a Secret with the older `.dockercfg`.
const DOCKER_CFG: &str = "kubernetes.io/dockercfg";
/// Type of a Secret with a certificate and its key.
const TLS: &str = "kubernetes.io/tls";
/// Their keys.
const TLS_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// A Secret. Its values cannot be printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// Its type.
    pub secret_type: Option<String>,
    /// Values by key, decoded from base64; `stringData` takes precedence over `data`.
    pub values: BTreeMap<String, SecretBytes>,
}

/// Bytes that nothing prints.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Wraps the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The Docker credentials of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// Their key: `.dockerconfigjson` or `.dockercfg`.
    pub key: &'static str,
    /// The JSON text.
    pub json: SecretBytes,
}

/// Why a Secret holds no Docker credentials. No value is ever quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not of a type that registries need.
    #[error(
        "secret {name:?} has type {found:?}: a pull secret is of type {DOCKER_CONFIG_JSON} with the key .dockerconfigjson (kubectl create secret docker-registry makes one)"
    )]
    Type {
        /// The secret.
        name: String,
        /// Its type.
        found: String,
    },
    /// The key is not there.
    #[error("secret {name:?} has no key {key}")]
    Missing {
        /// The secret.
        name: String,
        /// The key.
        key: &'static str,
    },
}

impl Secret {
    /// The key that the type of the Secret requires, if it is missing.
    pub(crate) fn missing_key(&self) -> Option<&'static str> {
        let key = match self.secret_type.as_deref() {
            Some(DOCKER_CONFIG_JSON) => ".dockerconfigjson",
            Some(DOCKER_CFG) => ".dockercfg",
            Some(TLS) => {
                let is_missing = |key: &&&str| !self.values.contains_key(**key);
                return TLS_KEYS.iter().find(is_missing).copied();
            }
            _ => return None,
        };
        (!self.values.contains_key(key)).then_some(key)
    }

    /// Certificate and key, as PEM texts.
    pub fn certificate(&self) -> Result<[&SecretBytes; 2], SecretError> {
        let [certificate, key] = TLS_KEYS;
        Ok([self.value(certificate)?, self.value(key)?])
    }

    /// The lines of users and hashes.
    pub fn htpasswd(&self) -> Result<&SecretBytes, SecretError> {
        self.value("htpasswd")
    }

    fn value(&self, key: &'static str) -> Result<&SecretBytes, SecretError> {
        self.values.get(key).ok_or_else(|| SecretError::Missing {
            name: metadata::name(&self.metadata).to_owned(),
            key,
        })
    }

    /// The Docker credentials it holds.
    pub fn docker_config(&self) -> Result<DockerConfig, SecretError> {
        let key = match self.secret_type.as_deref() {
            Some(DOCKER_CONFIG_JSON) => ".dockerconfigjson",
            Some(DOCKER_CFG) => ".dockercfg",
            None | Some("" | "Opaque") if self.values.contains_key(".dockerconfigjson") => {
                ".dockerconfigjson"
            }
            other => {
                let found = other.unwrap_or("Opaque").to_owned();
                return Err(SecretError::Type {
                    name: metadata::name(&self.metadata).to_owned(),
                    found,
                });
            }
        };
        let missing = || SecretError::Missing {
            name: metadata::name(&self.metadata).to_owned(),
            key,
        };
        let json = self.values.get(key).cloned().ok_or_else(missing)?;
        Ok(DockerConfig { key, json })
    }
}
