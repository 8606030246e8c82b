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
    /// No connection could be made.
    Connect,
    /// TLS failed: certificate or handshake.
    Tls,
    /// No byte was transferred for too long.
    Timeout,
    /// 401, or no credential.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 429 in any shape.
    RateLimited,
    /// 507, or a file system that is full.
    NoRoom,
    /// Any other 5xx.
    Server,
    /// Any other refusal (4xx).
    Refused,
    /// The bytes are not those of the digest, in content or in length.
    Digest,
    /// An answer that violates the protocol.
    Protocol,
    /// More bytes than allowed or promised.
    TooLarge,
    /// The connection ended before the answer did.
    Cut,
    /// The local file system failed.
    Storage,
    /// An option of the client makes no sense.
    Options,
}

impl Category {
    /// The name, for metrics and statuses.
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

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It is transient: retry with backoff.
    Retry,
    /// It is transient: retry, but not before this time has passed.
    RetryAfter(Duration),
    /// It is resolved when space is freed at the destination, which takes longer than a few
    /// attempts.
    WaitForRoom,
    /// It persists until a reference, a credential or an option changes.
    WaitForChange,
}

/// A failure: the host or directory, the request, the answer, and what to do.
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

    /// Of an answer to a request about an open upload: an upload that is not known, or whose
    /// bytes are counted otherwise, is no refusal of access: the upload can begin again.
    pub(crate) fn of_open_upload(mut self) -> Self {
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

    /// Advice for a TLS failure, which depends on what failed. The text of the error ends with it.
    pub fn tls_advice(&self) -> Option<&str> {
        self.0.problem.tls_advice()
    }

    /// Whether the other side answered a TLS handshake with something else.
    pub(crate) fn is_not_tls(&self) -> bool {
        matches!(self.0.problem, Problem::NotTls { .. })
    }

    /// Whether bytes moved, but too slowly.
    pub(crate) fn is_drip(&self) -> bool {
        matches!(self.0.problem, Problem::Slow { .. })
    }

    /// How long the other side asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.problem.answer()?.retry_after
    }

    /// The HTTP status of the answer, if it was one that reported a failure.
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
        if problem.is_of_the_host() {
            // It would be the same for any request.
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
