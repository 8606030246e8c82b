//! What a mirror means: every text parsed, every default filled in.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_image::select::{LatestBy, NewerThan, SelectError, TagFilter, TagSelection};
use coral_image::{
    Digest, Host, ImageRef, Platform, ReferenceError, Repository, Tag, destination_path,
};

use super::{ListSelection, MirrorRepository, Referrers, RegistryMirror, RegistryTarget, Retry};
use crate::duration::{GoDuration, parse_age};
use crate::meta::LocalObjectReference;
use crate::problem::{Problem, Problems};
use crate::schedule::CronSchedule;
use crate::selection::{LatestOrder, TagSelect};

/// Port of a registry that is given by host alone; the older API's default.
const DEFAULT_PORT: u16 = 5000;
const DEFAULT_INTERVAL: Duration = Duration::from_hours(1);
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_RETRY_LIMIT: u32 = 5;
const MAX_RETRY_LIMIT: u32 = 100;
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_mins(10);
const MAX_REPOSITORIES: usize = 1000;
const MAX_LISTED: usize = 100;
const MAX_PLATFORMS: usize = 32;
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
    /// When to look again.
    pub cadence: Cadence,
    /// What to do when a copy fails.
    pub retry: RetrySettings,
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

/// A registry by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    /// Host and port.
    pub host: Host,
    /// Whether its certificate is verified.
    pub tls_verify: bool,
    /// PEM text of further authorities.
    pub ca: Option<String>,
    /// Name of the Secret with the credential for pushing.
    pub secret: Option<String>,
}

/// What of one repository is copied, and how.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// The source.
    pub repository: Repository,
    /// Tags taken as they are.
    pub tags: Vec<Tag>,
    /// Digests taken as they are.
    pub digests: Vec<Digest>,
    /// Which of the repository's tags beside them; only then is the repository listed.
    pub filter: Option<TagFilter>,
    /// Platforms to copy; none means all, the index byte for byte.
    pub platforms: Vec<Platform>,
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
    /// What the mirror means, or everything that is wrong with it.
    pub fn settings(&self) -> Result<MirrorSettings, Vec<Problem>> {
        let mut problems = Problems::default();
        let spec = &self.spec;
        object_name(&mut problems, "metadata.name", &self.metadata.name);
        if let Some(namespace) = &self.metadata.namespace {
            object_name(&mut problems, "metadata.namespace", namespace);
        }
        let target = target(&mut problems, &spec.registry);
        let repositories = repositories(&mut problems, &spec.repositories);
        let pull_secrets = secret_names(&mut problems, &spec.image_pull_secrets);
        let cadence = cadence(
            &mut problems,
            spec.schedule.as_deref(),
            spec.interval.as_deref(),
        );
        let retry = retry(&mut problems, spec.retry.as_ref());
        let suspend = spec.suspend;
        problems.into_result(target.zip(cadence).map(|(target, cadence)| MirrorSettings {
            target,
            repositories,
            pull_secrets,
            cadence,
            retry,
            suspend,
        }))
    }

    /// Everything that is wrong with the mirror; nothing, if it can be used.
    pub fn validate(&self) -> Vec<Problem> {
        self.settings().err().unwrap_or_default()
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

fn target(problems: &mut Problems, registry: &RegistryTarget) -> Option<Target> {
    const PATH: &str = "spec.registry";
    let address = registry.port.is_some()
        || registry.tls_verify.is_some()
        || registry.ca.is_some()
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
                    "has name with port, tlsVerify, ca or secretRef: those belong to host",
                );
            }
            Some(Target::Named(name.clone()))
        }
        (None, Some(host)) => registry_address(problems, registry, host).map(Target::Address),
    }
}

fn registry_address(
    problems: &mut Problems,
    registry: &RegistryTarget,
    host: &str,
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
    if let Some(ca) = &registry.ca {
        certificate(problems, ca);
    }
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
    let tls_verify = registry.tls_verify.unwrap_or(true);
    Some(RegistryAddress {
        host,
        tls_verify,
        ca: registry.ca.clone(),
        secret,
    })
}

