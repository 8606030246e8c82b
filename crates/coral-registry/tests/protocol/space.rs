//! Stored bytes, and limits on them.

use coral_image::Digest;
use coral_registry::{
    Access, Grant, Grants, Htpasswd, MinFree, PathPatterns, Settings, SpaceBounds, Who,
};
use http::StatusCode;
use prometheus_client::encoding::text::encode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::client::{Served, request};

fn bound(served: &Served, limit: Option<u64>, min_free: MinFree) {
    let space = SpaceBounds { limit, min_free };
    served.registry.configure(Settings {
        space,
        ..Settings::default()
    });
}

async fn counted(served: &Served) {
    let stop = CancellationToken::new();
    let counting = tokio::spawn(served.registry.clone().keep_counted(stop.clone()));
    let is_counted = async || served.get("/coral/v1/storage").await.json()["counted"] == true;
    while !is_counted().await {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    counting.await.unwrap();
}

#[tokio::test]
async fn a_push_over_the_limit_is_refused_with_what_is_stored_and_what_to_do() {
    let served = Served::new();
    counted(&served).await;
    bound(&served, Some(10_000), MinFree::Bytes(0));
    let there = served.push("a", &[1; 6000]).await;
    let digest = Digest::sha256(&[2; 6000]);
    let upload = served.begin("a").await;
    let whole = format!("/v2/a/blobs/uploads/?digest={digest}");
    let put = format!("{upload}?digest={digest}");
    for (method, target) in [("POST", &whole), ("PATCH", &upload), ("PUT", &put)] {
        let refused = served.send(method, target, &[2; 6000]).await;
        assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE, "{method}");
        assert_eq!(refused.code(), "INSUFFICIENT_STORAGE");
        let error = refused.json()["errors"][0].clone();
        let message = error["message"].as_str().unwrap().to_owned();
        for part in ["storage is full", "5.8 KiB", "9.7 KiB", "delete images"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(error["detail"]["limit"], 10_000);
        assert_eq!(error["detail"]["stored"], 6000);
    }
    // The bytes of open uploads count.
    let taken = served.send("PATCH", &upload, &[3; 3500]).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED);
    let refused = served.send("POST", &whole, &[2; 600]).await;
    assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE);
    // Reading, mounting and deleting still work.
    let blob = format!("/v2/a/blobs/{there}");
    assert_eq!(served.get(&blob).await.status, StatusCode::OK);
    let mount = format!("/v2/b/blobs/uploads/?mount={there}&from=a");
    let mounted = served.send("POST", &mount, b"").await;
    assert_eq!(mounted.status, StatusCode::CREATED);
    let ended = served.send("DELETE", &upload, b"").await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    served.push("a", &[4; 4000]).await;
    let refused = served.send("POST", "/v2/a/blobs/uploads/", b"").await;
    assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE);
    let gone = served.send("DELETE", &blob, b"").await;
    assert_eq!(gone.status, StatusCode::ACCEPTED);
    bound(&served, None, MinFree::Bytes(0));
    served.push("a", &[2; 6000]).await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_stopped_at_the_limit_and_given_back() {
    let served = Served::new();
    bound(&served, Some(1_000_000), MinFree::Bytes(0));
    let upload = served.begin("a").await;
    let pieces = (0..40).map(|_| Ok::<_, std::io::Error>(vec![7; 50_000]));
    let body = axum::body::Body::from_stream(futures::stream::iter(pieces));
    let mut asked = request("PATCH", &upload, &[], b"");
    *asked.body_mut() = body;
    asked.headers_mut().remove("content-length");
    let refused = served.ask(asked).await;
    assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE);
    let told = served.get("/coral/v1/storage").await.json();
    assert_eq!((&told["uploads"], &told["stored"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn the_floor_refuses_pushes_while_the_disk_has_space() {
    let served = Served::new();
    bound(&served, None, MinFree::Bytes(u64::MAX));
    let refused = served.send("POST", "/v2/a/blobs/uploads/", b"").await;
    assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE);
    let told = served.get("/coral/v1/storage").await.json();
    assert_eq!(told["reason"], "MinFree");
    assert!(told["full"].as_str().unwrap().contains("free on its disk"));
}

#[tokio::test]
async fn what_is_stored_and_free_is_told_in_all_by_repository_and_in_metrics() {
    let served = Served::new();
    served.push("a", &[1; 6000]).await;
    served.push("b/c", &[1; 6000]).await;
    served.push("b/c", &[2; 500]).await;
    counted(&served).await;
    bound(&served, Some(1 << 40), MinFree::Bytes(5));
    let told = served.get("/coral/v1/storage").await.json();
    assert_eq!(told["stored"], 6500);
    assert_eq!(told["limit"], 1u64 << 40);
    assert_eq!(told["minFree"], 5);
    assert!(told["free"].as_u64().unwrap() < told["disk"].as_u64().unwrap());
    assert!(told.get("full").is_none());
    for (name, stored) in [("a", 6000), ("b/c", 6500), ("none", 0)] {
        let target = format!("/coral/v1/storage/{name}");
        let of_one = served.get(&target).await.json();
        assert_eq!(of_one["stored"], stored, "{name}");
    }
    let mut text = String::new();
    encode(&mut text, &served.metrics).unwrap();
    for line in [
        "coral_registry_storage_bytes 6500",
        "coral_registry_storage_min_free_bytes 5",
        "coral_registry_storage_full 0",
        "coral_registry_storage_free_bytes ",
        "coral_registry_repository_bytes{repository=\"a\"} 6000",
        "coral_registry_repository_bytes{repository=\"b/c\"} 6500",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

/// Everyone may pull repositories below `b`, and no other client may do anything.
fn open_b(served: &Served) {
    let anybody = Grant {
        who: Who::Anybody,
        paths: PathPatterns::parse(["b/**"]).unwrap(),
    };
    served.registry.set_access(Access::Granted(Grants {
        users: Htpasswd::default(),
        pull: vec![anybody],
        push: vec![],
    }));
}

#[tokio::test]
async fn the_largest_repositories_are_listed_of_those_that_the_caller_may_pull() {
    let served = Served::new();
    served.push("a", &[1; 6000]).await;
    served.push("b/c", &[2; 500]).await;
    served.push("b/d", &[3; 700]).await;
    let list = async |query: &str| {
        let target = format!("/coral/v1/repositories{query}");
        served.get(&target).await
    };
    // The answer is cached for one second, so another registry is asked.
    let uncounted = Served::new().get("/coral/v1/repositories").await.json();
    assert_eq!(uncounted["counted"], false);
    counted(&served).await;
    let stored = |name: &str, stored: u64| json!({"name": name, "stored": stored});
    let all = [stored("a", 6000), stored("b/d", 700), stored("b/c", 500)];
    let answer = |count: usize, largest: &[Value]| json!({"count": count, "counted": true, "largest": largest});
    assert_eq!(list("").await.json(), answer(3, &all));
    assert_eq!(list("?n=2").await.json(), answer(3, &all[..2]));
    assert_eq!(list("?n=0").await.json(), answer(3, &[]));
    let refused = list("?n=many").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    open_b(&served);
    assert_eq!(list("?n=1").await.json(), answer(2, &all[1..2]));
}

#[tokio::test]
async fn the_largest_repositories_are_for_those_who_may_list() {
    let served = Served::new();
    served.push("a", &[1; 6000]).await;
    served.registry.set_access(Access::Granted(Grants {
        users: Htpasswd::default(),
        pull: vec![],
        push: vec![],
    }));
    let refused = served.get("/coral/v1/repositories").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(!String::from_utf8_lossy(&refused.body).contains("6000"));
}

#[tokio::test]
async fn metrics_name_no_repository_that_needs_a_login() {
    let served = Served::new();
    served.push("a", &[1; 6000]).await;
    served.push("b/c", &[2; 500]).await;
    counted(&served).await;
    open_b(&served);
    let mut text = String::new();
    encode(&mut text, &served.metrics).unwrap();
    let named = text.lines().filter(|line| line.contains("{repository="));
    let named: Vec<&str> = named.collect();
    assert_eq!(
        named,
        ["coral_registry_repository_bytes{repository=\"b/c\"} 500"]
    );
}
