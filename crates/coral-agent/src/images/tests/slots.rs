//! Which pulls run, for how long, and when they are cancelled for removals.

use super::*;

#[test]
fn the_most_urgent_are_pulled_first_and_not_more_than_allowed() {
    let urgent = NodeImage {
        priority: Some(10),
        ..image("two.io/z:1", ONE)
    };
    let mut scene = scene(&[image("one.io/a:1", ONE), image("reg.io/b:1", ONE), urgent]);
    assert_eq!(scene.pulls(), [pulled("two.io/z"), pulled("one.io/a")]);
    scene.run_pulls();
    assert!(scene.decide().pulls.is_empty());
}

#[test]
fn no_host_has_every_slot() {
    let mut scene = scene(&[
        image("drip.example/a:1", ONE),
        image("drip.example/b:1", ONE),
        image("reg.io/a:1", ONE),
    ]);
    assert_eq!(
        scene.pulls(),
        [pulled("drip.example/a"), pulled("reg.io/a")]
    );
    scene.images.truncate(2);
    assert_eq!(scene.pulls(), [pulled("drip.example/a")]);
}

#[test]
fn what_was_tried_longest_ago_is_tried_next_and_what_was_not_before_that() {
    let mut scene = scene(&[
        image("a.io/a:1", ONE),
        image("b.io/a:1", ONE),
        image("c.io/a:1", ONE),
        image("d.io/a:1", ONE),
    ]);
    scene.fail(1, Category::Other, false);
    scene.now = at(10);
    scene.fail(0, Category::Other, false);
    scene.now = at(20);
    assert_eq!(scene.pulls(), [pulled("c.io/a"), pulled("d.io/a")]);
    scene.fail(2, Category::Other, false);
    scene.fail(3, Category::Other, false);
    scene.now = at(30);
    assert_eq!(scene.pulls(), [pulled("b.io/a"), pulled("a.io/a")]);
}

#[test]
fn a_pull_that_others_wait_for_ends_after_a_while_and_gets_longer_next_time() {
    let mut scene = scene(&[
        image("drip.example/a:1", ONE),
        image("more.example/a:1", ONE),
    ]);
    scene.run_pulls();
    scene.now = at(3600);
    let alone = scene.decide();
    assert_eq!(alone.overdue, Vec::<String>::new(), "nothing waits");

    scene.images.push(image("reg.io/a:1", ONE));
    scene.now = at(299);
    let early = scene.decide();
    assert_eq!(early.overdue, Vec::<String>::new());
    assert_eq!(early.wake, Some(at(300)));
    scene.now = at(300);
    let ended = scene.decide();
    let both = [pulled("drip.example/a"), pulled("more.example/a")];
    assert_eq!(ended.overdue, both);
    assert!(!ended.wanted.contains(&both[0]));

    scene.pulling.clear();
    scene.put_back(0);
    scene.put_back(1);
    assert_eq!(scene.pulls(), [pulled("reg.io/a")]);
    scene.now = at(310);
    scene.run_pulls();
    scene.now = at(310 + 599);
    assert!(!scene.decide().overdue.contains(&both[0]));
}

#[test]
fn a_pull_that_gave_its_slot_to_others_has_not_failed() {
    let mut scene = scene(&[NodeImage {
        retry_limit: Some(1),
        ..image("reg.io/a:1", ONE)
    }]);
    for _ in 0..6 {
        scene.put_back(0);
    }
    let decision = scene.decide();
    let status = only(&decision);
    assert_eq!(status.state, ImageTagState::Pending);
    assert_eq!(status.reason.as_deref(), Some("Yielded"));
    assert_eq!(status.attempts, None);
    scene.now = at(600);
    assert_eq!(scene.decide().pulls.len(), 1);
    scene.fail(0, Category::NotFound, false);
    scene.put_back(0);
    let decision = scene.decide();
    let status = only(&decision);
    assert_eq!(status.state, ImageTagState::Error, "that was a failure");
    assert_eq!(status.reason.as_deref(), Some("NotFound"));
}

