//! IDs for requests, so that the log lines of one request can be found among all others.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tracing::Instrument;

/// The header that carries the ID of a request and its response.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longer IDs are replaced by a new one; a uuid has 36 characters.
const LONGEST: usize = 64;

/// Gives every request an ID: the one in its `X-Request-Id` header, if that is at most 64 letters,
/// digits, dots, dashes, colons and underscores, or else a new one. The response carries it, and so
/// does every log line until the head of the response is ready.
pub fn with_request_ids(router: Router) -> Router {
    router.layer(from_fn(identify))
}

async fn identify(request: Request, next: Next) -> Response {
    let name = given(request.headers()).unwrap_or_else(made);
    // At the highest level, so that the span exists whichever lines are logged.
    let span = tracing::error_span!("request", id = name.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(HEADER, name);
    response
}

fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let name = headers.get(HEADER)?;
    let is_sane = |byte: &u8| byte.is_ascii_alphanumeric() || b".-:_".contains(byte);
    let fits = (1..=LONGEST).contains(&name.len()) && name.as_bytes().iter().all(is_sane);
    fits.then(|| name.clone())
}

/// A new ID: unique in this process, and almost certainly elsewhere; not secret.
fn made() -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u8));
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut text = String::with_capacity(24);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Writing to a string does not fail.
    let _ = write!(text, "{:016x}-{number:x}", *PROCESS);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unnamed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(name: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_str(name).unwrap());
        given(&headers).map(|name| name.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_sane_name_is_taken_and_any_other_is_not() {
        assert_eq!(accepted("build-7.a:b_C"), Some("build-7.a:b_C".into()));
        assert_eq!(accepted(&"x".repeat(64)).map(|name| name.len()), Some(64));
        for name in ["", "a b", "a\"b", "x=1,y", "é", &"x".repeat(65)] {
            assert_eq!(accepted(name), None, "{name:?}");
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }

    #[test]
    fn made_names_differ() {
        assert_ne!(made(), made());
        assert!(accepted(made().to_str().unwrap()).is_some());
    }
}
