//! How often credentials were asked for, and what came of it.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Answered {
    /// A credential.
    Granted,
    /// The request is malformed.
    Malformed,
    /// The token is none of this cluster, or for another audience.
    Unauthenticated,
    /// The pod may not have it.
    Refused,
    /// The pod may have it later.
    Early,
    /// Too many requests.
    Limited,
    /// The API server gave no answer, or the key is not there.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: Answered,
}

/// Cheap to clone; all clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct CredentialMetrics {
    answers: Family<Labels, Counter>,
}

impl CredentialMetrics {
    /// Has `/metrics` show them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "coral_controller_credentials",
            "Requests for a credential of a Registry, by what was answered",
            self.answers.clone(),
        );
    }

    pub(super) fn answered(&self, result: Answered) {
        self.answers.get_or_create(&Labels { result }).inc();
    }
}
