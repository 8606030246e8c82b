//! Errors of calls to the container runtime.

use std::error::Error as _;
use std::fmt;

use tonic::{Code, Status};

/// Longest message of a runtime that is kept, in characters.
const MAX_MESSAGE: usize = 600;

/// The kind of failure; a bounded metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// The image, or the name, does not exist.
    NotFound,
    /// The registry requires a credential, or another one.
    Unauthorized,
    /// The registry refused access.
    Denied,
    /// The reference is malformed.
    Invalid,
    /// The registry limits requests.
    Throttled,
    /// The node's disk is full.
    DiskFull,
    /// The runtime does not answer on its socket.
    Unavailable,
    /// No answer within the deadline.
    Timeout,
    /// The runtime does not implement this call.
    Unsupported,
    /// Any other failure.
    Other,
}

impl Category {
    /// The name in metrics, and the reason in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Unauthorized => "Unauthorized",
            Self::Denied => "Denied",
            Self::Invalid => "InvalidReference",
            Self::Throttled => "TooManyRequests",
            Self::DiskFull => "DiskFull",
            Self::Unavailable => "RuntimeUnavailable",
            Self::Timeout => "Timeout",
            Self::Unsupported => "Unsupported",
            Self::Other => "Failed",
        }
    }

    /// What to do about a failure of this category.
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::NotFound
            | Self::Unauthorized
            | Self::Denied
            | Self::Invalid
            | Self::Unsupported => Disposition::Refusal,
            Self::Throttled | Self::DiskFull | Self::Unavailable | Self::Timeout | Self::Other => {
                Disposition::Transient
            }
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
    /// It persists until the reference, the credential or the image at the registry changes.
    Refusal,
    /// It is transient: retry with backoff.
    Transient,
}

/// A call to the runtime that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {message}")]
pub struct RuntimeError {
    action: &'static str,
    category: Category,
    message: String,
}

impl RuntimeError {
    /// A failure of `action` ("pull the image"), with the runtime's message.
    pub fn new(action: &'static str, category: Category, message: &str) -> Self {
        Self {
            action,
            category,
            message: clean(without_prefix(message)),
        }
    }

    /// The kind of failure.
    pub const fn category(&self) -> Category {
        self.category
    }

    /// What to do about it.
    pub const fn disposition(&self) -> Disposition {
        self.category.disposition()
    }

    /// The runtime's message, in one line, without query strings and credentials of URLs, at most
    /// 600 characters.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn from_status(action: &'static str, status: &Status) -> Self {
        Self::new(action, category_of_status(status), &status_message(status))
    }
}

/// The message of the status; for a broken connection that of the innermost cause, which is more
/// specific.
fn status_message(status: &Status) -> String {
    let mut status_message = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        status_message = error.to_string();
        cause = error.source();
    }
    status_message
}

fn category_of_status(status: &Status) -> Category {
    match status.code() {
        Code::NotFound => Category::NotFound,
        Code::Unauthenticated => Category::Unauthorized,
        Code::PermissionDenied => Category::Denied,
        Code::InvalidArgument => Category::Invalid,
        Code::Unavailable => Category::Unavailable,
        Code::DeadlineExceeded => Category::Timeout,
        Code::Unimplemented => Category::Unsupported,
        // The connection broke on this side.
        _ if status.source().is_some() => Category::Unavailable,
        _ => category_from_text(status.message()),
    }
}

/// Derives the category from the text: containerd reports a registry's answer with code Unknown,
/// and the answer in the text.
fn category_from_text(text: &str) -> Category {
    const SIGNS: &[(&str, Category)] = &[
        ("no space left on device", Category::DiskFull),
        ("disk quota exceeded", Category::DiskFull),
        ("429 Too Many Requests", Category::Throttled),
        ("toomanyrequests", Category::Throttled),
        ("403 Forbidden", Category::Denied),
        ("401 Unauthorized", Category::Unauthorized),
        ("insufficient_scope", Category::Unauthorized),
        ("authorization failed", Category::Unauthorized),
        ("no basic auth credentials", Category::Unauthorized),
        ("failed to parse image reference", Category::Invalid),
        ("invalid reference format", Category::Invalid),
        ("404 Not Found", Category::NotFound),
        ("deadline exceeded", Category::Timeout),
        ("i/o timeout", Category::Timeout),
    ];
    SIGNS
        .iter()
        .find(|(sign, _)| text.contains(sign))
        .map_or(Category::Other, |(_, category)| *category)
}

