//! Versions as tags write them, and ranges of versions.

use semver::{BuildMetadata, Prerelease, Version, VersionReq};

use crate::reference::Tag;

/// Parses a tag as a version. A leading `v` is allowed, minor and patch may be missing, numbers may
/// have leading zeros (`2026.01`), and `_` stands for `+`, which tags cannot contain.
pub fn lenient_version(tag: &str) -> Option<Version> {
    let text = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
    let (text, build) = match text.split_once(['_', '+']) {
        Some((text, build)) => (text, BuildMetadata::new(build).ok()?),
        None => (text, BuildMetadata::EMPTY),
    };
    let (numbers, pre) = match text.split_once('-') {
        Some((numbers, pre)) => (numbers, pre_release(pre)?),
        None => (text, Prerelease::EMPTY),
    };
    let mut parts = numbers.split('.');
    let major = number(parts.next()?)?;
    let minor = parts.next().map_or(Some(0), number)?;
    let patch = parts.next().map_or(Some(0), number)?;
    match parts.next() {
        Some(_) => None,
        None => Some(Version {
            major,
            minor,
            patch,
            pre,
            build,
        }),
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Parses a pre-release. In a tag, its numeric identifiers may have leading zeros (`-20260102`,
/// `-007`), which the grammar forbids.
fn pre_release(text: &str) -> Option<Prerelease> {
    let trimmed = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest if part.bytes().all(|b| b.is_ascii_digit()) => rest.to_owned(),
        _ => part.to_owned(),
    };
    let text = text.split('.').map(trimmed).collect::<Vec<_>>().join(".");
    Prerelease::new(&text).ok().filter(|pre| !pre.is_empty())
}

/// A range of versions: alternatives separated by `||`. All comparators of an alternative must
/// hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRange {
    alternatives: Vec<VersionReq>,
}

impl VersionRange {
    /// Parses a range. Comparators are separated by spaces or commas; `1.2 - 1.4` is `>=1.2 <=1.4`;
    /// a version without an operator means `=`, so `1.2` is every 1.2.x.
    pub fn parse(text: &str) -> Result<Self, String> {
        let alternatives = text
            .split("||")
            .map(alternative)
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self { alternatives })
    }

    /// Whether `tag` is a version within this range.
    pub fn contains(&self, tag: &str) -> bool {
        let Some(version) = lenient_version(tag) else {
            return false;
        };
        self.alternatives
            .iter()
            .any(|range| range.matches(&version))
    }

    /// Whether the range itself contains a pre-release.
    pub fn names_pre_release(&self) -> bool {
        self.alternatives
            .iter()
            .any(|range| range.comparators.iter().any(|c| !c.pre.is_empty()))
    }
}

fn alternative(text: &str) -> Result<VersionReq, String> {
    if let Some((from, to)) = text.split_once(" - ") {
        let plain = |v: &str| {
            v.trim()
                .starts_with(|c: char| c.is_ascii_digit() || c == 'v')
        };
        let word = |v: &str| !v.trim().contains([' ', ',', '\t']);
        if ![from, to].into_iter().all(|v| plain(v) && word(v)) {
            return Err("a dash stands between two plain versions".to_owned());
        }
        return parse_comparators(&format!(">={} <={}", from.trim(), to.trim()));
    }
    parse_comparators(text)
}

fn parse_comparators(text: &str) -> Result<VersionReq, String> {
    let words = comparator_words(text);
    if words.is_empty() {
        return Err("it is empty".to_owned());
    }
    VersionReq::parse(&words.join(", ")).map_err(|error| error.to_string())
}

/// Splits into one word per comparator: operators are joined to their versions, a leading `v` is
/// removed, and a bare version gets `=`.
fn comparator_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut operator = String::new();
    for word in text.split([' ', ',', '\t']).filter(|w| !w.is_empty()) {
        let version = word.trim_start_matches(['<', '>', '=', '^', '~']);
        operator.push_str(&word[..word.len() - version.len()]);
        if version.is_empty() {
            continue;
        }
        let plain = version.strip_prefix(['v', 'V']).unwrap_or(version);
        let wildcard = plain.contains(['*', 'x', 'X']) && !plain.contains('-');
        if operator.is_empty() && !wildcard {
            operator.push('=');
        }
        words.push(format!("{}{plain}", std::mem::take(&mut operator)));
    }
    if !operator.is_empty() {
        words.push(operator);
    }
    words
}

/// The newest `count` tags by version, newest first. Tags that are not versions are left out. So
/// are pre-releases if there is a release, unless the range contains one.
pub(super) fn newest(tags: Vec<Tag>, with_pre_releases: bool, count: usize) -> Vec<Tag> {
    let mut versions: Vec<(Version, Tag)> = tags
        .into_iter()
        .filter_map(|tag| lenient_version(tag.as_str()).map(|version| (version, tag)))
        .collect();
    let has_release = versions.iter().any(|(version, _)| version.pre.is_empty());
    if has_release && !with_pre_releases {
        versions.retain(|(version, _)| version.pre.is_empty());
    }
    versions.sort_by(|(a, a_tag), (b, b_tag)| {
        // `1.2.0` comes before `1.2`, which is the same version but may move.
        let parts = |tag: &Tag| tag.as_str().matches('.').count();
        b.cmp_precedence(a)
            .then_with(|| parts(b_tag).cmp(&parts(a_tag)))
            .then_with(|| a_tag.cmp(b_tag))
    });
    versions
        .into_iter()
        .map(|(_, tag)| tag)
        .take(count)
        .collect()
}
