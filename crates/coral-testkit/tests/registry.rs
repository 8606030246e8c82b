//! The fault registry behaves like a registry, with the faults that it is told to have.

use std::error::Error as _;

use coral_image::Digest;
use coral_testkit::{
    Auth, Bearer, Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder, Options, Throttle,
};
use reqwest::{Client, Method, Response};

fn http() -> Client {
    Client::builder()
        .redirect(reqwest::redirect::Policy::limited(5))
        .build()
        .expect("a client")
}

async fn ask(registry: &FaultRegistry, method: &str, path: &str) -> Response {
    let method = method.parse::<Method>().expect("a method");
    http()
        .request(method, format!("{}{path}", registry.url()))
        .send()
        .await
        .expect("an answer")
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("<absent>")
}

async fn with_image() -> (FaultRegistry, coral_testkit::Built) {
    let registry = FaultRegistry::start().await;
    let built = ImageBuilder::new(1)
        .layers_of(&[100_000, 10])
        .tag("1")
        .build();
    registry.load("a/b", &built);
    (registry, built)
}

fn big_blob(built: &coral_testkit::Built) -> (Digest, bytes::Bytes) {
    let blob = built
        .blobs
        .iter()
        .max_by_key(|(_, bytes)| bytes.len())
        .expect("a blob");
    (*blob.0, blob.1.clone())
}

#[tokio::test]
async fn what_was_loaded_is_served_byte_for_byte() {
    let (registry, built) = with_image().await;
    let response = ask(&registry, "GET", "/v2/a/b/manifests/1").await;
    assert_eq!(
        header(&response, "docker-content-digest"),
        built.digest().to_string()
    );
    assert_eq!(header(&response, "content-type"), built.root().media_type);
    assert_eq!(response.bytes().await.unwrap(), built.root().bytes);
    for (digest, bytes) in &built.blobs {
        let response = ask(&registry, "GET", &format!("/v2/a/b/blobs/{digest}")).await;
        assert_eq!(response.bytes().await.unwrap(), bytes);
    }
    let missing = ask(&registry, "GET", "/v2/a/b/manifests/2").await;
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let (registry, built) = with_image().await;
    let (digest, bytes) = big_blob(&built);
    let response = ask(&registry, "HEAD", &format!("/v2/a/b/blobs/{digest}")).await;
    assert_eq!(header(&response, "content-length"), bytes.len().to_string());
    assert_eq!(response.bytes().await.unwrap().len(), 0);
    assert_eq!(registry.requests()[0].sent, 0);
}

#[tokio::test]
async fn a_range_is_a_part_of_the_blob() {
    let (registry, built) = with_image().await;
    let (digest, bytes) = big_blob(&built);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    let response = http()
        .get(&url)
        .header("range", "bytes=99990-")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 206);
    assert_eq!(
        header(&response, "content-range"),
        "bytes 99990-99999/100000"
    );
    assert_eq!(response.bytes().await.unwrap(), bytes[99_990..]);
    registry.fault(Fault::new(Effect::IgnoreRange).path("/blobs/"));
    let response = http()
        .get(&url)
        .header("range", "bytes=99990-")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_body_waits_at_its_gate_and_goes_on_when_it_is_open() {
    let (registry, built) = with_image().await;
    let (digest, bytes) = big_blob(&built);
    let gate = "half".to_owned();
    registry.fault(Fault::new(Effect::HoldBody {
        after: 50_000,
        gate,
    }));
    let mut response = ask(&registry, "GET", &format!("/v2/a/b/blobs/{digest}")).await;
    let mut came = Vec::new();
    while came.len() < 50_000 {
        came.extend_from_slice(&response.chunk().await.unwrap().expect("more to come"));
    }
    assert_eq!(came, bytes[..50_000]);
    assert_eq!(registry.requests()[0].sent, 50_000);
    registry.release("half");
    while let Some(piece) = response.chunk().await.unwrap() {
        came.extend_from_slice(&piece);
    }
    assert_eq!(came, *bytes);
}

