//! Requests to each source registry, as fast as it allows: one pace for all mirrors of a process.

mod tempo;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coral_distribution::{Category, Error, RateLimit};
use coral_image::Host;
use tokio::sync::{Mutex as Queue, Notify};

use crate::state::{Cause, retry_cause};
pub(crate) use tempo::Purpose;
use tempo::{Admission, Allowance, Tempo};

/// If a registry takes no requests for longer than this, the image is retried later, so that images
/// of other registries can use the workers.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this many refusals of a request, its image fails.
const TRIES: u32 = 5;

/// An allowance whose end is unknown or far away is checked again after this long, because many
/// windows slide.
const UNKNOWN_END: Duration = Duration::from_mins(1);
const FARTHEST_END: Duration = Duration::from_mins(10);

/// Waits of at least this length are reported, and at most this often.
const LONG: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_mins(1);

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// It was not sent: the registry takes no requests for now.
    #[error("{host} limits requests and takes none for another {} s", wait.as_millis().div_ceil(1000).max(1))]
    Closed {
        /// The registry.
        host: String,
        /// How long it takes none.
        wait: Duration,
    },
}

impl AskError {
    /// A bounded label for metrics and programs.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Request(error) => error.category().as_str(),
            Self::Closed { .. } => Category::RateLimited.as_str(),
        }
    }

    /// What the failure asks for.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Request(error) => retry_cause(error),
            Self::Closed { wait, .. } => Cause::After(*wait),
        }
    }
}

/// The paces of all registries that a process reads from. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Paces(Arc<Mutex<HashMap<Host, Arc<Pace>>>>);

impl Paces {
    /// The requests to each registry so far, those with the most first.
    pub fn used(&self) -> Vec<SourceUse> {
        let paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used: Vec<SourceUse> = paces.values().map(|pace| pace.used()).collect();
        used.sort_by(|a, b| (b.requests, &a.host).cmp(&(a.requests, &b.host)));
        used
    }

    pub(crate) fn for_host(&self, host: &Host) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Pace::new(host.to_string()));
        paces.entry(host.clone()).or_insert_with(new).clone()
    }
}

/// The requests to one registry since the process began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUse {
    /// The registry.
    pub host: String,
    /// Requests that were sent.
    pub requests: u64,
    /// Requests that it refused because there were too many.
    pub refused: u64,
    /// Requests that were repeated after such a refusal.
    pub repeated: u64,
    /// Requests that are left in its current window, if it reports that.
    pub left: Option<u64>,
}

/// The counters of one registry.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    refused: AtomicU64,
    repeated: AtomicU64,
}

/// The pace of requests to one registry.
#[derive(Debug)]
pub(crate) struct Pace {
    host: String,
    tempo: Mutex<Tempo>,
    /// Requests wait in line, and only the first of each line waits for a turn: there may be
    /// thousands behind it.
    checks: Queue<()>,
    copies: Queue<()>,
    changed: Notify,
    /// When a wait was last reported.
    told: Mutex<Option<Instant>>,
    counts: Counts,
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlightRequest {
    pace: Arc<Pace>,
    sent: Instant,
}

impl Pace {
    fn new(host: String) -> Self {
        Self {
            host,
            tempo: Mutex::default(),
            checks: Queue::default(),
            copies: Queue::default(),
            changed: Notify::new(),
            told: Mutex::default(),
            counts: Counts::default(),
        }
    }

    fn used(&self) -> SourceUse {
        let Counts {
            requests,
            refused,
            repeated,
        } = &self.counts;
        let [requests, refused, repeated] =
            [requests, refused, repeated].map(|count| count.load(Ordering::Relaxed));
        SourceUse {
            host: self.host.clone(),
            requests,
            refused,
            repeated,
            left: self.tempo().left(Instant::now()),
        }
    }

    /// Sends a request when its turn comes, and repeats it if it was refused and the wait is short.
    pub(crate) async fn ask<T, F>(
        self: &Arc<Self>,
        purpose: Purpose,
        request: impl Fn() -> F,
    ) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut tries = 0;
        loop {
            let asking = self.turn(purpose).await?;
            let result = request().await;
            asking.ends(result.as_ref().err());
            tries += 1;
            match result {
                Err(error) if is_refusal(&error) && tries < TRIES => {
                    self.counts.repeated.fetch_add(1, Ordering::Relaxed);
                }
                other => return Ok(other?),
            }
        }
    }

