//! A source that is down, slow, or has something else by now.

use serde_json::json;

use crate::stand::{Stand, index, one};

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn what_was_pulled_stays_when_the_source_is_gone_and_coral_restarts() {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[100_000, 700]));
    stand.has_all("1", &image);
    stand.wait_until_stored("1", &image);
    stand.source.kill();
    stand.has_all("1", &image);
    stand.restart();
    stand.has_all("1", &image);
    let tags = stand.get("tags/list").json();
    assert_eq!(tags["tags"], json!(["1"]), "{tags}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_fails_is_bridged_by_what_is_stored() {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[700]));
    stand.has_all("1", &image);
    stand.wait_until_stored("1", &image);
    let failures = [
        json!({ "status": { "status": 500 } }),
        json!({ "html": { "status": 200 } }),
        json!({ "throttle": { "seconds": 600 } }),
        json!("close"),
        json!("unauthorized"),
    ];
    for failure in failures {
        stand.source.clear_faults();
        stand.source.fault(&json!({ "effect": failure }));
        // The answer of the last minute is forgotten with the process.
        stand.restart();
        stand.has_all("1", &image);
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_tag_that_the_source_deleted_is_still_served() {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[700]));
    stand.has_all("1", &image);
    stand.wait_until_stored("1", &image);
    let gone = json!({ "status": { "status": 404 } });
    stand.source.fault(&json!({ "effect": gone }));
    stand.restart();
    stand.has_all("1", &image);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_tag_that_moves_is_followed_and_the_old_image_stays_by_digest() {
    let mut stand = Stand::start();
    let old = stand.load(&one("1", 1, &[700]));
    stand.has_all("1", &old);
    stand.wait_until_stored("1", &old);
    let new = stand.load(&one("1", 2, &[800]));
    stand.restart();
    stand.has_all("1", &new);
    let digest = old.digest.clone();
    stand.has(&format!("manifests/{digest}"), &digest);
    stand.wait_until_stored("1", &new);
    stand.source.kill();
    stand.restart();
    stand.has_all("1", &new);
    stand.has(&format!("manifests/{digest}"), &digest);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn what_is_stored_is_read_by_digest_without_the_source() {
    let mut stand = Stand::start();
    let image = stand.load(&index(&[700]));
    stand.has_all("1", &image);
    stand.wait_until_stored("1", &image);
    stand.restart();
    stand.source.forget();
    for digest in &image.manifests {
        stand.has(&format!("manifests/{digest}"), digest);
    }
    for (digest, _) in &image.blobs {
        stand.has(&format!("blobs/{digest}"), digest);
    }
    assert_eq!(stand.source.requests(), []);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_image_that_the_source_does_not_have_is_not_found() {
    let stand = Stand::start();
    stand.load(&one("1", 1, &[700]));
    let nothing = format!("sha256:{}", "0".repeat(64));
    for (what, code) in [
        ("manifests/2".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("manifests/{nothing}"), "MANIFEST_UNKNOWN"),
        (format!("blobs/{nothing}"), "BLOB_UNKNOWN"),
    ] {
        let answer = stand.get(&what);
        assert_eq!(answer.status, 404, "{what}");
        assert_eq!(answer.json()["errors"][0]["code"], code, "{what}");
    }
    let other = format!("/v2/{}/no/such/manifests/1", stand.folder);
    assert_eq!(e2e::http::get(&stand.url(&other)).status, 404);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_is_down_is_named_in_the_answer() {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[700]));
    stand.source.kill();
    let blob = format!("blobs/{}", image.blob_of(700));
    for what in ["manifests/1", &format!("manifests/{}", image.digest), &blob] {
        let answer = stand.get(what);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 502, "{what}: {said}");
        let error = &answer.json()["errors"][0];
        assert!(error["code"].is_string(), "{said}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(stand.source.host()), "{said}");
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_throttles_says_so_to_the_client() {
    let stand = Stand::start();
    stand.load(&one("1", 1, &[700]));
    let slow = json!({ "effect": { "throttle": { "seconds": 600 } } });
    stand.source.fault(&slow);
    let answer = stand.get("manifests/1");
    assert_eq!(answer.status, 429);
    let wait = answer.header("retry-after").expect("a Retry-After");
    let wait: u64 = wait.parse().expect("seconds");
    assert!((1..=600).contains(&wait), "{wait}");
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn tags_and_referrers_are_those_of_the_source() {
    let stand = Stand::start();
    let mut seed = one("1", 1, &[700]);
    seed["referrer"] = true.into();
    let image = stand.load(&seed);
    stand.load(&one("2", 2, &[700]));
    let tags = stand.get("tags/list").json();
    assert_eq!(tags["tags"], json!(["1", "2"]), "{tags}");
    let referrers = stand.get(&format!("referrers/{}", image.digest)).json();
    let listed = referrers["manifests"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{referrers}");
    let referrer = listed[0]["digest"].as_str().unwrap();
    stand.has(&format!("manifests/{referrer}"), referrer);
}
