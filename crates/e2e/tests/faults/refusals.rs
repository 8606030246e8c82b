//! Registries that refuse, ask to wait, or give no sensible answer.

use std::time::{Duration, Instant};

use e2e::{coral, mirror_yaml, run, scratch, write_yaml};
use serde_json::{Value, json};

use crate::rig::{Pair, fault, first, says_one_of};

/// Every request for a manifest of the source gets this answer.
fn check_refused(effect: Value, words: &[&str]) {
    let pair = Pair::start();
    pair.source.fault(fault("", "/v2/team", effect));
    let host = pair.source.host.clone();
    pair.fails_then_recovers(&host, words);
}

/// The first requests get this answer, and the copy goes on by itself after a second.
fn check_throttled(effect: Value) {
    let pair = Pair::start();
    pair.source.fault(first(2, fault("GET", "/blobs/", effect)));
    let before = Instant::now();
    pair.survives();
    let waited = before.elapsed();
    assert!(
        waited > Duration::from_millis(900),
        "went on after {waited:?}"
    );
}

/// Regression: a single pass waited for ten minutes, four times.
#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn what_is_done_once_does_not_wait_for_an_hour_and_says_when_to_come_back() {
    let pair = Pair::start();
    let hour = json!({ "throttle": { "seconds": 3600 } });
    pair.source.fault(fault("", "/v2/team", hour));
    let finished = pair.copy().exited(1).saying("come back in");
    says_one_of(&finished, &["60 minutes", "1 hour"]);
    let yaml = mirror_yaml("m", &[(&pair.source.at("team/app"), "1")], "");
    let home = scratch();
    let yaml = write_yaml(home.path(), &yaml);
    let mut mirror = coral();
    mirror.args(["mirror", "run"]).arg(yaml);
    mirror.args(["--registry", &pair.destination.host]);
    mirror.args(["--plain-http", &pair.source.host]);
    let begun = Instant::now();
    let finished = run(&mut mirror).exited(1).saying("asks to wait for");
    says_one_of(&finished, &["60 minutes", "1 hour"]);
    let took = begun.elapsed();
    // Far below the ten minutes, four times, that it once was.
    assert!(took < Duration::from_mins(5), "{took:?}");
}

fn status(status: u16) -> Value {
    json!({ "status": { "status": status, "body": "no\n" } })
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn not_found_is_named() {
    check_refused(status(404), &["not found", "404"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn forbidden_is_named() {
    check_refused(status(403), &["denied", "forbidden", "403"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_challenge_that_no_token_satisfies_ends_soon() {
    let pair = Pair::start();
    let tokens = json!({ "bearer": { "anonymous_pull": true, "username": "unknown" } });
    pair.source.ask_for(&tokens);
    pair.source
        .fault(fault("", "/v2/team", json!("unauthorized")));
    let host = pair.source.host.clone();
    let finished = pair.copy().exited(1).saying(&host);
    says_one_of(&finished, &["unauthorized", "credential", "401"]);
    // A token and one try again for each question, not a loop.
    let refused = pair.source.requests();
    let refused = refused.iter().filter(|r| r["status"] == 401).count();
    assert!(
        (1..8).contains(&refused),
        "{refused} answers were 401: {finished}"
    );
    pair.recovers();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_server_error_that_stays_is_named() {
    check_refused(status(503), &["503"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_web_page_with_a_server_error_is_named_by_its_status() {
    check_refused(json!({ "html": { "status": 502 } }), &["502"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn server_errors_that_pass_are_survived() {
    for code in [500, 502, 503] {
        let pair = Pair::start();
        pair.source.fault(first(2, fault("GET", "", status(code))));
        pair.survives();
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn retry_after_in_seconds_is_waited_for() {
    check_throttled(json!({ "throttle": { "seconds": 1 } }));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn retry_after_as_a_date_is_waited_for() {
    check_throttled(json!({ "throttle": { "date": 2 } }));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn retry_after_of_a_server_error_is_waited_for() {
    let headers = [["retry-after", "1"]];
    check_throttled(json!({ "status": { "status": 503, "headers": headers } }));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn too_many_requests_of_any_shape_is_tried_again() {
    let shapes = [
        json!("bare"),
        json!("body"),
        json!({ "rate_limit": { "limit": 100, "window": 1 } }),
        json!({ "forbidden": { "retry_after": 1 } }),
        json!({ "forbidden": { "retry_after": null } }),
    ];
    for shape in shapes {
        let pair = Pair::start();
        pair.source.fault(first(
            1,
            fault("", "/manifests/", json!({ "throttle": shape })),
        ));
        pair.survives();
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn too_many_requests_that_stay_are_named() {
    check_refused(json!({ "throttle": "body" }), &["rate", "too many", "429"]);
}