/// The second at which the waiting removal is made, while pulls of `minutes` run one after another.
fn removed_at(minutes: i64) -> Option<i64> {
    let images = (0..40).map(|n| image(&format!("r{}.io/{n}:1", n % 4), TWO));
    let mut scene = scene(&images.collect::<Vec<_>>());
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "remove", false)])];
    // Two pulls that do not end at the same time.
    scene
        .pulling
        .insert(format!("r0.io/0@{TWO}"), at(-minutes * 20));
    scene
        .pulling
        .insert(format!("r1.io/1@{TWO}"), at(-minutes * 50));
    (0..2 * 3600).find(|second| {
        scene.now = at(*second);
        let now = scene.now;
        let runs = |since: Timestamp| now.duration_since(since).as_secs() < minutes * 60;
        scene.pulling.retain(|_, since| runs(*since));
        let decision = scene.decide();
        let is_removal = |action: &NameAction| matches!(action, NameAction::Remove { .. });
        scene.hold = scene.hold.after(decision.removal_waits, now);
        for name in &decision.overdue {
            scene.pulling.remove(name);
        }
        for pull in decision.pulls {
            scene.pulling.insert(pull.name, now);
        }
        decision.names.iter().any(is_removal)
    })
}

#[test]
fn a_removal_comes_within_minutes_however_long_pulls_take() {
    for minutes in [2, 3, 4, 5, 60] {
        let second = removed_at(minutes);
        assert!(
            second.is_some_and(|second| second <= 11 * 60 + 1),
            "{minutes} minutes: {second:?}"
        );
    }
}

#[test]
fn a_removal_that_waits_lets_pulls_start_for_a_while_before_it_ends_them() {
    let mut scene = scene(&[image("reg.io/c:1", TWO)]);
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "remove", false)])];
    scene.pulling.insert(pulled("drip.example/a"), at(0));
    scene.hold = RemovalHold::default().after(true, at(0));
    let mut held = Vec::new();
    for minute in 0..8 {
        scene.now = at(minute * 60);
        let decision = scene.decide();
        assert!(decision.removal_waits);
        held.push(decision.pulls.is_empty());
    }
    assert_eq!(held, [true, false, false, false, false, false, true, true]);
    scene.now = at(30);
    assert_eq!(scene.decide().wake, Some(at(60)));
}

#[test]
fn removals_that_keep_coming_end_no_pull_before_its_patience_is_over() {
    let mut scene = scene(&[image("reg.io/large:1", TWO)]);
    let old = vec![there("id", &[name("reg.io/a:1", ONE, "remove", false)])];
    let large = pulled_two("reg.io/large");
    let mut next_removal = 0;
    let ran = (0..4 * 3600).find_map(|second| {
        scene.now = at(second);
        let now = scene.now;
        if second >= next_removal {
            scene.present.clone_from(&old);
        }
        let decision = scene.decide();
        scene.hold = scene.hold.after(decision.removal_waits, now);
        if decision
            .names
            .iter()
            .any(|action| matches!(action, NameAction::Remove { .. }))
        {
            scene.present.clear();
            next_removal = second + 60;
        }
        for name in &decision.overdue {
            scene.pulling.remove(name);
            scene.put_back(0);
        }
        for pull in decision.pulls {
            scene.pulling.insert(pull.name, now);
        }
        let since = scene.pulling.get(&large)?;
        let ran = now.duration_since(*since).as_secs();
        (ran >= 15 * 60).then_some(second)
    });
    let done = ran.expect("a pull of 15 minutes gets through");
    assert!(done <= 60 * 60, "{done}");
}

