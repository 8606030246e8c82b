//! Which repositories a token is for.

use std::fmt;
use std::str::FromStr;

use coral_image::RepositoryPath;

/// One repository, or all below a path. A path ends at a component: `team-a/**` is for `team-a/x`
/// and `team-a/x/y`, and for neither `team-a` nor `team-ab/x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryPattern {
    /// This repository.
    Exact(RepositoryPath),
    /// The repositories below this path.
    Below(RepositoryPath),
}

/// The text is neither a repository path nor one with `/**` behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a repository path, such as team/app, or one with /** behind it, such as team/**")]
pub struct RepositoryPatternError;

impl RepositoryPattern {
    /// Whether the repository is meant.
    pub fn matches(&self, path: &RepositoryPath) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Below(parent) => path
                .as_str()
                .strip_prefix(parent.as_str())
                .is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

impl FromStr for RepositoryPattern {
    type Err = RepositoryPatternError;

    fn from_str(text: &str) -> Result<Self, RepositoryPatternError> {
        let path = |text: &str| RepositoryPath::parse(text).map_err(|_| RepositoryPatternError);
        match text.strip_suffix("/**") {
            Some(parent) => path(parent).map(Self::Below),
            None => path(text).map(Self::Exact),
        }
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "{path}"),
            Self::Below(path) => write!(f, "{path}/**"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_ends_at_a_component_of_the_path() {
        for (pattern, path, expected) in [
            ("team-a/**", "team-a/x", true),
            ("team-a/**", "team-a/x/y", true),
            ("team-a/**", "team-a", false),
            ("team-a/**", "team-ab/x", false),
            ("team-a/**", "team/x", false),
            ("team-a/**", "x/team-a/y", false),
            ("team-a/x/**", "team-a/x/y", true),
            ("team-a/x/**", "team-a/xy/z", false),
            ("team-a/x", "team-a/x", true),
            ("team-a/x", "team-a/x/y", false),
            ("team-a/x", "team-a/xy", false),
        ] {
            let parsed: RepositoryPattern = pattern.parse().unwrap();
            let path = RepositoryPath::parse(path).unwrap();
            assert_eq!(parsed.matches(&path), expected, "{pattern} {path}");
            assert_eq!(parsed.to_string(), pattern);
        }
    }

    #[test]
    fn a_wildcard_elsewhere_is_refused() {
        for wrong in [
            "",
            "**",
            "/**",
            "*",
            "team-*/x",
            "team/*",
            "team/**/x",
            "Team/**",
            "a//**",
            "../x",
            "team/",
            "/team",
        ] {
            assert_eq!(
                wrong.parse::<RepositoryPattern>(),
                Err(RepositoryPatternError),
                "{wrong}"
            );
        }
    }
}
