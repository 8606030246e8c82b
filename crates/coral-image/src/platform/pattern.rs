//! Selects platforms of an index by a pattern.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Platform, PlatformError};

/// A single platform, or several with `*` for any characters: `linux/*`, `linux/arm*`, `*/amd64`. A
/// pattern without a variant matches every variant; a platform without a variant matches the
/// default one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlatformPattern(PatternKind);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PatternKind {
    One(Platform),
    Many(Platform),
}

impl PlatformPattern {
    /// Parses `os/architecture[/variant]`, in each part of which `*` stands for any characters.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        if !text.contains('*') {
            return Platform::parse(text).map(Self::from);
        }
        // A star is not valid in a platform, so the form is checked with another character in its
        // place.
        Platform::parse(&text.replace('*', "_")).map_err(|_| PlatformError::from_text(text))?;
        let mut parts = text.split('/').map(str::to_ascii_lowercase);
        let mut part = || parts.next().unwrap_or_default();
        let (os, architecture) = (part(), part());
        let platform = Platform {
            os,
            architecture,
            variant: parts.next(),
            os_version: None,
        };
        Ok(Self(PatternKind::Many(with_usual_names(platform))))
    }

    /// Whether the pattern matches an image for `candidate`.
    pub fn accepts(&self, candidate: &Platform) -> bool {
        match &self.0 {
            PatternKind::One(platform) => platform.accepts(candidate),
            PatternKind::Many(pattern) => {
                let have = candidate.clone().normalized();
                let variant = have.variant.as_deref().unwrap_or_default();
                matches(&pattern.os, &have.os)
                    && matches(&pattern.architecture, &have.architecture)
                    && pattern
                        .variant
                        .as_deref()
                        .is_none_or(|want| matches(want, variant))
            }
        }
    }
}

/// Normalises the parts without wildcards, so that aliases match: `*/x86_64` is `*/amd64`.
fn with_usual_names(pattern: Platform) -> Platform {
    if pattern.architecture.contains('*') {
        return pattern;
    }
    let usual = Platform {
        variant: None,
        ..pattern.clone()
    }
    .normalized();
    Platform {
        architecture: usual.architecture,
        ..pattern
    }
}

/// Whether `text` matches `pattern`, in which each `*` stands for any characters, possibly none.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl From<Platform> for PlatformPattern {
    fn from(platform: Platform) -> Self {
        Self(PatternKind::One(platform))
    }
}

impl fmt::Display for PlatformPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (PatternKind::One(platform) | PatternKind::Many(platform)) = &self.0;
        platform.fmt(f)
    }
}

impl FromStr for PlatformPattern {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for PlatformPattern {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<PlatformPattern> for String {
    fn from(pattern: PlatformPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(pattern: &str, platform: &str) -> bool {
        let pattern = PlatformPattern::parse(pattern).unwrap();
        pattern.accepts(&Platform::parse(platform).unwrap())
    }

    #[test]
    fn a_pattern_takes_in_what_its_stars_stand_for() {
        for (pattern, platform) in [
            ("linux/*", "linux/amd64"),
            ("linux/*", "linux/arm/v7"),
            ("linux/arm*", "linux/arm/v6"),
            ("linux/arm*", "linux/arm64"),
            ("linux/arm/*", "linux/arm/v5"),
            ("*/amd64", "windows/amd64"),
            ("*/x86_64", "linux/amd64"),
            ("Linux/ARM*", "linux/arm64"),
            ("*/*", "freebsd/riscv64"),
            ("linux/*m*4", "linux/arm64"),
            ("linux/amd64", "linux/amd64"),
        ] {
            assert!(accepts(pattern, platform), "{pattern} {platform}");
        }
    }

    #[test]
    fn a_pattern_leaves_out_the_rest() {
        for (pattern, platform) in [
            ("linux/*", "windows/amd64"),
            ("linux/arm*", "linux/amd64"),
            ("linux/arm/*", "linux/arm64"),
            ("linux/*/v7", "linux/arm/v6"),
            ("linux/*/v7", "linux/amd64"),
            ("linux/arm", "linux/arm/v6"),
            ("linux/*64x", "linux/amd64"),
        ] {
            assert!(!accepts(pattern, platform), "{pattern} {platform}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_as_it_was_written() {
        for wrong in [
            "linux",
            "*",
            "linux/*/*/*",
            "linux//",
            "linux/a b*",
            "",
            "linux/[a]*",
        ] {
            assert!(PlatformPattern::parse(wrong).is_err(), "{wrong}");
        }
        let error = PlatformPattern::parse("linux/a b*").unwrap_err();
        assert!(error.to_string().contains("linux/a b*"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "[a-z*]{1,8}/[a-z0-9*]{1,8}(/[a-z0-9*]{1,4})?") {
            let pattern = PlatformPattern::parse(&text).unwrap();
            prop_assert_eq!(PlatformPattern::parse(&pattern.to_string()).unwrap(), pattern);
        }

        #[test]
        fn a_star_in_place_of_anything_still_matches(text in "[a-z]{1,8}", from in 0_usize..8, to in 0_usize..8) {
            let (from, to) = (from.min(to).min(text.len()), from.max(to).min(text.len()));
            let pattern = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(matches(&pattern, &text), "{} {}", pattern, text);
        }
    }
}
