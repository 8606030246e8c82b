//! Values of flags, parsed.

use std::path::PathBuf;
use std::time::Duration;

use coral_api::{GoDuration, Quantity};
use coral_image::RepositoryPath;
use coral_registry::PathPatterns;

/// `USER=PATTERN`.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) user: String,
    pub(super) pattern: String,
}

pub(super) fn rule(text: &str) -> Result<Rule, String> {
    let (user, pattern) = text
        .split_once('=')
        .filter(|(user, _)| !user.is_empty())
        .ok_or("expected USER=PATTERN, such as ci=team/**")?;
    PathPatterns::parse([pattern]).map_err(|error| error.to_string())?;
    Ok(Rule {
        user: user.to_owned(),
        pattern: pattern.to_owned(),
    })
}

pub(super) fn layout(text: &str) -> Result<(RepositoryPath, PathBuf), String> {
    let (path, folder) = text
        .split_once('=')
        .ok_or("expected REPOSITORY=DIR, such as base/debian=/srv/layouts/debian")?;
    let path = RepositoryPath::parse(path).map_err(|error| error.to_string())?;
    Ok((path, PathBuf::from(folder)))
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let size = Quantity::parse(text).map_err(|error| error.to_string())?;
    Ok(size.get())
}

/// More than 0: a round at 0 bytes per second would never end.
pub(super) fn bandwidth(text: &str) -> Result<u64, String> {
    let bandwidth = size(text)?;
    (bandwidth > 0)
        .then_some(bandwidth)
        .ok_or("must be more than 0".to_owned())
}

/// More than 0: collections without a pause would keep the disk busy.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(more_than_0)
}

fn more_than_0(it: Duration) -> Result<Duration, String> {
    (!it.is_zero())
        .then_some(it)
        .ok_or("must be more than 0".to_owned())
}

pub(super) fn age(text: &str) -> Result<Duration, String> {
    coral_api::parse_age(text).map_err(|error| error.to_string())
}

pub(super) fn scrub_interval(text: &str) -> Result<Duration, String> {
    age(text).and_then(more_than_0)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = GoDuration::parse(text).map_err(|error| error.to_string())?;
    Ok(duration.get())
}
