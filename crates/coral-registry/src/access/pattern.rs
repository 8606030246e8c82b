//! Patterns of repository paths.

use std::fmt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest pattern, in bytes; as long as the longest repository path.
const MOST_BYTES: usize = 255;

/// Patterns of repository paths: `*` matches one component or a part of one, `**` any number of
/// components.
#[derive(Clone)]
pub struct PathPatterns {
    texts: Vec<String>,
    set: GlobSet,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is empty and matches nothing.
    #[error("a pattern of repository paths is empty; `**` matches every repository")]
    Empty,
    /// Longer than any repository path.
    #[error("a pattern has more than {MOST_BYTES} bytes")]
    TooLong,
    /// It is not a repository path with wildcards.
    #[error(
        "{pattern:?} is not a pattern of repository paths, such as team/app, team/* or team/**: {reason}"
    )]
    Form {
        /// The text.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl PathPatterns {
    /// Every repository.
    pub fn everything() -> Self {
        Self {
            texts: vec!["**".to_owned()],
            set: GlobSet::empty(),
        }
    }

    /// The repositories that at least one of the patterns matches.
    pub fn parse<T: AsRef<str>>(
        patterns: impl IntoIterator<Item = T>,
    ) -> Result<Self, PatternError> {
        let mut texts = Vec::new();
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let text = pattern.as_ref();
            set.add(parse(text)?);
            texts.push(text.to_owned());
        }
        let set = set.build().map_err(|error| form("", error))?;
        Ok(Self { texts, set })
    }

    /// Whether one of the patterns matches a repository path.
    pub fn matches(&self, path: &str) -> bool {
        self.is_everything() || self.set.is_match(path)
    }

    /// Whether the pattern `**` is among them, which matches every path.
    pub fn is_everything(&self) -> bool {
        self.texts.iter().any(|text| text == "**")
    }
}

fn parse(text: &str) -> Result<globset::Glob, PatternError> {
    if text.is_empty() {
        return Err(PatternError::Empty);
    }
    if text.len() > MOST_BYTES {
        return Err(PatternError::TooLong);
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(form(text, "repository paths have no upper-case letters"));
    }
    if text.starts_with('/') || text.ends_with('/') || text.contains("//") {
        return Err(form(text, "it has an empty component"));
    }
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .map_err(|error| form(text, error.kind()))
}

fn form(pattern: &str, reason: impl fmt::Display) -> PatternError {
    PatternError::Form {
        pattern: pattern.to_owned(),
        reason: reason.to_string(),
    }
}

impl fmt::Debug for PathPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.texts).finish()
    }
}

impl PartialEq for PathPatterns {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expected: bool) {
        let patterns = PathPatterns::parse([pattern]).unwrap();
        assert_eq!(patterns.matches(path), expected, "{pattern} {path}");
    }

    #[test]
    fn one_star_stays_in_its_component() {
        check("team/app", "team/app", true);
        check("team/app", "team/app/x", false);
        check("team/*", "team/app", true);
        check("team/*", "team/app/x", false);
        check("team/**", "team/app/x", true);
        check("team/**", "team", false);
        check("team/**", "teams/app", false);
        check("**", "any/thing", true);
        check("*/app", "team/app", true);
        check("**/app", "a/b/app", true);
        check("{a,b}/x", "b/x", true);
        check("te?m", "team", true);
        check("te?m", "te/m", false);
    }

    #[test]
    fn what_could_never_match_is_refused() {
        for wrong in ["", "/team", "team/", "a//b", "Team/*", "[a", "{a"] {
            assert!(PathPatterns::parse([wrong]).is_err(), "{wrong}");
        }
        assert!(PathPatterns::parse(["a".repeat(256)]).is_err());
    }
}
