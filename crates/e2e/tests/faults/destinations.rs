//! Registries that accept pushes in an unusual way, or not at all.

use e2e::run;
use serde_json::{Value, json};

use crate::rig::{Faulty, IMAGE, Pair, copy, fault, first};

/// The destination does this to requests; the copy has to fail, name it, and work later.
fn check(method: &str, path: &str, effect: Value, words: &[&str]) {
    let pair = Pair::start();
    pair.destination.fault(fault(method, path, effect));
    let host = pair.destination.host.clone();
    pair.fails_then_recovers(&host, words);
}

fn status(status: u16) -> Value {
    json!({ "status": { "status": status, "body": "no\n" } })
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_upload_without_a_location_is_named() {
    let dropped = json!({ "drop_header": { "name": "location" } });
    check("POST", "/blobs/uploads", dropped, &["location"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_upload_that_is_forgotten_once_is_begun_again() {
    let pair = Pair::start();
    for method in ["PUT", "PATCH"] {
        pair.destination
            .fault(first(1, fault(method, "/blobs/uploads/", status(404))));
    }
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_upload_out_of_step_once_is_put_right() {
    let pair = Pair::start();
    for method in ["PUT", "PATCH"] {
        pair.destination
            .fault(first(1, fault(method, "/blobs/uploads/", status(416))));
    }
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_full_destination_is_named() {
    let pair = Pair::start();
    for method in ["PUT", "PATCH"] {
        let full = fault(method, "/blobs/uploads/", status(507));
        pair.destination.fault(full);
    }
    let host = pair.destination.host.clone();
    pair.fails_then_recovers(&host, &["507", "space", "storage"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_destination_that_cannot_write_is_named() {
    check("PUT", "", status(500), &["500"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_destination_that_refuses_is_named() {
    check("POST", "", status(403), &["denied", "forbidden", "403"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_destination_that_says_it_stored_something_else_is_not_believed() {
    let value = format!("sha256:{}", "0".repeat(64));
    let lie = json!({ "set_header": { "name": "docker-content-digest", "value": value } });
    let pair = Pair::start();
    // A HEAD with the right digest would be believed when the copy is tried again.
    for method in ["PUT", "HEAD"] {
        let fault = fault(method, "/manifests/", lie.clone());
        pair.destination.fault(fault);
    }
    let host = pair.destination.host.clone();
    let finished = pair.copy().exited(1).saying(&host);
    assert!(finished.stderr.contains("digest"), "{finished}");
    pair.recovers();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn referrers_and_signatures_arrive_where_the_referrers_api_is_absent() {
    let seed = json!({
        "kind": "index", "path": "team/app", "tag": "1",
        "signature": true, "referrer": true, "attestation": true,
    });
    for (source_has_it, destination_has_it) in [(true, true), (true, false)] {
        let source = Faulty::start_with(if source_has_it {
            &[]
        } else {
            &["--no-referrers"]
        });
        let digest = source.load(&seed)["digest"]
            .as_str()
            .expect("a digest")
            .to_owned();
        let more: &[&str] = if destination_has_it {
            &[]
        } else {
            &["--no-referrers"]
        };
        let destination = Faulty::start_with(more);
        let (from, to) = (source.at(IMAGE), destination.at(IMAGE));
        let finished = run(&mut copy(&from, &to, &[&source, &destination])).succeeded();
        assert_eq!(destination.difference(&seed), None, "{finished}");
        let fallback = digest.replace(':', "-");
        let listed = destination.tags("team/app").contains(&fallback);
        assert_eq!(
            listed, !destination_has_it,
            "the tag {fallback} of {finished}"
        );
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn nothing_is_read_twice_for_two_tags_of_one_image() {
    let source = Faulty::start();
    let destination = Faulty::start();
    for tag in ["1", "2"] {
        source.load(&json!({ "path": "team/app", "tag": tag, "layers": [50_000, 400] }));
    }
    for tag in ["1", "2"] {
        let (from, to) = (
            source.at(&format!("team/app:{tag}")),
            destination.at(&format!("team/app:{tag}")),
        );
        let _ = run(&mut copy(&from, &to, &[&source, &destination])).succeeded();
    }
    let blobs = source.requests();
    let blobs = blobs.iter().filter(|r| {
        r["method"] == "GET"
            && r["path"]
                .as_str()
                .is_some_and(|path| path.contains("/blobs/"))
    });
    assert_eq!(
        blobs.count(),
        3,
        "two layers and a configuration, once each"
    );
}
