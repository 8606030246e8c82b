//! What a Registry means: every text parsed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use coral_image::RepositoryPath;

use super::{
    CollectionSettings, HostPath, ImageVolume, PullRule, PushRule, Registry, RegistryAuth,
    RegistryBuilds, RegistryLimits, RegistryStorage, ScrubSettings, collection, scrub,
};
use crate::duration::GoDuration;
use crate::label_selector::LabelSelector;
use crate::problem::{Problem, Problems};
use crate::quantity::Quantity;
use crate::registry_mirror::{object_name, object_names};

const MIN_EXPIRY: Duration = Duration::from_mins(1);
const MAX_EXPIRY: Duration = Duration::from_hours(720);
const MAX_RULES: usize = 100;
const MAX_USERS: usize = 1000;
const MAX_PATHS: usize = 100;
const MAX_VOLUMES: usize = 100;
const MAX_COUNT: u32 = 1_000_000;
const DEFAULT_STORAGE: &str = "10Gi";
/// The smallest volume.
const MIN_STORAGE: u64 = 1 << 20;

/// A folder with an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutSettings {
    /// The repository that it is served as.
    pub repository: RepositoryPath,
    /// The folder.
    pub folder: PathBuf,
    /// The folder of its blobs, if it has none of its own.
    pub blobs: Option<PathBuf>,
}

/// What a registry means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Name of the Secret with the certificate; none: no TLS.
    pub tls_secret: Option<String>,
    /// Who may do what; none: every client may do everything.
    pub auth: Option<AuthSettings>,
    /// Whether only its mirrors may write.
    pub read_only: bool,
    /// Folders with OCI layouts.
    pub layouts: Vec<LayoutSettings>,
    /// Bounds for what clients do.
    pub limits: LimitSettings,
    /// When content is deleted that nothing refers to.
    pub collection: CollectionSettings,
    /// How content is found that the disk has damaged.
    pub scrub: ScrubSettings,
    /// Where blobs are kept in a cluster.
    pub storage: StorageSettings,
    /// How many bytes are stored.
    pub space: SpaceSettings,
    /// Which namespaces may build into it beside its own; `None` is no other.
    pub builds: Option<LabelSelector>,
}

/// Where a registry in a cluster keeps its blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageSettings {
    /// A volume claim.
    Claim {
        /// Its size, as a quantity.
        size: String,
        /// Its class; the cluster's default one if there is none.
        class: Option<String>,
    },
    /// A folder that lives as long as the pod.
    EmptyDir {
        /// Its size limit, as a quantity.
        limit: Option<String>,
    },
}

/// How many bytes a registry stores; none: its own bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceSettings {
    /// Bytes of content and open uploads.
    pub limit: Option<u64>,
    /// Bytes of the disk that stay free.
    pub min_free: Option<u64>,
}

/// Users, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// Name of the Secret with the users.
    pub htpasswd_secret: String,
    /// Who may read what; none: every user everything.
    pub pull: Option<Vec<GrantSettings>>,
    /// Who may write what; none: every user everywhere.
    pub push: Option<Vec<GrantSettings>>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSettings {
    /// Its path in the object: `spec.auth.push[0]`.
    pub path: String,
    /// For whom it is.
    pub grantees: Grantees,
    /// Patterns of repository paths; none: every repository.
    pub patterns: Vec<String>,
}

/// For whom a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grantees {
    /// Every client, with or without a login.
    Anybody,
    /// Every user.
    EveryUser,
    /// These users.
    Users(BTreeSet<String>),
}

/// Bounds for what clients do; none: the registry's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Largest blob, in bytes.
    pub blob_bytes: Option<u64>,
    /// Open uploads.
    pub open_uploads: Option<u32>,
    /// How long an upload without progress is kept.
    pub upload_expiry: Option<Duration>,
    /// Connections.
    pub connections: Option<u32>,
}

