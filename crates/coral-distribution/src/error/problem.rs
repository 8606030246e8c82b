//! The causes of failures.

use std::fmt;
use std::time::Duration;

use coral_image::{Digest, MAX_MANIFEST_SIZE, ManifestError};
use http::StatusCode;

use super::{Category, Disposition};
use crate::credentials::HelperError;

/// An answer that reports a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The message of the other side, sanitised and truncated.
    pub(crate) message: String,
    /// Whether the answer is HTML, as from proxies and portals.
    pub(crate) html: bool,
    /// Whether it is a rate limit, whatever its status.
    pub(crate) rate_limited: bool,
    pub(crate) retry_after: Option<Duration>,
    /// What Coral can add: which credential was used, which flag would help.
    pub(crate) advice: String,
}

impl Answer {
    /// Whether a manifest was refused because its blobs are missing, which can be sent again.
    fn reports_missing_blobs(&self) -> bool {
        self.message.contains("MANIFEST_BLOB_UNKNOWN")
    }

    fn category(&self) -> Category {
        match self.status {
            _ if self.rate_limited => Category::RateLimited,
            StatusCode::UNAUTHORIZED => Category::Unauthorized,
            StatusCode::FORBIDDEN => Category::Forbidden,
            StatusCode::NOT_FOUND | StatusCode::GONE => Category::NotFound,
            StatusCode::REQUEST_TIMEOUT => Category::Timeout,
            StatusCode::PAYLOAD_TOO_LARGE => Category::TooLarge,
            StatusCode::INSUFFICIENT_STORAGE => Category::NoRoom,
            status if status.is_server_error() => Category::Server,
            status if status.is_client_error() => Category::Refused,
            _ => Category::Protocol,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.status)?;
        if self.rate_limited && self.status != StatusCode::TOO_MANY_REQUESTS {
            f.write_str(" for a rate limit")?;
        }
        if self.html {
            f.write_str(" with an HTML page (not a registry, or a proxy in between)")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, "; it asks to wait {} s", wait.as_secs())?;
        }
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

/// The cause of a failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("the name does not resolve: {}; check the host's spelling and DNS", without_prefix(.cause))]
    Dns { cause: String },
    #[error("cannot connect: {cause}")]
    Connect { cause: String },
    /// A failure on the connection to a proxy.
    #[error("through the proxy {proxy}: {problem}; see HTTPS_PROXY, HTTP_PROXY and NO_PROXY")]
    Proxy {
        proxy: String,
        problem: Box<Problem>,
    },
    #[error("TLS failed: {cause}; {advice}")]
    Tls { cause: String, advice: String },
    #[error("TLS failed: it does not speak TLS; {advice}")]
    NotTls { advice: String },
    #[error("no connection within {} s", .0.as_secs_f32())]
    ConnectTimeout(Duration),
    #[error("no byte moved for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("only {moved} bytes came in {} s of waiting", .window.as_secs_f32())]
    Slow { moved: u64, window: Duration },
    #[error("{0}")]
    Answer(Answer),
    /// A streamed body cannot be sent a second time with a new token.
    #[error("{0}; the upload cannot be repeated from the middle and must begin again")]
    TokenExpired(Answer),
    /// The other side no longer knows an upload, or counts its bytes differently.
    #[error("{0}; the upload is lost there and must begin again")]
    UploadLost(Answer),
    /// A credential helper returned no credential.
    #[error("{}", .0.text)]
    Helper(HelperError),
    #[error("there is nothing under this name")]
    Missing,
    #[error("wrong digest: the bytes hash to {actual}, not to {expected}")]
    Digest {
        expected: Box<Digest>,
        actual: Box<Digest>,
    },
    #[error("{actual} bytes came, not {expected}")]
    Length { expected: u64, actual: u64 },
    #[error("more than {limit} bytes came, and no more are accepted")]
    TooLarge { limit: u64 },
    #[error("the connection was cut after {received} bytes{}", cause_suffix(.cause))]
    Cut { received: u64, cause: String },
    #[error("an HTML page came (not a registry, or a proxy in between)")]
    Html,
    #[error("not a manifest")]
    Manifest(#[source] ManifestError),
    #[error("{0}")]
    Protocol(String),
    /// A protocol error that every retry would repeat.
    #[error("{0}")]
    Permanent(String),
    /// The host speaks another protocol than the configured one.
    #[error("{0}")]
    OtherProtocol(String),
    /// An operation that is refused regardless of the credential.
    #[error("{0}")]
    Unsafe(String),
    /// A folder or an archive is malformed, which no retry changes.
    #[error("{0}")]
    Broken(String),
    #[error("{what} {path}")]
    Storage {
        what: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Options(String),
}

/// Whether the error is due to the file's name or permissions, and not to the disk.
fn is_name_error(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
    )
}

/// Whether the file system is full.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Whether the resolver says that the name does not exist, rather than that it cannot tell at the
/// moment. These are the words of glibc and musl for `EAI_NONAME`.
fn is_unknown_name(cause: &str) -> bool {
    ["Name or service not known", "Name does not resolve"]
        .iter()
        .any(|words| cause.contains(words))
}

/// The resolver's message, without the standard library's prefix, which repeats that a name was
/// looked up.
fn without_prefix(cause: &str) -> &str {
    let prefix = "failed to lookup address information: ";
    cause.strip_prefix(prefix).unwrap_or(cause)
}

/// Whether a retry would return the same manifest. Bytes that are not JSON may have been cut off on
/// the way.
fn is_permanent(error: &ManifestError) -> bool {
    match error {
        ManifestError::Json(error) => error.is_data(),
        _ => true,
    }
}

fn cause_suffix(cause: &str) -> String {
    if cause.is_empty() {
        String::new()
    } else {
        format!(": {cause}")
    }
}

impl Problem {
    pub(crate) fn protocol(text: impl fmt::Display) -> Self {
        Self::Protocol(text.to_string())
    }

