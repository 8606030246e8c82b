//! Connections that end, stall or drip.

use serde_json::json;

use crate::rig::{Pair, fault, first};

/// It happens once, and the copy goes on by itself.
fn check_once(method: &str, path: &str, effect: serde_json::Value) {
    let pair = Pair::start();
    pair.source.fault(first(1, fault(method, path, effect)));
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_blob_that_is_cut_is_read_on_where_it_ended() {
    let pair = Pair::start();
    let cut = json!({ "cut_body": { "after": 150_000 } });
    // Each large layer is cut once: what is left of it is shorter than that.
    pair.source.fault(fault("GET", "/blobs/", cut));
    pair.survives();
    let requests = pair.source.requests();
    let ranges = requests.iter().filter(|r| r["range"].is_string()).count();
    assert_eq!(ranges, 2, "nothing was read on at the offset");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_cut_blob_is_read_again_from_a_registry_without_ranges() {
    let pair = Pair::start();
    pair.source
        .fault(fault("GET", "/blobs/", json!("ignore_range")));
    let cut = json!({ "cut_body": { "after": 150_000 } });
    pair.source.fault(first(2, fault("GET", "/blobs/", cut)));
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_answer_cut_in_its_head_is_asked_for_again() {
    check_once("GET", "/manifests/", json!({ "cut_wire": { "after": 30 } }));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_connection_closed_without_a_byte_is_tried_again() {
    check_once("", "", json!("close"));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn connections_that_always_end_are_named() {
    let pair = Pair::start();
    pair.source.fault(fault(
        "GET",
        "/blobs/",
        json!({ "cut_body": { "after": 100 } }),
    ));
    let host = pair.source.host.clone();
    let words = ["cut", "closed", "ended", "broke", "reset", "connection"];
    pair.fails_then_recovers(&host, &words);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_upload_that_is_cut_once_is_done_again() {
    let pair = Pair::start();
    let cut = json!({ "cut_upload": { "after": 1_000 } });
    pair.destination
        .fault(first(1, fault("PUT", "/blobs/uploads/", cut.clone())));
    pair.destination
        .fault(first(1, fault("PATCH", "/blobs/uploads/", cut)));
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn bytes_that_come_slowly_are_waited_for() {
    let pair = Pair::start();
    let drip = json!({ "drip": { "chunk": 20_000, "every_ms": 100 } });
    pair.source.fault(fault("GET", "/blobs/", drip));
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_falls_silent_once_is_asked_again() {
    check_once(
        "GET",
        "/blobs/",
        json!({ "stall_body": { "after": 1_000 } }),
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_takes_a_request_and_says_nothing_is_asked_again() {
    check_once("GET", "/manifests/", json!("stall"));
}