impl Registry {
    /// What the registry means, or everything that is wrong with it.
    pub fn settings(&self) -> Result<RegistrySettings, Vec<Problem>> {
        let mut problems = Problems::default();
        let spec = &self.spec;
        object_names(&mut problems, &self.metadata);
        let tls_secret = spec.tls.as_ref().map(|tls| tls.secret_name.clone());
        if let Some(name) = &tls_secret {
            object_name(&mut problems, "spec.tls.secretName", name);
        }
        let settings = RegistrySettings {
            tls_secret,
            auth: spec.auth.as_ref().map(|auth| settings(&mut problems, auth)),
            read_only: spec.read_only,
            layouts: layouts(&mut problems, &spec.image_volumes),
            limits: limits(&mut problems, spec.limits.as_ref()),
            collection: collection::settings(&mut problems, spec.gc.as_ref()),
            scrub: scrub::settings(&mut problems, spec.scrub.as_ref()),
            storage: storage(&mut problems, spec.storage.as_ref()),
            space: space(&mut problems, spec.storage.as_ref()),
            builds: builds(&mut problems, spec.builds.as_ref()),
        };
        problems.into_result(Some(settings))
    }

    /// Everything that is wrong with the registry; nothing, if it can be used.
    pub fn validate(&self) -> Vec<Problem> {
        self.settings().err().unwrap_or_default()
    }
}

fn settings(problems: &mut Problems, auth: &RegistryAuth) -> AuthSettings {
    let secret = auth.htpasswd.secret_name.clone();
    object_name(problems, "spec.auth.htpasswd.secretName", &secret);
    let pull = auth.pull.as_ref().map(|rules| {
        let path = "spec.auth.pull";
        bounded_rules(problems, path, rules.len());
        let rules = rules.iter().enumerate();
        rules
            .map(|(i, rule)| pull_grant(problems, format!("{path}[{i}]"), rule))
            .collect()
    });
    let push = auth.push.as_ref().map(|rules| {
        let path = "spec.auth.push";
        bounded_rules(problems, path, rules.len());
        let rules = rules.iter().enumerate();
        rules
            .map(|(i, rule)| push_grant(problems, format!("{path}[{i}]"), rule))
            .collect()
    });
    AuthSettings {
        htpasswd_secret: secret,
        pull,
        push,
    }
}

/// An empty list could be read as no user or as every client.
fn bounded_rules(problems: &mut Problems, path: &str, count: usize) {
    if count == 0 {
        problems.add(path, "has no rule: leave it out to let every user");
    } else if count > MAX_RULES {
        let message = format!("has {count} rules, at most {MAX_RULES} are allowed");
        problems.add(path, message);
    }
}

fn pull_grant(problems: &mut Problems, path: String, rule: &PullRule) -> GrantSettings {
    if rule.anonymous && !rule.users.is_empty() {
        let message = "has both anonymous and users: anonymous means every client";
        problems.add(path.as_str(), message);
    }
    let mut grant = grant(problems, path, &rule.users, &rule.paths);
    if rule.anonymous {
        grant.grantees = Grantees::Anybody;
    }
    grant
}

fn push_grant(problems: &mut Problems, path: String, rule: &PushRule) -> GrantSettings {
    grant(problems, path, &rule.users, &rule.paths)
}

fn grant(
    problems: &mut Problems,
    path: String,
    users: &[String],
    patterns: &[String],
) -> GrantSettings {
    for (field, count, most) in [
        ("users", users.len(), MAX_USERS),
        ("paths", patterns.len(), MAX_PATHS),
    ] {
        if count > most {
            let message = format!("has {count} entries, at most {most} are allowed");
            problems.add(format!("{path}.{field}"), message);
        }
    }
    for (i, user) in users.iter().enumerate() {
        if user.is_empty() || user.contains(':') || user == "*" {
            let message = "is not the name of a user; leave users out for every user";
            problems.add(format!("{path}.users[{i}]"), message);
        }
    }
    let grantees = if users.is_empty() {
        Grantees::EveryUser
    } else {
        Grantees::Users(users.iter().cloned().collect())
    };
    GrantSettings {
        path,
        grantees,
        patterns: patterns.to_vec(),
    }
}

fn layouts(problems: &mut Problems, volumes: &[ImageVolume]) -> Vec<LayoutSettings> {
    const PATH: &str = "spec.imageVolumes";
    if volumes.len() > MAX_VOLUMES {
        let count = volumes.len();
        let message = format!("has {count} volumes, at most {MAX_VOLUMES} are allowed");
        problems.add(PATH, message);
    }
    let mut layouts: Vec<LayoutSettings> = Vec::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("{PATH}[{i}].repository");
        let parsed = RepositoryPath::parse(&volume.repository);
        let Some(repository) = problems.check(path.as_str(), parsed) else {
            continue;
        };
        if layouts.iter().any(|other| other.repository == repository) {
            problems.add(path, "occurs twice: each volume needs its own repository");
        }
        let mut folder = |field: &str, named: &HostPath| {
            let folder = PathBuf::from(&named.path);
            if !folder.is_absolute() {
                let path = format!("{PATH}[{i}].{field}.path");
                problems.add(path, "is not an absolute path");
            }
            folder
        };
        let blobs = volume.blobs_host_path.as_ref();
        layouts.push(LayoutSettings {
            repository,
            folder: folder("hostPath", &volume.host_path),
            blobs: blobs.map(|named| folder("blobsHostPath", named)),
        });
    }
    layouts
}

