//! The validated settings of a mirror: every text is parsed and every default filled in.

mod repository;
mod transport;
mod upkeep;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use coral_image::select::TagFilter;
use coral_image::{Digest, Host, PlatformPattern, Repository, RepositoryPath, Tag};

use super::{RegistryMirror, RegistryTarget, Retry};
use crate::duration::GoDuration;
use crate::label_selector::LabelSelector;
use crate::metadata;
use crate::object_reference::LocalObjectReference;
use crate::problem::{Problem, Problems};
use crate::schedule::CronSchedule;

pub use repository::Referrers;
pub use transport::TransportSettings;
pub use upkeep::{Drift, MirrorLimitSettings, PruneSettings, VerifyBy, VerifySettings};

/// Port of a registry that is given by host alone; the older API's default.
const DEFAULT_PORT: u16 = 5000;
const DEFAULT_INTERVAL: Duration = Duration::from_hours(1);
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_RETRY_LIMIT: u32 = 5;
const MAX_RETRY_LIMIT: u32 = 100;
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_mins(10);
/// Most elements of a list of names, tags or digests.
const MAX_LISTED: usize = 100;
/// Largest certificates of the destination, in bytes.
const MAX_CA: usize = 64 * 1024;

/// What a mirror means.
#[derive(Debug, Clone)]
pub struct MirrorSettings {
    /// Where images go.
    pub target: Target,
    /// What is copied.
    pub repositories: Vec<RepositorySettings>,
    /// Names of the Secrets with the sources' credentials.
    pub pull_secrets: Vec<String>,
    /// When passes begin.
    pub cadence: Cadence,
    /// How blobs at the destination are checked; never if there is none.
    pub verify: Option<VerifySettings>,
    /// What to do when a copy fails.
    pub retry: RetrySettings,
    /// How tags that are no longer selected are deleted; not at all if there is none.
    pub prune: Option<PruneSettings>,
    /// What happens when a mirrored tag moves at its source.
    pub drift: Drift,
    /// How much may be done at once.
    pub limits: MirrorLimitSettings,
    /// Namespaces whose pods may be pointed at what the mirror holds; none: its own only.
    pub allow_from: Option<LabelSelector>,
    /// Whether nothing is to be copied for now.
    pub suspend: bool,
}

/// Where images go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Registry object by name; the embedded registry with `coral up`.
    Named(String),
    /// A registry by its address.
    Address(RegistryAddress),
}

impl Target {
    /// The path below which all images lie, if it is not the root of the registry.
    pub fn prefix(&self) -> Option<&RepositoryPath> {
        match self {
            Self::Named(_) => None,
            Self::Address(address) => address.prefix.as_ref(),
        }
    }
}

/// A registry by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    /// Host and port.
    pub host: Host,
    /// The path below which all images lie; the root of the registry if there is none.
    pub prefix: Option<RepositoryPath>,
    /// How it is reached.
    pub transport: TransportSettings,
    /// Name of the Secret with the credential for pushing.
    pub secret: Option<String>,
}

/// What of one repository is copied, and how.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// The source.
    pub repository: Repository,
    /// Where it lies at the destination, the target's prefix included.
    pub destination: RepositoryPath,
    /// How connections to the source's host are made. All repositories of one host have the same
    /// settings.
    pub transport: TransportSettings,
    /// Tags that are copied as named.
    pub tags: Vec<Tag>,
    /// Digests that are copied as named.
    pub digests: Vec<Digest>,
    /// Selects further tags of the repository. The repository is listed only if this is given.
    pub filter: Option<TagFilter>,
    /// Platforms to copy; none means all.
    pub platforms: Vec<PlatformPattern>,
    /// Whether foreign layers are copied, where the source has them.
    pub foreign_layers: bool,
    /// Whether referrers are copied.
    pub referrers: Referrers,
}

/// When to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cadence {
    /// After this long.
    Every(Duration),
    /// At these times.
    Cron(CronSchedule),
}

