//! Public paths, requests for images of another registry (`ns=`), and the reserved image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coral_image::{Digest, Host};
use coral_registry::{Access, Grant, Grants, Htpasswd, PathPatterns, PublicPaths, Settings, Who};
use http::StatusCode;

use crate::client::{Answer, MANIFEST, Served, request};

const NEVER: (&str, &str) = ("x-coral-route", "never");
const OWN: &str = "coral.coral-system.svc:5000";

/// Access as in a cluster: one user may do everything, anonymous clients read public repositories.
fn settings() -> Settings {
    let hash = bcrypt::hash_with_salt("a secret", 4, [7; 16]).unwrap();
    let grant = || Grant {
        who: Who::Users(["coral".to_owned()].into()),
        paths: PathPatterns::everything(),
    };
    Settings {
        access: Access::Granted(Grants {
            users: Htpasswd::parse(&format!("coral:{hash}\n")).unwrap(),
            pull: vec![grant()],
            push: vec![grant()],
        }),
        names: vec![Host::parse(OWN).unwrap()],
        ..Settings::default()
    }
}

fn public(paths: &str) -> PublicPaths {
    let json = format!("{{\"generation\": 7, \"paths\": {paths}}}");
    PublicPaths::parse(json.as_bytes()).unwrap()
}

/// A registry with a public and a private image of `docker.io`, and one of `quay.io:8443`.
async fn served() -> Served {
    let served = Served::new();
    served
        .push_image("docker.io/library/nginx", "1", b"layer")
        .await;
    served
        .push_image("docker.io/private/app", "1", b"layer")
        .await;
    served.push_image("quay.io_8443/x/a", "1", b"layer").await;
    served.registry.configure(settings());
    let paths = r#"["docker.io/library/nginx", "quay.io_8443/x/a"]"#;
    served.registry.publish(public(paths));
    served
}

async fn ask(served: &Served, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    served.ask(request(method, target, headers, b"")).await
}

fn login(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("coral:{password}")))
}

