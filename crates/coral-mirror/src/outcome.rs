//! The outcome of a copy job: a plain value that goes from the worker back to every mirror.

use std::borrow::Cow;
use std::time::Duration;

use coral_distribution::Category;
use coral_image::Digest;
use serde::{Deserialize, Serialize};

use crate::copy::Sparse;
use crate::job::Job;
use crate::state::Cause;

/// A job and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The job as it was taken from the queue.
    pub job: Job,
    /// Its result.
    pub result: Result<Done, Failure>,
}

/// A copy that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What the key resolves to now.
    pub digest: Digest,
    /// Bytes moved over the network.
    pub moved: u64,
    /// What was left out on purpose.
    pub sparse: Sparse,
    /// Referrers and signature tags that were not copied, and lists of them that were not read.
    #[serde(default)]
    pub missed: usize,
    /// Whether the destination already had all of it.
    #[serde(default)]
    pub up_to_date: bool,
    /// Time since the worker began.
    pub elapsed: Duration,
}

/// Why something failed: a copy, a comparison, the listing of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The whole chain of causes, in one line.
    pub error: String,
    /// A bounded label: `not_found`, `dns`, `rate_limited` and so on.
    pub category: Cow<'static, str>,
    /// What has to happen before a retry can help.
    pub cause: Cause,
}

impl Failure {
    /// Whether a host name does not exist, so that a retry soon would fail the same way. A resolver
    /// that cannot answer now is another failure.
    pub(crate) fn is_unknown_host(&self) -> bool {
        self.cause == Cause::Refusal && self.category == Category::Dns.as_str()
    }

    /// A transient failure.
    pub(crate) fn transient(error: impl Into<String>, category: &'static str) -> Self {
        Self {
            error: error.into(),
            category: category.into(),
            cause: Cause::Transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coral_image::ImageRef;

    use super::*;
    use crate::progress::Key;

    #[test]
    fn an_outcome_survives_being_written_down() {
        let source = ImageRef::parse("quay.io/org/app:1").unwrap();
        let job = Job {
            key: Key::from_reference(&source),
            source,
            mirror: "default/m".into(),
            platforms: vec![],
            foreign_layers: true,
            referrers: true,
            broken: BTreeSet::new(),
            completes: Some(Digest::sha256(b"x")),
        };
        let done = Done {
            digest: Digest::sha256(b"x"),
            moved: 7,
            sparse: Sparse::default(),
            missed: 2,
            up_to_date: true,
            elapsed: Duration::from_millis(1500),
        };
        let failure = Failure {
            error: "source: too many requests".into(),
            category: "rate_limited".into(),
            cause: Cause::After(Duration::from_secs(9)),
        };
        for result in [Ok(done), Err(failure)] {
            let job = job.clone();
            let outcome = Outcome { job, result };
            let text = serde_json::to_string(&outcome).unwrap();
            assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
        }
    }
}
