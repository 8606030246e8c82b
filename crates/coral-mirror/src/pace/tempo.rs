//! How many requests to send to one registry, and how fast. Pure: `now` is an argument.
//!
//! The number in flight is limited by a window, which grows a little with each answer and is halved
//! after a refusal or a failure (additive increase, multiplicative decrease). A window alone does
//! not limit the rate, so from the first refusal on, requests are also spaced. The number of
//! answers between two refusals measures the rate that the registry allows. From there the rate
//! grows, slowly at first, until the next refusal; the better the rate is known, the more slowly it
//! grows.

use std::time::{Duration, Instant};

/// Requests in flight at first: as many as one HTTP/2 connection or a few HTTP/1 connections carry
/// well.
const FIRST_WINDOW: f64 = 6.0;
const LARGEST_WINDOW: f64 = 32.0;
/// How much the window grows per window of answers.
const GROWTH: f64 = 0.2;
/// Pause after a refusal that names none; doubled for each further refusal without an answer in
/// between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The fraction of the measured rate that is used at first.
const CAUTION: f64 = 0.95;
/// The rate grows by this fraction per second, doubled every [`DOUBLED_EVERY`] seconds up to
/// [`FASTEST`], so that a measurement that was too low is soon corrected.
const FIRST_PROBE: f64 = 0.01;
const DOUBLED_EVERY: f64 = 2.0;
const FASTEST: f64 = 0.5;
/// Two measurements that differ by less than this fraction agree; each time they do, doubling takes
/// twice as long, up to [`CALMEST`] times.
const AGREEMENT: f64 = 0.2;
const CALMEST: u32 = 5;
/// After this many answers without another refusal, the limit is no longer probed one request at a
/// time.
const MEASURE: u32 = 300;
/// Lowest rate, in requests per second: below this a rate is meaningless.
const SLOWEST: f64 = 0.02;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Checks whether something has changed.
    Check,
    /// Fetches missing content.
    Copy,
}

/// The rest of an allowance, as the registry reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests of the whole allowance.
    pub(crate) limit: u64,
    /// Requests left.
    pub(crate) remaining: u64,
    /// When the allowance is renewed.
    pub(crate) renews: Instant,
}

impl Allowance {
    /// Whether one more request may be sent in addition to those in flight, whose cost the registry
    /// has not yet reported. Checks stop when a tenth is left: the rest is for missing content.
    fn allows(&self, purpose: Purpose, in_flight: u32) -> bool {
        let reserve = match purpose {
            Purpose::Copy => 0,
            Purpose::Check => self.limit / 10,
        };
        self.remaining > reserve + u64::from(in_flight)
    }
}

/// When a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    At(Instant),
    WhenOneEnds,
}

#[derive(Debug)]
pub(super) struct Tempo {
    window: f64,
    in_flight: u32,
    rate: Option<Rate>,
    /// The last refusal or failure: requests that were sent before it do not count again.
    backed_off: Option<Instant>,
    refusals_in_a_row: u32,
    closed_until: Option<Instant>,
    budget: Option<Allowance>,
}

/// The rate, from the first refusal on.
#[derive(Debug)]
struct Rate {
    /// Requests per second, known from the second refusal on.
    per_second: Option<f64>,
    next: Instant,
    refused_at: Instant,
    /// When requests were sent again after that.
    opened: Instant,
    granted: u32,
    /// The last measurement, and how many in a row agreed.
    measured: Option<f64>,
    calm: u32,
    /// When the rate last grew, and when it began to grow.
    grown: Instant,
    began: Instant,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            in_flight: 0,
            rate: None,
            backed_off: None,
            refusals_in_a_row: 0,
            closed_until: None,
            budget: None,
        }
    }
}

