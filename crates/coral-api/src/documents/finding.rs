//! Mistakes that are found in one object.

use std::fmt::Display;

/// One mistake, before it is known which object it belongs to.
pub(super) struct Finding {
    pub(super) line: usize,
    /// Where in the object: `spec.repositories[2].name`; empty for the object itself.
    pub(super) path: String,
    /// What is wrong, with the path where it helps.
    pub(super) message: String,
}

/// Findings of one object.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    /// Paths that a finding mentions although it is about another path.
    mentioned: Vec<String>,
    /// Paths of fields that the object's kind will have and that do not work yet.
    pub(super) planned: &'static [&'static str],
}

impl Findings {
    /// Adds a finding whose text already says where it is.
    pub(super) fn add(&mut self, line: usize, path: &str, message: impl Display) {
        self.list.push(Finding {
            line,
            path: path.to_owned(),
            message: message.to_string(),
        });
    }

    /// Adds a finding about the value at `path`.
    pub(super) fn at(&mut self, line: usize, path: &str, message: impl Display) {
        self.add(line, path, format_args!("{path}: {message}"));
    }

    /// Records that a finding mentions `path`, so that no further finding is reported there.
    pub(super) fn mark_mentioned(&mut self, path: String) {
        self.mentioned.push(path);
    }

    /// Whether there is a finding at, above or below `path`: a further one there may only be its
    /// consequence.
    pub(super) fn overlaps(&self, path: &str) -> bool {
        let found = self.list.iter().map(|finding| &finding.path);
        found
            .chain(&self.mentioned)
            .any(|found| within(found, path) || within(path, found))
    }
}

/// Whether `inner` is `outer` or a part of it.
fn within(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}