fn limits(problems: &mut Problems, limits: Option<&RegistryLimits>) -> LimitSettings {
    let Some(limits) = limits else {
        return LimitSettings::default();
    };
    for (field, count) in [
        ("openUploads", limits.open_uploads),
        ("connections", limits.connections),
    ] {
        if count.is_some_and(|count| !(1..=MAX_COUNT).contains(&count)) {
            let message = format!("must be 1 to {MAX_COUNT}");
            problems.add(format!("spec.limits.{field}"), message);
        }
    }
    let size = limits.blob_size.as_deref();
    let blob_bytes =
        size.and_then(|text| problems.check("spec.limits.blobSize", Quantity::parse(text)));
    let expiry = limits.upload_expiry.as_deref();
    LimitSettings {
        blob_bytes: blob_bytes.map(Quantity::get),
        open_uploads: limits.open_uploads,
        upload_expiry: expiry.and_then(|text| upload_expiry(problems, text)),
        connections: limits.connections,
    }
}

fn upload_expiry(problems: &mut Problems, text: &str) -> Option<Duration> {
    const PATH: &str = "spec.limits.uploadExpiry";
    let expiry = problems.check(PATH, GoDuration::parse(text))?.get();
    if !(MIN_EXPIRY..=MAX_EXPIRY).contains(&expiry) {
        problems.add(PATH, format_args!("is {text:?}, must be 1m to 720h"));
    }
    Some(expiry)
}

fn storage(problems: &mut Problems, storage: Option<&RegistryStorage>) -> StorageSettings {
    const PATH: &str = "spec.storage";
    let usual = RegistryStorage::default();
    let storage = storage.unwrap_or(&usual);
    if let Some(class) = &storage.storage_class_name {
        object_name(problems, "spec.storage.storageClassName", class);
    }
    if let Some(size) = &storage.size {
        volume_size(problems, "spec.storage.size", size);
    }
    let Some(empty_dir) = &storage.empty_dir else {
        return StorageSettings::Claim {
            size: storage
                .size
                .as_deref()
                .unwrap_or(DEFAULT_STORAGE)
                .to_owned(),
            class: storage.storage_class_name.clone(),
        };
    };
    if storage.size.is_some() || storage.storage_class_name.is_some() {
        let message = "has emptyDir with size or storageClassName: those belong to a volume claim";
        problems.add(PATH, message);
    }
    if let Some(limit) = &empty_dir.size_limit {
        volume_size(problems, "spec.storage.emptyDir.sizeLimit", limit);
    }
    StorageSettings::EmptyDir {
        limit: empty_dir.size_limit.clone(),
    }
}

fn space(problems: &mut Problems, storage: Option<&RegistryStorage>) -> SpaceSettings {
    let Some(storage) = storage else {
        return SpaceSettings::default();
    };
    let limit = storage.limit.as_deref();
    let limit = limit.and_then(|text| volume_size(problems, "spec.storage.limit", text));
    let min_free = storage.min_free.as_deref();
    let min_free =
        min_free.and_then(|text| problems.check("spec.storage.minFree", Quantity::parse(text)));
    SpaceSettings {
        limit,
        min_free: min_free.map(Quantity::get),
    }
}

fn builds(problems: &mut Problems, builds: Option<&RegistryBuilds>) -> Option<LabelSelector> {
    let selector = builds?.allow_from.clone()?;
    selector.check("spec.builds.allowFrom", problems);
    Some(selector)
}

fn volume_size(problems: &mut Problems, path: &str, text: &str) -> Option<u64> {
    let size = problems.check(path, Quantity::parse(text));
    if size.is_some_and(|size| size.get() < MIN_STORAGE) {
        problems.add(path, format_args!("is {text:?}, must be at least 1Mi"));
    }
    size.map(Quantity::get)
}