    /// Waits for the turn of a request.
    pub(crate) async fn turn(
        self: &Arc<Self>,
        purpose: Purpose,
    ) -> Result<InFlightRequest, AskError> {
        let line = match purpose {
            Purpose::Check => &self.checks,
            Purpose::Copy => &self.copies,
        };
        let _first = line.lock().await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = Instant::now();
            let turn = self.tempo().admit(now, purpose);
            match turn {
                Admission::Now => {
                    self.counts.requests.fetch_add(1, Ordering::Relaxed);
                    return Ok(InFlightRequest {
                        pace: Arc::clone(self),
                        sent: now,
                    });
                }
                Admission::WhenOneEnds => changed.await,
                Admission::At(at) if at.duration_since(now) > PATIENCE => {
                    let (host, wait) = (self.host.clone(), at.duration_since(now));
                    return Err(AskError::Closed { host, wait });
                }
                Admission::At(at) => {
                    self.report_wait(at.duration_since(now), now);
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }

    /// Logs that no requests are sent, if the wait is long; not for each request.
    fn report_wait(&self, wait: Duration, now: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if is_worth_reporting(wait, told.map(|at| now.duration_since(at))) {
            *told = Some(now);
            let seconds = wait.as_secs_f64().ceil();
            tracing::warn!(
                "{} limits requests: none is sent to it for {seconds} s",
                self.host
            );
        }
    }

    /// Adjusts to the rate limit that the registry reported.
    pub(crate) fn observe(&self, said: &RateLimit) {
        let Some(remaining) = said.remaining else {
            return;
        };
        let wait = said.reset_after.or(said.window).unwrap_or(UNKNOWN_END);
        self.tempo().observed(Allowance {
            limit: said.limit.unwrap_or(remaining),
            remaining,
            renews: said.at.into_std() + wait.min(FARTHEST_END),
        });
    }

    fn tempo(&self) -> MutexGuard<'_, Tempo> {
        // Every change is one step, so a panic elsewhere does not spoil it.
        self.tempo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlightRequest {
    /// Ends the request, with its error if there was one.
    pub(crate) fn ends(self, error: Option<&Error>) {
        let now = Instant::now();
        if error.is_some_and(is_refusal) {
            self.pace.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        let mut tempo = self.pace.tempo();
        match error {
            Some(error) if is_refusal(error) => tempo.refused(self.sent, now, error.retry_after()),
            Some(error) if is_distress(error) => tempo.failed(self.sent, now),
            _ => tempo.granted(),
        }
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.pace.tempo().ended();
        self.pace.changed.notify_waiters();
    }
}

/// Whether to report a wait, given the time since the last report.
fn is_worth_reporting(wait: Duration, since: Option<Duration>) -> bool {
    wait >= LONG && since.is_none_or(|since| since >= TELL_EVERY)
}

fn is_refusal(error: &Error) -> bool {
    error.category() == Category::RateLimited
}

fn is_distress(error: &Error) -> bool {
    matches!(
        error.category(),
        Category::Timeout | Category::Connect | Category::Server | Category::Cut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_refusals_and_what_is_left_are_counted_by_host() {
        let (paces, host) = (Paces::default(), Host::parse("reg.example").unwrap());
        let pace = paces.for_host(&host);
        let limit = RateLimit {
            limit: Some(100),
            remaining: Some(7),
            window: Some(Duration::from_hours(1)),
            reset_after: None,
            at: tokio::time::Instant::now(),
        };
        pace.observe(&limit);
        let asked = pace
            .ask(Purpose::Copy, || async { Ok::<_, Error>(()) })
            .await;
        asked.unwrap();
        let other = paces.for_host(&Host::parse("a.example").unwrap());
        assert_eq!(other.used().left, None);
        let used = paces.used();
        let expected = SourceUse {
            host: "reg.example".to_owned(),
            requests: 1,
            refused: 0,
            repeated: 0,
            left: Some(7),
        };
        assert_eq!(used[0], expected);
        assert_eq!(used[1].host, "a.example");
    }

    #[test]
    fn a_long_wait_is_told_of_once_a_minute() {
        let seconds = Duration::from_secs;
        assert!(is_worth_reporting(seconds(5), None));
        assert!(!is_worth_reporting(seconds(4), None));
        assert!(!is_worth_reporting(seconds(20), Some(seconds(59))));
        assert!(is_worth_reporting(seconds(20), Some(seconds(60))));
    }
}
