//! Which repositories are copied, and what of each.

use std::collections::BTreeMap;

use coral_image::select::{LatestBy, NewerThan, SelectError, TagFilter, TagSelection};
use coral_image::{
    Digest, Host, ImageRef, PlatformPattern, ReferenceError, Repository, RepositoryPath, Tag,
    destination_path_below,
};

use super::transport::{self, TransportSettings};
use super::{MAX_LISTED, RepositorySettings, shown};
use crate::duration::parse_age;
use crate::problem::Problems;
use crate::registry_mirror::{ListSelection, MirrorRepository, ReferrersPolicy};
use crate::selection::{LatestOrder, TagSelect};

const MAX_REPOSITORIES: usize = 1000;
const MAX_PLATFORMS: usize = 32;
/// Largest certificates of one repository, in bytes: a thousand of them are in one object.
const MAX_CA: usize = 12_000;

/// What happens to artifacts that refer to an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Referrers {
    /// They are copied with the image.
    #[default]
    Copy,
    /// They are left where they are.
    Skip,
}

/// Reads the whole list. Returns the entries that can be used, and adds every problem. All of them
/// are copied below `prefix` at the destination.
pub(super) fn repositories(
    problems: &mut Problems,
    repositories: &[MirrorRepository],
    prefix: Option<&RepositoryPath>,
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
        .map(|(i, r)| repository(problems, &format!("spec.repositories[{i}]"), r, prefix))
        .collect();
    conflicts(problems, &settings);
    reach_conflicts(problems, &settings);
    settings.into_iter().flatten().collect()
}

/// A repository may be listed more than once, but one name at the destination cannot hold two
/// different selections of platforms: they would overwrite each other for ever.
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

/// All repositories of a host use the same connection options: its certificate cannot be verified
/// for one repository only.
fn reach_conflicts(problems: &mut Problems, settings: &[Option<RepositorySettings>]) {
    let mut first: BTreeMap<&Host, (usize, &TransportSettings)> = BTreeMap::new();
    let usual = TransportSettings::default();
    for (i, repository) in settings.iter().enumerate() {
        let Some(repository) = repository.as_ref().filter(|r| r.transport != usual) else {
            continue;
        };
        let host = repository.repository.host();
        let (before, other) = *first.entry(host).or_insert((i, &repository.transport));
        if *other != repository.transport {
            problems.add(
                format!("spec.repositories[{i}]"),
                format_args!(
                    "reaches {host} in another way than spec.repositories[{before}]: give both the \
                     same tlsVerify, ca and plainHTTP"
                ),
            );
        }
    }
}

fn repository(
    problems: &mut Problems,
    path: &str,
    typed: &MirrorRepository,
    prefix: Option<&RepositoryPath>,
) -> Option<RepositorySettings> {
    let name = format!("{path}.name");
    let repository = repository_name(problems, &name, &typed.name);
    let destination = repository
        .as_ref()
        .and_then(|repository| problems.check(name, destination_path_below(prefix, repository)));
    let all = match typed.list_selection {
        Some(ListSelection::All) => true,
        Some(ListSelection::Unknown) => {
            problems.unknown_value(format!("{path}.listSelection"));
            true
        }
        None => false,
    };
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
        PlatformPattern::parse,
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
    let referrers = match typed.referrers {
        Some(ReferrersPolicy::Skip) => Referrers::Skip,
        Some(ReferrersPolicy::Copy) | None => Referrers::Copy,
        Some(ReferrersPolicy::Unknown) => {
            problems.unknown_value(format!("{path}.referrers"));
            Referrers::default()
        }
    };
    let transport = transport::TransportFields {
        plain_http: typed.plain_http,
        tls_verify: typed.tls_verify,
        ca: typed.ca.as_deref(),
    }
    .settings(problems, path, MAX_CA);
    Some(RepositorySettings {
        repository: repository?,
        destination: destination?,
        transport,
        tags,
        digests,
        filter,
        platforms,
        foreign_layers: typed.foreign_layers.unwrap_or_default(),
        referrers,
    })
}

fn repository_name(problems: &mut Problems, path: &str, name: &str) -> Option<Repository> {
    let error = match Repository::parse(name) {
        Ok(repository) => return Some(repository),
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

/// Parses the elements of a list; each invalid or repeated element is a problem of its own.
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
        // A filter that could not be parsed is reported already; it must not count as an empty
        // selection, too.
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
            LatestOrder::Unknown => {
                problems.unknown_value(format!("{path}.latestBy"));
                LatestBy::default()
            }
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
