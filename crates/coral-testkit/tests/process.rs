//! What the registry and the proxy offer when they run in a process of their own.

use coral_testkit::{CountingProxy, FaultRegistry, Options, Recorded};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

async fn send(method: Method, url: String, body: &Value) -> Response {
    let request = Client::new().request(method, url).body(body.to_string());
    request.send().await.expect("an answer")
}

async fn control(registry: &FaultRegistry, method: Method, what: &str, body: Value) -> Value {
    let response = send(method, format!("{}/_control/{what}", registry.url()), &body).await;
    assert_eq!(response.status(), 200, "{what}");
    let body = response.bytes().await.expect("a body");
    serde_json::from_slice(&body).expect("JSON")
}

async fn steered() -> FaultRegistry {
    let options = Options {
        control: true,
        ..Options::default()
    };
    FaultRegistry::start_with(options)
        .await
        .expect("a free port")
}

fn seed() -> Value {
    json!({ "kind": "index", "path": "a/b", "tag": "1", "signature": true, "referrer": true })
}

#[tokio::test]
async fn an_image_described_in_json_is_made_and_compared() {
    let registry = steered().await;
    let before = control(&registry, Method::POST, "difference", seed()).await;
    assert!(before.is_string(), "an empty registry differs");
    let made = control(&registry, Method::POST, "load", seed()).await;
    let digest = made["digest"].as_str().expect("it works");
    assert_eq!(registry.tags("a/b")["1"].to_string(), digest);
    assert_eq!(registry.tags("a/b").len(), 2, "the tag and the signature's");
    assert_eq!(
        control(&registry, Method::POST, "difference", seed()).await,
        Value::Null
    );
    let state = control(&registry, Method::GET, "state", Value::Null).await;
    assert_eq!(state["repositories"]["a/b"]["tags"]["1"], digest);
}

#[tokio::test]
async fn faults_come_and_go_and_requests_are_listed_without_the_steering() {
    let registry = steered().await;
    let base = format!("{}/v2/", registry.url());
    let faults = json!([{ "on": { "path": "/v2/" }, "effect": { "html": { "status": 502 } } }]);
    control(&registry, Method::POST, "faults", faults).await;
    assert_eq!(
        send(Method::GET, base.clone(), &Value::Null).await.status(),
        502
    );
    control(&registry, Method::DELETE, "faults", Value::Null).await;
    assert_eq!(send(Method::GET, base, &Value::Null).await.status(), 200);
    let listed = control(&registry, Method::GET, "requests", Value::Null).await;
    let listed: Vec<Recorded> = serde_json::from_value(listed).expect("it works");
    assert_eq!(
        listed.iter().map(|r| r.status).collect::<Vec<_>>(),
        [502, 200]
    );
    control(&registry, Method::DELETE, "requests", Value::Null).await;
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn steering_that_makes_no_sense_is_refused_with_a_reason() {
    let registry = steered().await;
    let url = |what| format!("{}/_control/{what}", registry.url());
    let wrong = json!([{ "effect": "explode" }]);
    let answer = send(Method::POST, url("faults"), &wrong).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.expect("it works").contains("explode"));
    assert_eq!(
        send(Method::POST, url("nothing"), &wrong).await.status(),
        400
    );
}

#[tokio::test]
async fn a_registry_that_is_not_to_be_steered_has_no_such_path() {
    let registry = FaultRegistry::start().await;
    let url = format!("{}/_control/requests", registry.url());
    assert_eq!(send(Method::GET, url, &Value::Null).await.status(), 404);
}

#[tokio::test]
async fn the_proxy_changes_nothing_and_counts_bytes_both_ways() {
    let registry = steered().await;
    control(&registry, Method::POST, "load", seed()).await;
    let proxy = CountingProxy::start(&registry.host())
        .await
        .expect("it works");
    let manifest = format!("http://{}/v2/a/b/manifests/1", proxy.addr());
    let through = send(Method::GET, manifest.clone(), &Value::Null).await;
    let (media_type, bytes) = registry.manifest("a/b", "1").expect("it works");
    assert_eq!(through.headers()["content-type"], media_type);
    assert_eq!(through.bytes().await.expect("it works"), bytes);
    assert_eq!(
        send(Method::HEAD, manifest, &Value::Null).await.status(),
        200
    );
    let upload = format!("http://{}/v2/a/b/blobs/uploads/", proxy.addr());
    assert_eq!(
        send(Method::POST, upload, &json!("12345")).await.status(),
        202
    );
    let seen: Vec<_> = proxy
        .requests()
        .into_iter()
        .map(|r| (r.method, r.status, r.received, r.sent))
        .collect();
    let size = bytes.len() as u64;
    // The bodies are the JSON `null` and `"12345"`.
    let expected = [
        ("GET", 200, 4, size),
        ("HEAD", 200, 4, 0),
        ("POST", 202, 7, 0),
    ];
    assert_eq!(
        seen,
        expected.map(|(method, s, r, t)| (method.to_owned(), s, r, t))
    );
    let clear = format!("http://{}/_control/requests", proxy.addr());
    send(Method::DELETE, clear, &Value::Null).await;
    assert_eq!(proxy.count(|_| true), 0);
}
