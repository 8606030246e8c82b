//! Selects tags of a repository: filters, then exclusions, then the newest N. Pure: the tags, their
//! creation times and the current time are arguments.
//!
//! ```
//! use coral_image::select::{TagFilter, TagSelection};
//! use coral_image::Tag;
//!
//! let filter = TagFilter::compile(&TagSelection {
//!     semver: Some(">=1.2 <2".into()),
//!     latest: Some(2),
//!     ..TagSelection::default()
//! })?;
//! let tags = ["1.1", "v1.2", "1.3.1", "1.4", "2.0", "edge"].map(|t| Tag::parse(t).unwrap());
//! let chosen = filter.select(&tags, jiff::Timestamp::UNIX_EPOCH, |_| None);
//! assert_eq!(chosen.iter().map(Tag::as_str).collect::<Vec<_>>(), ["1.4", "1.3.1"]);
//! # Ok::<(), Vec<coral_image::select::SelectError>>(())
//! ```

mod patterns;
mod version;

use std::collections::BTreeSet;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use jiff::Timestamp;
use regex::Regex;

use crate::reference::Tag;

pub use patterns::TagPatterns;
pub use version::{VersionRange, lenient_version};

/// Longest pattern or range that is compiled, in bytes.
pub const MAX_PATTERN: usize = 1000;
/// Most exclusion patterns.
pub const MAX_EXCLUDES: usize = 100;
/// Largest compiled regular expression, in bytes of memory; matching takes linear time anyway.
const REGEX_SIZE: usize = 1 << 20;

/// A selection as plain values. An empty selection is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagSelection {
    /// Start with every tag. Filters beside it still apply.
    pub all: bool,
    /// The whole tag matches this regular expression.
    pub regex: Option<String>,
    /// The whole tag matches this shell pattern.
    pub glob: Option<String>,
    /// The tag is a version within this range.
    pub semver: Option<String>,
    /// The image was created after this time.
    pub newer_than: Option<NewerThan>,
    /// Shell patterns of tags to exclude.
    pub exclude: Vec<String>,
    /// Keep this many tags, the newest first.
    pub latest: Option<usize>,
    /// Which tag counts as newer.
    pub latest_by: LatestBy,
}

/// A bound on the creation time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewerThan {
    /// The image is at most this old.
    Age(Duration),
    /// The image was created after this time.
    Time(Timestamp),
}

impl NewerThan {
    /// The bound as a time, given `now`.
    fn bound(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Time(time) => time,
            Self::Age(age) => jiff::SignedDuration::try_from(age)
                .ok()
                .and_then(|age| now.checked_sub(age).ok())
                .unwrap_or(Timestamp::MIN),
        }
    }
}

/// Which of two tags counts as newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LatestBy {
    /// The one with the higher version.
    #[default]
    Semver,
    /// The one with the later creation time.
    Creation,
}

/// Why a selection cannot be used. [`field`](Self::field) names the part that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The selection is empty.
    #[error(
        "nothing is selected: give regex, glob, semver, newerThan or latest, or all: true for every tag"
    )]
    Empty,
    /// A pattern is too long.
    #[error("is {length} bytes long, at most {MAX_PATTERN} are allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The index in the field, if it is a list.
        index: Option<usize>,
        /// The length, in bytes.
        length: usize,
    },
    /// There are more exclusions than allowed.
    #[error("has {count} patterns, at most {MAX_EXCLUDES} are allowed")]
    TooMany {
        /// The field.
        field: &'static str,
        /// The number of elements.
        count: usize,
    },
    /// The regular expression does not compile.
    #[error("{pattern:?} is not a regular expression: {reason}")]
    Regex {
        /// The expression.
        pattern: String,
        /// The compiler's message, in one line.
        reason: String,
    },
    /// A shell pattern does not compile.
    #[error("{pattern:?} is not a shell pattern: {reason}")]
    Glob {
        /// The field.
        field: &'static str,
        /// The index in the field, if it is a list.
        index: Option<usize>,
        /// The pattern.
        pattern: String,
        /// The compiler's message.
        reason: String,
    },
    /// The version range cannot be parsed.
    #[error(
        "{range:?} is not a range of versions such as \">=1.2 <2\", \"^1.4\", \"~1.2.3\" or \"1.x\": {reason}"
    )]
    Semver {
        /// The range.
        range: String,
        /// What is wrong.
        reason: String,
    },
    /// `latest` is 0, which would select nothing.
    #[error("must be at least 1")]
    LatestZero,
}

impl SelectError {
    /// The field that is wrong, as written in YAML: `exclude[2]`. Empty if the selection as a whole
    /// is wrong.
    pub fn field(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::TooLong { field, index, .. } | Self::Glob { field, index, .. } => match index {
                Some(index) => format!("{field}[{index}]"),
                None => (*field).to_owned(),
            },
            Self::TooMany { field, .. } => (*field).to_owned(),
            Self::Regex { .. } => "regex".to_owned(),
            Self::Semver { .. } => "semver".to_owned(),
            Self::LatestZero => "latest".to_owned(),
        }
    }
}

/// A compiled selection.
#[derive(Debug, Clone)]
pub struct TagFilter {
    regex: Option<Regex>,
    glob: Option<GlobMatcher>,
    semver: Option<VersionRange>,
    newer_than: Option<NewerThan>,
    exclude: TagPatterns,
    latest: Option<usize>,
    latest_by: LatestBy,
}