fn certificate(problems: &mut Problems, ca: &str) {
    const PATH: &str = "spec.registry.ca";
    if ca.len() > MAX_CA {
        problems.add(PATH, format_args!("is larger than {MAX_CA} bytes"));
    } else if ca.contains("PRIVATE KEY-----") {
        problems.add(PATH, "holds a private key: give certificates only");
    } else if !ca.contains("-----BEGIN CERTIFICATE-----") {
        problems.add(
            PATH,
            "is not PEM text: it begins with -----BEGIN CERTIFICATE-----",
        );
    }
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

fn retry(problems: &mut Problems, retry: Option<&Retry>) -> RetrySettings {
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

fn repositories(
    problems: &mut Problems,
    repositories: &[MirrorRepository],
) -> Vec<RepositorySettings> {
    match repositories.len() {
        0 => problems.add(
            "spec.repositories",
            "is empty: name at least one repository",
        ),
        n if n > MAX_REPOSITORIES => problems.add(
            "spec.repositories",
            format_args!(
                "has {n} repositories, at most {MAX_REPOSITORIES} are allowed in one mirror"
            ),
        ),
        _ => {}
    }
    let settings: Vec<_> = repositories
        .iter()
        .enumerate()
        .map(|(i, r)| repository(problems, &format!("spec.repositories[{i}]"), r))
        .collect();
    conflicts(problems, &settings);
    settings.into_iter().flatten().collect()
}

/// One repository may stand in the list more than once, but one place at the destination cannot
/// hold two different selections of platforms: they would overwrite each other for ever.
fn conflicts(problems: &mut Problems, settings: &[Option<RepositorySettings>]) {
    let mut first: BTreeMap<&Repository, (usize, &RepositorySettings)> = BTreeMap::new();
    for (i, repository) in settings.iter().enumerate() {
        let Some(repository) = repository else {
            continue;
        };
        let (before, other) = *first
            .entry(&repository.repository)
            .or_insert((i, repository));
        if other.platforms != repository.platforms {
            problems.add(
                format!("spec.repositories[{i}].platforms"),
                format_args!(
                    "{} is listed at spec.repositories[{before}] too, with other platforms: \
                     give both entries the same ones",
                    repository.repository
                ),
            );
        }
    }
}

fn repository(
    problems: &mut Problems,
    path: &str,
    typed: &MirrorRepository,
) -> Option<RepositorySettings> {
    let name = repository_name(problems, &format!("{path}.name"), &typed.name);
    let all = typed.list_selection == Some(ListSelection::All);
    if typed.tags.is_empty() && typed.digests.is_empty() && typed.select.is_none() && !all {
        problems.add(path, "names nothing to copy: give tags, digests or select");
    }
    let tags = listed(
        problems,
        &format!("{path}.tags"),
        &typed.tags,
        MAX_LISTED,
        Tag::parse,
    );
    let digests = listed(
        problems,
        &format!("{path}.digests"),
        &typed.digests,
        MAX_LISTED,
        Digest::parse,
    );
    let platforms = listed(
        problems,
        &format!("{path}.platforms"),
        &typed.platforms,
        MAX_PLATFORMS,
        Platform::parse,
    );
    let filter = match &typed.select {
        Some(select) => filter(problems, &format!("{path}.select"), select, all),
        None if all => filter(
            problems,
            path,
            &TagSelect {
                all,
                ..TagSelect::default()
            },
            all,
        ),
        None => None,
    };
    let referrers = typed.referrers.unwrap_or_default();
    Some(RepositorySettings {
        repository: name?,
        tags,
        digests,
        filter,
        platforms,
        referrers,
    })
}

fn repository_name(problems: &mut Problems, path: &str, name: &str) -> Option<Repository> {
    let error = match Repository::parse(name) {
        Ok(repository) => {
            return problems
                .check(path, destination_path(&repository))
                .map(|_| repository);
        }
        Err(error) => error,
    };
    let tagged = ImageRef::parse(name)
        .ok()
        .filter(|_| !matches!(error, ReferenceError::Empty));
    match tagged {
        Some(image) => problems.add(
            path,
            format_args!(
                "{:?} has a tag or digest: write name: {}, and the rest under tags or digests",
                shown(name),
                image.repository()
            ),
        ),
        None => problems.add(path, error),
    }
    None
}

/// Parses the elements of a list; each that is wrong, or there twice, is a problem of its own.
fn listed<T: Ord + Clone, E: std::error::Error>(
    problems: &mut Problems,
    path: &str,
    texts: &[String],
    max: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    if texts.len() > max {
        problems.add(
            path,
            format_args!("has {} elements, at most {max} are allowed", texts.len()),
        );
    }
    let mut seen = Vec::with_capacity(texts.len().min(max));
    for (i, text) in texts.iter().take(max).enumerate() {
        let Some(value) = problems.check(format!("{path}[{i}]"), parse(text)) else {
            continue;
        };
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

fn filter(problems: &mut Problems, path: &str, typed: &TagSelect, all: bool) -> Option<TagFilter> {
    let newer_than = typed
        .newer_than
        .as_deref()
        .and_then(|text| newer_than(problems, &format!("{path}.newerThan"), text));
    let selection = TagSelection {
        // A bound that did not parse is a problem already, not an empty selection too.
        all: typed.all || all || typed.newer_than.is_some(),
        regex: typed.regex.clone(),
        glob: typed.glob.clone(),
        semver: typed.semver.clone(),
        newer_than,
        exclude: typed.exclude.clone(),
        latest: typed
            .latest
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        latest_by: match typed.latest_by.unwrap_or_default() {
            LatestOrder::Semver => LatestBy::Semver,
            LatestOrder::Creation => LatestBy::Creation,
        },
    };
    if typed.latest_by.is_some() && typed.latest.is_none() {
        problems.add(format!("{path}.latestBy"), "has no effect without latest");
    }
    let errors = match TagFilter::compile(&selection) {
        Ok(filter) => return Some(filter),
        Err(errors) => errors,
    };
    for error in errors {
        problems.add(select_path(path, &error), &error);
    }
    None
}

fn select_path(path: &str, error: &SelectError) -> String {
    match error.field().as_str() {
        "" => path.to_owned(),
        field => format!("{path}.{field}"),
    }
}

fn newer_than(problems: &mut Problems, path: &str, text: &str) -> Option<NewerThan> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(NewerThan::Time(time));
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        return Some(NewerThan::Time(midnight.timestamp()));
    }
    match parse_age(text) {
        Ok(age) if !age.is_zero() => Some(NewerThan::Age(age)),
        _ => {
            problems.add(
                path,
                format_args!(
                    "{:?} is neither a date such as 2026-01-31 nor an age such as 720h, 30d or 4w",
                    shown(text)
                ),
            );
            None
        }
    }
}
