//! A destination that is full.

use coral_mirror::Ended;

use super::gone::status_of;
use super::*;

/// The reported events about waiting, and about images.
#[derive(Default)]
struct Told(Mutex<Vec<&'static str>>);

impl Observer for Told {
    fn observe(&self, _: &Subject<'_>, event: &Event<'_>) {
        let said = match event {
            Event::WaitsForRoom { error } if error.contains("507") => "waits",
            Event::RoomAgain => "room",
            Event::Mirrored { .. } => "mirrored",
            Event::Failed { .. } => "failed",
            _ => return,
        };
        self.0.lock().unwrap().push(said);
    }
}

async fn until_mirrored(pair: &Pair, told: Arc<Told>, seen: &Mutex<Vec<Summary>>) -> Ended {
    let engine = Engine::start(InProcess::default(), EngineLimits::default(), told);
    let (mirror, stop) = (
        pair.described("default/m", &["a/b", "a/c"]),
        CancellationToken::new(),
    );
    let ends = stop.clone();
    let follow = |summary: &Summary| {
        seen.lock().unwrap().push(summary.clone());
        if summary.mirrored == 2 && summary.waiting == 0 && summary.quiet {
            ends.cancel();
        }
    };
    engine.run(mirror, Until::Stopped, stop, follow).await
}

#[tokio::test]
async fn images_wait_for_room_without_failing_and_are_copied_once_there_is_some() {
    let pair = Pair::start().await;
    for (seed, path) in [(1, "a/b"), (2, "a/c")] {
        pair.source.load(path, &image(seed));
    }
    // The first blobs are refused; then there is enough space.
    let full = Fault::new(status_of(507)).method("PUT").path("/uploads/");
    pair.destination.fault(full.first(2));
    let space = r#"{"stored":1,"uploads":0,"limit":1000000}"#.to_owned();
    let answer = Effect::Status {
        status: 200,
        headers: vec![],
        body: space,
    };
    pair.destination
        .fault(Fault::new(answer).path("/coral/v1/storage"));
    let (told, seen) = (Arc::new(Told::default()), Mutex::default());
    let ended = until_mirrored(&pair, told.clone(), &seen).await;
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().any(|summary| summary.waiting > 0));
    assert!(seen.iter().all(|it| it.failing + it.errors == 0));
    assert_eq!(ended.summary.mirrored, 2);
    let told = told.0.lock().unwrap().clone();
    let once = |what| told.iter().filter(|said| **said == what).count() == 1;
    assert!(once("waits") && once("room"), "{told:?}");
    assert!(!told.contains(&"failed"), "{told:?}");
    for path in ["a/b", "a/c"] {
        let landed = pair.landed(path);
        assert!(pair.destination.tags(&landed).contains_key("1"), "{path}");
    }
}
