//! Reports of the scrub.

use std::fs;
use std::time::Duration;

use coral_registry::{ScrubSettings, Settings};
use tokio_util::sync::CancellationToken;

use crate::client::Served;

#[tokio::test(start_paused = true)]
async fn the_figures_of_a_round_are_told() {
    let served = Served::new();
    let told = served.get("/coral/v1/scrub").await.json();
    assert_eq!(
        (&told["completed"], &told["open"]),
        (&().into(), &false.into())
    );
    served.push("a", &[1; 6000]).await;
    let digest = served.push("a", &[2; 500]).await;
    fs::write(served.content(&digest), [3; 500]).unwrap();
    served.registry.configure(Settings {
        scrub: ScrubSettings {
            interval: Duration::from_secs(1),
            bandwidth: 1 << 40,
            report_only: false,
        },
        ..Settings::default()
    });
    let stop = CancellationToken::new();
    let scrubbing = tokio::spawn(served.registry.clone().keep_scrubbed(stop.clone()));
    let told = loop {
        tokio::time::advance(Duration::from_secs(6)).await;
        let told = served.get("/coral/v1/scrub").await.json();
        if told["completed"].is_u64() {
            break told;
        }
    };
    stop.cancel();
    scrubbing.await.unwrap();
    assert_eq!(
        (&told["damaged"], &told["missing"]),
        (&1.into(), &1.into()),
        "{told}"
    );
    assert!(told["readBytes"].as_u64().unwrap() >= 6500, "{told}");
    assert_eq!(
        (&told["open"], &told["percent"]),
        (&false.into(), &0.into()),
        "{told}"
    );
}