#[tokio::test]
async fn blobs_are_pushed_whole_in_chunks_and_by_mount() {
    let registry = FaultRegistry::start().await;
    let digest = Digest::sha256(b"hello, world");
    let begin = ask(&registry, "POST", "/v2/x/blobs/uploads/").await;
    assert_eq!(begin.status(), 202);
    let at = format!("{}{}", registry.url(), header(&begin, "location"));
    let patch = |range: &'static str, body: &'static str| {
        http()
            .patch(&at)
            .header("content-range", range)
            .body(body)
            .send()
    };
    assert_eq!(patch("0-4", "hello").await.unwrap().status(), 202);
    let wrong = patch("9-11", "rld").await.unwrap();
    assert_eq!(
        (wrong.status().as_u16(), header(&wrong, "range")),
        (416, "0-4")
    );
    assert_eq!(patch("5-6", ", ").await.unwrap().status(), 202);
    let end = http()
        .put(format!("{at}?digest={digest}"))
        .body("world")
        .send()
        .await
        .unwrap();
    assert_eq!(end.status(), 201);
    assert_eq!(registry.blob("x", &digest).unwrap(), "hello, world");
    let mount = |from| format!("/v2/y/blobs/uploads/?mount={digest}&from={from}");
    assert_eq!(ask(&registry, "POST", &mount("x")).await.status(), 201);
    assert!(registry.blob("y", &digest).is_some());
    let unknown = ask(&registry, "POST", &mount("z")).await;
    assert_eq!(unknown.status(), 202, "nothing to mount is an upload");
}

#[tokio::test]
async fn bytes_that_do_not_match_their_digest_are_refused() {
    let registry = FaultRegistry::start().await;
    let digest = Digest::sha256(b"right");
    let begin = ask(&registry, "POST", "/v2/x/blobs/uploads/").await;
    let at = format!(
        "{}{}?digest={digest}",
        registry.url(),
        header(&begin, "location")
    );
    assert_eq!(
        http().put(at).body("wrong").send().await.unwrap().status(),
        400
    );
    assert!(registry.blob("x", &digest).is_none());
}

#[tokio::test]
async fn a_manifest_is_taken_once_everything_it_needs_is_there() {
    let (registry, built) = with_image().await;
    let put = |path: &str| {
        http()
            .put(format!("{}/v2/{path}/manifests/new", registry.url()))
            .header("content-type", &built.root().media_type)
            .body(built.root().bytes.clone())
            .send()
    };
    assert_eq!(put("empty").await.unwrap().status(), 404);
    assert!(registry.tags("empty").is_empty());
    assert_eq!(put("a/b").await.unwrap().status(), 201);
    assert_eq!(registry.tags("a/b")["new"], built.digest());
    assert_eq!(registry.difference("a/b", &built), None);
}

#[tokio::test]
async fn tags_come_in_pages_until_the_last_one() {
    let options = Options {
        page_size: 2,
        ..Options::default()
    };
    let registry = FaultRegistry::start_with(options).await.unwrap();
    let built = ["a", "b", "c"]
        .iter()
        .fold(ImageBuilder::new(1), |i, tag| i.tag(tag))
        .build();
    registry.load("x", &built);
    let first = ask(&registry, "GET", "/v2/x/tags/list").await;
    assert_eq!(
        header(&first, "link"),
        "</v2/x/tags/list?n=2&last=b>; rel=\"next\""
    );
    let second = ask(&registry, "GET", "/v2/x/tags/list?n=2&last=b").await;
    assert_eq!(header(&second, "link"), "<absent>");
    assert!(second.text().await.unwrap().contains("[\"c\"]"));
    registry.fault(Fault::new(Effect::LoopingLink).path("/tags/list"));
    let looping = ask(&registry, "GET", "/v2/x/tags/list?n=2&last=b").await;
    assert_eq!(
        header(&looping, "link"),
        "</v2/x/tags/list?n=2&last=b>; rel=\"next\""
    );
}

#[tokio::test]
async fn referrers_are_listed_where_the_api_is_on() {
    let (registry, built) = with_image().await;
    let sbom = ImageBuilder::new(2)
        .artifact("application/spdx+json")
        .layer("{}")
        .subject(&built);
    registry.load("a/b", &sbom.build());
    let path = format!("/v2/a/b/referrers/{}", built.digest());
    let listed = ask(&registry, "GET", &path).await.text().await.unwrap();
    assert!(listed.contains("application/spdx+json"), "{listed}");
    registry.set_referrers(false);
    assert_eq!(ask(&registry, "GET", &path).await.status(), 404);
}

