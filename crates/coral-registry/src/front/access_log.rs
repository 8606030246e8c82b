//! The access log: one event for each answered request, with the client, its address, the target,
//! the bytes moved, and the time taken.
//!
//! Pushed manifests, deletions, moved tags and failed logins are logged at `info`; everything else,
//! and what the embedding program does itself, at `debug`. Neither headers nor queries are logged,
//! because both may hold secrets.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use coral_image::{Digest, Host, Tag};
use coral_rt::Peer;
use http::StatusCode;
use http::request::Parts;
use http_body::{Frame, SizeHint};
use tracing::field::display;
use tracing::{Level, Span};

use super::Response;
use super::error::FailedLogin;
use super::gate::Visitor;
use super::route::Route;
use crate::access::{Caller, Failures};
use crate::store::Deleted;

/// The name of the log in filters, as in `warn,coral_registry::access=info`.
const TARGET: &str = "coral_registry::access";
/// Longest path that is logged.
const MAX_PATH: usize = 512;
/// Longest list of deleted tags that is logged.
const MAX_TAGS: usize = 2048;
/// Longest method that is logged.
const MAX_METHOD: usize = 16;

/// What a handler did. It is put into the extensions of the response.
#[derive(Debug, Clone)]
pub(super) enum Done {
    /// A blob was pushed or mounted. `size` is in bytes, if known.
    Blob { digest: Digest, size: Option<u64> },
    /// A manifest was pushed. Moved tags are listed with the manifest that they named before.
    Manifest {
        digest: Digest,
        size: u64,
        moved: Vec<(Tag, Digest)>,
    },
    /// A blob, a manifest or a tag was deleted.
    Deleted(Deleted),
}

/// Limits the lines about failed logins: each network may cause ten at once, and one more every six
/// seconds. Omitted lines are counted.
#[derive(Debug, Default)]
pub(super) struct LoginLines {
    failures: Mutex<Failures>,
    left_out: AtomicU64,
}

impl LoginLines {
    /// Whether to write a line, and how many were omitted before it.
    fn next(&self, from: IpAddr, now: Instant) -> Option<u64> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.wait(from, now).is_some() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        failures.note(from, now);
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

/// Marks requests that the embedding program makes itself, in process, as an extension, so that
/// metrics count them apart from those of clients. It gives no rights.
#[derive(Debug, Clone, Copy)]
pub struct OwnRequest;

/// What is known about a request so far. Client and target are recorded only while the log is on.
#[derive(Debug)]
pub(super) struct Entry {
    started: Instant,
    /// Whether the embedding program made the request.
    is_own: bool,
    facts: Option<Facts>,
}

#[derive(Debug)]
struct Facts {
    span: Span,
    caller: &'static str,
    user: Option<Arc<str>>,
    subject: Option<String>,
    from: Peer,
    method: String,
    path: String,
    repository: Option<String>,
    reference: Option<String>,
    /// The registry whose images are requested (`?ns=`).
    namespace: Option<String>,
    received: Arc<AtomicU64>,
}

/// Which line to log for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Pushed,
    PushedBlob,
    Deleted,
    LoginFailed,
    Answered,
}

/// Logs an event with the fields that every line has. The level has to be a constant.
macro_rules! event {
    ($level:expr, $answer:expr, $message:expr $(, $field:ident = $value:expr)*) => {
        tracing::event!(
            target: TARGET,
            $level,
            caller = $answer.facts.caller,
            user = $answer.facts.user.as_deref(),
            subject = $answer.facts.subject.as_deref(),
            from = display($answer.facts.from.0),
            method = $answer.facts.method.as_str(),
            path = $answer.facts.path.as_str(),
            repository = $answer.facts.repository.as_deref(),
            reference = $answer.facts.reference.as_deref(),
            ns = $answer.facts.namespace.as_deref(),
            status = $answer.status.as_u16(),
            received = $answer.facts.received.load(Ordering::Relaxed),
            sent = $answer.sent,
            seconds = $answer.started.elapsed().as_secs_f64(),
            $($field = $value,)*
            $message
        )
    };
}

