//! Signed tokens: the rights of their holders, and which tokens are refused.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coral_image::{Digest, Host};
use coral_registry::{
    Access, Grant, Grants, Htpasswd, Limits, PathPatterns, PublicPaths, Settings, TokenKeys, Who,
};
use coral_token::{Action, Claims, RepositoryAccess, SigningKey};
use http::StatusCode;

use crate::client::{Answer, Served, digest_of, image_of, request};

const HOST: &str = "local.coral-system.svc:5000";
const BOTH: &[Action] = &[Action::Pull, Action::Push];

/// A registry that accepts tokens of one key. Without a token, every client may read `public` and
/// the paths that are listed as public, and every user may write everywhere.
struct Guarded {
    served: Served,
    key: SigningKey,
}

fn key() -> SigningKey {
    SigningKey::from_pem(SigningKey::generate_pem().unwrap().as_bytes()).unwrap()
}

fn public(of: &SigningKey) -> TokenKeys {
    TokenKeys::from_pem(of.public_pem().as_bytes()).unwrap()
}

fn grant(who: Who, path: &str) -> Grant {
    let paths = PathPatterns::parse([path]).unwrap();
    Grant { who, paths }
}

fn claims(access: &[(&str, &[Action])]) -> Claims {
    let access = access.iter();
    let access = access.map(|(name, actions)| RepositoryAccess::new(*name, actions));
    let (now, life) = (SystemTime::now(), Duration::from_mins(10));
    Claims::new(HOST, "build/team-a/shop/push", access.collect(), now, life)
}

async fn guarded() -> Guarded {
    let served = Served::new();
    for path in [
        "team-a/app",
        "team-ab/app",
        "docker.io/library/base",
        "public/app",
    ] {
        served.push_image(path, "1", b"layer").await;
    }
    let key = key();
    served.registry.configure(Settings {
        access: Access::Granted(Grants {
            users: Htpasswd::default(),
            pull: vec![grant(Who::Anybody, "public/**")],
            push: vec![grant(Who::EveryUser, "**")],
        }),
        token_keys: Some(public(&key)),
        names: vec![Host::parse(HOST).unwrap()],
        ..Settings::default()
    });
    let list = br#"{"generation": 1, "paths": ["docker.io/library/base"]}"#;
    served.registry.publish(PublicPaths::parse(list).unwrap());
    Guarded { served, key }
}

impl Guarded {
    /// A token for pulling and pushing below `team-a`.
    fn token(&self) -> String {
        self.key.sign(&claims(&[("team-a/**", BOTH)])).unwrap()
    }

    async fn ask(&self, token: &str, method: &str, target: &str, body: &[u8]) -> Answer {
        self.ask_with(&format!("Bearer {token}"), method, target, body)
            .await
    }

    async fn ask_with(&self, header: &str, method: &str, target: &str, body: &[u8]) -> Answer {
        let headers = [("authorization", header)];
        self.served
            .ask(request(method, target, &headers, body))
            .await
    }
}

#[tokio::test]
async fn a_token_is_taken_as_a_password_and_as_a_bearer() {
    let registry = guarded().await;
    let token = registry.token();
    let basic = |user: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{token}")));
    for (header, expected) in [
        (basic("token"), StatusCode::OK),
        (format!("Bearer {token}"), StatusCode::OK),
        (format!("bearer {token}"), StatusCode::OK),
        (basic("anna"), StatusCode::UNAUTHORIZED),
        (format!("Token {token}"), StatusCode::UNAUTHORIZED),
        (format!("Bearer {token}x"), StatusCode::UNAUTHORIZED),
    ] {
        let answer = registry
            .ask_with(&header, "GET", "/v2/team-a/app/manifests/1", b"")
            .await;
        assert_eq!(answer.status, expected, "{header}");
    }
}

