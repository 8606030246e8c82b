//! Errors of registries and layouts.

mod problem;

use std::fmt;
use std::time::Duration;

pub(crate) use problem::{Answer, Problem};

/// The kind of failure; a bounded metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// The name does not resolve.
    Dns,
    /// The connection could not be established.
    Connect,
    /// TLS failed: certificate or handshake.
    Tls,
    /// No byte was transferred for too long.
    Timeout,
    /// Status 401, or no credential.
    Unauthorized,
    /// Status 403.
    Forbidden,
    /// Status 404, or the object does not exist.
    NotFound,
    /// Status 429, or a rate limit that is reported in another way.
    RateLimited,
    /// Status 507, or the file system is full.
    NoRoom,
    /// Any other 5xx status.
    Server,
    /// Any other refusal (4xx).
    Refused,
    /// The bytes do not match the digest, in content or in length.
    Digest,
    /// The answer violates the protocol.
    Protocol,
    /// More bytes than allowed or promised.
    TooLarge,
    /// The connection ended in the middle of the answer.
    Cut,
    /// The local file system failed.
    Storage,
    /// An option of the client is invalid.
    Options,
}

impl Category {
    /// The name of the category in metrics and statuses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::NoRoom => "no_room",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Digest => "digest",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Cut => "cut",
            Self::Storage => "storage",
            Self::Options => "options",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the caller should do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The failure is transient: retry with backoff.
    Retry,
    /// The failure is transient: retry, but not before this time has passed.
    RetryAfter(Duration),
    /// The destination is full. The failure is resolved when space is freed there, which takes
    /// longer than a few attempts.
    WaitForRoom,
    /// The failure persists until a reference, a credential or an option changes.
    WaitForChange,
}

/// A failure: which host or directory, which request, what it answered, and what to do.
pub struct Error(Box<Inner>);

/// Boxed, so that a `Result` stays small.
#[derive(Debug)]
struct Inner {
    place: String,
    asked: String,
    problem: Problem,
}

impl Error {
    pub(crate) fn new(
        place: impl fmt::Display,
        asked: impl fmt::Display,
        problem: impl Into<Problem>,
    ) -> Self {
        Self(Box::new(Inner {
            place: place.to_string(),
            asked: asked.to_string(),
            problem: problem.into(),
        }))
    }

    /// Adds advice to a refusal.
    pub(crate) fn advised(mut self, advice: String) -> Self {
        if let Problem::Answer(answer) = &mut self.0.problem {
            answer.advice = advice;
        }
        self
    }

    /// Replaces the advice, if the other side does not speak TLS.
    pub(crate) fn advised_without_tls(mut self, advice: impl FnOnce() -> String) -> Self {
        if let Problem::NotTls { advice: given } = &mut self.0.problem {
            *given = advice();
        }
        self
    }

    /// Adds an observation to the failure.
    pub(crate) fn noted(mut self, note: &str) -> Self {
        let text = format!("{}; {note}", self.0.problem);
        self.0.problem = Problem::Protocol(text);
        self
    }

    /// Makes an error about an open upload retryable. If the registry does not know the upload, or
    /// counts its bytes differently, the upload can begin again; access was not refused.
    pub(crate) fn for_open_upload(mut self) -> Self {
        if let Problem::Answer(answer) = &self.0.problem
            && matches!(answer.status.as_u16(), 404 | 410 | 416)
        {
            self.0.problem = Problem::UploadLost(answer.clone());
        }
        self
    }

    /// The host or directory that failed.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// The kind of failure.
    pub fn category(&self) -> Category {
        self.0.problem.category()
    }

    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        self.0.problem.disposition()
    }

    /// Advice on a TLS failure, which depends on its cause. The error's text ends with it.
    pub fn tls_advice(&self) -> Option<&str> {
        self.0.problem.tls_advice()
    }

    /// Whether the other side answered a TLS handshake in another protocol.
    pub(crate) fn is_not_tls(&self) -> bool {
        matches!(self.0.problem, Problem::NotTls { .. })
    }

    /// Whether bytes arrived, but too slowly.
    pub(crate) fn is_too_slow(&self) -> bool {
        matches!(self.0.problem, Problem::Slow { .. })
    }

    /// How long the other side asked the client to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.problem.answer()?.retry_after
    }

    /// The HTTP status of the answer, if an answer reported the failure.
    pub fn status(&self) -> Option<u16> {
        Some(self.0.problem.answer()?.status.as_u16())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            place,
            asked,
            problem,
        } = &*self.0;
        if problem.is_connection_failure() {
            // Such a problem does not depend on the request, so the request is not named.
            return write!(f, "{place}: {problem}");
        }
        write!(f, "{place}: {asked}: {problem}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.problem)
    }
}
