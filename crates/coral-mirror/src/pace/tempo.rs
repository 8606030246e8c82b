//! How many requests one registry gets, and how fast: pure, `now` is an argument.
//!
//! The number in flight is a window: a little larger with each answer, half as large after a
//! refusal or a failure (additive increase, multiplicative decrease). A window alone does not
//! keep a rate, so from the first refusal on requests are spaced too. What was answered between
//! two refusals measures what the registry gives. From there the rate grows, slowly at first,
//! until the next refusal; and more slowly the better the rate is known.

use std::time::{Duration, Instant};

/// Requests in flight at first: what one connection of HTTP/2 or a few of HTTP/1 carry well.
const FIRST_WINDOW: f64 = 6.0;
const LARGEST_WINDOW: f64 = 32.0;
/// Added for a whole window of answers.
const GROWTH: f64 = 0.2;
/// Pause after a refusal that names none; doubled for each further one without an answer between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Of what was measured, so much is asked for at first.
const CAUTION: f64 = 0.95;
/// The rate grows by so much a second, doubled every [`DOUBLED_EVERY`] seconds up to
/// [`FASTEST`]: what was measured too low is made up for soon.
const FIRST_PROBE: f64 = 0.01;
const DOUBLED_EVERY: f64 = 2.0;
const FASTEST: f64 = 0.5;
/// Two measurements this close to each other agree; each time they do, doubling takes twice as
/// long, up to [`CALMEST`] times.
const AGREEMENT: f64 = 0.2;
const CALMEST: u32 = 5;
/// Answers after which a limit that did not show again is not looked for one request at a time.
const MEASURE: u32 = 300;
/// Longest time between two requests: a rate below this says nothing any more.
const SLOWEST: f64 = 0.02;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To look whether something changed.
    Check,
    /// To get what is missing.
    Copy,
}

/// What the registry says is left of an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Requests of the whole allowance.
    pub(crate) limit: u64,
    /// Requests left.
    pub(crate) remaining: u64,
    /// When the allowance is whole again.
    pub(crate) renews: Instant,
}

impl Budget {
    /// Whether one more request may go out beside those in flight, of which the registry has not
    /// said yet what they cost. Checking stops where a tenth is left: the rest is for what is
    /// missing.
    fn allows(&self, purpose: Purpose, in_flight: u32) -> bool {
        let reserve = match purpose {
            Purpose::Copy => 0,
            Purpose::Check => self.limit / 10,
        };
        self.remaining > reserve + u64::from(in_flight)
    }
}

/// When a request may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Instant),
    WhenOneEnds,
}

#[derive(Debug)]
pub(super) struct Tempo {
    window: f64,
    in_flight: u32,
    rate: Option<Rate>,
    /// The last refusal or failure: what went out before it has nothing to add.
    stumbled: Option<Instant>,
    refusals_in_a_row: u32,
    closed_until: Option<Instant>,
    budget: Option<Budget>,
}

/// From the first refusal on.
#[derive(Debug)]
struct Rate {
    /// Requests a second, known from the second refusal on.
    per_second: Option<f64>,
    next: Instant,
    refused_at: Instant,
    /// When requests went out again after that.
    opened: Instant,
    granted: u32,
    /// What was measured last, and how often in a row measurements agreed.
    measured: Option<f64>,
    calm: u32,
    /// When the rate last grew, and when it began to.
    grown: Instant,
    began: Instant,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            in_flight: 0,
            rate: None,
            stumbled: None,
            refusals_in_a_row: 0,
            closed_until: None,
            budget: None,
        }
    }
}

impl Tempo {
    /// Whether a request may go out now; if so it counts as in flight until it [ends](Self::ended).
    pub(super) fn admit(&mut self, now: Instant, purpose: Purpose) -> Turn {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Turn::At(until);
        }
        if self.budget.is_some_and(|budget| budget.renews <= now) {
            self.budget = None;
        }
        if let Some(budget) = self.budget
            && !budget.allows(purpose, self.in_flight)
        {
            // Those in flight may turn out to have cost nothing.
            return match self.in_flight {
                0 => Turn::At(budget.renews),
                _ => Turn::WhenOneEnds,
            };
        }
        if f64::from(self.in_flight) >= self.window.floor().max(1.0) {
            return Turn::WhenOneEnds;
        }
        if let Some(rate) = &mut self.rate {
            if rate.next > now {
                return Turn::At(rate.next);
            }
            rate.advance(now);
        }
        self.in_flight += 1;
        Turn::Now
    }

    /// A request that was admitted is over, whatever came of it.
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
                // One at a time until the rate is known: then one is refused, not a window full.
                growth = 0.0;
            }
        }
        self.window = (self.window + growth / self.window).min(LARGEST_WINDOW);
    }

    /// The registry said that this was too much, and perhaps how long to wait.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant, wait: Option<Duration>) {
        let first = self.stumbles(sent, now);
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

    /// The request failed in a way that less load may help: no connection, no answer, a 5xx.
    pub(super) fn failed(&mut self, sent: Instant, now: Instant) {
        self.stumbles(sent, now);
    }

    /// How many more requests the registry takes, where it has said so and it still holds.
    pub(super) fn left(&self, now: Instant) -> Option<u64> {
        let budget = self.budget.filter(|budget| budget.renews > now)?;
        Some(budget.remaining)
    }

    /// What the registry says is left.
    pub(super) fn observed(&mut self, budget: Budget) {
        self.budget = Some(budget);
    }

    /// Halves the window, once for all that was in flight together.
    fn stumbles(&mut self, sent: Instant, now: Instant) -> bool {
        let first = self.stumbled.is_none_or(|before| sent > before);
        if first {
            self.stumbled = Some(now);
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
        // A late request does not make the ones after it late.
        let space = Duration::from_secs_f64(1.0 / per_second);
        self.next = self.next.max(now.checked_sub(space).unwrap_or(now)) + space;
    }

    /// At a refusal. The first measurement asks as fast as it goes, and counts the pause too, in
    /// which a bucket was filled; later ones ask at about the rate.
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