    pub(crate) fn digest(expected: Digest, actual: Digest) -> Self {
        Self::Digest {
            expected: Box::new(expected),
            actual: Box::new(actual),
        }
    }

    pub(crate) fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answer(answer) | Self::TokenExpired(answer) | Self::UploadLost(answer) => {
                Some(answer)
            }
            _ => None,
        }
    }

    pub(crate) fn tls_advice(&self) -> Option<&str> {
        match self {
            Self::Tls { advice, .. } | Self::NotTls { advice } => Some(advice),
            _ => None,
        }
    }

    /// Whether no connection was established, so that no request was sent.
    pub(crate) fn is_connection_failure(&self) -> bool {
        match self {
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout(_)
            | Self::Tls { .. }
            | Self::NotTls { .. } => true,
            Self::Proxy { problem, .. } => problem.is_connection_failure(),
            _ => false,
        }
    }

    pub(crate) fn category(&self) -> Category {
        match self {
            Self::Dns { .. } => Category::Dns,
            Self::Connect { .. } => Category::Connect,
            Self::Tls { .. } | Self::NotTls { .. } => Category::Tls,
            Self::Proxy { problem, .. } => problem.category(),
            Self::ConnectTimeout(_) | Self::Stalled(_) | Self::Slow { .. } => Category::Timeout,
            Self::Answer(answer) | Self::TokenExpired(answer) | Self::UploadLost(answer) => {
                answer.category()
            }
            Self::Helper(_) => Category::Unauthorized,
            Self::Missing => Category::NotFound,
            Self::Digest { .. } | Self::Length { .. } => Category::Digest,
            Self::TooLarge { .. } => Category::TooLarge,
            Self::Cut { .. } => Category::Cut,
            Self::Html
            | Self::Manifest(_)
            | Self::Protocol(_)
            | Self::Permanent(_)
            | Self::OtherProtocol(_)
            | Self::Unsafe(_)
            | Self::Broken(_) => Category::Protocol,
            Self::Storage { source, .. } if is_full(source) => Category::NoRoom,
            Self::Storage { .. } => Category::Storage,
            Self::Options(_) => Category::Options,
        }
    }

    pub(crate) fn disposition(&self) -> Disposition {
        if let Some(wait) = self.answer().and_then(|answer| answer.retry_after) {
            return Disposition::RetryAfter(wait);
        }
        match self {
            Self::TokenExpired(_) | Self::UploadLost(_) => Disposition::Retry,
            Self::Answer(answer) if answer.reports_missing_blobs() => Disposition::Retry,
            // Not implemented, not in this version of HTTP, a portal that wants a person to log in,
            // or an answer to another request: none of them is due to load on the server.
            Self::Answer(answer)
                if matches!(answer.status.as_u16(), 300..=399 | 501 | 505 | 511) =>
            {
                Disposition::WaitForChange
            }
            Self::Helper(error) if error.transient => Disposition::Retry,
            Self::Unsafe(_)
            | Self::OtherProtocol(_)
            | Self::Broken(_)
            | Self::Permanent(_)
            | Self::Html => Disposition::WaitForChange,
            Self::Manifest(error) if is_permanent(error) => Disposition::WaitForChange,
            Self::Dns { cause } if is_unknown_name(cause) => Disposition::WaitForChange,
            Self::Storage { source, .. } if is_name_error(source) => Disposition::WaitForChange,
            _ => match self.category() {
                Category::Unauthorized
                | Category::Forbidden
                | Category::NotFound
                | Category::Refused
                | Category::TooLarge
                | Category::Tls
                | Category::Options => Disposition::WaitForChange,
                Category::NoRoom => Disposition::WaitForRoom,
                _ => Disposition::Retry,
            },
        }
    }
}