#[tokio::test]
async fn a_token_reaches_what_it_names_and_nothing_else() {
    let registry = guarded().await;
    let token = registry.token();
    let digest = Digest::sha256(b"layer");
    for (method, target, expected) in [
        ("GET", "/v2/".to_owned(), StatusCode::OK),
        ("GET", "/v2/team-a/app/tags/list".to_owned(), StatusCode::OK),
        (
            "HEAD",
            format!("/v2/team-a/app/blobs/{digest}"),
            StatusCode::OK,
        ),
        (
            "POST",
            "/v2/team-a/new/blobs/uploads/".to_owned(),
            StatusCode::ACCEPTED,
        ),
        (
            "GET",
            "/v2/team-ab/app/manifests/1".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "GET",
            "/v2/team-ab/app/tags/list".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "POST",
            "/v2/team-ab/app/blobs/uploads/".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "POST",
            "/v2/team-a/blobs/uploads/".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "POST",
            "/v2/docker.io/library/base/blobs/uploads/".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "PUT",
            "/v2/docker.io/library/base/manifests/1".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "POST",
            "/v2/public/app/blobs/uploads/".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        // Repositories that every client may read.
        (
            "GET",
            "/v2/docker.io/library/base/manifests/1".to_owned(),
            StatusCode::OK,
        ),
        (
            "GET",
            "/v2/public/app/manifests/1".to_owned(),
            StatusCode::OK,
        ),
        // No token allows deleting or listing.
        (
            "DELETE",
            "/v2/team-a/app/manifests/1".to_owned(),
            StatusCode::FORBIDDEN,
        ),
        (
            "DELETE",
            format!("/v2/team-a/app/blobs/{digest}"),
            StatusCode::FORBIDDEN,
        ),
        ("GET", "/v2/_catalog".to_owned(), StatusCode::FORBIDDEN),
    ] {
        let answer = registry.ask(&token, method, &target, b"").await;
        assert_eq!(answer.status, expected, "{method} {target}");
    }
}

#[tokio::test]
async fn an_image_is_pushed_with_a_token_and_an_upload_given_up() {
    let registry = guarded().await;
    let token = registry.token();
    for blob in [&b"{}"[..], b"layer of team a"] {
        let target = format!(
            "/v2/team-a/new/blobs/uploads/?digest={}",
            Digest::sha256(blob)
        );
        let pushed = registry.ask(&token, "POST", &target, blob).await;
        assert_eq!(pushed.status, StatusCode::CREATED);
    }
    let image = image_of(b"{}", b"layer of team a");
    let target = format!("/v2/team-a/new/manifests/{}", digest_of(&image));
    let headers = [
        ("authorization", &*format!("Bearer {token}")),
        ("content-type", crate::client::MANIFEST),
    ];
    let put = request("PUT", &target, &headers, image.to_string().as_bytes());
    assert_eq!(registry.served.ask(put).await.status, StatusCode::CREATED);
    let target = "/v2/team-a/new/blobs/uploads/";
    let begun = registry.ask(&token, "POST", target, b"").await;
    let upload = begun.header("location").to_owned();
    let given_up = registry.ask(&token, "DELETE", &upload, b"").await;
    assert_eq!(given_up.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_the_token_may_pull() {
    let registry = guarded().await;
    let token = registry.token();
    let digest = Digest::sha256(b"layer");
    for (from, expected) in [
        ("&from=team-a/app", StatusCode::CREATED),
        ("&from=docker.io/library/base", StatusCode::CREATED),
        ("&from=team-ab/app", StatusCode::ACCEPTED),
        ("", StatusCode::ACCEPTED),
    ] {
        let repository = format!("team-a/to{}", from.len());
        let target = format!("/v2/{repository}/blobs/uploads/?mount={digest}{from}");
        let answer = registry.ask(&token, "POST", &target, b"").await;
        assert_eq!(answer.status, expected, "{from}");
        assert_eq!(answer.header("coral-blob-elsewhere"), "", "{from}");
    }
}

#[tokio::test]
async fn a_token_that_may_not_pull_may_push_without_reading() {
    let registry = guarded().await;
    let claims = claims(&[("team-a/app", &[Action::Push])]);
    let token = registry.key.sign(&claims).unwrap();
    for (method, target, expected) in [
        (
            "POST",
            "/v2/team-a/app/blobs/uploads/",
            StatusCode::ACCEPTED,
        ),
        ("GET", "/v2/team-a/app/manifests/1", StatusCode::FORBIDDEN),
        ("GET", "/v2/team-a/app/tags/list", StatusCode::FORBIDDEN),
    ] {
        let answer = registry.ask(&token, method, target, b"").await;
        assert_eq!(answer.status, expected, "{method} {target}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_with_the_reason() {
    let registry = guarded().await;
    let hours_ago = SystemTime::now() - Duration::from_hours(2);
    let at = |time: SystemTime| Claims::new(HOST, "s", vec![], time, Duration::from_mins(10));
    let sign = |claims: &Claims| registry.key.sign(claims).unwrap();
    let elsewhere = Claims {
        aud: vec!["other.coral-system.svc:5000".to_owned()],
        ..claims(&[])
    };
    let unsigned = registry.token();
    let unsigned = unsigned.rsplit_once('.').unwrap().0.to_owned();
    for (token, expected) in [
        (sign(&at(hours_ago)), "expired"),
        (
            sign(&at(SystemTime::now() + Duration::from_hours(2))),
            "not valid yet",
        ),
        (sign(&elsewhere), "another registry"),
        (key().sign(&claims(&[])).unwrap(), "not signed by a key"),
        (format!("{unsigned}."), "not signed by a key"),
        (unsigned, "not a signed JWT"),
        ("x".repeat(3001), "more than 3000 bytes"),
        ("x".repeat(5000), "header is too long"),
    ] {
        // Even requests that every client may make are refused: a client with an invalid token is
        // told so.
        let target = "/v2/public/app/manifests/1";
        let answer = registry.ask(&token, "GET", target, b"").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{expected}");
        assert_eq!(answer.code(), "UNAUTHORIZED");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"coral\"");
        let said = answer.json()["errors"][0]["message"].to_string();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!said.contains(&token), "{said}");
    }
}

#[tokio::test]
async fn keys_are_replaced_while_the_registry_serves() {
    let registry = guarded().await;
    let new = key();
    let (old_token, new_token) = (
        registry.token(),
        new.sign(&claims(&[("team-a/**", BOTH)])).unwrap(),
    );
    let target = "/v2/team-a/app/manifests/1";
    let both = format!("{}{}", registry.key.public_pem(), new.public_pem());
    for (keys, old, of_new) in [
        (registry.key.public_pem(), 200, 401),
        (both.as_str(), 200, 200),
        (new.public_pem(), 401, 200),
    ] {
        let keys = TokenKeys::from_pem(keys.as_bytes()).unwrap();
        registry.served.registry.set_token_keys(keys);
        for (token, expected) in [(&old_token, old), (&new_token, of_new)] {
            let answer = registry.ask(token, "GET", target, b"").await;
            assert_eq!(answer.status.as_u16(), expected);
        }
    }
}

#[tokio::test]
async fn without_keys_a_token_is_a_wrong_login() {
    let registry = guarded().await;
    let token = registry.token();
    registry.served.registry.configure(Settings {
        access: Access::Granted(Grants {
            users: Htpasswd::default(),
            pull: vec![],
            push: vec![],
        }),
        names: vec![Host::parse(HOST).unwrap()],
        ..Settings::default()
    });
    let answer = registry
        .ask(&token, "GET", "/v2/team-a/app/manifests/1", b"")
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn uploads_of_one_namespace_count_together_however_many_tokens_it_has() {
    let registry = guarded().await;
    registry.served.registry.configure(Settings {
        token_keys: Some(public(&registry.key)),
        names: vec![Host::parse(HOST).unwrap()],
        limits: Limits {
            open_uploads: 200,
            ..Limits::default()
        },
        ..Settings::default()
    });
    let token = |namespace: &str, run: u32| {
        let mut claims = claims(&[(&format!("{namespace}/**"), BOTH)]);
        claims.sub = format!("build/{namespace}/shop/{run:08x}/push");
        registry.key.sign(&claims).unwrap()
    };
    let ask_for_upload = async |token: &str, namespace: &str| {
        let target = format!("/v2/{namespace}/x/blobs/uploads/");
        registry.ask(token, "POST", &target, b"").await.status
    };
    for run in 0..100 {
        let begun = ask_for_upload(&token("team-a", run), "team-a").await;
        assert_eq!(begun, StatusCode::ACCEPTED, "{run}");
    }
    let refused = ask_for_upload(&token("team-a", 100), "team-a").await;
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    let begun = ask_for_upload(&token("team-b", 0), "team-b").await;
    assert_eq!(begun, StatusCode::ACCEPTED);
}
