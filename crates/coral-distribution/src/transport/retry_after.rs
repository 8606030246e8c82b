//! How long the other side asks to wait, in each shape that is in use.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

/// Nobody is waited for longer than this on one answer.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// `Retry-After` in seconds or as a date, else `ratelimit-reset` (seconds), else
/// `x-ratelimit-reset` (seconds since 1970).
pub(super) fn wait_asked_for(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let wait = text("retry-after")
        .and_then(|value| seconds(value).or_else(|| until_date(value, now)))
        .or_else(|| text("ratelimit-reset").and_then(seconds))
        .or_else(|| text("x-ratelimit-reset").and_then(|value| reset_at(value, now)))?;
    Some(wait.min(MAX_WAIT))
}

fn seconds(value: &str) -> Option<Duration> {
    // More digits than fit mean "very long", not "unreadable".
    match value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        true => None,
        false => Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX))),
    }
}

/// The HTTP date of RFC 9110, section 5.6.7, in its one current form.
fn until_date(value: &str, now: Timestamp) -> Option<Duration> {
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Either a moment since 1970 or, as some do, plain seconds from now.
fn reset_at(value: &str, now: Timestamp) -> Option<Duration> {
    const YEAR_2001: u64 = 1_000_000_000;
    let number = seconds(value)?;
    match number.as_secs() {
        at if at >= YEAR_2001 => {
            let now = u64::try_from(now.as_second()).unwrap_or_default();
            Some(Duration::from_secs(at.saturating_sub(now)))
        }
        _ => Some(number),
    }
}
