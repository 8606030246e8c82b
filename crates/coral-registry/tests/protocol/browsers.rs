//! Requests that a web page can make a browser send.

use coral_image::Digest;
use http::StatusCode;

use crate::client::{Served, request};

#[tokio::test]
async fn a_web_page_cannot_write() {
    let registry = Served::new();
    let image = registry.push_image("a", "v1", b"layer").await;
    let location = registry.begin("a").await;
    let blob = Digest::sha256(b"from a page");
    let targets = [
        ("POST", format!("/v2/a/blobs/uploads/?digest={blob}")),
        ("PATCH", location.clone()),
        ("PUT", format!("{location}?digest={blob}")),
        ("PUT", "/v2/a/manifests/v2".to_owned()),
        ("DELETE", location),
        ("DELETE", format!("/v2/a/manifests/{image}")),
    ];
    for (method, target) in targets {
        for origin in ["https://evil.example", "null"] {
            let headers = [("origin", origin), ("content-type", "text/plain")];
            let page = request(method, &target, &headers, b"from a page");
            let refused = registry.ask(page).await;
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (StatusCode::FORBIDDEN, "DENIED"),
                "{method} {target} from {origin}"
            );
        }
    }
    assert_eq!(
        registry.get("/v2/a/manifests/v1").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_web_page_that_reads_is_answered_like_everybody() {
    let registry = Served::new();
    registry.push_image("a", "v1", b"layer").await;
    let headers = [("origin", "https://dashboard.example")];
    let answer = registry
        .ask(request("GET", "/v2/a/tags/list", &headers, b""))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}