impl Entry {
    /// Starts with the head of the request, and counts the bytes of its body from now on.
    pub(super) fn new(parts: &Parts, route: Option<&Route>, from: Peer, body: &mut Body) -> Self {
        let started = Instant::now();
        let is_own = parts.extensions.get::<OwnRequest>().is_some();
        if !tracing::enabled!(target: TARGET, Level::INFO) {
            return Self {
                started,
                is_own,
                facts: None,
            };
        }
        let received = Arc::<AtomicU64>::default();
        *body = Body::new(Counted {
            inner: std::mem::take(body),
            counter: Arc::clone(&received),
        });
        let path = parts.uri.path();
        let facts = Facts {
            span: Span::current(),
            caller: "anonymous",
            user: None,
            subject: None,
            from,
            method: cut(parts.method.as_str(), MAX_METHOD),
            path: cut(path, MAX_PATH),
            repository: route.and_then(Route::repository).map(ToString::to_string),
            reference: route.and_then(Route::reference),
            namespace: None,
            received,
        };
        Self {
            started,
            is_own,
            facts: Some(facts),
        }
    }

    /// The time when the request arrived.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Whether the embedding program made the request, not a client.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Records who the client is.
    pub(super) fn admitted(&mut self, visitor: &Visitor) {
        self.is_own |= *visitor.session().caller == Caller::Internal;
        let Some(facts) = &mut self.facts else { return };
        match visitor.session().caller {
            Caller::Anonymous => {}
            Caller::User(name) => {
                facts.caller = "user";
                facts.user = Some(Arc::clone(name));
            }
            Caller::Token(rights) => {
                facts.caller = "token";
                facts.subject = Some(rights.subject().to_owned());
            }
            Caller::Internal => facts.caller = "internal",
        }
    }

    /// Records that the request is for images of another registry.
    pub(super) fn of_registry(&mut self, host: Option<&Host>) {
        if let Some(facts) = &mut self.facts {
            facts.namespace = host.map(ToString::to_string);
        }
    }

    /// Writes the line, now or once the body of the answer was sent.
    pub(super) fn answered(
        mut self,
        mut response: Response,
        failed: Option<&FailedLogin>,
        login_lines: &LoginLines,
    ) -> Response {
        let Some(mut facts) = self.facts.take() else {
            return response;
        };
        let done = response.extensions_mut().remove::<Done>();
        let status = response.status();
        if let Some(failed) = failed {
            facts.user.clone_from(&failed.user);
        }
        let mut answer = Answer {
            facts,
            started: self.started,
            status,
            sent: 0,
        };
        match line(done.as_ref(), failed.is_some(), answer.facts.caller) {
            Line::Answered if tracing::enabled!(target: TARGET, Level::DEBUG) => {
                let counter = Sending(answer);
                response.map(|inner| Body::new(Counted { inner, counter }))
            }
            Line::Answered => response,
            line => {
                let span = std::mem::replace(&mut answer.facts.span, Span::none());
                span.in_scope(|| match line {
                    Line::LoginFailed => answer.log_failed_login(login_lines),
                    line => answer.write(line, done.as_ref()),
                });
                response
            }
        }
    }
}

/// Logs a request whose client went away before the answer. The request may have been carried out.
impl Drop for Entry {
    fn drop(&mut self) {
        let Some(facts) = self.facts.take() else {
            return;
        };
        let is_read = matches!(facts.method.as_str(), "GET" | "HEAD");
        let answer = Answer {
            started: self.started,
            status: client_gone(),
            sent: 0,
            facts,
        };
        let span = answer.facts.span.clone();
        span.in_scope(|| match (is_read, answer.facts.caller) {
            (true, _) | (_, "internal" | "anonymous") => {
                event!(Level::DEBUG, answer, "client went away");
            }
            _ => event!(Level::INFO, answer, "client went away"),
        });
    }
}

/// The status 499, which servers log for a client that did not wait for the answer. It is never
/// sent.
fn client_gone() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT)
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

fn line(done: Option<&Done>, login_failed: bool, caller: &str) -> Line {
    match done {
        _ if login_failed => Line::LoginFailed,
        _ if caller == "internal" => Line::Answered,
        Some(Done::Manifest { .. }) => Line::Pushed,
        Some(Done::Blob { .. }) => Line::PushedBlob,
        Some(Done::Deleted(_)) => Line::Deleted,
        None => Line::Answered,
    }
}

/// A request with its answer.
struct Answer {
    facts: Facts,
    started: Instant,
    status: StatusCode,
    sent: u64,
}

impl Answer {
    fn log_failed_login(&self, lines: &LoginLines) {
        match lines.next(self.facts.from.0, Instant::now()) {
            Some(0) => event!(Level::INFO, self, "login failed"),
            Some(left_out) => event!(Level::INFO, self, "login failed", left_out = left_out),
            None => event!(Level::DEBUG, self, "answered"),
        }
    }

