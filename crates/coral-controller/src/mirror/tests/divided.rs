//! Shards: how images are divided, and what a shard says.

use super::*;

#[test]
fn a_restarted_controller_goes_on_from_status_and_shards() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let before = snapshot(vec![
        image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00")),
        image("quay.io/a/b:2", MirroredState::Failing, None),
    ]);
    assert!(
        restore::snapshot(
            &mirror,
            &Store::<MirroredImages>::from_objects([]).snapshot()
        )
        .is_none()
    );
    mirror.status = Some(status_of(&mirror, &before, true, 10));
    assert!(restore::is_current(&mirror));
    let divided = shards::divide(&before.images, 2);
    let objects = divided.into_iter().map(|(number, status)| {
        let mut object = shards::object(&mirror, number, "reg.a.svc:5000");
        object["metadata"]["namespace"] = json!("a");
        object["metadata"]["name"] = json!(shards::name("m", number));
        object["status"] = serde_json::to_value(status).unwrap();
        serde_json::from_value::<MirroredImages>(object).unwrap()
    });
    let stored = Store::from_objects(objects).snapshot();
    let mut restored = restore::snapshot(&mirror, &stored).unwrap();
    restored
        .images
        .sort_by(|a, b| a.reference.cmp(&b.reference));
    assert_eq!(restored, before);
}

#[test]
fn shards_stay_below_their_most_and_images_do_not_move_to_and_fro() {
    let images: Vec<MirroredImage> = (0..4000)
        .map(|n| image(&format!("quay.io/a/b:{n}"), MirroredState::Pending, None))
        .collect();
    let count = shards::count(images.len(), 0);
    assert_eq!(count, 8);
    let divided = shards::divide(&images, count);
    assert_eq!(
        divided.values().map(|s| s.images.len()).sum::<usize>(),
        4000
    );
    let most = coral_api::mirrored_images::MAX_SHARD_IMAGES;
    assert!(divided.values().all(|shard| shard.images.len() <= most));
    assert_eq!(shards::count(1500, 8), 8, "large enough as it is");
    assert_eq!(shards::count(100, 8), 1);
    assert_eq!(shards::count(0, 0), 1);
}

#[test]
fn a_shard_says_whether_its_images_are_there_and_keeps_the_time_of_what_stays() {
    let shard = |images: Vec<MirroredImage>| shards::divide(&images, 1).remove(&0).unwrap();
    let there = image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00"));
    let mut failed = image("quay.io/a/b:2", MirroredState::Failing, None);
    failed.message = Some("no answer".to_owned());
    let complete = shards::conditions(&shard(vec![there.clone()]), &[], Some(1), at(10));
    assert!(is_true(&complete, READY) && !is_true(&complete, DEGRADED));
    let same = shards::conditions(&shard(vec![there.clone()]), &complete, Some(1), at(20));
    assert_eq!(same, complete);
    let both = shard(vec![there, failed]);
    let failing = shards::conditions(&both, &complete, Some(2), at(30));
    assert!(!is_true(&failing, READY) && is_true(&failing, DEGRADED));
    let said: Vec<&str> = failing.iter().map(|c| c.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "1 of 2 images mirrored",
            "1 failed; first quay.io/a/b:2: no answer"
        ]
    );
    assert!(failing.iter().all(|c| c.observed_generation == Some(2)));
}
