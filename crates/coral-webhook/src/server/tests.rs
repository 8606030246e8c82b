use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::fixture::{Cluster, namespace};

struct Known;

impl Namespaces for Known {
    fn get(&self, name: &str) -> Namespace {
        namespace(name)
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

#[tokio::test(start_paused = true)]
async fn too_many_reviews_at_once_are_a_503() {
    // Of unknown length: each may be as large as allowed, and there is room for two.
    let routes = routes();
    let request = || {
        let endless = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        axum::http::Request::post(PATH)
            .body(Body::from_stream(endless))
            .unwrap()
    };
    let sending: Vec<_> = (0..3)
        .map(|_| tokio::spawn(routes.clone().oneshot(request())))
        .collect();
    let mut statuses = Vec::new();
    for sent in sending {
        statuses.push(sent.await.unwrap().unwrap().status());
    }
    let refused = statuses
        .iter()
        .filter(|s| **s == StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.count(), 1);
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
