use coral_image::Host;
use coral_token::{PublicKeys, SigningKey};
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::changes::Changes;
use crate::scripted::{ReceivedRequest, pair, refusal};

/// The answers of an API server where the build `shop` of `team-a` pushes.
fn pushing(asked: &ReceivedRequest) -> Option<(u16, Value)> {
    let path = asked.uri.split('?').next().unwrap_or_default();
    let owner = |api_version: &str, kind: &str, name: &str| {
        json!([{
            "apiVersion": api_version, "kind": kind, "name": name, "uid": name, "controller": true,
        }])
    };
    let ended = |name: &str| {
        json!({
            "name": name, "image": "i", "imageID": "i@sha256:aa", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 0}},
        })
    };
    let spec = json!({
        "source": {"stream": {}},
        "output": {"registry": {"namespace": "team-a", "name": "own"}, "tags": ["team-a/shop:1"]},
    });
    let typed: coral_api::image_build::ImageBuildSpec =
        serde_json::from_value(spec.clone()).unwrap();
    let object = match path.rsplit('/').next().unwrap_or_default() {
        "tokenreviews" if asked.body["spec"]["token"] == "good" => json!({
            "spec": {}, "status": {
                "authenticated": true, "audiences": ["coral.stvz.io"],
                "user": {"username": "system:serviceaccount:team-a:default", "extra": {
                    "authentication.kubernetes.io/pod-name": ["shop-1-x"],
                    "authentication.kubernetes.io/pod-uid": ["pod"],
                }},
            },
        }),
        "tokenreviews" => json!({"spec": {}, "status": {"authenticated": false}}),
        "shop-1-x" => json!({
            "metadata": {
                "name": "shop-1-x", "namespace": "team-a", "uid": "pod",
                "labels": {"image.stvz.io/build": "shop"},
                "ownerReferences": owner("batch/v1", "Job", "shop-1"),
            },
            "status": {"initContainerStatuses": [ended("fetch"), ended("build")]},
        }),
        "shop-1" => json!({"metadata": {
            "name": "shop-1", "namespace": "team-a", "uid": "shop-1",
            "ownerReferences": owner("stvz.io/v1", "ImageBuild", "shop"),
        }}),
        "shop" => json!({
            "metadata": {"name": "shop", "namespace": "team-a", "uid": "shop"},
            "spec": spec, "status": {"job": "shop-1", "run": typed.run_key()},
        }),
        "own" => json!({"metadata": {"name": "own", "namespace": "team-a"}, "spec": {}}),
        _ => return None,
    };
    Some((200, object))
}

/// The endpoint over such an API server, and the key that it signs with.
fn endpoint(
    answer: impl FnMut(&ReceivedRequest) -> Option<(u16, Value)> + Send + 'static,
) -> (Router, SigningKey) {
    let (client, server) = pair();
    server.serve(answer);
    let key = SigningKey::from_pem(SigningKey::generate_pem().unwrap().as_bytes()).unwrap();
    let material = SigningMaterial::default();
    material.set(key.clone());
    let (metrics, results) = (CredentialMetrics::default(), Results::default());
    let endpoint = Endpoint::new(client, material, metrics, results);
    (router(endpoint), key)
}

async fn ask(router: &Router, header: Option<&str>, body: &str) -> (StatusCode, Value) {
    send(router, CREDENTIALS_PATH, header, body).await
}

