use axum::body::Body;
use bytes::Bytes;
use coral_image::Digest;
use futures::stream;
use http::{Request, StatusCode};

use crate::client::{Served, request};

#[tokio::test]
async fn an_upload_in_pieces_is_the_blob_of_all_pieces() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    let first = registry.send("PATCH", &location, b"hello ").await;
    assert_eq!(
        (first.status, first.header("range")),
        (StatusCode::ACCEPTED, "0-5")
    );
    registry
        .send("PATCH", first.header("location"), b"wor")
        .await;
    let digest = Digest::sha256(b"hello world");
    let ended = registry
        .send("PUT", &format!("{location}?digest={digest}"), b"ld")
        .await;
    assert_eq!(ended.status, StatusCode::CREATED);
    let answer = registry.get(ended.header("location")).await;
    assert_eq!(answer.body, b"hello world");
    assert_eq!(registry.get(&location).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_piece_that_does_not_follow_is_refused_and_the_status_tells_the_truth() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    registry.send("PATCH", &location, b"0123").await;
    for (method, range) in [("PATCH", "6-7"), ("PATCH", "0-1"), ("PUT", "6-7")] {
        let target = format!("{location}?digest={}", Digest::sha256(b"x"));
        let headers = [("content-range", range), ("content-length", "2")];
        let refused = registry
            .ask(request(method, &target, &headers, b"xx"))
            .await;
        assert_eq!(
            refused.status,
            StatusCode::RANGE_NOT_SATISFIABLE,
            "{method} {range}"
        );
        assert_eq!(refused.header("range"), "0-3");
    }
    let status = registry.get(&location).await;
    assert_eq!(
        (status.status, status.header("range")),
        (StatusCode::NO_CONTENT, "0-3")
    );
}

#[tokio::test]
async fn lengths_that_disagree_are_refused() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    for headers in [
        [("content-range", "0-9"), ("content-length", "2")],
        [("content-range", "0-9"), ("x", "")],
        [("content-range", "nonsense"), ("x", "")],
    ] {
        let refused = registry
            .ask(request("PATCH", &location, &headers, b"xx"))
            .await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{headers:?}");
    }
}

#[tokio::test]
async fn a_body_longer_than_its_range_is_refused_before_it_counts() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    let headers = [("content-range", "0-1")];
    let refused = registry
        .ask(request("PATCH", &location, &headers, b"xxxx"))
        .await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::BAD_REQUEST, "SIZE_INVALID")
    );
    assert_eq!(registry.get(&location).await.header("range"), "0-0");
}

#[tokio::test]
async fn a_wrong_digest_publishes_nothing_and_ends_the_upload() {
    let registry = Served::new();
    let (wrong, right) = (Digest::sha256(b"other"), Digest::sha256(b"hello"));
    let location = registry.begin("a").await;
    let ended = registry
        .send("PUT", &format!("{location}?digest={wrong}"), b"hello")
        .await;
    assert_eq!(
        (ended.status, ended.code().as_str()),
        (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
    );
    for digest in [wrong, right] {
        let answer = registry.get(&format!("/v2/a/blobs/{digest}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(registry.get(&location).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_a_failed_piece_left_behind_the_end_is_no_part_of_the_blob() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    registry.send("PATCH", &location, b"hello").await;
    let id = location.rsplit('/').next().unwrap();
    let data = registry.folder.path().join("store/uploads");
    let file = std::fs::File::options()
        .append(true)
        .open(data.join(format!("{id}@a")));
    std::io::Write::write_all(&mut file.unwrap(), b" and more").unwrap();
    let digest = Digest::sha256(b"hello");
    let ended = registry
        .send("PUT", &format!("{location}?digest={digest}"), b"")
        .await;
    assert_eq!(ended.status, StatusCode::CREATED);
    let answer = registry.get(ended.header("location")).await;
    assert_eq!(answer.body, b"hello");
}

#[tokio::test]
async fn a_cancelled_upload_is_gone() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    registry.send("PATCH", &location, b"hello").await;
    let cancelled = registry.send("DELETE", &location, b"").await;
    assert_eq!(cancelled.status, StatusCode::NO_CONTENT);
    let target = format!("{location}?digest={}", Digest::sha256(b"hello"));
    let ended = registry.send("PUT", &target, b"").await;
    assert_eq!(
        (ended.status, ended.code().as_str()),
        (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN")
    );
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository() {
    let registry = Served::new();
    let location = registry.begin("a").await.replace("/v2/a/", "/v2/b/");
    assert_eq!(registry.get(&location).await.status, StatusCode::NOT_FOUND);
    let appended = registry.send("PATCH", &location, b"x").await;
    assert_eq!(appended.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let registry = Served::new();
    let location = registry.begin("a/b").await;
    registry.send("PATCH", &location, b"hello ").await;
    let registry = registry.restarted();
    let status = registry.get(&location).await;
    assert_eq!(
        (status.status, status.header("range")),
        (StatusCode::NO_CONTENT, "0-5")
    );
    let digest = Digest::sha256(b"hello world");
    let ended = registry
        .send("PUT", &format!("{location}?digest={digest}"), b"world")
        .await;
    assert_eq!(ended.status, StatusCode::CREATED);
    assert_eq!(
        registry.get(ended.header("location")).await.body,
        b"hello world"
    );
}

#[tokio::test]
async fn what_came_before_a_cut_is_kept() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    let frames = [
        Ok(Bytes::from_static(b"hello")),
        Err(std::io::Error::other("cut")),
    ];
    let body = Body::from_stream(stream::iter(frames));
    let cut = Request::builder()
        .method("PATCH")
        .uri(&location)
        .body(body)
        .unwrap();
    assert_eq!(registry.ask(cut).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(registry.get(&location).await.header("range"), "0-4");
    let target = format!("{location}?digest={}", Digest::sha256(b"hello"));
    assert_eq!(
        registry.send("PUT", &target, b"").await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn open_uploads_are_counted_across_a_restart() {
    let registry = Served::new();
    let first = registry.begin("a").await;
    registry.begin("a").await;
    registry.send("DELETE", &first, b"").await;
    let shown = |registry: &Served| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry.metrics).unwrap();
        text.lines()
            .find(|line| line.starts_with("coral_registry_open_uploads"))
            .map(str::to_owned)
    };
    assert_eq!(shown(&registry).unwrap(), "coral_registry_open_uploads 1");
    assert_eq!(
        shown(&registry.restarted()).unwrap(),
        "coral_registry_open_uploads 1"
    );
}
