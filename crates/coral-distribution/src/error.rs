//! What can go wrong with a registry or a layout.

use std::fmt;
use std::time::Duration;

/// The kind of failure; a bounded metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// The name does not resolve.
    Dns,
    /// No connection could be made.
    Connect,
    /// TLS failed: certificate or handshake.
    Tls,
    /// Nothing moved for too long.
    Timeout,
    /// 401, or no credential.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 429 in any shape.
    RateLimited,
    /// 5xx.
    Server,
    /// Any other refusal (4xx).
    Refused,
    /// The bytes are not those of the digest.
    Digest,
    /// An answer that the protocol does not have.
    Protocol,
    /// More bytes than allowed or promised.
    TooLarge,
    /// The connection ended before the answer did.
    Cut,
    /// The local file system failed.
    Storage,
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
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Digest => "digest",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Cut => "cut",
            Self::Storage => "storage",
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
    /// It may pass: try again, with backoff.
    Retry,
    /// It may pass, but not before this long from now.
    RetryAfter(Duration),
    /// It stays until a reference, a credential or an option changes.
    WaitForChange,
}

/// A failure, with the host, what was asked, what came, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("todo")]
pub struct Error {}

impl Error {
    /// The kind of failure.
    pub fn category(&self) -> Category {
        todo!()
    }

    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        todo!()
    }

    /// How long the other side asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        todo!()
    }

    /// The HTTP status of the answer, if one came.
    pub fn status(&self) -> Option<u16> {
        todo!()
    }
}
