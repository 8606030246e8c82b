//! What is wrong with an object, and where in it.

use std::fmt;

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where: `spec.repositories[2].tags[0]`.
    pub path: String,
    /// What is wrong and what to do, without the path.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Collects problems. All of them are kept, so that a person can correct a file in one go.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, path: impl Into<String>, message: impl fmt::Display) {
        self.0.push(Problem {
            path: path.into(),
            message: message.to_string(),
        });
    }

    /// Adds a problem about a value of an enumeration that a newer version may know.
    pub(crate) fn unknown_value(&mut self, path: impl Into<String>) {
        self.add(path, "has a value that this version of Coral does not know");
    }

    /// The value; `None` for an error, which is added together with its sources.
    pub(crate) fn check<T, E: std::error::Error>(
        &mut self,
        path: impl Into<String>,
        result: Result<T, E>,
    ) -> Option<T> {
        result
            .map_err(|error| self.add(path, coral_image::error_chain(&error)))
            .ok()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    pub(crate) fn into_result<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}
