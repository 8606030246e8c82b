//! Keeps mirrors and look-ups from connecting to the API servers, whose addresses change while they
//! run.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use coral_distribution::{AddressRules, RefusedAddresses};
use jiff::Timestamp;

use super::addresses;
use crate::api::ApiError;
use crate::backoff::{BackoffBounds, has_come};
use crate::context::Context;

/// How long addresses that were read count as current.
const CURRENT: Duration = Duration::from_mins(5);

/// How long an empty list of addresses is accepted: a control-plane node is probably being
/// replaced.
const MISSING: Duration = Duration::from_secs(30);

/// How long to wait after a read that failed while nothing is known.
const FAILED: BackoffBounds = BackoffBounds {
    first: Duration::from_secs(5),
    longest: Duration::from_mins(5),
};

/// Which addresses of API servers are not connected to, and how current that is.
#[derive(Default)]
pub(super) struct Guard {
    /// Shared with the clients of mirrors and look-ups: these are judged by it as it changes.
    refused: RefusedAddresses,
    /// Whether the addresses were read once.
    is_known: bool,
    /// Why they are not known.
    pub(super) failure: Option<String>,
    failures: u32,
    /// When they are read again.
    next: Option<Timestamp>,
}

impl Guard {
    /// When the addresses are to be read again; `None` if now.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Rules for every client that connects to hosts of tenants' objects.
    pub(super) fn rules(&self) -> AddressRules {
        addresses::rules(self.refused.clone())
    }

    /// Reads the addresses if it is time, and publishes the rules, or why there are none.
    pub(super) async fn keep(&mut self, context: &Context, now: Timestamp) {
        if !self.is_due(now) {
            return;
        }
        let read = addresses::api_servers(context).await;
        let wait = self.take(read, addresses::service());
        self.next = Some(now.saturating_add(wait).unwrap_or(Timestamp::MAX));
        let rules = self.failure.clone().map_or_else(|| Ok(self.rules()), Err);
        context.shared.address_rules.set(rules);
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.next.is_none_or(|next| has_come(next, now, CURRENT))
    }

    /// Stores the addresses that were read; returns how long they are valid. Neither a missing nor an empty
    /// answer removes known addresses.
    fn take(
        &mut self,
        read: Result<BTreeSet<SocketAddr>, ApiError>,
        service: Option<SocketAddr>,
    ) -> Duration {
        match read {
            Ok(found) if !found.is_empty() || !self.is_known => {
                let wait = if found.is_empty() { MISSING } else { CURRENT };
                self.refused
                    .replace(found.into_iter().chain(service).collect());
                (self.is_known, self.failure, self.failures) = (true, None, 0);
                wait
            }
            Ok(_) => MISSING,
            Err(error) if self.is_known => {
                tracing::warn!(%error, "the addresses of the API servers cannot be refreshed");
                CURRENT
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let failure = format!(
                    "no registry is contacted until the addresses of the API servers are known: \
                     {error}"
                );
                if self.failure.as_ref() != Some(&failure) {
                    tracing::warn!(why = %failure, "no mirror starts, and no tag is looked up");
                }
                self.failure = Some(failure);
                FAILED.after(self.failures)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn service() -> SocketAddr {
        "10.96.0.1:443".parse().unwrap()
    }

    #[test]
    fn clients_that_exist_are_judged_by_the_addresses_read_last() {
        let mut guard = Guard::default();
        let rules = guard.rules();
        let refused = || rules.refused.as_ref().unwrap().addresses();
        let wait = guard.take(Ok(addresses(&["10.0.0.1:6443"])), Some(service()));
        assert_eq!(wait, CURRENT);
        assert_eq!(refused(), addresses(&["10.0.0.1:6443", "10.96.0.1:443"]));
        guard.take(Ok(addresses(&["10.0.0.2:6443"])), Some(service()));
        assert_eq!(refused(), addresses(&["10.0.0.2:6443", "10.96.0.1:443"]));
        assert_eq!(guard.rules(), rules, "no client is made anew");
    }

    /// Regression: with a clock that was a day ahead at a read, no address was read for a day.
    #[test]
    fn a_clock_that_was_set_back_puts_no_read_off() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut guard = Guard::default();
        assert!(guard.is_due(at(0)));
        guard.next = Some(at(100_300));
        for (now, is_due) in [(100_000, false), (100_300, true), (99_999, true), (0, true)] {
            assert_eq!(guard.is_due(at(now)), is_due, "{now}");
        }
    }

    #[test]
    fn a_list_that_is_empty_for_a_moment_gives_no_address_up() {
        let mut guard = Guard::default();
        guard.take(Ok(addresses(&["10.0.0.1:6443"])), Some(service()));
        assert_eq!(guard.take(Ok(BTreeSet::new()), Some(service())), MISSING);
        let refused = guard.refused.addresses();
        assert_eq!(refused, addresses(&["10.0.0.1:6443", "10.96.0.1:443"]));
    }
}
