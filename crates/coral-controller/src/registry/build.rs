//! The objects of a Registry: pure builders.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::{AccessLog, LogFormat, LogLevel, RegistryLog, names};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{ByteString, DeepMerge as _};
use kube::{Resource as _, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::Registry;
use crate::ObjectKey;
use crate::ca::certificate::{Names, Pair};
use crate::ca::{service_names, tls_secret};

/// The labels of all objects that are made for Registries. `instance` names one Registry.
pub(super) const SELECTOR: &str =
    "app.kubernetes.io/name=coral-registry,app.kubernetes.io/managed-by=coral";
/// The user that may push.
pub(super) const PUSH_USER: &str = "coral";
/// Annotation of the Secret of users: the hash of the password that it was made from.
pub(super) const PASSWORD_HASH: &str = "registry.stvz.io/password-sha256";
/// Annotation of the pod: the generation that it should have loaded. A change makes kubelet renew
/// its volumes at once.
pub(super) const CONFIG_HASH: &str = "registry.stvz.io/config";
/// The key of the ConfigMap of public repositories.
pub(super) const PUBLIC_KEY: &str = "public.json";
/// The public keys of tokens in the same ConfigMap.
pub(super) const TOKEN_KEYS_KEY: &str = "tokens.pem";
/// The key of the Secret of users.
pub(super) const HTPASSWD_KEY: &str = "htpasswd";
const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";
/// Most public repositories of a Registry.
const MOST_PUBLIC: usize = 20_000;
/// A ConfigMap may have 1 MiB, its metadata included.
const MOST_PUBLIC_BYTES: usize = 900 * 1024;
/// The target of the registry's access log.
const ACCESS_LOG: &str = "coral_registry::access";
/// The group and user of the image's process.
const USER: i64 = 65532;

/// The names of what belongs to one Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnedNames {
    /// Service and StatefulSet have the name of the Registry.
    pub(super) key: ObjectKey,
    pub(super) tls: ObjectKey,
    pub(super) users: ObjectKey,
    pub(super) push: ObjectKey,
    pub(super) public: ObjectKey,
    pub(super) pod: ObjectKey,
}

impl OwnedNames {
    pub(super) fn for_registry(key: &ObjectKey) -> Self {
        let with = |end: &str| ObjectKey::new(&key.namespace, format!("{}-{end}", key.name));
        Self {
            tls: with("tls"),
            users: with("auth"),
            push: with("push"),
            public: with("public"),
            pod: with("0"),
            key: key.clone(),
        }
    }
}

/// Builds the objects of one Registry.
pub(super) struct Builder<'a> {
    registry: &'a Registry,
    key: ObjectKey,
}

