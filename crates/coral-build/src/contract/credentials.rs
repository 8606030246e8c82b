//! How a step gets a credential of the internal registry: it sends the token of the pod's
//! ServiceAccount to the controller, which answers with a credential that is valid for minutes.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Step;

/// Audience of the service account token that is exchanged for a credential.
pub const AUDIENCE: &str = "coral.stvz.io";
/// How long that token is valid, in seconds: the minimum that Kubernetes allows.
pub const TOKEN_SECONDS: i64 = 600;
/// Path at the controller at which a step requests a credential, by POST. The token is sent as
/// `Authorization: Bearer`.
pub const CREDENTIALS_PATH: &str = "/v1/credentials";
/// Path at the controller to which `push` reports its result, by POST, with the token as for a
/// credential. The body is its termination message, a [`PushReport`](super::PushReport); the answer
/// with a status of success is empty. If there is no report, the controller reads the message from
/// the pod.
pub const RESULTS_PATH: &str = "/v1/results";

/// Body of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRequest {
    /// The step that asks.
    pub step: Step,
}

/// Body of the answer with status 200.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialAnswer {
    /// Host and port of the Registry that the credential is for.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password. It is secret.
    pub password: String,
    /// When the credential ends.
    pub expires: Timestamp,
    /// The container that built, once it has ended.
    #[serde(default)]
    pub provenance: Option<BuildContainer>,
}

impl fmt::Debug for CredentialAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CredentialAnswer");
        debug.field("registry", &self.registry);
        debug.finish_non_exhaustive()
    }
}

/// The user's container, as the node ran it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildContainer {
    /// Its image with the digest that the node resolved.
    pub builder: Option<String>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// Body of an answer with another status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRefusal {
    /// What is wrong, for the log of the step.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_no_debug_form() {
        let answer = CredentialAnswer {
            registry: "reg.a.svc:5000".to_owned(),
            username: "token".to_owned(),
            password: "s3cret".to_owned(),
            expires: Timestamp::UNIX_EPOCH,
            provenance: None,
        };
        assert!(!format!("{answer:?}").contains("s3cret"));
    }
}
