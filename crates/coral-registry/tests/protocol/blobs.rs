use coral_image::Digest;
use http::StatusCode;

use crate::client::{Served, request};

#[tokio::test]
async fn a_pushed_blob_comes_back_with_all_its_headers() {
    let registry = Served::new();
    let digest = registry.push("a/b", b"hello").await;
    let target = format!("/v2/a/b/blobs/{digest}");
    for method in ["GET", "HEAD"] {
        let answer = registry.send(method, &target, b"").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-length"), "5");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert_eq!(
            answer.body,
            if method == "GET" { &b"hello"[..] } else { b"" }
        );
    }
}

#[tokio::test]
async fn a_large_blob_comes_back_byte_for_byte() {
    let registry = Served::new();
    let content: Vec<u8> = (0..3_000_017_u32).map(|i| (i % 251) as u8).collect();
    let digest = registry.push("a", &content).await;
    let answer = registry.get(&format!("/v2/a/blobs/{digest}")).await;
    assert!(answer.body == content);
}

#[tokio::test]
async fn a_range_of_a_blob_is_a_part_and_several_are_answered_with_everything() {
    let registry = Served::new();
    let digest = registry.push("a", b"0123456789").await;
    let target = format!("/v2/a/blobs/{digest}");
    let ask = |range| registry.ask(request("GET", &target, &[("range", range)], b""));
    let part = ask("bytes=2-4").await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    assert_eq!(
        (part.header("content-length"), part.body.as_slice()),
        ("3", &b"234"[..])
    );
    for range in ["bytes=0-1,4-5", "bytes=0-1, 4-5,20-", "lines=1-2"] {
        let whole = ask(range).await;
        assert_eq!(whole.status, StatusCode::OK, "{range}");
        assert_eq!(whole.body.as_slice(), b"0123456789");
    }
    for range in ["bytes=10-", "bytes=10-11,12-13", "bytes=5-2"] {
        let refused = ask(range).await;
        assert_eq!(refused.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(refused.header("content-range"), "bytes */10");
    }
}

#[tokio::test]
async fn a_range_of_other_content_than_the_client_has_is_not_given() {
    let registry = Served::new();
    let digest = registry.push("a", b"0123456789").await;
    let target = format!("/v2/a/blobs/{digest}");
    let ask = |etag: String| {
        let headers = [("range", "bytes=2-4"), ("if-range", etag.as_str())];
        registry.ask(request("GET", &target, &headers, b""))
    };
    let same = ask(format!("\"{digest}\"")).await;
    assert_eq!(same.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(ask("\"other\"".to_owned()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again() {
    let registry = Served::new();
    let digest = registry.push("a", b"0123456789").await;
    let target = format!("/v2/a/blobs/{digest}");
    let etag = format!("\"x\", W/\"{digest}\"");
    let headers = [("if-none-match", etag.as_str())];
    let answer = registry.ask(request("GET", &target, &headers, b"")).await;
    assert_eq!(
        (answer.status, answer.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
}

#[tokio::test]
async fn a_blob_is_only_seen_in_the_repositories_that_have_it() {
    let registry = Served::new();
    let digest = registry.push("a", b"hello").await;
    let elsewhere = format!("/v2/b/blobs/{digest}");
    let answer = registry.get(&elsewhere).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
    );
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository_or_from_wherever_it_is() {
    let registry = Served::new();
    let digest = registry.push("a", b"hello").await;
    let named = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    let anywhere = format!("/v2/c/blobs/uploads/?mount={digest}");
    for (name, target) in [("b", named), ("c", anywhere)] {
        let mounted = registry.send("POST", &target, b"").await;
        assert_eq!(mounted.status, StatusCode::CREATED);
        assert_eq!(
            mounted.header("location"),
            format!("/v2/{name}/blobs/{digest}")
        );
        let answer = registry.get(&format!("/v2/{name}/blobs/{digest}")).await;
        assert_eq!(answer.body, b"hello");
    }
}

#[tokio::test]
async fn a_mount_of_what_is_not_there_begins_an_upload() {
    let registry = Served::new();
    let digest = registry.push("a", b"hello").await;
    let missing = Digest::sha256(b"missing");
    for query in [
        format!("mount={missing}"),
        format!("mount={digest}&from=elsewhere"),
    ] {
        let begun = registry
            .send("POST", &format!("/v2/b/blobs/uploads/?{query}"), b"")
            .await;
        assert_eq!(begun.status, StatusCode::ACCEPTED, "{query}");
        assert!(begun.header("location").starts_with("/v2/b/blobs/uploads/"));
        let elsewhere = begun.header("coral-blob-elsewhere") == "true";
        assert_eq!(elsewhere, query.contains("elsewhere"), "{query}");
        assert_eq!(begun.header("coral-verifies-digest"), "true");
    }
}

/// Regression: an invalid mount was an error, instead of beginning an upload.
#[tokio::test]
async fn a_mount_that_is_not_understood_begins_an_upload() {
    let registry = Served::new();
    let digest = registry.push("a", b"hello").await;
    for query in [
        format!("mount={digest}&from=NO_NAME"),
        format!("mount={digest}&from=../a"),
        "mount=no-digest&from=a".to_owned(),
        "mount=md5:d41d8cd98f00b204e9800998ecf8427e&from=a".to_owned(),
        "mount=".to_owned(),
    ] {
        let begun = registry
            .send("POST", &format!("/v2/b/blobs/uploads/?{query}"), b"")
            .await;
        assert_eq!(begun.status, StatusCode::ACCEPTED, "{query}");
        let location = begun.header("location").to_owned();
        assert!(location.starts_with("/v2/b/blobs/uploads/"), "{location}");
        let put = format!("{location}?digest={digest}");
        let ended = registry.send("PUT", &put, b"hello").await;
        assert_eq!(ended.status, StatusCode::CREATED, "{query}");
    }
}

#[tokio::test]
async fn a_deleted_blob_is_gone_from_its_repository_alone() {
    let registry = Served::new();
    let digest = registry.push("a", b"hello").await;
    registry.push("b", b"hello").await;
    let target = format!("/v2/a/blobs/{digest}");
    assert_eq!(
        registry.send("DELETE", &target, b"").await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        registry.send("HEAD", &target, b"").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        registry.send("DELETE", &target, b"").await.status,
        StatusCode::NOT_FOUND
    );
    let other = format!("/v2/b/blobs/{digest}");
    assert_eq!(
        registry.send("HEAD", &other, b"").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_blob_of_sha512_comes_back_as_sha512() {
    let registry = Served::new();
    let digest = coral_image::Algorithm::Sha512.digest(b"hello");
    let location = registry.begin("a").await;
    registry.send("PATCH", &location, b"hel").await;
    let ended = registry
        .send("PUT", &format!("{location}?digest={digest}"), b"lo")
        .await;
    assert_eq!(ended.status, StatusCode::CREATED);
    assert_eq!(ended.header("docker-content-digest"), digest.to_string());
    let answer = registry.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!(answer.body, b"hello");
}