impl<'a> Builder<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self {
            key: ObjectKey::from_object(registry),
            registry,
        }
    }

    /// The host in references: `NAME.NAMESPACE.svc:5000`.
    pub(super) fn host(&self) -> String {
        names::registry_host(&self.key.namespace, &self.key.name)
    }

    /// Labels and owner of everything that is made.
    pub(super) fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.key.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let labels = [
            ("app.kubernetes.io/name", "coral-registry"),
            ("app.kubernetes.io/instance", self.key.name.as_str()),
            ("app.kubernetes.io/managed-by", "coral"),
        ];
        labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// Without `blockOwnerDeletion`, which would need a right on the Registry's finalizers.
    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: Registry::api_version(&()).into_owned(),
            kind: Registry::kind(&()).into_owned(),
            name: self.key.name.clone(),
            uid: self.registry.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    pub(super) fn service(&self) -> Value {
        json!({
            "metadata": self.metadata(&self.key.name),
            "spec": {
                "type": "ClusterIP",
                "selector": self.labels(),
                "ports": [{
                    "name": "https", "port": names::REGISTRY_PORT, "protocol": "TCP",
                    "targetPort": "https",
                }],
            },
        })
    }

    /// The names of the certificate: those of the Service, and its address, which is what nodes
    /// connect to.
    pub(super) fn certificate_names(&self, cluster_ip: std::net::IpAddr) -> Names {
        let mut names = service_names(&self.key.name, &self.key.namespace);
        names.addresses = BTreeSet::from([cluster_ip]);
        names
    }

    pub(super) fn tls(&self, pair: &Pair, bundle: &str) -> Secret {
        let owned = OwnedNames::for_registry(&self.key);
        let mut secret = tls_secret(&owned.tls, pair, bundle);
        secret.metadata.merge_from(self.metadata(&owned.tls.name));
        secret
    }

    /// The users of the registry: one line of htpasswd.
    pub(super) fn users(&self, hash: &str, password_hash: &str) -> Secret {
        let owned = OwnedNames::for_registry(&self.key);
        let mut metadata = self.metadata(&owned.users.name);
        let annotation = (PASSWORD_HASH.to_owned(), password_hash.to_owned());
        metadata.annotations = Some([annotation].into());
        let line = format!("{PUSH_USER}:{hash}\n");
        Secret {
            metadata,
            type_: Some("Opaque".to_owned()),
            data: Some([(HTPASSWD_KEY.to_owned(), ByteString(line.into_bytes()))].into()),
            ..Secret::default()
        }
    }

    /// The credential for pushing, as a pull secret: for the Registry's name and its address.
    pub(super) fn push(&self, password: &str, cluster_ip: std::net::IpAddr) -> Secret {
        let owned = OwnedNames::for_registry(&self.key);
        let login = json!({"username": PUSH_USER, "password": password, "auth": auth(password)});
        let config = json!({"auths": {self.host(): login, endpoint_host(cluster_ip): login}});
        let config = ByteString(config.to_string().into_bytes());
        Secret {
            metadata: self.metadata(&owned.push.name),
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            data: Some([(DOCKER_CONFIG_KEY.to_owned(), config)].into()),
            ..Secret::default()
        }
    }

    /// The ConfigMap that the registry follows. It holds nothing secret: the public paths, and the
    /// public keys whose tokens the registry accepts, if they are known.
    pub(super) fn public(&self, list: &PublicList, token_keys: Option<&str>) -> Value {
        let owned = OwnedNames::for_registry(&self.key);
        let mut map = json!({
            "metadata": self.metadata(&owned.public.name),
            "data": {PUBLIC_KEY: list.text()},
        });
        if let Some(keys) = token_keys {
            map["data"][TOKEN_KEYS_KEY] = json!(keys);
        }
        map
    }

    pub(super) fn stateful_set(&self, image: &str, cluster_ip: std::net::IpAddr) -> Value {
        let mut set = json!({
            "metadata": self.metadata(&self.key.name),
            "spec": {
                "replicas": 1,
                "serviceName": self.key.name,
                "selector": {"matchLabels": self.labels()},
                "template": {
                    "metadata": {"labels": self.labels()},
                    "spec": self.pod(image, cluster_ip),
                },
            },
        });
        if let Some(claim) = self.claim() {
            set["spec"]["volumeClaimTemplates"] = json!([claim]);
        }
        set
    }

    /// A pod that Pod Security's `restricted` admits.
    fn pod(&self, image: &str, cluster_ip: std::net::IpAddr) -> Value {
        json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 30,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            // A node whose images are still missing may need this registry to get them.
            "tolerations": [{"key": names::STARTUP_TAINT, "operator": "Exists"}],
            "containers": [{
                "name": "registry",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": self.arguments(cluster_ip),
                "ports": [{"name": "https", "containerPort": names::REGISTRY_PORT, "protocol": "TCP"}],
                "readinessProbe": probe("/readyz", 2, 3),
                "livenessProbe": probe("/healthz", 10, 6),
                "resources": {
                    "requests": {"cpu": "50m", "memory": "64Mi"},
                    "limits": {"memory": "512Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "tls", "mountPath": "/tls", "readOnly": true},
                    {"name": "auth", "mountPath": "/auth", "readOnly": true},
                    {"name": "public", "mountPath": "/public", "readOnly": true},
                ],
            }],
            "volumes": self.volumes(),
        })
    }

    fn arguments(&self, cluster_ip: std::net::IpAddr) -> Vec<String> {
        let port = names::REGISTRY_PORT;
        let fixed = [
            "registry",
            "serve",
            &format!("--listen=0.0.0.0:{port}"),
            "--storage=/data",
            "--tls-cert=/tls/tls.crt",
            "--tls-key=/tls/tls.key",
            "--htpasswd=/auth/htpasswd",
            &format!("--allow-push={PUSH_USER}=**"),
            &format!("--public=/public/{PUBLIC_KEY}"),
            &format!("--token-keys=/public/{TOKEN_KEYS_KEY}"),
            &format!("--host={}", self.host()),
            &format!("--host={}", endpoint_host(cluster_ip)),
        ]
        .map(str::to_owned);
        let limits = self.registry.spec.limits.as_ref();
        let flag = |name: &str, value: Option<String>| value.map(|it| format!("--{name}={it}"));
        let limits = limits.into_iter().flat_map(|limits| {
            [
                flag("max-blob-size", limits.blob_size.clone()),
                flag(
                    "max-open-uploads",
                    limits.open_uploads.map(|n| n.to_string()),
                ),
                flag("upload-expiry", limits.upload_expiry.clone()),
                flag("max-connections", limits.connections.map(|n| n.to_string())),
            ]
        });
        let collection = self.registry.spec.gc.clone().unwrap_or_default();
        let collection = [
            flag("gc-interval", collection.interval),
            flag("gc-grace", collection.grace),
            flag("gc-untagged", collection.untagged),
        ];
        let scrub = self.registry.spec.scrub.clone().unwrap_or_default();
        let scrub = [
            flag("scrub-interval", scrub.interval),
            flag("scrub-bandwidth", scrub.bandwidth),
        ];
        let storage = self.registry.spec.storage.clone().unwrap_or_default();
        let folder = storage.empty_dir.and_then(|folder| folder.size_limit);
        let space = [
            flag(
                "storage-limit",
                storage.limit.or(folder.and_then(|it| below(&it))),
            ),
            flag("storage-min-free", storage.min_free),
        ];
        let log = log_flags(self.registry.spec.log.unwrap_or_default());
        let given = limits.chain(collection).chain(scrub).chain(space).flatten();
        fixed.into_iter().chain(given).chain(log).collect()
    }

    fn volumes(&self) -> Value {
        let owned = OwnedNames::for_registry(&self.key);
        let mut volumes = vec![
            json!({"name": "tls", "secret": {"secretName": owned.tls.name}}),
            json!({"name": "auth", "secret": {"secretName": owned.users.name}}),
            json!({"name": "public", "configMap": {"name": owned.public.name}}),
        ];
        let storage = self.registry.spec.storage.as_ref();
        if let Some(folder) = storage.and_then(|storage| storage.empty_dir.as_ref()) {
            let mut source = json!({});
            if let Some(limit) = &folder.size_limit {
                source["sizeLimit"] = json!(limit);
            }
            volumes.insert(0, json!({"name": "data", "emptyDir": source}));
        }
        json!(volumes)
    }

    /// The claim of the data. It has no owner, so that it stays when the Registry is deleted.
    fn claim(&self) -> Option<Value> {
        let storage = self.registry.spec.storage.clone().unwrap_or_default();
        if storage.empty_dir.is_some() {
            return None;
        }
        let size = storage.size.unwrap_or_else(|| "10Gi".to_owned());
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        });
        if let Some(class) = storage.storage_class_name {
            spec["storageClassName"] = json!(class);
        }
        Some(json!({"metadata": {"name": "data", "labels": self.labels()}, "spec": spec}))
    }
}