/// How many pulls of one minute start in 12 hours beside two sources that are too slow, and how
/// many removals are made. A removal waits again `gap` seconds after each one that was made; with
/// `fails`, each of them fails.
fn starts_beside_removals(gap: i64, fails: bool) -> (usize, usize) {
    let mut scene = scene(&[
        image("drip.example/a:1", TWO),
        image("more.example/a:1", TWO),
    ]);
    let leaving = there("id", &[name("reg.io/a:1", ONE, "remove", false)]);
    // The slow pulls have been cancelled before: each keeps its slot for half an hour.
    for _ in 0..3 {
        scene.put_back(0);
        scene.put_back(1);
    }
    let error = RuntimeError::new("remove the image", Category::Other, "it failed");
    let (mut next, mut honest, mut removals) = (0, 0, 0);
    for second in (0..12 * 3600).step_by(5) {
        scene.now = at(second);
        let now = scene.now;
        let runs = |name: &str, since: Timestamp| {
            name.contains(".example/") || now.duration_since(since).as_secs() < 60
        };
        scene.pulling.retain(|name, since| runs(name, *since));
        scene.images.truncate(2);
        // There is always another image that was never tried.
        scene.images.push(image(&format!("reg.io/{honest}:1"), TWO));
        scene.present = if second >= next {
            vec![leaving.clone()]
        } else {
            vec![]
        };
        let decision = scene.decide();
        scene.hold = scene.hold.after(decision.removal_waits, now);
        for action in &decision.names {
            if let NameAction::Remove { name } = action {
                removals += 1;
                if fails {
                    let before = scene.failed_removals.get(name);
                    let failed = FailedRemoval::after(before, &error, now, 0.0);
                    scene.failed_removals.insert(name.clone(), failed);
                } else {
                    next = second + gap;
                }
            }
        }
        for name in &decision.overdue {
            scene.pulling.remove(name);
            scene.put_back(usize::from(name.starts_with("more")));
        }
        for pull in decision.pulls {
            honest += usize::from(pull.name.starts_with("reg.io/"));
            scene.pulling.insert(pull.name, now);
        }
    }
    (honest, removals)
}

/// Regression: while removals kept coming, pulls started in 5 of 36 minutes.
#[test]
fn pulls_start_half_of_the_time_however_many_removals_follow_each_other() {
    let (alone, none) = starts_beside_removals(i64::MAX / 2, false);
    assert!(none <= 1 && alone > 350, "{alone} pulls, {none} removals");
    for (gap, fails) in [(60, false), (600, false), (60, true)] {
        let (starts, removals) = starts_beside_removals(gap, fails);
        assert!(
            2 * starts >= alone - alone / 10,
            "{starts} of {alone}, {gap} s"
        );
        // A failed removal waits for up to an hour.
        let longest = if fails { 73 + 60 } else { 73 };
        assert!(removals >= 12 * 60 / longest, "{removals} removals");
    }
}

#[test]
fn a_removal_that_failed_is_told_and_waits_for_no_pull_until_it_is_tried_again() {
    let mut scene = scene(&[image("reg.io/c:1", TWO)]);
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "remove", false)])];
    let error = RuntimeError::new("remove the image", Category::Other, "read-only");
    let mut failed = None;
    for _ in 0..3 {
        failed = Some(FailedRemoval::after(failed.as_ref(), &error, at(0), 0.0));
    }
    let key = "reg.io/a:1".to_owned();
    scene.failed_removals.insert(key, failed.unwrap());
    scene.pulling.insert(pulled("drip.example/a"), at(0));
    scene.now = at(3);
    let decision = scene.decide();
    assert!(!decision.removal_waits && !decision.pulls.is_empty());
    assert_eq!(decision.wake, Some(at(4)));
    let told = &decision.statuses[0];
    assert!(told.removing);
    let message = told.message.as_deref().unwrap_or_default();
    assert!(message.contains("read-only"), "{message}");
    scene.now = at(4);
    assert!(scene.decide().removal_waits);
    scene.now = at(-86_400);
    assert!(scene.decide().removal_waits, "the clock was set back");
}

#[test]
fn a_clock_that_was_set_back_makes_no_hold_and_no_rest_longer() {
    let day_ahead = RemovalHold::default().after(true, at(86_400));
    let held = day_ahead.after(true, at(0));
    assert_eq!(held, RemovalHold::default().after(true, at(0)));
    let rests = day_ahead.after(false, at(86_400 + 600));
    assert_eq!(
        rests.after(true, at(0)),
        RemovalHold::default().after(true, at(0))
    );
}

#[test]
fn a_removal_waits_for_the_patience_of_the_longest_pull_at_most() {
    let mut scene = scene(&[image("reg.io/large:1", TWO)]);
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "remove", false)])];
    for _ in 0..10 {
        scene.put_back(0);
    }
    let large = pulled_two("reg.io/large");
    scene.pulling.insert(large.clone(), at(359));
    scene.hold = RemovalHold::default().after(true, at(0));
    scene.now = at(360);
    let early = scene.decide();
    assert_eq!(early.overdue, Vec::<String>::new());
    assert_eq!(early.wake, Some(at(359 + 1800)));
    scene.now = at(359 + 1800);
    assert_eq!(scene.decide().overdue, [large]);
}

fn pulled_two(path: &str) -> String {
    format!("{path}@{TWO}")
}
