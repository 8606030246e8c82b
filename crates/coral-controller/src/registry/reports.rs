//! Asks Registries from time to time what they store and how their scrub is.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::answers::Answer;
use super::largest::{self, Repositories};
use super::question::{self, RegistryEndpoint};
use super::scrub::Scrub;
use super::space::Space;
use crate::ObjectKey;

/// Between questions to one Registry.
const ASK_EVERY: Duration = Duration::from_mins(1);
/// The same while the Registry has not counted its content, or has none: it has just started, or is
/// about to be filled.
const ASK_FIRST_EVERY: Duration = Duration::from_secs(5);

/// The last report of one Registry. Older versions leave some of it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) space: Option<Space>,
    pub(super) scrub: Option<Scrub>,
    pub(super) repositories: Option<Repositories>,
}

/// Asks one Registry how it is.
pub(super) async fn ask(key: ObjectKey, place: RegistryEndpoint) -> Report {
    let largest = format!("repositories?n={}", largest::ASKED);
    Report {
        space: part(&key, &place, "storage").await,
        scrub: part(&key, &place, "scrub").await,
        repositories: part(&key, &place, &largest).await,
    }
}

async fn part<T: DeserializeOwned>(
    key: &ObjectKey,
    place: &RegistryEndpoint,
    what: &str,
) -> Option<T> {
    let said = question::ask(place, what).await;
    let said = said.inspect_err(|why| {
        tracing::debug!(registry = %key, what, %why, "the registry does not report its state");
    });
    said.ok()
}

impl Answer for Report {
    type Reply = Self;
    const LONGEST: Duration = ASK_EVERY;

    fn take_in(&mut self, said: Self) -> Duration {
        self.space = said.space.or(self.space);
        self.scrub = said.scrub.or(self.scrub);
        self.repositories = said.repositories.or(self.repositories.take());
        if self
            .space
            .is_some_and(|space| space.counted && space.stored > 0)
        {
            ASK_EVERY
        } else {
            ASK_FIRST_EVERY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_asked_again_soon_until_it_stores_something_and_its_last_word_stays() {
        let mut report = Report::default();
        assert_eq!(report.take_in(Report::default()), ASK_FIRST_EVERY);
        let stores = |stored, counted| {
            let mut space = Space::default();
            (space.stored, space.counted) = (stored, counted);
            Report {
                space: Some(space),
                ..Report::default()
            }
        };
        for said in [stores(0, true), stores(7, false)] {
            assert_eq!(report.take_in(said), ASK_FIRST_EVERY);
        }
        let mut said = stores(7, true);
        said.repositories = Some(Repositories::default());
        assert_eq!(report.take_in(said.clone()), ASK_EVERY);
        assert_eq!(report.take_in(Report::default()), ASK_EVERY);
        assert_eq!(report, said);
    }
}
