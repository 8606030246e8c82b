//! Refusals, in the form of the OCI distribution-spec, "Error Codes".

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coral_distribution::Category;
use coral_image::ManifestError;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::{Response, header};
use crate::pull_through::UpstreamError;
use crate::store::{PutManifestError, StoreError, UploadError};

/// How long clients are told to wait while other content is being verified.
const WAIT_FOR_LOOK: Duration = Duration::from_secs(5);

/// How long clients are told to wait if a source that is pulled through has too many requests and
/// does not say for how long.
const WAIT_FOR_SOURCE: Duration = Duration::from_mins(1);

/// The codes of the specification, and codes of its predecessor where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    TooManyRequests,
    Unauthorized,
    Unknown,
    Unsupported,
    InsufficientStorage,
}

impl Code {
    const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
            Self::InsufficientStorage => "INSUFFICIENT_STORAGE",
        }
    }
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: Code,
    message: String,
    /// Details, one per error; if empty, there is one error without detail.
    details: Vec<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log only: the error of the store.
    cause: Option<Box<StoreError>>,
    /// For the log only: the rejected credential.
    pub(crate) failed_login: Option<FailedLogin>,
}

/// A wrong name and password, or a wrong token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedLogin {
    /// The user, if one has the given name. Other names are not kept: they may be passwords that
    /// were typed into the wrong field.
    pub(crate) user: Option<Arc<str>>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: Vec::new(),
            headers: Vec::new(),
            cause: None,
            failed_login: None,
        }
    }

    pub(crate) fn invalid(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn not_found(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Too many requests right now, with the time after which to retry.
    pub(crate) fn later(wait: Duration, why: impl Into<String>) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, why)
            .with_header(RETRY_AFTER, header(seconds))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn with_detail(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn with_failed_login(mut self, user: Option<Arc<str>>) -> Self {
        self.failed_login = Some(FailedLogin { user });
        self
    }

    /// Logs what the operator of the registry must know. Mistakes of clients are not logged.
    pub(crate) fn log(&self, method: &Method) {
        if let Some(cause) = &self.cause {
            let reason = std::error::Error::source(cause.as_ref()).map(ToString::to_string);
            let category = cause.category();
            tracing::error!(%method, status = self.status.as_u16(), category, reason, "{cause}");
        }
    }

    pub(crate) fn into_response(self) -> Response {
        let (code, message) = (self.code.as_str(), self.message);
        let mut errors: Vec<Value> = self
            .details
            .into_iter()
            .map(|detail| json!({"code": code, "message": message, "detail": detail}))
            .collect();
        if errors.is_empty() {
            errors.push(json!({"code": code, "message": message}));
        }
        let mut response = super::json(self.status, &json!({ "errors": errors }));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response<Body> {
        Self::into_response(self)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let mut refusal = match &error {
            StoreError::Full { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                Code::InsufficientStorage,
                "the registry's storage is full; nothing was lost, try again when there is free \
                 space",
            ),
            StoreError::NoRoom(no_room) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                Code::InsufficientStorage,
                format!("the registry's storage is full: {no_room}"),
            )
            .with_detail(json!(no_room.space)),
            StoreError::Unavailable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unknown,
                "the registry's storage is not available; its log has the details",
            ),
            StoreError::Upstream(error) => return of_upstream(error),
            StoreError::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unknown,
                "the registry is shutting down; try again",
            ),
            StoreError::Damaged { .. } | StoreError::Other { .. } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                "the registry's storage failed; its log has the details",
            ),
        };
        // Logged once, when it begins.
        if !matches!(error, StoreError::NoRoom(_)) {
            refusal.cause = Some(Box::new(error));
        }
        refusal
    }
}

/// The answer when a registry that is pulled through failed; the failure was logged there.
fn of_upstream(error: &UpstreamError) -> Refusal {
    let what = error.for_clients();
    match error.category {
        Category::RateLimited => {
            let wait = error.retry_after.unwrap_or(WAIT_FOR_SOURCE);
            Refusal::later(wait, format!("pulled through: {what}"))
        }
        // Many registries answer this for a repository that does not exist, too.
        Category::Unauthorized | Category::Forbidden => Refusal::new(
            StatusCode::FORBIDDEN,
            Code::Denied,
            format!(
                "pulled through: {what}; the source does not let this registry read the \
                 repository, or has no such repository"
            ),
        ),
        _ => Refusal::new(
            StatusCode::BAD_GATEWAY,
            Code::Unknown,
            format!("pulled through: {what}; the log of this registry has the details"),
        ),
    }
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Unknown => Self::not_found(
                Code::BlobUploadUnknown,
                "there is no such upload in this repository; begin a new one",
            ),
            UploadError::Busy => Self::new(
                StatusCode::CONFLICT,
                Code::BlobUploadInvalid,
                "another request is still writing to this upload",
            ),
            UploadError::Digest { actual } => {
                let message = format!("{error}, not to the announced digest; begin again");
                Self::invalid(Code::DigestInvalid, message).with_detail(json!({"actual": actual}))
            }
            UploadError::Store(error) => error.into(),
        }
    }
}

impl From<PutManifestError> for Refusal {
    fn from(error: PutManifestError) -> Self {
        match error {
            PutManifestError::MissingBlobs(missing) => {
                // An image has at most a few hundred blobs, but a hostile manifest may have any
                // number.
                let mut refusal = Self::invalid(
                    Code::ManifestBlobUnknown,
                    "a blob that the manifest names is not in this repository; push or mount it first",
                );
                refusal.details = missing
                    .iter()
                    .take(100)
                    .map(|digest| json!({"digest": digest}))
                    .collect();
                refusal
            }
            PutManifestError::WrongSize {
                digest,
                named,
                stored,
            } => Self::invalid(Code::SizeInvalid, error.to_string())
                .with_detail(json!({"digest": digest, "named": named, "stored": stored})),
            PutManifestError::Busy => {
                Self::later(WAIT_FOR_LOOK, format!("{error}; try again later"))
            }
            PutManifestError::Store(error) => error.into(),
        }
    }
}

impl From<ManifestError> for Refusal {
    fn from(error: ManifestError) -> Self {
        let reason = std::error::Error::source(&error).map(ToString::to_string);
        let (status, code) = match &error {
            ManifestError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid),
            ManifestError::Digest { .. } => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
            _ => (StatusCode::BAD_REQUEST, Code::ManifestInvalid),
        };
        let refusal = Self::new(status, code, error.to_string());
        match reason {
            Some(reason) => refusal.with_detail(json!({"reason": reason})),
            None => refusal,
        }
    }
}