    fn write(&self, line: Line, done: Option<&Done>) {
        let (digest, size, moved) = match done {
            Some(Done::Blob { digest, size }) => (Some(display(digest)), *size, &[][..]),
            Some(Done::Manifest {
                digest,
                size,
                moved,
            }) => (Some(display(digest)), Some(*size), moved.as_slice()),
            Some(Done::Deleted(deleted)) => (deleted.digest.as_ref().map(display), None, &[][..]),
            None => (None, None, &[][..]),
        };
        match line {
            Line::Pushed => event!(Level::INFO, self, "pushed", digest = digest, size = size),
            Line::PushedBlob => event!(Level::DEBUG, self, "pushed", digest = digest, size = size),
            Line::Deleted => {
                let tags = deleted_tags(done);
                event!(Level::INFO, self, "deleted", digest = digest, tags = tags);
            }
            Line::LoginFailed | Line::Answered => event!(Level::DEBUG, self, "answered"),
        }
        for (tag, before) in moved {
            let (tag, before) = (display(tag), display(before));
            event!(
                Level::INFO,
                self,
                "tag moved",
                tag = tag,
                before = before,
                digest = digest
            );
        }
    }
}

/// The tags that were deleted, separated by commas; at most [`MAX_TAGS`] bytes of them.
fn deleted_tags(done: Option<&Done>) -> Option<String> {
    let Some(Done::Deleted(deleted)) = done else {
        return None;
    };
    let tags: Vec<&str> = deleted.tags.iter().map(Tag::as_str).collect();
    (!tags.is_empty()).then(|| cut(&tags.join(","), MAX_TAGS))
}

/// A body whose bytes are counted as they pass.
struct Counted<C> {
    inner: Body,
    counter: C,
}

trait Counter: Unpin {
    fn add(&mut self, bytes: u64);
}

/// Counts what was received.
impl Counter for Arc<AtomicU64> {
    fn add(&mut self, bytes: u64) {
        self.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Counts the bytes sent. The line is written when all was sent or the client went away.
struct Sending(Answer);

impl Counter for Sending {
    fn add(&mut self, bytes: u64) {
        self.0.sent += bytes;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Self(answer) = self;
        let span = &answer.facts.span;
        span.in_scope(|| answer.write(Line::Answered, None));
    }
}

impl<C: Counter> http_body::Body for Counted<C> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.counter.add(bytes as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_and_failed_logins_are_told_apart_from_reads() {
        let digest = Digest::sha256(b"x");
        let blob = Done::Blob { digest, size: None };
        let (size, moved) = (1, vec![]);
        let manifest = Done::Manifest {
            digest,
            size,
            moved,
        };
        let deleted = Done::Deleted(Deleted {
            digest: Some(digest),
            tags: vec![],
        });
        for (done, login_failed, caller, expected) in [
            (Some(&manifest), false, "user", Line::Pushed),
            (Some(&manifest), false, "anonymous", Line::Pushed),
            (Some(&manifest), false, "internal", Line::Answered),
            (Some(&blob), false, "user", Line::PushedBlob),
            (Some(&blob), false, "internal", Line::Answered),
            (Some(&deleted), false, "user", Line::Deleted),
            (None, false, "user", Line::Answered),
            (None, true, "anonymous", Line::LoginFailed),
        ] {
            assert_eq!(line(done, login_failed, caller), expected, "{done:?}");
        }
    }

    /// A body in several pieces, which is the usual case except for the smallest bodies.
    #[tokio::test]
    async fn the_bytes_of_all_pieces_of_a_body_are_counted() {
        let pieces = [&b"four"[..], b"", b"sixsix", b"1"].map(Bytes::from_static);
        let pieces = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
        let counter = Arc::<AtomicU64>::default();
        let body = Body::new(Counted {
            inner: Body::from_stream(pieces),
            counter: Arc::clone(&counter),
        });
        let read = axum::body::to_bytes(body, 100).await.unwrap();
        assert_eq!(&read[..], b"foursixsix1");
        assert_eq!(counter.load(Ordering::Relaxed), 11);
    }

    #[test]
    fn a_flood_of_failed_logins_from_one_address_is_counted_and_hides_no_other() {
        let (lines, now) = (LoginLines::default(), Instant::now());
        let (loud, quiet) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let written = (0..1000).filter(|_| lines.next(loud, now).is_some());
        assert_eq!(written.count(), 10);
        assert_eq!(lines.next(quiet, now), Some(990));
        assert_eq!(lines.next(quiet, now), Some(0));
        let later = now + std::time::Duration::from_secs(6);
        assert_eq!(lines.next(loud, later), Some(0));
    }
}
