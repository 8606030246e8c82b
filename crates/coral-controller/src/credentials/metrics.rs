//! Counts the requests of the steps of builds, by their results.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum StepRequest {
    /// A credential.
    Credential,
    /// That a result is taken.
    Result,
}

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum RequestOutcome {
    /// The credential was given, or the result taken.
    Accepted,
    /// The request is malformed.
    Malformed,
    /// The token is not one of this cluster, or is for another audience.
    Unauthenticated,
    /// The pod may not have it.
    Refused,
    /// The pod may have it later.
    Early,
    /// Too many requests.
    Limited,
    /// The API server gave no answer, the key is not there, or this controller does not lead.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    request: StepRequest,
    outcome: RequestOutcome,
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
            "coral_controller_build_requests",
            "Requests of the steps of builds, by kind and result",
            self.answers.clone(),
        );
    }

    pub(super) fn answered(&self, request: StepRequest, outcome: RequestOutcome) {
        let labels = Labels { request, outcome };
        self.answers.get_or_create(&labels).inc();
    }
}
