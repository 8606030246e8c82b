//! Parses how long the other side asks to wait, in each form that is in use.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

/// The longest wait that one answer may impose.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// `Retry-After` in seconds or as a date, else `ratelimit-reset` (seconds), else
/// `x-ratelimit-reset` (seconds since 1970).
pub(crate) fn wait_asked_for(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let wait = text("retry-after")
        .and_then(|value| seconds(value).or_else(|| until_date(value, now)))
        .or_else(|| text("ratelimit-reset").and_then(seconds))
        .or_else(|| text("x-ratelimit-reset").and_then(|value| reset_at(value, now)))?;
    Some(wait.min(MAX_WAIT))
}

fn seconds(value: &str) -> Option<Duration> {
    // More digits than fit mean "very long", not "unreadable".
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        None
    } else {
        Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)))
    }
}

/// The HTTP date of RFC 9110, section 5.6.7, in its one current form. It has whole seconds, and
/// most servers truncate: on average half a second is missing.
fn until_date(value: &str, now: Timestamp) -> Option<Duration> {
    const ROUNDING: Duration = Duration::from_millis(500);
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let wait = Duration::try_from(date.duration_since(now));
    Some(wait.map_or(Duration::ZERO, |wait| wait + ROUNDING))
}

/// Seconds since 1970 or, from some registries, plain seconds from now.
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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// 1994-11-06T08:49:37Z, the example of RFC 9110.
    const NOW: i64 = 784_111_777;

    fn wait(headers: &[(&str, &str)]) -> Option<u64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            map.insert(name, HeaderValue::try_from(*value).unwrap());
        }
        let now = Timestamp::from_second(NOW).unwrap();
        wait_asked_for(&map, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn each_shape_of_a_wait_is_understood() {
        assert_eq!(wait(&[("retry-after", "120")]), Some(120));
        assert_eq!(wait(&[("retry-after", " 7 ")]), Some(7));
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]),
            Some(60)
        );
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]),
            Some(0)
        );
        assert_eq!(wait(&[("ratelimit-reset", "30")]), Some(30));
        assert_eq!(wait(&[("x-ratelimit-reset", "15")]), Some(15));
        assert_eq!(
            wait(&[("retry-after", "5"), ("ratelimit-reset", "30")]),
            Some(5)
        );
        assert_eq!(
            wait(&[("retry-after", "soon"), ("ratelimit-reset", "30")]),
            Some(30)
        );
    }

    #[test]
    fn a_reset_may_be_a_moment() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-reset", HeaderValue::from_static("1700000030"));
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(wait_asked_for(&headers, now), Some(Duration::from_secs(30)));
    }

    #[test]
    fn what_says_no_time_asks_for_no_wait() {
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("retry-after", "")]), None);
        assert_eq!(wait(&[("retry-after", "-1")]), None);
        assert_eq!(
            wait(&[
                ("ratelimit-limit", "100;w=21600"),
                ("ratelimit-remaining", "0")
            ]),
            None
        );
    }

    #[test]
    fn no_answer_is_waited_for_longer_than_a_day() {
        assert_eq!(
            wait(&[("retry-after", "99999999999999999999999999")]),
            Some(86_400)
        );
        assert_eq!(
            wait(&[("retry-after", "Tue, 06 Nov 2040 08:49:37 GMT")]),
            Some(86_400)
        );
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_reader(name in 0..3_usize, value in "[ -~]{0,60}") {
            let name = ["retry-after", "ratelimit-reset", "x-ratelimit-reset"][name];
            let wait = wait(&[(name, &value)]);
            prop_assert!(wait.is_none_or(|seconds| seconds <= 86_400));
        }
    }
}
