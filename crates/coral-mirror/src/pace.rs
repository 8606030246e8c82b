//! Each source registry is asked as fast as it lets us: one pace for all mirrors of a process.

mod tempo;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coral_distribution::{Category, Error, RateLimit};
use coral_image::Host;
use tokio::sync::{Mutex as Queue, Notify};

use crate::state::{Cause, cause_of};
pub(crate) use tempo::Purpose;
use tempo::{Budget, Tempo, Turn};

/// A registry that is closed for longer is not waited for: the image is tried again later, and
/// those of other registries have the workers until then.
const PATIENCE: Duration = Duration::from_secs(30);
/// A request that was refused this often is a failure of its image.
const TRIES: u32 = 5;

/// An allowance whose end is not known, or is far away, is asked about again after this long:
/// many windows slide.
const UNKNOWN_END: Duration = Duration::from_mins(1);
const FARTHEST_END: Duration = Duration::from_mins(10);

/// A wait that is long enough to report, and how often it is reported.
const LONG: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_mins(1);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// It was not sent: the registry wants no requests for now.
    #[error("{host} limits requests and takes none for another {} s", wait.as_secs().max(1))]
    Closed {
        /// The registry.
        host: String,
        /// For how long.
        wait: Duration,
    },
}

impl AskError {
    /// A bounded label for metrics and machines.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Request(error) => error.category().as_str(),
            Self::Closed { .. } => Category::RateLimited.as_str(),
        }
    }

    /// What the failure asks for.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Request(error) => cause_of(error),
            Self::Closed { wait, .. } => Cause::After(*wait),
        }
    }
}

/// The paces of all registries that a process asks. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Paces(Arc<Mutex<HashMap<Host, Arc<Pace>>>>);

impl Paces {
    /// What was asked of each registry so far, those that were asked the most first.
    pub fn used(&self) -> Vec<SourceUse> {
        let paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used: Vec<SourceUse> = paces.values().map(|pace| pace.used()).collect();
        used.sort_by(|a, b| (b.requests, &a.host).cmp(&(a.requests, &b.host)));
        used
    }

    pub(crate) fn of(&self, host: &Host) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Pace::new(host.to_string()));
        paces.entry(host.clone()).or_insert_with(new).clone()
    }
}

/// What was asked of one registry, in requests since the process began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUse {
    /// The registry.
    pub host: String,
    /// All that were sent.
    pub requests: u64,
    /// Those that it refused for being too many.
    pub refused: u64,
    /// Those that were sent again after such a refusal.
    pub repeated: u64,
    /// How many more it takes in its present window, where it says so.
    pub left: Option<u64>,
}

/// What is counted of one registry.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    refused: AtomicU64,
    repeated: AtomicU64,
}

/// How one registry is asked.
#[derive(Debug)]
pub(crate) struct Pace {
    host: String,
    tempo: Mutex<Tempo>,
    /// Only the first in each line waits for a turn: thousands may stand behind it.
    checks: Queue<()>,
    copies: Queue<()>,
    changed: Notify,
    /// When it was last reported that no request is sent.
    told: Mutex<Option<Instant>>,
    counts: Counts,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Asking {
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

    /// Sends a request when it is its turn, again where it was refused and the wait is short.
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
    pub(crate) async fn turn(self: &Arc<Self>, purpose: Purpose) -> Result<Asking, AskError> {
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
                Turn::Now => {
                    self.counts.requests.fetch_add(1, Ordering::Relaxed);
                    return Ok(Asking {
                        pace: Arc::clone(self),
                        sent: now,
                    });
                }
                Turn::WhenOneEnds => changed.await,
                Turn::At(at) if at.duration_since(now) > PATIENCE => {
                    let (host, wait) = (self.host.clone(), at.duration_since(now));
                    return Err(AskError::Closed { host, wait });
                }
                Turn::At(at) => {
                    self.tell_of_wait(at.duration_since(now), now);
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }

    /// Says that nothing is asked, where that is long enough to be wondered about; not at each.
    fn tell_of_wait(&self, wait: Duration, now: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if is_worth_telling(wait, told.map(|at| now.duration_since(at))) {
            *told = Some(now);
            let seconds = wait.as_secs_f64().ceil();
            tracing::warn!(
                "{} limits requests: nothing is asked of it for {seconds} s",
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
        self.tempo().observed(Budget {
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

impl Asking {
    /// Says what came of it: nothing bad, or this error.
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

impl Drop for Asking {
    fn drop(&mut self) {
        self.pace.tempo().ended();
        self.pace.changed.notify_waiters();
    }
}

/// Whether a wait is reported, so long after the last one that was.
fn is_worth_telling(wait: Duration, since: Option<Duration>) -> bool {
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
        let pace = paces.of(&host);
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
        let other = paces.of(&Host::parse("a.example").unwrap());
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
        assert!(is_worth_telling(seconds(5), None));
        assert!(!is_worth_telling(seconds(4), None));
        assert!(!is_worth_telling(seconds(20), Some(seconds(59))));
        assert!(is_worth_telling(seconds(20), Some(seconds(60))));
    }
}