impl From<ManifestError> for Problem {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Digest { expected, actual } => Self::Digest { expected, actual },
            ManifestError::TooLarge => Self::TooLarge {
                limit: MAX_MANIFEST_SIZE as u64,
            },
            other => Self::Manifest(other),
        }
    }
}

impl From<Answer> for Problem {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_resolve_is_said_once() {
        let cause = "failed to lookup address information: Name or service not known".to_owned();
        assert_eq!(
            Problem::Dns { cause }.to_string(),
            "the name does not resolve: Name or service not known; check the host's spelling and DNS"
        );
    }

    /// Regression: for a host that cannot be reached, the message began with the image.
    #[test]
    fn what_was_asked_is_said_only_of_a_host_that_answered() {
        let text = |problem: Problem| {
            let error = crate::Error::new("quay.io", "looking up a/b:1", problem);
            error.to_string()
        };
        let cause = "Name or service not known".to_owned();
        let dns = text(Problem::Dns { cause });
        assert!(dns.starts_with("quay.io: the name does not"), "{dns}");
        let (advice, proxy) = (String::new(), "http://proxy".to_owned());
        let problem = Box::new(Problem::NotTls { advice });
        let through = text(Problem::Proxy { proxy, problem });
        assert!(through.starts_with("quay.io: through the"), "{through}");
        let missing = text(Problem::Missing);
        assert!(
            missing.starts_with("quay.io: looking up a/b:1: "),
            "{missing}"
        );
    }

    #[test]
    fn what_stays_as_it_is_is_not_tried_again() {
        let dns = |cause: &str| Problem::Dns {
            cause: cause.to_owned(),
        };
        let cut = serde_json::from_str::<serde_json::Value>("{").unwrap_err();
        let shape = serde_json::from_str::<u8>("[]").unwrap_err();
        for (problem, expected) in [
            (Problem::Html, Disposition::WaitForChange),
            (
                Problem::Manifest(ManifestError::Schema1),
                Disposition::WaitForChange,
            ),
            (
                Problem::Manifest(ManifestError::Json(shape)),
                Disposition::WaitForChange,
            ),
            (
                Problem::Manifest(ManifestError::Json(cut)),
                Disposition::Retry,
            ),
            (
                Problem::Permanent(String::new()),
                Disposition::WaitForChange,
            ),
            (
                dns("failed to lookup address information: Name or service not known"),
                Disposition::WaitForChange,
            ),
            (
                dns("Temporary failure in name resolution"),
                Disposition::Retry,
            ),
            (
                Problem::Storage {
                    what: "cannot write",
                    path: "blobs".to_owned(),
                    source: std::io::ErrorKind::StorageFull.into(),
                },
                Disposition::WaitForRoom,
            ),
        ] {
            assert_eq!(problem.disposition(), expected, "{problem}");
        }
    }
}