fn message(answer: &Answer) -> String {
    let message = &answer.json()["errors"][0]["message"];
    message.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn exactly_the_public_paths_are_read_without_a_login() {
    let served = served().await;
    for (target, expected) in [
        ("/v2/docker.io/library/nginx/manifests/1", 200),
        ("/v2/docker.io/library/nginx/tags/list", 200),
        ("/v2/docker.io/private/app/manifests/1", 401),
        ("/v2/docker.io/library/nginx/more/manifests/1", 401),
        ("/v2/_catalog", 401),
        ("/v2/", 401),
    ] {
        let answer = served.get(target).await;
        assert_eq!(answer.status.as_u16(), expected, "{target}");
        let is_challenge = answer.headers.contains_key("www-authenticate");
        assert_eq!(is_challenge, expected == 401, "{target}");
    }
    let upload = "/v2/docker.io/library/nginx/blobs/uploads/";
    let refused = served.send("POST", upload, b"").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    served.registry.publish(public("[]"));
    let closed = served.get("/v2/docker.io/library/nginx/manifests/1").await;
    assert_eq!(closed.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_loaded_generation_is_told_to_everybody() {
    let served = Served::new();
    served.registry.configure(settings());
    let told = served.get("/coral/v1/public").await.json();
    assert_eq!(told, serde_json::json!({"generation": 0, "paths": 0}));
    served.registry.publish(public(r#"["a", "b/c"]"#));
    let told = served.get("/coral/v1/public").await.json();
    assert_eq!(told, serde_json::json!({"generation": 7, "paths": 2}));
}

#[tokio::test]
async fn an_image_of_another_registry_is_pulled_under_its_own_name() {
    let served = served().await;
    let blob = Digest::sha256(b"layer");
    for target in [
        "/v2/library/nginx/manifests/1?ns=docker.io",
        "/v2/nginx/manifests/1?ns=docker.io",
        "/v2/library/nginx/manifests/1?ns=index.docker.io",
        "/v2/x/a/manifests/1?ns=quay.io%3A8443",
        &format!("/v2/library/nginx/blobs/{blob}?ns=docker.io"),
        &format!("/v2/library/nginx/referrers/{blob}?ns=docker.io"),
        "/v2/?ns=docker.io",
    ] {
        for method in ["GET", "HEAD"] {
            for headers in [&[][..], &[NEVER][..]] {
                let answer = ask(&served, method, target, headers).await;
                assert_eq!(answer.status, StatusCode::OK, "{method} {target}");
                assert!(!answer.headers.contains_key("www-authenticate"));
            }
        }
    }
    let own = format!("/v2/docker.io/library/nginx/manifests/1?ns={OWN}");
    assert_eq!(served.get(&own).await.status, StatusCode::OK);
    let private = format!("/v2/docker.io/private/app/manifests/1?ns={OWN}");
    assert_eq!(served.get(&private).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn lists_name_the_repository_as_the_client_does_page_by_page() {
    let served = served().await;
    served.registry.configure(Settings::default());
    served
        .push_image("docker.io/library/nginx", "2", b"layer")
        .await;
    served.registry.configure(settings());
    let first = served
        .get("/v2/library/nginx/tags/list?n=1&ns=docker.io")
        .await;
    let expected = serde_json::json!({"name": "library/nginx", "tags": ["1"]});
    assert_eq!(first.json(), expected);
    let link = first.header("link").to_owned();
    let next = link.split(['<', '>']).nth(1).unwrap();
    assert_eq!(served.get(next).await.json()["tags"][0], "2");
}

/// Missing names, each with a private twin: the answers must not tell the two apart.
#[tokio::test]
async fn a_private_image_is_answered_exactly_like_one_that_is_not_here() {
    let served = served().await;
    let blob = Digest::sha256(b"layer");
    for (private, absent) in [
        ("private/app/manifests/1", "private/abc/manifests/1"),
        (
            &*format!("private/app/blobs/{blob}"),
            &*format!("private/abc/blobs/{blob}"),
        ),
        ("private/app/tags/list", "private/abc/tags/list"),
    ] {
        for headers in [&[][..], &[NEVER][..]] {
            for method in ["GET", "HEAD"] {
                let at = |path: &str| format!("/v2/{path}?ns=docker.io");
                let first = ask(&served, method, &at(private), headers).await;
                let second = ask(&served, method, &at(absent), headers).await;
                assert_eq!(first.status, second.status, "{private}");
                assert_eq!(first.headers, second.headers, "{private}");
                let body = |answer: &Answer| String::from_utf8(answer.body.clone()).unwrap();
                assert_eq!(
                    body(&first).replace("app", "abc"),
                    body(&second),
                    "{private}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_miss_is_404_and_with_never_403_with_a_sentence() {
    let served = served().await;
    for target in [
        "/v2/library/x/manifests/1?ns=docker.io",
        "/v2/library/nginx/manifests/2?ns=docker.io",
        "/v2/private/app/manifests/1?ns=docker.io",
        "/v2/x/a/manifests/1?ns=quay.io",
        "/v2/_catalog?ns=docker.io",
        "/v2/UPPER/manifests/1?ns=docker.io",
        "/v2/library/nginx/manifests/1?ns=..%2F",
    ] {
        let missed = served.get(target).await;
        assert_eq!(missed.status, StatusCode::NOT_FOUND, "{target}");
        for method in ["GET", "HEAD"] {
            let never = ask(&served, method, target, &[NEVER]).await;
            assert_eq!(never.status, StatusCode::FORBIDDEN, "{method} {target}");
            assert!(!never.headers.contains_key("www-authenticate"));
        }
        let never = ask(&served, "GET", target, &[NEVER]).await;
        assert_eq!(never.code(), "DENIED");
        let told = message(&never);
        assert!(told.starts_with("coral: ") && told.len() <= 300, "{told}");
        assert!(told.contains("RegistryMirror"), "{told}");
        assert!(never.json()["errors"][0].get("detail").is_none());
    }
    let never = "/v2/library/x/manifests/1?ns=docker.io";
    assert_eq!(
        message(&ask(&served, "GET", never, &[NEVER]).await),
        "coral: docker.io/library/x:1 is not mirrored here and docker.io is never contacted \
         (RegistryRoute). Add it to a RegistryMirror, or ask an administrator."
    );
    // Without `ns` the header has no effect.
    let plain = "/v2/docker.io/library/nginx/manifests/2";
    let plain = ask(&served, "GET", plain, &[NEVER]).await;
    assert_eq!(plain.status, StatusCode::NOT_FOUND);
}

/// containerd answers a challenge with the credential that the pod has for the other registry.
#[tokio::test]
async fn no_request_with_ns_is_challenged_whatever_it_sends() {
    let served = served().await;
    let (right, wrong) = (login("a secret"), login("wrong"));
    for authorization in [right.as_str(), wrong.as_str(), "Bearer x", "nonsense"] {
        let headers = [("authorization", authorization)];
        for (target, expected) in [
            ("/v2/library/nginx/manifests/1?ns=docker.io", 200),
            ("/v2/private/app/manifests/1?ns=docker.io", 404),
            ("/v2/?ns=docker.io", 200),
        ] {
            let answer = ask(&served, "GET", target, &headers).await;
            assert_eq!(answer.status.as_u16(), expected, "{authorization} {target}");
            assert!(!answer.headers.contains_key("www-authenticate"));
        }
    }
}

#[tokio::test]
async fn no_request_with_ns_writes() {
    let served = served().await;
    let login = login("a secret");
    let headers = [("authorization", login.as_str())];
    let blob = Digest::sha256(b"layer");
    for (method, target) in [
        ("POST", "/v2/library/nginx/blobs/uploads/?ns=docker.io"),
        ("PUT", "/v2/library/nginx/manifests/9?ns=docker.io"),
        ("DELETE", "/v2/library/nginx/manifests/1?ns=docker.io"),
        (
            "DELETE",
            &*format!("/v2/library/nginx/blobs/{blob}?ns=docker.io"),
        ),
    ] {
        let answer = ask(&served, method, target, &headers).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert!(!answer.headers.contains_key("www-authenticate"));
    }
    let kept = served
        .get("/v2/library/nginx/manifests/1?ns=docker.io")
        .await;
    assert_eq!(kept.status, StatusCode::OK);
}

#[tokio::test]
async fn the_reserved_image_is_pulled_by_everybody_under_every_name() {
    let served = served().await;
    for suffix in [
        "",
        "?ns=docker.io",
        "?ns=quay.io%3A8443",
        &format!("?ns={OWN}"),
    ] {
        let at = |path: &str| format!("/v2/coral-reserved/probe/{path}{suffix}");
        let manifest = ask(&served, "GET", &at("manifests/1"), &[NEVER]).await;
        assert_eq!(manifest.status, StatusCode::OK, "{suffix}");
        assert_eq!(manifest.header("content-type"), MANIFEST);
        let digest = Digest::sha256(&manifest.body).to_string();
        assert_eq!(manifest.header("docker-content-digest"), digest);
        assert_eq!(digest, coral_api::names::PROBE_DIGEST, "{suffix}");
        let head = ask(&served, "HEAD", &at(&format!("manifests/{digest}")), &[]).await;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(
            head.header("content-length"),
            manifest.body.len().to_string()
        );
        let manifest = manifest.json();
        assert_eq!(manifest["layers"], serde_json::json!([]));
        let config = manifest["config"]["digest"].as_str().unwrap();
        let config = served.get(&at(&format!("blobs/{config}"))).await;
        assert_eq!(config.json()["rootfs"]["diff_ids"], serde_json::json!([]));
        assert_eq!(manifest["config"]["size"], config.body.len());
        let other = served.get(&at("manifests/2")).await;
        assert_eq!(other.status, StatusCode::NOT_FOUND, "{suffix}");
    }
}

#[tokio::test]
async fn the_reserved_image_is_in_no_list_and_cannot_be_pushed() {
    let served = Served::new();
    served.push_image("a", "1", b"layer").await;
    let catalog = served.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], serde_json::json!(["a"]));
    let image = served.image("a", b"layer").await;
    let manifest = image.to_string();
    for (method, target) in [
        ("PUT", "/v2/coral-reserved/probe/manifests/1"),
        ("POST", "/v2/coral-reserved/probe/blobs/uploads/"),
        ("POST", "/v2/coral-reserved/other/blobs/uploads/"),
        ("DELETE", "/v2/coral-reserved/probe/manifests/1"),
    ] {
        let refused = served.send(method, target, manifest.as_bytes()).await;
        assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{target}");
    }
}
