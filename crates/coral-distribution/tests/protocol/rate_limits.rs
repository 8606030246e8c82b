//! The rate limit that a registry reports can be watched.

use std::sync::Arc;
use std::time::Duration;

use coral_distribution::{Client, Credentials};
use coral_testkit::{Effect, Fault, Throttle};

use crate::fixture::*;

#[tokio::test]
async fn the_last_word_of_each_registry_reaches_every_subscriber() {
    let (registry, _) = registry_with_image().await;
    let (other, _) = registry_with_image().await;
    let client = Client::new(plain(&[&registry, &other])).unwrap();
    let ask = async |of: &coral_testkit::FaultRegistry| {
        let asking = client.repository(&repository(of, PATH), Arc::new(Credentials::none()));
        asking.head(&tag("1")).await.map(drop)
    };
    let mut watching = client.rate_limit(&host(&registry));
    ask(&registry).await.unwrap();
    assert_eq!(*watching.borrow_and_update(), None, "it has said nothing");
    registry.fault(Fault::new(set_header("ratelimit-remaining", "76;w=21600")).first(1));
    registry.fault(Fault::new(set_header("ratelimit-limit", "100;w=21600")).first(1));
    ask(&registry).await.unwrap();
    assert!(watching.has_changed().unwrap());
    let said = watching.borrow_and_update().unwrap();
    assert_eq!((said.limit, said.remaining), (Some(100), Some(76)));
    assert_eq!(said.window, Some(Duration::from_hours(6)));
    // A refusal reports it too, and an answer without a report changes nothing.
    let limited = Throttle::RateLimit {
        limit: 100,
        window: 60,
    };
    registry.fault(Fault::new(Effect::Throttle(limited)).first(1));
    ask(&registry).await.unwrap_err();
    ask(&registry).await.unwrap();
    assert_eq!(
        client
            .rate_limit(&host(&registry))
            .borrow()
            .unwrap()
            .remaining,
        Some(0)
    );
    ask(&other).await.unwrap();
    assert_eq!(*client.rate_limit(&host(&other)).borrow(), None);
}