/// containerd's message on a pull without the part that the caller knows: that an image was to be
/// pulled, and which one. The registry's answer is at the end, which must not be truncated.
fn without_prefix(text: &str) -> &str {
    let pulled = text
        .strip_prefix("failed to pull and unpack image \"")
        .and_then(|rest| rest.split_once("\": "))
        .map_or(text, |(_, rest)| rest);
    pulled
        .strip_prefix("failed to resolve image: ")
        .unwrap_or(pulled)
}

/// One line, bounded, and without the parts of URLs that may be secret: user information and query.
fn clean(text: &str) -> String {
    let mut cleaned = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !cleaned.is_empty() {
            cleaned.push(' ');
        }
        cleaned.push_str(&without_secrets(word));
    }
    if cleaned.chars().count() > MAX_MESSAGE {
        cleaned = cleaned.chars().take(MAX_MESSAGE - 1).collect();
        cleaned.push('…');
    }
    cleaned
}

/// A word; a URL in it loses its user information and query.
fn without_secrets(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let Some((before, query)) = path.split_once('?') else {
        return format!("{scheme}://{host}{path}");
    };
    // Characters of the sentence after the URL: a closing quotation mark, a colon.
    let end: &[char] = &['"', ':', ',', ')'];
    let tail = query.trim_end_matches(end).len();
    format!("{scheme}://{host}{before}{}", &query[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_answer_in_containerds_text_has_its_category() {
        let rows = [
            (
                "failed to resolve image: unexpected status from HEAD request to https://10.0.0.1:5000/v2/x/manifests/1?ns=quay.io: 403 Forbidden\ndenied: coral: mirror it",
                Category::Denied,
            ),
            (
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                Category::Unauthorized,
            ),
            (
                "unexpected status: 401 Unauthorized",
                Category::Unauthorized,
            ),
            (
                "httpReadSeeker: failed open: 429 Too Many Requests",
                Category::Throttled,
            ),
            (
                "write /var/lib/x: no space left on device",
                Category::DiskFull,
            ),
            (
                "dial tcp 10.0.0.1:5000: connect: connection refused",
                Category::Other,
            ),
        ];
        for (text, category) in rows {
            let error = RuntimeError::from_status("pull", &Status::unknown(text));
            assert_eq!(error.category(), category, "{text}");
        }
    }

    #[test]
    fn codes_come_before_words_and_say_whether_to_wait() {
        let of = |status| RuntimeError::from_status("pull", &status);
        let missing = of(Status::not_found("reg/a:1: not found"));
        assert_eq!(missing.category(), Category::NotFound);
        assert_eq!(missing.disposition(), Disposition::Refusal);
        let away = of(Status::unavailable("no socket"));
        assert_eq!(away.disposition(), Disposition::Transient);
    }

    #[test]
    fn messages_are_one_short_line_without_queries_and_logins() {
        let text = "Get \"https://user:hunter2@cdn.example/blob?X-Sig=hunter2\": 403\n\tForbidden";
        let error = RuntimeError::new("pull", Category::Other, text);
        assert_eq!(
            error.message(),
            "Get \"https://cdn.example/blob\": 403 Forbidden"
        );
        let long = RuntimeError::new("pull", Category::Other, &"ä".repeat(5000));
        assert_eq!(long.message().chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn what_the_caller_knows_is_left_out_of_a_pulls_message() {
        let text = "failed to pull and unpack image \"quay.io/x:1\": failed to resolve image: \
                    unexpected status from HEAD request to https://10.0.0.1/v2/x?ns=quay.io: 403";
        let error = RuntimeError::new("pull the image", Category::Denied, text);
        let kept = "unexpected status from HEAD request to https://10.0.0.1/v2/x: 403";
        assert_eq!(error.message(), kept);
    }

    #[test]
    fn a_name_with_a_digest_is_not_taken_for_a_login() {
        let text = "failed to pull \"reg.ns.svc:5000/a/b@sha256:00\": not found";
        let error = RuntimeError::new("pull", Category::Other, text);
        assert_eq!(error.message(), text);
    }
}
