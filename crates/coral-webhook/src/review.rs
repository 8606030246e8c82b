//! Admission reviews (`admission.k8s.io/v1`) as JSON, read and answered without typed pods.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::decide::Decision;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Most reasons of one answer, and the longest of them in bytes.
const MAX_REASONS: usize = 10;
const MAX_REASON: usize = 400;

/// Why a body is not a review. The messages quote nothing of the body, which may contain secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    /// The body is not JSON of the right shape.
    #[error(
        "the body is not an AdmissionReview of {API_VERSION} in JSON (line {line}, column {column})"
    )]
    Malformed {
        /// Line of the error.
        line: usize,
        /// Column of the error.
        column: usize,
    },
    /// Another kind or version.
    #[error("expected kind {KIND} of {API_VERSION}")]
    Kind,
    /// It has no request.
    #[error("the review has no request")]
    NoRequest,
    /// The answer needs the uid.
    #[error("the request has no uid")]
    NoUid,
    /// The created pod is not a JSON object.
    #[error("the request creates a pod and has no object")]
    NoObject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// The request of the API server.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    uid: String,
    #[serde(default)]
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    operation: String,
    /// The namespace of the object.
    #[serde(default)]
    pub(crate) namespace: String,
    /// The object as it will be stored if it is not changed.
    #[serde(default)]
    pub(crate) object: Value,
}

#[derive(Default, Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resource: String,
}

impl Request {
    /// Reads the body of a request.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let body: Body = serde_json::from_slice(body).map_err(|error| ReviewError::Malformed {
            line: error.line(),
            column: error.column(),
        })?;
        if body.api_version != API_VERSION || body.kind != KIND {
            return Err(ReviewError::Kind);
        }
        let request = body.request.ok_or(ReviewError::NoRequest)?;
        if request.uid.is_empty() {
            return Err(ReviewError::NoUid);
        }
        if request.creates_pod() && !request.object.is_object() {
            return Err(ReviewError::NoObject);
        }
        Ok(request)
    }

    /// Whether a pod is being created. Any other request is answered without a change.
    pub(crate) fn creates_pod(&self) -> bool {
        self.resource.group.is_empty()
            && self.resource.resource == "pods"
            && self.sub_resource.as_deref().unwrap_or_default().is_empty()
            && self.operation == "CREATE"
    }

    /// The answer: the object is admitted, with these changes.
    pub(crate) fn answer(&self, decision: &Decision) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": true});
        if !decision.patch.is_empty() {
            // Operations are strings and JSON values: they can always be written.
            let patch = serde_json::to_vec(&decision.patch).unwrap_or_else(|_| b"[]".to_vec());
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(patch));
        }
        if !decision.warnings.is_empty() {
            response["warnings"] = json!(decision.warnings);
        }
        if !decision.reasons.is_empty() {
            let reasons = decision.reasons.iter().take(MAX_REASONS);
            let reasons: Vec<String> = reasons
                .map(|(image, why)| {
                    coral_api::conditions::cut(&format!("{image}: {why}"), MAX_REASON)
                })
                .collect();
            response["auditAnnotations"] = json!({"not-rewritten": reasons.join("; ")});
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
    }
}
