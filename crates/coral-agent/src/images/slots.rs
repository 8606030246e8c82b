//! Decides which pulls run at the same time. Pure.
//!
//! A source that sends a byte per second must not block the images of others: no host gets all
//! slots, and a pull that others wait for is cancelled after a while. Nor may an endless series of
//! pulls prevent the removal of an image.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::decide::{Decision, DecisionInput, Wanted};

/// How long a pull may keep a slot that another image waits for; doubled each time that it gave
/// the slot back, so that a large image gets through a slow line in the end.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// Longest time that a pull may keep such a slot.
const LONGEST_PATIENCE: SignedDuration = SignedDuration::from_mins(30);
/// The first hold: how long no pull starts while a removal waits for the running ones.
const HOLD: SignedDuration = SignedDuration::from_mins(1);
/// How long pulls may start again after a hold in which the running ones did not end. Afterwards no
/// pull starts until the removal is tried, and each running pull is cancelled once its patience is
/// over. The longest patience is [`LONGEST_PATIENCE`], so a removal waits for 36 minutes at most. A
/// pull keeps its patience across removals, so that a large image completes even while removals
/// keep coming.
///
/// After a removal was tried, no other removal holds pulls up for as long as the first did. So
/// however many removals follow each other, pulls start half of the time, and a removal that comes
/// at that moment waits for 72 minutes at most.
const REST: SignedDuration = SignedDuration::from_mins(5);
/// The longest time that a removal waits for running pulls.
const LONGEST_HOLD: SignedDuration = SignedDuration::from_mins(1 + 5 + 30);

/// Whether a removal waits for the running pulls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RemovalHold {
    /// When the current removal began to wait.
    since: Option<Timestamp>,
    /// Until when no removal holds pulls up again.
    rests_until: Option<Timestamp>,
}

impl RemovalHold {
    /// The next state after a pass in which a removal waited, or none did.
    #[must_use]
    pub(crate) fn after(self, removal_waits: bool, now: Timestamp) -> Self {
        let rests_until = self.rests_until.filter(|_| self.rests(now));
        // A time in the future was recorded before the clock was set back.
        let since = self.since.map(|since| since.min(now));
        match (removal_waits, since) {
            (true, _) => Self {
                since: rests_until.is_none().then(|| since.unwrap_or(now)),
                rests_until,
            },
            (false, Some(since)) => Self {
                since: None,
                rests_until: Some(now + now.duration_since(since).min(LONGEST_HOLD)),
            },
            (false, None) => Self {
                since: None,
                rests_until,
            },
        }
    }

    /// Whether pulls may start although a removal waits.
    fn rests(self, now: Timestamp) -> bool {
        self.rests_until
            .is_some_and(|until| until > now && until <= now + LONGEST_HOLD)
    }
}

/// The slots for pulls.
pub(super) struct Slots {
    free: usize,
    /// Most pulls from one host.
    per_host: usize,
    /// Pulls that run or are about to start, by host.
    taken: BTreeMap<String, usize>,
    is_held: bool,
    /// Whether a removal has waited for the slots of all running pulls long enough.
    is_cleared: bool,
    /// Whether a pull waits for any slot.
    is_full: bool,
    /// Hosts of which all slots are taken while a pull waits for one.
    full_hosts: BTreeSet<String>,
}

impl Slots {
    /// The slots that the running pulls leave free.
    pub(super) fn new(view: &DecisionInput<'_>) -> Self {
        let mut taken = BTreeMap::new();
        for name in view.pulling.keys() {
            *taken.entry(image_host(name).to_owned()).or_default() += 1;
        }
        Self {
            free: view.parallel.saturating_sub(view.pulling.len()),
            per_host: view.parallel.saturating_sub(1).max(1),
            taken,
            is_held: false,
            is_cleared: false,
            is_full: false,
            full_hosts: BTreeSet::new(),
        }
    }

    /// Starts no pull while a removal waits, because the runtime removes images only between pulls.
    /// There are three phases: a short hold, then a rest in which pulls start, then a hold in which
    /// running pulls are cancelled. Returns when the current hold or rest ends; the last hold ends
    /// with the pulls.
    pub(super) fn hold(&mut self, view: &DecisionInput<'_>) -> Option<Timestamp> {
        if view.hold.rests(view.now) {
            return view.hold.rests_until;
        }
        let since = view.hold.since.unwrap_or(view.now).min(view.now);
        let waited = view.now.duration_since(since);
        self.is_cleared = waited >= HOLD + REST;
        self.is_held = waited < HOLD || self.is_cleared;
        let end = if self.is_held { HOLD } else { HOLD + REST };
        (!self.is_cleared).then(|| since + end)
    }

    /// Takes a slot for a pull from this host, if there is one.
    pub(super) fn take(&mut self, host: &str) -> bool {
        if self.is_held {
            return false;
        }
        let taken = self.taken.entry(host.to_owned()).or_default();
        if *taken >= self.per_host {
            self.full_hosts.insert(host.to_owned());
            return false;
        }
        if self.free == 0 {
            self.is_full = true;
            return false;
        }
        *taken += 1;
        self.free -= 1;
        true
    }

    /// Cancels pulls that others, or a removal, have waited for long enough.
    pub(super) fn cancel_overdue(
        &self,
        view: &DecisionInput<'_>,
        wanted: &[Wanted<'_>],
        decision: &mut Decision,
    ) {
        for (name, &since) in view.pulling {
            let is_waited_for = self.is_full || self.full_hosts.contains(image_host(name));
            if !is_waited_for && !self.is_cleared {
                continue;
            }
            let mut wishes = wanted.iter().filter(|wish| wish.pulled == *name);
            let yields = wishes.find_map(|wish| {
                let attempt = view.attempts.get(&wish.image.reference)?;
                attempt.is_about(wish.image).then_some(attempt.yields)
            });
            let end = since + patience(yields.unwrap_or(0));
            if end > view.now {
                decision.wake = Some(decision.wake.map_or(end, |wake| wake.min(end)));
            } else if decision.wanted.remove(name) {
                decision.overdue.push(name.clone());
            }
        }
    }
}

fn patience(yields: u32) -> SignedDuration {
    PATIENCE
        .saturating_mul(1 << yields.min(10))
        .min(LONGEST_PATIENCE)
}

/// The host of `HOST/PATH@DIGEST`.
fn image_host(name: &str) -> &str {
    name.split_once('/').map_or(name, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_that_was_ended_gets_twice_the_time_up_to_a_bound() {
        let minutes: Vec<i64> = (0..5).map(|n| patience(n).as_secs() / 60).collect();
        assert_eq!(minutes, [5, 10, 20, 30, 30]);
        assert_eq!(patience(u32::MAX), LONGEST_PATIENCE);
    }
}