/// What to do when a copy fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// Failures in a row after which an image counts as in error.
    pub limit: u32,
    /// Longest wait between two attempts.
    pub max_backoff: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            limit: DEFAULT_RETRY_LIMIT,
            max_backoff: MAX_BACKOFF,
        }
    }
}

impl RegistryMirror {
    /// Validates the mirror. Returns its settings, or every problem.
    pub fn settings(&self) -> Result<MirrorSettings, Vec<Problem>> {
        let mut problems = Problems::default();
        let spec = &self.spec;
        object_names(&mut problems, &self.metadata);
        let prefix = prefix(&mut problems, &spec.registry);
        let target = target(&mut problems, &spec.registry, prefix.clone());
        let repositories =
            repository::repositories(&mut problems, &spec.repositories, prefix.as_ref());
        let pull_secrets = secret_names(&mut problems, &spec.image_pull_secrets);
        let cadence = cadence(
            &mut problems,
            spec.schedule.as_deref(),
            spec.interval.as_deref(),
        );
        let verify = upkeep::verify(&mut problems, spec.verify.as_deref(), spec.verify_by);
        let retry = retry(&mut problems, spec.retry.as_ref());
        let prune = spec.prune.as_ref();
        let prune = prune.and_then(|typed| upkeep::prune(&mut problems, typed));
        let drift = upkeep::drift(&mut problems, spec.drift_policy);
        let limits = upkeep::limits(&mut problems, spec.limits.as_ref());
        if let Some(selector) = &spec.allow_from {
            selector.check("spec.allowFrom", &mut problems);
        }
        let (allow_from, suspend) = (spec.allow_from.clone(), spec.suspend);
        problems.into_result(target.zip(cadence).map(|(target, cadence)| MirrorSettings {
            target,
            repositories,
            pull_secrets,
            cadence,
            verify,
            retry,
            prune,
            drift,
            limits,
            allow_from,
            suspend,
        }))
    }

    /// Every problem of the mirror; none if it can be used.
    pub fn validate(&self) -> Vec<Problem> {
        self.settings().err().unwrap_or_default()
    }
}

/// Name and namespace of an object.
pub(crate) fn object_names(problems: &mut Problems, metadata: &ObjectMeta) {
    object_name(problems, "metadata.name", metadata::name(metadata));
    if let Some(namespace) = &metadata.namespace {
        object_name(problems, "metadata.namespace", namespace);
    }
}