/// Nine tenths of the size of an `emptyDir`, in bytes: over its size the pod would be evicted, and all
/// that is stored be lost.
fn below(size: &str) -> Option<String> {
    let size = coral_api::Quantity::parse(size).ok()?.get();
    Some((size / 10 * 9).to_string())
}

/// The log settings of a registry in a cluster. Changes are logged unless the Registry says
/// otherwise, so that there is a record of who changed what.
fn log_flags(log: RegistryLog) -> [String; 2] {
    let level = match log.level.unwrap_or_default() {
        LogLevel::Error => "error",
        LogLevel::Warn | LogLevel::Unknown => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    let access = match log.access.unwrap_or_default() {
        AccessLog::Off => "off",
        AccessLog::Changes | AccessLog::Unknown => "info",
        AccessLog::All => "debug",
    };
    let format = match log.format.unwrap_or_default() {
        LogFormat::Text | LogFormat::Unknown => "text",
        LogFormat::Json => "json",
    };
    [
        format!("--log={level},{ACCESS_LOG}={access}"),
        format!("--log-format={format}"),
    ]
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "https", "scheme": "HTTPS"},
        "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures,
    })
}

/// `IP:5000`, an IPv6 address in brackets.
pub(super) fn endpoint_host(address: std::net::IpAddr) -> String {
    std::net::SocketAddr::new(address, names::REGISTRY_PORT).to_string()
}