impl TagFilter {
    /// Compiles a selection; all errors are reported together.
    pub fn compile(selection: &TagSelection) -> Result<Self, Vec<SelectError>> {
        let mut errors = Vec::new();
        let s = selection;
        let selects = s.all
            || s.regex.is_some()
            || s.glob.is_some()
            || s.semver.is_some()
            || s.newer_than.is_some()
            || s.latest.is_some();
        if !selects {
            errors.push(SelectError::Empty);
        }
        if s.latest == Some(0) {
            errors.push(SelectError::LatestZero);
        }
        let mut keep = |error| errors.push(error);
        let regex = s
            .regex
            .as_deref()
            .and_then(|r| regex(r).map_err(&mut keep).ok());
        let glob = s
            .glob
            .as_deref()
            .and_then(|g| glob("glob", None, g).map_err(&mut keep).ok());
        let semver = s
            .semver
            .as_deref()
            .and_then(|r| range(r).map_err(&mut keep).ok());
        let exclude = TagPatterns::compile("exclude", &s.exclude);
        let exclude = exclude.unwrap_or_else(|wrong| {
            wrong.into_iter().for_each(&mut keep);
            TagPatterns::default()
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            regex,
            glob: glob.map(|g| g.compile_matcher()),
            semver,
            newer_than: s.newer_than,
            exclude,
            latest: s.latest,
            latest_by: s.latest_by,
        })
    }

    /// Whether [`select`](Self::select) needs creation times. They cost a request per tag, so fetch
    /// them only for the [`candidates`](Self::candidates).
    pub fn needs_creation(&self) -> bool {
        self.newer_than.is_some() || (self.latest.is_some() && self.latest_by == LatestBy::Creation)
    }

    /// The tags that pass the filters on names, without duplicates, sorted by name. The result of
    /// [`select`](Self::select) is always a subset of them.
    pub fn candidates(&self, tags: &[Tag]) -> Vec<Tag> {
        let unique: BTreeSet<&Tag> = tags.iter().collect();
        unique
            .into_iter()
            .filter(|tag| self.admits(tag.as_str()))
            .cloned()
            .collect()
    }

    /// The selected tags: newest first if `latest` is set, else sorted by name. The result does not
    /// depend on the order of `tags`.
    ///
    /// `created` is called once per candidate, and only if [`needs_creation`](Self::needs_creation)
    /// is true. An image whose creation time is unknown does not count as newer than any other.
    pub fn select(
        &self,
        tags: &[Tag],
        now: Timestamp,
        created: impl Fn(&Tag) -> Option<Timestamp>,
    ) -> Vec<Tag> {
        let needs_creation = self.needs_creation();
        let dated = self.candidates(tags).into_iter().map(|tag| {
            let time = if needs_creation { created(&tag) } else { None };
            (tag, time)
        });
        let bound = self.newer_than.map(|newer| newer.bound(now));
        let kept = dated.filter(|(_, time)| bound.is_none_or(|b| time.is_some_and(|t| t > b)));
        match (self.latest, self.latest_by) {
            (None, _) => kept.map(|(tag, _)| tag).collect(),
            (Some(count), LatestBy::Creation) => newest_by_creation(kept.collect(), count),
            (Some(count), LatestBy::Semver) => {
                let names_pre = self
                    .semver
                    .as_ref()
                    .is_some_and(VersionRange::names_pre_release);
                version::newest(kept.map(|(tag, _)| tag).collect(), names_pre, count)
            }
        }
    }

    fn admits(&self, tag: &str) -> bool {
        self.regex.as_ref().is_none_or(|regex| regex.is_match(tag))
            && self.glob.as_ref().is_none_or(|glob| glob.is_match(tag))
            && self.semver.as_ref().is_none_or(|range| range.contains(tag))
            && !self.exclude.matches(tag)
    }
}

fn newest_by_creation(mut dated: Vec<(Tag, Option<Timestamp>)>, count: usize) -> Vec<Tag> {
    dated.sort_by(|(a, a_time), (b, b_time)| b_time.cmp(a_time).then_with(|| a.cmp(b)));
    dated.into_iter().map(|(tag, _)| tag).take(count).collect()
}

fn bounded(field: &'static str, index: Option<usize>, text: &str) -> Result<(), SelectError> {
    match text.len() {
        length if length > MAX_PATTERN => Err(SelectError::TooLong {
            field,
            index,
            length,
        }),
        _ => Ok(()),
    }
}

fn regex(pattern: &str) -> Result<Regex, SelectError> {
    bounded("regex", None, pattern)?;
    let wrong = |reason: String| SelectError::Regex {
        pattern: pattern.to_owned(),
        reason,
    };
    // Each text is compiled alone first: a malformed one must not become valid inside the group.
    let build = |text: &str| {
        regex::RegexBuilder::new(text)
            .size_limit(REGEX_SIZE)
            .dfa_size_limit(REGEX_SIZE)
            .build()
    };
    build(pattern)
        .and_then(|_| build(&format!("^(?:{pattern})$")))
        .map_err(|error| wrong(last_line(&error.to_string())))
}

/// The regex crate prints the pattern over several lines; the last line of its message says what is
/// wrong.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn glob(
    field: &'static str,
    index: Option<usize>,
    pattern: &str,
) -> Result<globset::Glob, SelectError> {
    bounded(field, index, pattern)?;
    GlobBuilder::new(pattern)
        .empty_alternates(true)
        .build()
        .map_err(|error| SelectError::Glob {
            field,
            index,
            pattern: pattern.to_owned(),
            reason: error.kind().to_string(),
        })
}

fn range(text: &str) -> Result<VersionRange, SelectError> {
    bounded("semver", None, text)?;
    VersionRange::parse(text).map_err(|reason| SelectError::Semver {
        range: text.to_owned(),
        reason,
    })
}