impl Tempo {
    /// Whether a request may be sent now; if so, it counts as in flight until it
    /// [ends](Self::ended).
    pub(super) fn admit(&mut self, now: Instant, purpose: Purpose) -> Admission {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Admission::At(until);
        }
        if self.budget.is_some_and(|budget| budget.renews <= now) {
            self.budget = None;
        }
        if let Some(budget) = self.budget
            && !budget.allows(purpose, self.in_flight)
        {
            // Requests in flight may turn out to cost nothing.
            return match self.in_flight {
                0 => Admission::At(budget.renews),
                _ => Admission::WhenOneEnds,
            };
        }
        if f64::from(self.in_flight) >= self.window.floor().max(1.0) {
            return Admission::WhenOneEnds;
        }
        if let Some(rate) = &mut self.rate {
            if rate.next > now {
                return Admission::At(rate.next);
            }
            rate.advance(now);
        }
        self.in_flight += 1;
        Admission::Now
    }

    /// An admitted request has ended, whatever its result.
    pub(super) fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The registry answered.
    pub(super) fn granted(&mut self) {
        self.refusals_in_a_row = 0;
        let mut growth = GROWTH;
        if let Some(rate) = &mut self.rate {
            rate.granted += 1;
            if rate.per_second.is_none() && rate.granted < MEASURE {
                // One at a time until the rate is known: then only one request is refused, not a
                // whole window.
                growth = 0.0;
            }
        }
        self.window = (self.window + growth / self.window).min(LARGEST_WINDOW);
    }

    /// The registry refused the request as one too many, and may have stated how long to wait.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant, wait: Option<Duration>) {
        let first = self.back_off(sent, now);
        if first {
            self.refusals_in_a_row += 1;
            if let Some(rate) = &mut self.rate {
                rate.measure(now);
            } else {
                // One at a time until the rate is known.
                self.window = 1.0;
                self.rate = Some(Rate::unknown(now));
            }
        }
        let doublings = self.refusals_in_a_row.saturating_sub(1).min(6);
        let own = FIRST_PAUSE
            .saturating_mul(1 << doublings)
            .min(LONGEST_PAUSE);
        let until = now + wait.filter(|w| !w.is_zero()).unwrap_or(own);
        self.closed_until = self.closed_until.max(Some(until));
        if let (Some(rate), Some(until)) = (&mut self.rate, self.closed_until) {
            rate.opens(until);
        }
    }

    /// The request failed in a way that less load may help against: no connection, no answer, a
    /// 5xx.
    pub(super) fn failed(&mut self, sent: Instant, now: Instant) {
        self.back_off(sent, now);
    }

    /// How many more requests the registry takes, if it has reported that and the report is still
    /// valid.
    pub(super) fn left(&self, now: Instant) -> Option<u64> {
        let budget = self.budget.filter(|budget| budget.renews > now)?;
        Some(budget.remaining)
    }

    /// Records what the registry reports as left.
    pub(super) fn observed(&mut self, budget: Allowance) {
        self.budget = Some(budget);
    }

    /// Halves the window, once for all requests that were in flight together.
    fn back_off(&mut self, sent: Instant, now: Instant) -> bool {
        let first = self.backed_off.is_none_or(|before| sent > before);
        if first {
            self.backed_off = Some(now);
            self.window = (self.window / 2.0).max(1.0);
        }
        first
    }
}

impl Rate {
    fn unknown(now: Instant) -> Self {
        Self {
            per_second: None,
            next: now,
            refused_at: now,
            opened: now,
            granted: 0,
            measured: None,
            calm: 0,
            grown: now,
            began: now,
        }
    }

    fn opens(&mut self, at: Instant) {
        (self.opened, self.began, self.grown) = (at, at, at);
    }

    fn advance(&mut self, now: Instant) {
        let Some(per_second) = self.per_second else {
            return;
        };
        let probing = now.saturating_duration_since(self.began).as_secs_f64();
        let every = DOUBLED_EVERY * f64::from(1_u32 << self.calm);
        let growth = (FIRST_PROBE * 2_f64.powf(probing / every)).min(FASTEST);
        let passed = now.saturating_duration_since(self.grown).as_secs_f64();
        let per_second = per_second * (1.0 + growth * passed.min(1.0));
        self.per_second = Some(per_second);
        self.grown = now;
        // A late request does not delay the next ones.
        let space = Duration::from_secs_f64(1.0 / per_second);
        self.next = self.next.max(now.checked_sub(space).unwrap_or(now)) + space;
    }

    /// Measures the rate, at a refusal. In the first measurement requests were sent as fast as
    /// possible, so it includes the pause, in which a bucket was refilled; in later ones they were
    /// sent at about the rate.
    fn measure(&mut self, now: Instant) {
        let from = if self.per_second.is_some() {
            self.opened
        } else {
            self.refused_at
        };
        let elapsed = now.saturating_duration_since(from).as_secs_f64();
        let fastest = self.per_second.unwrap_or(f64::INFINITY);
        let measured = match self.granted {
            0 => fastest / 2.0,
            granted => (f64::from(granted) / elapsed.max(0.001)).min(fastest),
        };
        if !measured.is_finite() {
            *self = Self::unknown(now);
            return;
        }
        let agrees = |before: f64| (measured / before - 1.0).abs() < AGREEMENT;
        let calm = if self.measured.is_some_and(agrees) {
            (self.calm + 1).min(CALMEST)
        } else {
            0
        };
        *self = Self {
            per_second: Some((measured * CAUTION).max(SLOWEST)),
            measured: Some(measured),
            calm,
            ..Self::unknown(now)
        };
    }
}

#[cfg(test)]
#[path = "tempo/tests.rs"]
mod tests;
