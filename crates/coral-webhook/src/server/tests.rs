use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::fixture::{Cluster, namespace};

struct Known;

impl Namespaces for Known {
    fn get(&self, name: &str) -> Option<Namespace> {
        (name != "unknown").then(|| namespace(name))
    }
}

fn routes() -> Router {
    let (_, world) = watch::channel(Arc::new(Cluster::default().world()));
    router(Known, world, Metrics::default())
}

async fn sent(body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
    let request = axum::http::Request::post(PATH).body(body.into()).unwrap();
    let response = routes().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    (status, body.unwrap().to_vec())
}

fn review(request: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

fn creation() -> Value {
    review(&json!({
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "team",
        "userInfo": {},
        "object": {
            "metadata": {"generateName": "p-", "annotations": {"image.stvz.io/inject": "registry, x"}},
            "spec": {"containers": [{"name": "c", "image": "nginx:1"}]},
        },
        "oldObject": null,
    }))
}

#[tokio::test]
async fn a_pod_that_asks_for_it_is_answered_with_a_patch_and_warnings() {
    let (status, body) = sent(creation().to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"]),
        (&json!("u-1"), &json!(true))
    );
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(response["warnings"].as_array().unwrap().len(), 1);
    let patch = STANDARD
        .decode(response["patch"].as_str().unwrap())
        .unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert_eq!(
        patch[0],
        json!({"op": "replace", "path": "/spec/containers/0/image", "value": "reg.coral-system.svc:5000/docker.io/library/nginx:1"})
    );
}

#[tokio::test]
async fn anything_but_the_creation_of_a_pod_is_admitted_unchanged() {
    let changes: [fn(&mut Value); 5] = [
        |r| r["operation"] = json!("UPDATE"),
        |r| r["operation"] = json!("DELETE"),
        |r| r["subResource"] = json!("ephemeralcontainers"),
        |r| r["resource"]["resource"] = json!("jobs"),
        |r| r["resource"]["group"] = json!("batch"),
    ];
    for change in changes {
        let mut review = creation();
        change(&mut review["request"]);
        let (status, body) = sent(review.to_string()).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
    }
}

#[tokio::test]
async fn what_is_not_a_review_is_a_400_that_repeats_nothing_of_it() {
    let without = |field: &str| {
        let mut review = creation();
        let path = review
            .pointer_mut(field.rsplit_once('/').unwrap().0)
            .unwrap();
        path.as_object_mut()
            .unwrap()
            .remove(field.rsplit_once('/').unwrap().1);
        review.to_string()
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut list = creation();
    list["request"]["object"] = json!(["s3cret"]);
    for body in [
        String::new(),
        "s3cret".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        deep,
        r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#.to_owned(),
        review(&json!("s3cret")).to_string(),
        review(&json!(null)).to_string(),
        review(&json!({"uid": ""})).to_string(),
        review(&json!({"uid": 5})).to_string(),
        creation().to_string()[..200].to_owned(),
        without("/request/uid"),
        without("/request/object"),
        without("/kind"),
        list.to_string(),
    ] {
        let (status, answer) = sent(body.clone()).await;
        let answer = String::from_utf8(answer).unwrap();
        let shown: String = body.chars().take(200).collect();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{shown}: {answer}");
        assert!(
            answer.starts_with("coral: ") && !answer.contains("s3cret"),
            "{answer}"
        );
    }
    let (status, _) = sent(vec![0xff; 64]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_body_up_to_16_mib_is_read_and_a_larger_one_is_a_413() {
    let mut large = creation();
    large["request"]["oldObject"] = json!("x".repeat(15 << 20));
    assert_eq!(sent(large.to_string()).await.0, StatusCode::OK);
    let (status, _) = sent(vec![b' '; (16 << 20) + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_a_408() {
    let endless = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let (status, _) = sent(Body::from_stream(endless)).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
}

/// A body that delivers one byte every 200 ms, without an end.
fn dripping() -> Body {
    let clock = tokio::time::interval(Duration::from_millis(200));
    let bytes = futures::stream::unfold(clock, async |mut clock| {
        clock.tick().await;
        let byte: Result<Bytes, std::io::Error> = Ok(Bytes::from_static(b" "));
        Some((byte, clock))
    });
    Body::from_stream(bytes)
}

/// A body that delivers nothing.
fn silent() -> Body {
    Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>())
}

/// The status of the answer to a client's request.
async fn status_for(routes: Router, client: u8, body: Body) -> StatusCode {
    let mut request = axum::http::Request::post(PATH).body(body).unwrap();
    let peer = Peer(IpAddr::V4(Ipv4Addr::new(10, 0, 0, client)));
    request.extensions_mut().insert(peer);
    routes.oneshot(request).await.unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn more_reviews_of_one_client_than_are_read_at_once_are_a_503() {
    let routes = routes();
    let all = (0..9).map(|_| status_for(routes.clone(), 1, dripping()));
    let statuses = futures::future::join_all(all).await;
    let refused = statuses
        .iter()
        .filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.count(), 1, "{statuses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_bodies_leaves_room_for_others() {
    let routes = routes();
    let hostile = (0..100).map(|_| status_for(routes.clone(), 1, dripping()));
    let review = async {
        // The other bodies are being read.
        tokio::task::yield_now().await;
        status_for(routes.clone(), 2, creation().to_string().into()).await
    };
    let (_, status) = tokio::join!(futures::future::join_all(hostile), review);
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_first_byte_take_no_room() {
    let routes = routes();
    let hostile = (0..100).map(|client| status_for(routes.clone(), client, silent()));
    let review = async {
        tokio::task::yield_now().await;
        status_for(routes.clone(), 1, creation().to_string().into()).await
    };
    let (_, status) = tokio::join!(futures::future::join_all(hostile), review);
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_ends_before_the_api_server_gives_up() {
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
    let body = Body::from_stream(first.chain(futures::stream::pending()));
    let began = tokio::time::Instant::now();
    assert_eq!(sent(body).await.0, StatusCode::REQUEST_TIMEOUT);
    assert!(began.elapsed() < PATIENCE / 2);
}

/// The labels of the namespace may put it under a policy that switches rewriting off.
#[tokio::test]
async fn a_pod_of_a_namespace_that_is_not_known_yet_stays_as_it_is() {
    let mut review = creation();
    let (status, answer) = sent(review.to_string()).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(status.is_success() && answer["response"]["patch"].is_string());
    review["request"]["namespace"] = json!("unknown");
    let (status, answer) = sent(review.to_string()).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].is_null());
}

#[tokio::test]
async fn another_path_or_method_is_not_answered_with_a_review() {
    let get = axum::http::Request::get(PATH).body(Body::empty()).unwrap();
    let status = routes().oneshot(get).await.unwrap().status();
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let other = axum::http::Request::post("/x").body(Body::empty()).unwrap();
    let status = routes().oneshot(other).await.unwrap().status();
    assert_eq!(status, StatusCode::NOT_FOUND);
}