#[tokio::test]
async fn a_token_opens_what_its_scope_names_and_nothing_else() {
    let bearer = Bearer {
        username: "u".into(),
        password: "p".into(),
        ..Bearer::default()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer)).await;
    registry.load("a/b", &ImageBuilder::new(1).tag("1").build());
    registry.load("other", &ImageBuilder::new(1).tag("1").build());
    let refused = ask(&registry, "GET", "/v2/a/b/manifests/1").await;
    assert_eq!(refused.status(), 401);
    let challenge = header(&refused, "www-authenticate");
    assert!(
        challenge.contains("scope=\"repository:a/b:pull\""),
        "{challenge}"
    );
    let token = |user: Option<&'static str>| {
        let url = format!("{}/token?scope=repository:a/b:pull", registry.url());
        let request = http().get(url);
        async move {
            let request = match user {
                Some(user) => request.basic_auth(user, Some("p")),
                None => request,
            };
            request.send().await.unwrap()
        }
    };
    assert_eq!(token(None).await.status(), 401);
    assert_eq!(token(Some("x")).await.status(), 401);
    let answer: serde_json::Value =
        serde_json::from_str(&token(Some("u")).await.text().await.unwrap()).unwrap();
    let token = answer["token"].as_str().unwrap();
    let get = |path: &str| {
        http()
            .get(format!("{}/v2/{path}/manifests/1", registry.url()))
            .bearer_auth(token)
            .send()
    };
    assert_eq!(get("a/b").await.unwrap().status(), 200);
    assert_eq!(get("other").await.unwrap().status(), 401);
    assert_eq!(registry.tokens_issued(), 1);
    assert_eq!(
        registry.count(|r| r.authorization.as_deref() == Some("Bearer")),
        2
    );
}