/// A DNS subdomain name (RFC 1123), which most names in Kubernetes are.
pub(crate) fn object_name(problems: &mut Problems, path: &str, name: &str) {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.is_empty() {
        problems.add(path, "is missing");
    } else if name.len() > 253 || !name.split('.').all(label) {
        problems.add(
            path,
            format_args!(
                "{:?} is not a name: lower-case letters, digits, - and . between them, at most 253",
                shown(name)
            ),
        );
    }
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

fn prefix(problems: &mut Problems, registry: &RegistryTarget) -> Option<RepositoryPath> {
    let text = registry.prefix.as_deref()?;
    let parsed = RepositoryPath::parse(text).ok();
    if parsed.is_none() {
        problems.add(
            "spec.registry.prefix",
            format_args!(
                "{:?} is not a prefix: give components of a repository name, such as team/mirror, \
                 in lower case and without a slash at either end",
                shown(text)
            ),
        );
    }
    parsed
}

fn target(
    problems: &mut Problems,
    registry: &RegistryTarget,
    prefix: Option<RepositoryPath>,
) -> Option<Target> {
    const PATH: &str = "spec.registry";
    let address = registry.port.is_some()
        || registry.prefix.is_some()
        || registry.tls_verify.is_some()
        || registry.ca.is_some()
        || registry.plain_http.is_some()
        || registry.secret_ref.is_some();
    match (&registry.name, &registry.host) {
        (Some(_), Some(_)) => {
            problems.add(PATH, "has both name and host: give one of them");
            None
        }
        (None, None) => {
            problems.add(
                PATH,
                "has neither name nor host: give the name of a Registry, or the host of any registry",
            );
            None
        }
        (Some(name), None) => {
            object_name(problems, "spec.registry.name", name);
            if address {
                problems.add(
                    PATH,
                    "has name with port, prefix, tlsVerify, ca, plainHTTP or secretRef: those belong to host",
                );
            }
            Some(Target::Named(name.clone()))
        }
        (None, Some(host)) => {
            registry_address(problems, registry, host, prefix).map(Target::Address)
        }
    }
}

fn registry_address(
    problems: &mut Problems,
    registry: &RegistryTarget,
    host: &str,
    prefix: Option<RepositoryPath>,
) -> Option<RegistryAddress> {
    const PATH: &str = "spec.registry.host";
    let secret = registry
        .secret_ref
        .as_ref()
        .map(|secret| secret.name.clone());
    if let Some(name) = &secret {
        object_name(problems, "spec.registry.secretRef.name", name);
    }
    if registry.port == Some(0) {
        problems.add("spec.registry.port", "must be 1 to 65535");
        return None;
    }
    let transport = transport::TransportFields {
        plain_http: registry.plain_http,
        tls_verify: registry.tls_verify,
        ca: registry.ca.as_deref(),
    }
    .settings(problems, "spec.registry", MAX_CA);
    let parsed = problems.check(PATH, Host::parse(host))?;
    let host = match (parsed.port(), registry.port) {
        (Some(_), Some(_)) => {
            problems.add(PATH, "has a port, and port is given too: give one of them");
            None
        }
        (Some(_), None) => Some(parsed),
        (None, port) => {
            let port = port.unwrap_or(DEFAULT_PORT);
            problems.check(PATH, Host::parse(&format!("{parsed}:{port}")))
        }
    }?;
    Some(RegistryAddress {
        host,
        prefix,
        transport,
        secret,
    })
}

fn secret_names(problems: &mut Problems, secrets: &[LocalObjectReference]) -> Vec<String> {
    if secrets.len() > MAX_LISTED {
        problems.add(
            "spec.imagePullSecrets",
            format_args!(
                "has {} secrets, at most {MAX_LISTED} are allowed",
                secrets.len()
            ),
        );
    }
    for (i, secret) in secrets.iter().enumerate() {
        object_name(
            problems,
            &format!("spec.imagePullSecrets[{i}].name"),
            &secret.name,
        );
    }
    secrets.iter().map(|secret| secret.name.clone()).collect()
}

fn cadence(
    problems: &mut Problems,
    schedule: Option<&str>,
    interval: Option<&str>,
) -> Option<Cadence> {
    match (schedule, interval) {
        (Some(_), Some(_)) => {
            problems.add("spec", "has both schedule and interval: give one of them");
            None
        }
        (Some(schedule), None) => problems
            .check("spec.schedule", CronSchedule::parse(schedule))
            .map(Cadence::Cron),
        (None, Some(text)) => {
            let interval = problems
                .check("spec.interval", GoDuration::parse(text))?
                .get();
            if interval < MIN_INTERVAL {
                problems.add("spec.interval", format_args!("{text:?} is shorter than 1s"));
            }
            Some(Cadence::Every(interval))
        }
        (None, None) => Some(Cadence::Every(DEFAULT_INTERVAL)),
    }
}

pub(crate) fn retry(problems: &mut Problems, retry: Option<&Retry>) -> RetrySettings {
    let mut settings = RetrySettings::default();
    let Some(retry) = retry else { return settings };
    if let Some(limit) = retry.limit {
        if !(1..=MAX_RETRY_LIMIT).contains(&limit) {
            problems.add(
                "spec.retry.limit",
                format_args!("is {limit}, must be 1 to {MAX_RETRY_LIMIT}"),
            );
        }
        settings.limit = limit;
    }
    if let Some(text) = &retry.max_backoff {
        const PATH: &str = "spec.retry.maxBackoff";
        if let Some(backoff) = problems.check(PATH, GoDuration::parse(text)) {
            if !(MIN_BACKOFF..=MAX_BACKOFF).contains(&backoff.get()) {
                problems.add(PATH, format_args!("is {text:?}, must be 100ms to 10m"));
            }
            settings.max_backoff = backoff.get();
        }
    }
    settings
}
