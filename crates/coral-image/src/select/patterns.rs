//! Lists of shell patterns.

use globset::{GlobSet, GlobSetBuilder};

use super::{MAX_EXCLUDES, SelectError, glob};

/// Shell patterns, at least one of which must match the whole tag.
#[derive(Debug, Clone, Default)]
pub struct TagPatterns(GlobSet);

impl TagPatterns {
    /// Compiles a list; every invalid pattern is reported as an element of `field`.
    pub fn compile(field: &'static str, patterns: &[String]) -> Result<Self, Vec<SelectError>> {
        if patterns.len() > MAX_EXCLUDES {
            let count = patterns.len();
            return Err(vec![SelectError::TooMany { field, count }]);
        }
        let mut set = GlobSetBuilder::new();
        let mut errors = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            match glob(field, Some(index), pattern) {
                Ok(glob) => drop(set.add(glob)),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        set.build().map(Self).map_err(|error| {
            let reason = error.kind().to_string();
            let pattern = patterns.join(" ");
            vec![SelectError::Glob {
                field,
                index: None,
                pattern,
                reason,
            }]
        })
    }

    /// Whether one of the patterns matches. An empty list matches nothing.
    pub fn matches(&self, tag: &str) -> bool {
        self.0.is_match(tag)
    }
}