fn auth(password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{PUSH_USER}:{password}"))
}

/// The password in a push Secret, if it is one that [`Builder::push`] made for this host.
pub(super) fn password_of(secret: &Secret, host: &str) -> Option<String> {
    let config = secret.data.as_ref()?.get(DOCKER_CONFIG_KEY)?;
    let config: Value = serde_json::from_slice(&config.0).ok()?;
    let login = config.get("auths")?.get(host)?;
    if login.get("username")?.as_str() != Some(PUSH_USER) {
        return None;
    }
    Some(login.get("password")?.as_str()?.to_owned())
}

/// The public repositories of a Registry, as the Registry reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicList {
    /// Grows with every change.
    pub(super) generation: i64,
    /// Sorted.
    pub(super) paths: BTreeSet<String>,
}

#[derive(Serialize, serde::Deserialize)]
struct PublicJson {
    generation: i64,
    paths: BTreeSet<String>,
}

impl PublicList {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let PublicJson { generation, paths } = serde_json::from_str(text).ok()?;
        Some(Self { generation, paths })
    }

    fn text(&self) -> String {
        json!({"generation": self.generation, "paths": self.paths}).to_string()
    }
}

/// The paths that fit into a Registry's list, and how many are left out. Those of mirrors come first:
/// builds get the remaining room, whatever the repositories are called.
pub(super) fn bounded(
    mirrored: &BTreeSet<String>,
    built: &BTreeSet<String>,
) -> (BTreeSet<String>, usize) {
    let (mut kept, mut bytes, mut left_out) = (BTreeSet::new(), 0, 0);
    for path in mirrored.iter().chain(built.difference(mirrored)) {
        // Quotes and comma.
        let size = path.len() + 3;
        if kept.len() < MOST_PUBLIC && bytes + size <= MOST_PUBLIC_BYTES {
            bytes += size;
            kept.insert(path.clone());
        } else {
            left_out += 1;
        }
    }
    (kept, left_out)
}

/// Whether everything in `desired` is in `actual`, which may have more fields (defaults, fields of
/// others). Lists are compared item by item.
pub(super) fn covers(actual: &Value, desired: &Value) -> bool {
    match (actual, desired) {
        (Value::Object(actual), Value::Object(desired)) => desired.iter().all(|(key, desired)| {
            let missing =
                desired.is_null() || desired.as_object().is_some_and(serde_json::Map::is_empty);
            actual
                .get(key)
                .map_or(missing, |actual| covers(actual, desired))
        }),
        (Value::Array(actual), Value::Array(desired)) => {
            actual.len() == desired.len() && actual.iter().zip(desired).all(|(a, d)| covers(a, d))
        }
        (actual, desired) => actual == desired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_logged_unless_the_registry_says_otherwise() {
        let flags = |log: Value| log_flags(serde_json::from_value(log).unwrap()).join(" ");
        let (plain, target) = (flags(json!({})), "coral_registry::access");
        assert_eq!(plain, format!("--log=warn,{target}=info --log-format=text"));
        let all = flags(json!({"level": "Debug", "access": "All", "format": "Json"}));
        assert_eq!(all, format!("--log=debug,{target}=debug --log-format=json"));
        let off = flags(json!({"level": "Info", "access": "Off"}));
        assert_eq!(off, format!("--log=info,{target}=off --log-format=text"));
        let newer = flags(json!({"level": "Trace", "access": "Reads", "format": "Logfmt"}));
        assert_eq!(newer, plain);
    }
}