#[tokio::test]
async fn a_cut_body_is_short_by_exactly_what_was_asked_for() {
    let (registry, built) = with_image().await;
    let (digest, bytes) = big_blob(&built);
    registry.fault(
        Fault::new(Effect::CutBody { after: 70_000 })
            .path("/blobs/")
            .first(1),
    );
    let path = format!("/v2/a/b/blobs/{digest}");
    let mut response = ask(&registry, "GET", &path).await;
    let mut got = 0;
    let error = loop {
        match response.chunk().await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => panic!("the body ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(got, 70_000, "{error}");
    assert_eq!(
        ask(&registry, "GET", &path).await.bytes().await.unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_wire_can_be_cut_inside_the_head() {
    let (registry, _) = with_image().await;
    registry.fault(Fault::new(Effect::CutWire { after: 20 }));
    let url = format!("{}/v2/a/b/manifests/1", registry.url());
    let error = http().get(url).send().await.unwrap_err();
    assert!(error.source().is_some());
}

#[tokio::test]
async fn lies_are_told_as_asked() {
    let (registry, built) = with_image().await;
    let (digest, bytes) = big_blob(&built);
    let path = format!("/v2/a/b/blobs/{digest}");
    let lie = async |effect: Effect| {
        registry.clear_faults();
        registry.fault(Fault::new(effect).method("GET"));
        ask(&registry, "GET", &path).await.bytes().await.unwrap()
    };
    let flipped = lie(Effect::FlipByte { at: 0 }).await;
    assert_eq!((flipped.len(), flipped[0] ^ bytes[0]), (bytes.len(), 1));
    assert_eq!(lie(Effect::Shorten { bytes: 3 }).await, bytes[..99_997]);
    assert_eq!(lie(Effect::Lengthen { bytes: 3 }).await.len(), 100_003);
    let huge = Effect::Huge { size: 5_000_000 };
    registry.clear_faults();
    registry.fault(Fault::new(huge).path("/manifests/"));
    let huge = ask(&registry, "GET", "/v2/a/b/manifests/1").await;
    let said = header(&huge, "docker-content-digest").to_owned();
    let body = huge.bytes().await.unwrap();
    assert_eq!(
        (body.len(), Digest::sha256(&body).to_string()),
        (5_000_000, said)
    );
}

#[tokio::test]
async fn throttles_come_in_their_shapes() {
    let registry = FaultRegistry::start().await;
    let shape = async |throttle| {
        registry.clear_faults();
        registry.fault(Fault::new(Effect::Throttle(throttle)));
        ask(&registry, "GET", "/v2/").await
    };
    assert_eq!(
        header(&shape(Throttle::Seconds(7)).await, "retry-after"),
        "7"
    );
    assert!(header(&shape(Throttle::Date(7)).await, "retry-after").ends_with(" GMT"));
    assert_eq!(
        header(&shape(Throttle::Bare).await, "retry-after"),
        "<absent>"
    );
    let limit = shape(Throttle::RateLimit {
        limit: 100,
        window: 21_600,
    })
    .await;
    assert_eq!(header(&limit, "ratelimit-remaining"), "0;w=21600");
    let body = shape(Throttle::Body).await.text().await.unwrap();
    assert!(body.contains("TOOMANYREQUESTS"));
    assert_eq!(
        shape(Throttle::Forbidden { retry_after: None })
            .await
            .status(),
        403
    );
}

#[tokio::test]
async fn an_endless_body_goes_on_and_a_redirect_loop_never_arrives() {
    let (registry, _) = with_image().await;
    registry.fault(Fault::new(Effect::Endless).path("/manifests/"));
    let mut endless = ask(&registry, "GET", "/v2/a/b/manifests/1").await;
    let mut got = 0;
    while got < 10_000_000 {
        got += endless.chunk().await.unwrap().expect("no end").len();
    }
    registry.clear_faults();
    registry.fault(Fault::new(Effect::RedirectLoop));
    let url = format!("{}/v2/", registry.url());
    assert!(http().get(url).send().await.unwrap_err().is_redirect());
}

#[tokio::test]
async fn a_held_request_goes_on_once_released() {
    let (registry, built) = with_image().await;
    registry.fault(Fault::new(Effect::Hold { gate: "g".into() }).path("/manifests/"));
    let asking = {
        let registry = registry.clone();
        tokio::spawn(async move {
            ask(&registry, "GET", "/v2/a/b/manifests/1")
                .await
                .bytes()
                .await
        })
    };
    registry.wait_for(|requests| requests.len() == 1).await;
    assert_eq!(registry.requests()[0].status, 0);
    registry.release("g");
    assert_eq!(asking.await.unwrap().unwrap(), built.root().bytes);
}

#[tokio::test]
async fn an_upload_that_is_cut_leaves_what_came() {
    let registry = FaultRegistry::start().await;
    let begin = ask(&registry, "POST", "/v2/x/blobs/uploads/").await;
    let at = format!("{}{}", registry.url(), header(&begin, "location"));
    registry.fault(
        Fault::new(Effect::CutUpload { after: 1000 })
            .method("PATCH")
            .first(1),
    );
    assert!(http().patch(&at).body(vec![7; 5000]).send().await.is_err());
    let state = http().get(&at).send().await.unwrap();
    assert_eq!(
        (state.status().as_u16(), header(&state, "range")),
        (204, "0-999")
    );
}

#[tokio::test]
async fn tls_is_spoken_with_a_certificate_of_its_own_ca() {
    let registry = FaultRegistry::start_tls().await;
    let url = format!("{}/v2/", registry.url());
    let ca = reqwest::Certificate::from_pem(registry.ca_pem().unwrap().as_bytes()).unwrap();
    let trusting = Client::builder().tls_certs_only([ca]).build().unwrap();
    assert_eq!(trusting.get(&url).send().await.unwrap().status(), 200);
    assert!(http().get(&url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn an_index_with_everything_is_held_against_what_is_there() {
    let registry = FaultRegistry::start().await;
    let index = IndexBuilder::of_platforms(5, &["linux/amd64", "linux/arm64/v8"], &[10]);
    let built = index.attestation().tag("1").build();
    assert!(registry.difference("x", &built).is_some());
    registry.load("x", &built);
    assert_eq!(registry.difference("x", &built), None);
    registry.load("x", &ImageBuilder::new(9).tag("1").build());
    assert_eq!(registry.difference("x", &built).as_deref(), Some("tag 1"));
}
