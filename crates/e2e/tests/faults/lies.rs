//! Sources that send something else than they should.

use e2e::run;
use serde_json::json;

use crate::rig::{Faulty, Pair, fault, image, says_one_of};

const TOO_LARGE: &[&str] = &["larger", "too large", "more than"];

/// The source does this to what it sends for `path`; the copy has to fail and say so.
fn check(method: &str, path: &str, effect: serde_json::Value, words: &[&str]) {
    let pair = Pair::start();
    pair.source.fault(fault(method, path, effect));
    let host = pair.source.host.clone();
    pair.fails_then_recovers(&host, words);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_blob_with_one_wrong_byte_is_refused() {
    check(
        "GET",
        "/blobs/",
        json!({ "flip_byte": { "at": 70 } }),
        &["digest", "hashes to"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_manifest_with_one_wrong_byte_is_refused() {
    let last = json!({ "flip_byte": { "at": 1_000_000 } });
    check("GET", "/manifests/", last, &["digest", "hashes to"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_child_manifest_with_one_wrong_byte_is_refused() {
    let last = json!({ "flip_byte": { "at": 1_000_000 } });
    check("GET", "/manifests/sha256:", last, &["digest", "hashes to"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_blob_that_is_too_short_is_refused() {
    check(
        "GET",
        "/blobs/",
        json!({ "shorten": { "bytes": 3 } }),
        &["bytes", "size", "length"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_blob_that_is_too_long_is_refused() {
    check(
        "GET",
        "/blobs/",
        json!({ "lengthen": { "bytes": 3 } }),
        &["bytes", "size", "length"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_blob_without_end_is_not_read_beyond_its_size() {
    let pair = Pair::start();
    pair.source.fault(fault("GET", "/blobs/", json!("endless")));
    let finished = pair.copy();
    // The bytes up to the size are right, so taking them is as good as refusing them.
    let wrong = finished.code == 0 && pair.destination.difference(&image()).is_some();
    assert!(!wrong, "{finished}");
    for request in pair.source.requests() {
        let sent = request["sent"].as_u64().expect("a count");
        assert!(sent < 16_000_000, "{sent} bytes were read of {request}");
    }
    pair.recovers();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_manifest_without_end_is_refused() {
    check("GET", "/manifests/", json!("endless"), TOO_LARGE);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_manifest_of_five_megabytes_is_refused() {
    let huge = json!({ "huge": { "size": 5_000_000 } });
    check("GET", "/manifests/", huge, TOO_LARGE);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn redirects_in_a_circle_end() {
    let pair = Pair::start();
    let host = pair.source.host.clone();
    pair.source
        .fault(fault("GET", "/blobs/", json!("redirect_loop")));
    pair.fails_then_recovers(&host, &["redirect"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_web_page_in_place_of_a_manifest_is_named() {
    check(
        "",
        "/manifests/",
        json!({ "html": { "status": 200 } }),
        &["html"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_web_page_in_place_of_a_blob_is_refused() {
    check(
        "GET",
        "/blobs/",
        json!({ "html": { "status": 200 } }),
        &["html", "bytes", "digest"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn json_that_is_none_is_named() {
    check(
        "",
        "/manifests/",
        json!({ "garbage": { "status": 200 } }),
        &["json", "manifest"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_false_digest_on_head_does_not_publish_anything_wrong() {
    let name = "docker-content-digest";
    let value = format!("sha256:{}", "0".repeat(64));
    let pair = Pair::start();
    let lie = json!({ "set_header": { "name": name, "value": value } });
    pair.source.fault(fault("HEAD", "/manifests/1", lie));
    let finished = pair.copy();
    // Believed or seen through: either is fine as long as nothing wrong has a name.
    let wrong = finished.code == 0 && pair.destination.difference(&image()).is_some();
    assert!(!wrong, "{finished}");
    pair.recovers();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn content_that_was_compressed_on_the_way_never_arrives_as_it_is() {
    let pair = Pair::start();
    pair.source.fault(fault("GET", "/blobs/", json!("gzip")));
    let finished = pair.copy();
    if finished.code == 0 {
        assert_eq!(pair.destination.difference(&image()), None, "{finished}");
    } else {
        let finished = finished.exited(1).saying(&pair.source.host);
        says_one_of(&finished, &["encod", "digest", "gzip", "bytes"]);
        assert_eq!(pair.destination.tags("team/app"), [""; 0]);
    }
    pair.recovers();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_registry_that_leaves_out_the_digest_on_head_is_worked_with() {
    let pair = Pair::start();
    let dropped = json!({ "drop_header": { "name": "docker-content-digest" } });
    pair.source.fault(fault("HEAD", "/manifests/", dropped));
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_registry_that_refuses_head_is_worked_with() {
    let pair = Pair::start();
    pair.source
        .fault(fault("HEAD", "", json!({ "status": { "status": 405 } })));
    pair.survives();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_tag_list_that_goes_in_a_circle_ends() {
    let source = Faulty::with_image();
    source.fault(fault("GET", "/tags/list", json!("looping_link")));
    let storage = e2e::scratch();
    let registry = crate::rig::Served::start(storage.path());
    let text = crate::mirrors::yaml(&source.host, "team/app", "select: {all: true}");
    let (_folder, file) = crate::rig::folder_with("mirror.yaml", &text);
    let mut command = crate::mirrors::run_once(&file, &registry, &source);
    let finished = run(&mut command).exited(1).saying(&source.host);
    says_one_of(&finished, &["page", "loop", "circle", "itself", "again"]);
    assert!(source.requests().len() < 1000, "it went round and round");
}
