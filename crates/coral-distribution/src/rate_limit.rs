//! The rate limits that registries report, in all forms in use. This module makes no decision; the
//! code that paces requests subscribes to the reports.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most hosts that are remembered; no mirror uses more registries with limits.
const MAX_HOSTS: usize = 1024;
/// Longer waits and windows are capped at this value.
const LONGEST: Duration = Duration::from_hours(24 * 31);
/// Larger numbers are seconds since 1970, not seconds from now.
const YEAR_2001: u64 = 1_000_000_000;

/// A rate limit as the latest answer reported it. Values that the answer did not report are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests that are allowed in a window.
    pub limit: Option<u64>,
    /// Requests that remain in the window.
    pub remaining: Option<u64>,
    /// The length of the window.
    pub window: Option<Duration>,
    /// Time from `at` until all requests are allowed again.
    pub reset_after: Option<Duration>,
    /// When the answer arrived.
    pub at: Instant,
}

/// The latest report of each host.
#[derive(Debug, Default)]
pub(crate) struct RateLimits(Mutex<HashMap<String, watch::Sender<Option<RateLimit>>>>);

impl RateLimits {
    /// Records the rate limit in an answer of this host (name and port as in a URL), if there is
    /// one.
    pub(crate) fn note(&self, host: &str, headers: &HeaderMap) {
        let Some(said) = read(headers, Timestamp::now(), Instant::now()) else {
            return;
        };
        self.sender(host, |sender| {
            sender.send_replace(Some(said));
        });
    }

    /// Subscribes to the reports of this host; the latest report is available at once.
    pub(crate) fn watch(&self, host: &str) -> watch::Receiver<Option<RateLimit>> {
        self.sender(host, watch::Sender::subscribe)
    }

    fn sender<T>(&self, host: &str, with: impl Fn(&watch::Sender<Option<RateLimit>>) -> T) -> T {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(host) {
            hosts.retain(|_, sender| sender.receiver_count() > 0);
        }
        with(hosts.entry(host.to_owned()).or_default())
    }
}

/// Reads `RateLimit-*` and `x-ratelimit-*`, including Docker Hub's `N;w=S`, and `RateLimit` with
/// `RateLimit-Policy` of the later drafts.
fn read(headers: &HeaderMap, now: Timestamp, at: Instant) -> Option<RateLimit> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let field = |name: &str| {
        text(&format!("ratelimit-{name}")).or_else(|| text(&format!("x-ratelimit-{name}")))
    };
    let one = text("ratelimit").unwrap_or_default();
    let policy = text("ratelimit-policy").unwrap_or_default();
    let (limit, remaining) = (field("limit"), field("remaining"));
    let found = RateLimit {
        limit: limit
            .and_then(number)
            .or_else(|| parameter(one, "limit"))
            .or_else(|| parameter(policy, "q")),
        remaining: remaining
            .and_then(number)
            .or_else(|| parameter(one, "remaining"))
            .or_else(|| parameter(one, "r")),
        window: [limit, remaining, Some(policy)]
            .into_iter()
            .flatten()
            .find_map(|value| parameter(value, "w"))
            .map(seconds),
        reset_after: field("reset")
            .and_then(number)
            .or_else(|| parameter(one, "reset"))
            .or_else(|| parameter(one, "t"))
            .map(|number| from_now(number, now)),
        at,
    };
    (found.limit.is_some() || found.remaining.is_some()).then_some(found)
}

/// The number at the beginning of a value: `100` in `100;w=21600` and in `100, 100;w=60`.
fn number(value: &str) -> Option<u64> {
    let end = value.find([';', ',', ' ']).unwrap_or(value.len());
    value[..end].parse().ok()
}

/// The value of a parameter such as `t` or `reset`: `30` in `r=50;t=30` and in
/// `limit=100, reset=30`.
fn parameter(value: &str, name: &str) -> Option<u64> {
    let parts = value
        .split([';', ','])
        .filter_map(|part| part.split_once('='));
    let mut found = parts.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
    found.next()?.1.trim().parse().ok()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number).min(LONGEST)
}

fn from_now(number: u64, now: Timestamp) -> Duration {
    if number < YEAR_2001 {
        return seconds(number);
    }
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    seconds(number.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    /// Limit, remaining, window and reset in seconds.
    type Said = Option<(Option<u64>, Option<u64>, Option<u64>, Option<u64>)>;

    fn said(headers: &[(&str, &str)]) -> Said {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            map.insert(name, HeaderValue::try_from(*value).unwrap());
        }
        let found = read(&map, Timestamp::from_second(NOW).unwrap(), Instant::now())?;
        let seconds = |duration: Option<Duration>| duration.map(|d| d.as_secs());
        Some((
            found.limit,
            found.remaining,
            seconds(found.window),
            seconds(found.reset_after),
        ))
    }

    #[test]
    fn each_shape_of_a_limit_is_understood() {
        assert_eq!(
            said(&[
                ("ratelimit-limit", "100;w=21600"),
                ("ratelimit-remaining", "76;w=21600")
            ]),
            Some((Some(100), Some(76), Some(21600), None))
        );
        assert_eq!(
            said(&[
                ("ratelimit-limit", "10, 10;w=1, 50;w=60"),
                ("ratelimit-remaining", "9"),
                ("ratelimit-reset", "7"),
            ]),
            Some((Some(10), Some(9), Some(1), Some(7)))
        );
        assert_eq!(
            said(&[
                ("x-ratelimit-limit", "5000"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "1700000030"),
            ]),
            Some((Some(5000), Some(0), None, Some(30)))
        );
        assert_eq!(
            said(&[("ratelimit", "limit=100, remaining=50, reset=5")]),
            Some((Some(100), Some(50), None, Some(5)))
        );
        assert_eq!(
            said(&[
                ("ratelimit", "\"default\";r=50;t=30"),
                ("ratelimit-policy", "\"default\";q=100;w=60"),
            ]),
            Some((Some(100), Some(50), Some(60), Some(30)))
        );
    }

    #[test]
    fn what_says_no_limit_is_none() {
        assert_eq!(said(&[]), None);
        assert_eq!(
            said(&[("ratelimit-limit", "many"), ("ratelimit-reset", "5")]),
            None
        );
        assert_eq!(said(&[("docker-ratelimit-source", "10.0.0.1")]), None);
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_reader(name in 0..6_usize, value in "[ -~]{0,60}") {
            let names = ["ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-policy",
                "x-ratelimit-reset", "x-ratelimit-remaining"];
            let _ = said(&[(names[name], &value), ("x-ratelimit-limit", "1")]);
        }
    }
}