async fn send(
    router: &Router,
    path: &str,
    header: Option<&str>,
    body: &str,
) -> (StatusCode, Value) {
    let mut request = Request::post(path);
    if let Some(header) = header {
        request = request.header(AUTHORIZATION, header);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    let body = serde_json::from_slice(&bytes.unwrap()).unwrap_or(Value::Null);
    (status, body)
}

const PUSH: &str = r#"{"step": "push"}"#;

#[tokio::test]
async fn a_step_gets_a_token_that_its_registry_takes() {
    let (router, key) = endpoint(pushing);
    let (status, body) = ask(&router, Some("Bearer good"), PUSH).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["registry"], "own.team-a.svc:5000");
    assert_eq!(body["username"], "token");
    assert_eq!(body["provenance"]["builder"], "i@sha256:aa");
    assert!(
        body["expires"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .is_ok()
    );
    let keys = PublicKeys::from_pem(key.public_pem().as_bytes()).unwrap();
    let names = [Host::parse("own.team-a.svc:5000").unwrap()];
    let token = body["password"].as_str().unwrap();
    let rights = keys.verify(token, &names, std::time::SystemTime::now());
    assert!(rights.unwrap().subject().starts_with("build/team-a/shop/"));
}

#[tokio::test]
async fn what_is_no_good_request_is_refused_with_its_reason() {
    let (router, _) = endpoint(pushing);
    let large = format!(r#"{{"step": "push", "more": "{}"}}"#, "x".repeat(5000));
    let long = format!("Bearer {}", "x".repeat(17_000));
    for (header, body, status, said) in [
        (None, PUSH, 401, "ServiceAccount token"),
        (Some("Basic good"), PUSH, 401, "ServiceAccount token"),
        (Some("Bearer "), PUSH, 401, "ServiceAccount token"),
        (Some("Bearer bad"), PUSH, 401, "ServiceAccount token"),
        (Some(long.as_str()), PUSH, 401, "ServiceAccount token"),
        (Some("Bearer good"), "", 400, "expected the JSON"),
        (
            Some("Bearer good"),
            r#"{"step": "all"}"#,
            400,
            "expected the JSON",
        ),
        (
            Some("Bearer good"),
            r#"{"step": "build"}"#,
            403,
            "gets no credential",
        ),
        (
            Some("Bearer good"),
            r#"{"step": "fetch"}"#,
            403,
            "not the one that runs",
        ),
        (Some("Bearer good"), large.as_str(), 413, "larger than"),
    ] {
        let (answered, answer) = ask(&router, header, body).await;
        assert_eq!(answered.as_u16(), status, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        assert!(!message.contains("bad"), "{message}");
    }
}

#[tokio::test]
async fn without_the_grant_or_an_api_server_there_is_no_credential() {
    for (code, reason, status) in [
        (403, "Forbidden", 403),
        (500, "InternalError", 503),
        (429, "TooManyRequests", 503),
    ] {
        let (router, _) = endpoint(move |asked| {
            let is_job = asked.uri.contains("/jobs/");
            is_job
                .then(|| (code, refusal(code, reason)))
                .or_else(|| pushing(asked))
        });
        let (answered, body) = ask(&router, Some("Bearer good"), PUSH).await;
        assert_eq!(answered.as_u16(), status, "{body}");
        assert!(!body.to_string().contains("the server says"), "{body}");
    }
}

#[tokio::test]
async fn the_name_of_an_owner_leads_to_no_other_object() {
    const SECRET: &str = "../../../../../api/v1/namespaces/coral-system/secrets/coral-tokens";
    for name in [
        SECRET,
        "shop-1?watch=true",
        "shop-1#",
        "shop-1/status",
        "..",
    ] {
        let asked_for = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = asked_for.clone();
        let (router, _) = endpoint(move |asked| {
            noted.lock().unwrap().push(asked.uri.clone());
            let (code, mut object) = pushing(asked)?;
            if let Some(owner) = object.pointer_mut("/metadata/ownerReferences/0")
                && owner["kind"] == "Job"
            {
                owner["name"] = json!(name);
            }
            Some((code, object))
        });
        let (status, body) = ask(&router, Some("Bearer good"), PUSH).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{name}: {body}");
        let asked_for = asked_for.lock().unwrap();
        let jobs = asked_for.iter().filter(|uri| uri.contains("/jobs/"));
        assert_eq!(jobs.count(), 0, "{asked_for:?}");
    }
}

#[tokio::test]
async fn without_the_signing_key_the_answer_is_to_ask_again() {
    let (client, server) = pair();
    server.serve(pushing);
    let metrics = CredentialMetrics::default();
    let router = router(Endpoint::new(
        client,
        SigningMaterial::default(),
        metrics,
        Results::default(),
    ));
    let (status, body) = ask(&router, Some("Bearer good"), PUSH).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
}

#[tokio::test]
async fn a_client_that_asks_without_end_is_told_when_to_ask_again() {
    let (router, _) = endpoint(pushing);
    let mut limited = 0;
    for _ in 0..60 {
        let (status, _) = ask(&router, Some("Bearer bad"), PUSH).await;
        limited += u32::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(limited >= 20, "{limited} of 60 were limited");
}

const REPORT: &str =
    r#"{"digest": "sha256:aa", "outputs": [], "bytes": {"pushed": 1, "mounted": 0}}"#;

/// The endpoint with its results, as that of a controller that leads or does not.
fn taking(
    leads: bool,
    answer: impl FnMut(&ReceivedRequest) -> Option<(u16, Value)> + Send + 'static,
) -> (Router, Results) {
    let (client, server) = pair();
    server.serve(answer);
    let results = Results::default();
    if leads {
        results.lead(&Changes::default());
    }
    let metrics = CredentialMetrics::default();
    let endpoint = Endpoint::new(client, SigningMaterial::default(), metrics, results.clone());
    (router(endpoint), results)
}

#[tokio::test]
async fn the_result_of_the_push_that_runs_is_taken_under_the_uid_of_its_pod() {
    let (router, results) = taking(true, pushing);
    let (status, body) = send(&router, RESULTS_PATH, Some("Bearer good"), REPORT).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    assert_eq!(results.for_pod("pod").unwrap().report.digest, "sha256:aa");
}

#[tokio::test]
async fn a_result_is_refused_as_a_credential_is_and_where_none_is_read() {
    let large = format!("{{\"digest\": \"{}\"}}", "x".repeat(5000));
    for (header, body, status, said) in [
        (None, REPORT, 401, "ServiceAccount token"),
        (Some("Bearer bad"), REPORT, 401, "ServiceAccount token"),
        (
            Some("Bearer good"),
            PUSH,
            400,
            "the report of the step push",
        ),
        (Some("Bearer good"), large.as_str(), 413, "larger than"),
    ] {
        let (router, results) = taking(true, pushing);
        let (answered, answer) = send(&router, RESULTS_PATH, header, body).await;
        assert_eq!(answered.as_u16(), status, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        assert_eq!(results.for_pod("pod"), None);
    }
    let ends = |field: &'static str, value: Value| {
        taking(true, move |asked| {
            let (code, mut object) = pushing(asked)?;
            let is_build = asked.uri.contains("/imagebuilds/");
            if is_build {
                *object.pointer_mut(field).unwrap() = value.clone();
            }
            Some((code, object))
        })
    };
    for (field, value, said) in [
        ("/status/run", json!("another"), "another run"),
        ("/metadata/uid", json!("another"), "not that of a build"),
    ] {
        let (router, results) = ends(field, value);
        let (status, body) = send(&router, RESULTS_PATH, Some("Bearer good"), REPORT).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
        assert!(body.to_string().contains(said), "{body}");
        assert_eq!(results.for_pod("pod"), None);
    }
    let (router, _) = taking(false, pushing);
    let (status, body) = send(&router, RESULTS_PATH, Some("Bearer good"), REPORT).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.to_string().contains("does not lead"), "{body}");
}

/// What was counted, as `/metrics` shows it.
fn counted(metrics: &CredentialMetrics) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn every_request_is_counted_by_what_was_asked_for_and_what_came_of_it() {
    let (client, server) = pair();
    server.serve(pushing);
    let (metrics, results) = (CredentialMetrics::default(), Results::default());
    let key = SigningKey::from_pem(SigningKey::generate_pem().unwrap().as_bytes()).unwrap();
    let material = SigningMaterial::default();
    material.set(key);
    let endpoint = Endpoint::new(client, material, metrics.clone(), results.clone());
    let router = router(endpoint);
    let (good, bad) = (Some("Bearer good"), Some("Bearer bad"));
    send(&router, RESULTS_PATH, good, REPORT).await;
    results.lead(&Changes::default());
    for (path, header, body) in [
        (CREDENTIALS_PATH, good, PUSH),
        (CREDENTIALS_PATH, good, r#"{"step": "fetch"}"#),
        (CREDENTIALS_PATH, bad, PUSH),
        (RESULTS_PATH, good, REPORT),
        (RESULTS_PATH, good, PUSH),
        (RESULTS_PATH, bad, REPORT),
        (RESULTS_PATH, None, REPORT),
    ] {
        send(&router, path, header, body).await;
    }
    let text = counted(&metrics);
    for (request, outcome, times) in [
        ("Credential", "Accepted", 1),
        ("Credential", "Refused", 1),
        ("Credential", "Unauthenticated", 1),
        ("Result", "Failed", 1),
        ("Result", "Accepted", 1),
        ("Result", "Malformed", 1),
        ("Result", "Unauthenticated", 2),
    ] {
        let labels = format!("request=\"{request}\",outcome=\"{outcome}\"");
        let line = format!("coral_controller_build_requests_total{{{labels}}} {times}");
        assert!(text.contains(&line), "{line}\n{text}");
    }
}
