//! Access for the fuzz targets to private parsers. Only built with `--cfg fuzzing`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use url::Url;

use crate::auth::{parse_challenges, read_token};
use crate::layout::fuzzing as layouts;
use crate::location;
use crate::rate_limit::RateLimits;
use crate::repository::fuzzing as ranges;
use crate::transport::wait_asked_for;

/// The challenges that are read from `WWW-Authenticate` are read again unchanged when they are
/// written with all values quoted.
pub fn challenge(header: &str) {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let found = parse_challenges([header]);
    let mut written = Vec::new();
    for challenge in &found {
        written.push(challenge.scheme.clone());
        let parameters = challenge.parameters.iter();
        written.extend(parameters.map(|(name, value)| format!("{name}=\"{}\"", quoted(value))));
    }
    assert_eq!(parse_challenges([written.join(", ").as_str()]), found);
}

/// A link leads to HTTP addresses only, never to one with user information, and resolving it again
/// gives the same URL.
pub fn link(header: &str) {
    let base = Url::parse("https://reg.example/v2/").expect("a good address");
    let link = location::next_link(header).ok().flatten();
    for text in [Some(header), link].into_iter().flatten() {
        let Ok(url) = location::join(&base, text) else {
            continue;
        };
        assert!(matches!(url.scheme(), "http" | "https"), "{url}");
        assert!(url.username().is_empty() && url.password().is_none());
        assert_eq!(location::join(&base, url.as_str()), Ok(url.clone()));
        assert!(!location::shown(&url).contains('?'), "{url}");
    }
}

/// `Content-Range` is either the range that was asked for or an error; the `Range` of an upload
/// gives a length.
pub fn range(header: &str, size: u64) {
    ranges::content_range(header, size);
    ranges::stored_length(header);
}

/// No header makes a client wait longer than a day, or report a window longer than a month.
pub fn wait(value: &str, now: i64) {
    let (Ok(value), Ok(now)) = (HeaderValue::from_str(value), Timestamp::from_second(now)) else {
        return;
    };
    for name in ["retry-after", "ratelimit-reset", "x-ratelimit-reset"] {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), value.clone());
        let wait = wait_asked_for(&headers, now);
        assert!(wait.is_none_or(|wait| wait <= Duration::from_hours(24)));
    }
    let mut headers = HeaderMap::new();
    for name in [
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "ratelimit-policy",
        "ratelimit",
    ] {
        headers.insert(HeaderName::from_static(name), value.clone());
        let limits = RateLimits::default();
        limits.note("reg.example", &headers);
        if let Some(limit) = *limits.watch("reg.example").borrow() {
            let times = [limit.window, limit.reset_after].into_iter().flatten();
            assert!(times.max().unwrap_or_default() <= Duration::from_hours(24 * 31));
        }
    }
}

/// A token fits into a header, is kept out of logs, and is renewed within a day.
pub fn token(answer: &[u8]) {
    match read_token(answer) {
        Ok((header, life)) => {
            assert!(header.is_sensitive());
            assert!(header.as_bytes().starts_with(b"Bearer ") && header.len() > "Bearer ".len());
            assert!(
                life > Duration::ZERO && life <= Duration::from_hours(24),
                "{life:?}"
            );
        }
        Err(message) => assert!(!message.is_empty()),
    }
}

/// Reads the `index.json` of a layout.
pub fn index(json: &[u8]) {
    layouts::index(json);
}

/// Reads the headers of a tar that should contain a layout.
pub fn archive(tar: &[u8]) {
    layouts::archive(tar);
}
