//! Which credentials are sent, how often requests are repeated, and what a refusal says.

use std::sync::Arc;

use coral_distribution::{BlobPush, Category, Client, Credentials, Disposition};
use coral_image::{Digest, RepositoryPath};
use coral_testkit::{Auth, Bearer, Effect, Fault, FaultRegistry, ImageBuilder, Recorded};
use futures::StreamExt;

use crate::fixture::*;

#[tokio::test]
async fn unchanged_tags_cost_one_head_each_once_the_host_is_known() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    registry.load(PATH, &image());
    let client = logged_in(&registry);
    client.head(&tag("1")).await.unwrap();
    registry.clear_requests();
    for _ in 0..5 {
        client.head(&tag("1")).await.unwrap();
    }
    assert_eq!(registry.requests().len(), 5, "{:?}", registry.requests());
    assert!(
        registry
            .requests()
            .iter()
            .all(|r| r.method == "HEAD" && r.status == 200)
    );
}

#[tokio::test]
async fn of_many_first_requests_one_is_challenged_and_one_token_is_fetched() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    registry.load(PATH, &image());
    let client = logged_in(&registry);
    let version = tag("1");
    let found: Vec<_> = futures::stream::iter(0..20)
        .map(|_| client.head(&version))
        .buffer_unordered(20)
        .collect()
        .await;
    assert!(
        found
            .iter()
            .all(|found| found.as_ref().is_ok_and(Option::is_some))
    );
    assert_eq!(registry.count(|r| r.status == 401), 1);
    assert_eq!(registry.tokens_issued(), 1);
}

#[tokio::test]
async fn the_challenge_is_remembered_for_other_repositories_of_the_host() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    registry.load(PATH, &image());
    registry.load("other", &image());
    let client = Client::new(plain(&[&registry])).unwrap();
    let credentials = Arc::new(credentials(&registry));
    for path in [PATH, "other"] {
        let repository = client.repository(&repository(&registry, path), Arc::clone(&credentials));
        repository.head(&tag("1")).await.unwrap();
    }
    assert_eq!(registry.count(|r| r.status == 401), 1);
    assert_eq!(registry.tokens_issued(), 2, "a token is for one repository");
}

#[tokio::test]
async fn public_images_need_no_credential() {
    let auth = Bearer {
        anonymous_pull: true,
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    let client = anonymous(&registry);
    assert_eq!(
        client.manifest(&tag("1")).await.unwrap().digest(),
        image().digest()
    );
    let error = client
        .begin_blob(&Digest::sha256(b"x"), None)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized);
    assert!(
        error.to_string().contains("without a credential"),
        "{error}"
    );
}

#[tokio::test]
async fn basic_is_spoken_where_it_is_asked_for() {
    let registry = FaultRegistry::start_with_auth(basic()).await;
    registry.load(PATH, &image());
    let client = logged_in(&registry);
    client.manifest(&tag("1")).await.unwrap();
    registry.clear_requests();
    client.manifest(&tag("1")).await.unwrap();
    assert_eq!(registry.requests().len(), 1);
    assert_eq!(
        registry.requests()[0].authorization.as_deref(),
        Some("Basic")
    );
}

#[tokio::test]
async fn a_login_that_is_expected_is_sent_unasked_and_only_by_those_who_have_one() {
    let registry = FaultRegistry::start().await;
    registry.load(PATH, &image());
    let client = Client::new(plain(&[&registry])).unwrap();
    client.expect_basic(&host(&registry));
    for (who, expected) in [
        (credentials(&registry), Some("Basic")),
        (Credentials::none(), None),
    ] {
        registry.clear_requests();
        let repository = client.repository(&repository(&registry, PATH), Arc::new(who));
        repository.manifest(&tag("1")).await.unwrap();
        let requests = registry.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].authorization.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal_that_names_where_it_came_from() {
    for auth in [basic(), Auth::Bearer(bearer())] {
        let registry = FaultRegistry::start_with_auth(auth).await;
        let wrong = Credentials::for_one_host(host(&registry), USER, "wrong-secret", "the entry");
        let error = with(&registry, plain(&[&registry]), wrong)
            .head(&tag("1"))
            .await
            .unwrap_err();
        assert_eq!(error.category(), Category::Unauthorized, "{error}");
        assert_eq!(error.disposition(), Disposition::WaitForChange);
        let text = format!("{error} {error:?}");
        assert!(text.contains("the credential of the entry"), "{text}");
        assert!(!text.contains("wrong-secret"), "{text}");
    }
}

#[tokio::test]
async fn of_several_credentials_the_one_that_works_is_found_and_kept() {
    for auth in [basic(), Auth::Bearer(bearer())] {
        let registry = FaultRegistry::start_with_auth(auth).await;
        registry.load(PATH, &image());
        let wrong = Credentials::for_one_host(host(&registry), "other", "stale", "an old entry");
        let both = wrong.merged_with(credentials(&registry));
        let client = with(&registry, plain(&[&registry]), both);
        assert!(client.head(&tag("1")).await.unwrap().is_some());
        registry.clear_requests();
        assert!(client.head(&tag("1")).await.unwrap().is_some());
        assert_eq!(registry.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_stale_credential_does_not_hide_a_public_image() {
    let auth = Bearer {
        anonymous_pull: true,
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    let stale = Credentials::for_one_host(host(&registry), USER, "stale", "an old entry");
    let client = with(&registry, plain(&[&registry]), stale);
    assert!(client.head(&tag("1")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_token_that_ran_out_is_fetched_again() {
    let auth = Bearer {
        uses: Some(2),
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    let client = logged_in(&registry);
    for _ in 0..5 {
        assert!(client.head(&tag("1")).await.unwrap().is_some());
    }
    assert_eq!(registry.tokens_issued(), 3);
}

#[tokio::test]
async fn of_many_requests_with_a_refused_token_one_fetches_a_new_one() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    registry.load(PATH, &image());
    let client = logged_in(&registry);
    let version = tag("1");
    client.head(&version).await.unwrap();
    registry.clear_requests();
    // The new token is issued only after all requests were refused with the old one.
    let gate = "new token".to_owned();
    registry.fault(Fault::new(Effect::Hold { gate: gate.clone() }).path("/token"));
    registry.fault(
        Fault::new(Effect::Unauthorized)
            .path("/manifests/")
            .first(20),
    );
    let heads = futures::future::join_all((0..20).map(|_| client.head(&version)));
    let release = async {
        let refused = |r: &Recorded| r.status == 401;
        registry
            .wait_for(|all| all.iter().filter(|r| refused(r)).count() == 20)
            .await;
        registry.release(&gate);
    };
    let (found, ()) = tokio::join!(heads, release);
    assert!(
        found
            .iter()
            .all(|found| found.as_ref().is_ok_and(Option::is_some))
    );
    assert_eq!(registry.tokens_issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_expires() {
    let auth = Bearer {
        announced_seconds: Some(100),
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    let client = logged_in(&registry);
    client.head(&tag("1")).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(80)).await;
    client.head(&tag("1")).await.unwrap();
    assert_eq!(registry.tokens_issued(), 1);
    tokio::time::advance(std::time::Duration::from_secs(6)).await;
    client.head(&tag("1")).await.unwrap();
    assert_eq!(registry.tokens_issued(), 2);
    assert_eq!(
        registry.count(|r| r.status == 401),
        1,
        "only the first request was challenged"
    );
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    let built = ImageBuilder::new(7).layer_of(1000).build();
    registry.load("library/base", &built);
    let client = logged_in(&registry);
    let from = RepositoryPath::parse("library/base").unwrap();
    let (blob, _) = large_blob(&built);
    let push = client.begin_blob(&blob.digest, Some(&from)).await.unwrap();
    assert!(matches!(push, BlobPush::Mounted));
    let asked =
        |path: &str| registry.count(|r| r.path.starts_with("/token") && r.path.contains(path));
    assert_eq!(
        asked("library%2Fbase%3Apull"),
        1,
        "{:?}",
        registry.requests()
    );
}

#[tokio::test]
async fn a_token_servers_failure_keeps_its_kind() {
    let cases = [
        (
            status(503, &[("retry-after", "7")], "later"),
            Category::Server,
        ),
        (status(429, &[], ""), Category::RateLimited),
        (status(403, &[], ""), Category::Forbidden),
        (Effect::Html { status: 200 }, Category::Protocol),
        (Effect::Garbage { status: 200 }, Category::Protocol),
        (status(200, &[], r#"{"expires_in": 5}"#), Category::Protocol),
        (
            status(200, &[], r#"{"token": "two\nlines"}"#),
            Category::Protocol,
        ),
        (Effect::Close, Category::Cut),
        (Effect::Endless, Category::TooLarge),
    ];
    for (effect, expected) in cases {
        let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
        registry.fault(Fault::new(effect.clone()).path("/token"));
        let error = logged_in(&registry).head(&tag("1")).await.unwrap_err();
        assert_eq!(error.category(), expected, "{effect:?}: {error}");
        assert!(error.to_string().contains("getting a token"), "{error}");
    }
}

#[tokio::test]
async fn a_token_server_that_does_not_answer_or_resolve_is_told_apart() {
    let cases = [
        ("https://127.0.0.1:1/token", Category::Connect),
        ("https://no-such-host.invalid/token", Category::Dns),
        ("relative", Category::Protocol),
        ("", Category::Protocol),
        ("ftp://x/token", Category::Protocol),
    ];
    for (realm, expected) in cases {
        let auth = Bearer {
            realm: Some(realm.to_owned()),
            ..bearer()
        };
        let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
        let error = anonymous(&registry).head(&tag("1")).await.unwrap_err();
        assert_eq!(error.category(), expected, "{realm}: {error}");
    }
}

#[tokio::test]
async fn a_realm_may_be_a_path_at_the_registry() {
    let auth = Bearer {
        realm: Some("/token".to_owned()),
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    assert!(
        logged_in(&registry)
            .head(&tag("1"))
            .await
            .unwrap()
            .is_some()
    );
}

/// Regression: such a challenge was tried five times.
#[tokio::test]
async fn a_challenge_without_a_realm_is_not_tried_again() {
    let registry = FaultRegistry::start().await;
    let challenge = [("www-authenticate", "Bearer error=\"x\"")];
    registry.fault(Fault::new(status(401, &challenge, "")));
    let error = anonymous(&registry).head(&tag("1")).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::WaitForChange, "{error}");
}

/// Regression: one repository whose token server cannot be used made every other repository of its
/// registry fail, until the process ended.
#[tokio::test]
async fn a_token_server_that_cannot_be_used_spoils_no_other_repository() {
    let (registry, built) = registry_with_image().await;
    let realms = ["http://192.0.2.7/token", "http://localhost:1/token"];
    for realm in realms {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let demand = status(401, &[("www-authenticate", &challenge)], "");
        registry.clear_faults();
        registry.fault(Fault::new(demand).path("/v2/private/"));
        let client = Client::new(plain(&[&registry])).unwrap();
        let of = |path| client.repository(&repository(&registry, path), Credentials::none().into());
        let error = of("private/app").head(&tag("1")).await.unwrap_err();
        assert!(!error.to_string().contains("401"), "{realm}: {error}");
        for _ in 0..2 {
            let found = of(PATH).head(&tag("1")).await.unwrap();
            let found = found.map(|found| found.digest);
            assert_eq!(found, Some(built.digest()), "{realm}");
            of("private/app").head(&tag("1")).await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn an_unknown_kind_of_authentication_is_named() {
    let registry = FaultRegistry::start().await;
    registry.fault(Fault::new(status(
        401,
        &[("www-authenticate", "Negotiate")],
        "",
    )));
    let error = anonymous(&registry).head(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains("negotiate"), "{error}");
    assert_eq!(error.disposition(), Disposition::WaitForChange);
}

#[tokio::test]
async fn a_challenge_that_never_ends_is_given_up() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    registry.fault(Fault::new(Effect::Unauthorized).path("/manifests/"));
    let error = logged_in(&registry).head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized);
    assert!(registry.requests().len() < 12, "{:?}", registry.requests());
}

#[tokio::test]
async fn a_ping_says_whether_the_credential_is_taken() {
    let registry = FaultRegistry::start_with_auth(basic()).await;
    let client = Client::new(plain(&[&registry])).unwrap();
    client
        .ping(&host(&registry), &credentials(&registry))
        .await
        .unwrap();
    let error = client
        .ping(&host(&registry), &Credentials::none())
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized);
}

/// Credentials with an identity token for a registry.
fn identity(registry: &FaultRegistry, token: &str) -> Credentials {
    let config = format!(
        r#"{{"auths": {{"{}": {{"identitytoken": "{token}"}}}}}}"#,
        registry.host()
    );
    Credentials::from_docker_config(config.as_bytes(), "the test").unwrap()
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_tokens() {
    let auth = Bearer {
        identity_token: Some(PASSWORD.to_owned()),
        ..Bearer::default()
    };
    let auth = Bearer {
        username: "x".to_owned(),
        password: "y".to_owned(),
        ..auth
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    let client = with(
        &registry,
        plain(&[&registry]),
        identity(&registry, PASSWORD),
    );
    client.manifest(&tag("1")).await.unwrap();
    client.manifest(&tag("1")).await.unwrap();
    let tokens = |r: &coral_testkit::Recorded| r.path.starts_with("/token");
    assert_eq!(
        registry.count(|r| tokens(r) && r.method == "POST" && r.path == "/token"),
        1
    );
    assert_eq!(
        registry.count(|r| tokens(r) && r.authorization.is_some()),
        0
    );
    let wrong = with(&registry, plain(&[&registry]), identity(&registry, "wrong"));
    let error = wrong.manifest(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized, "{error}");
}

#[tokio::test]
async fn an_identity_token_goes_to_the_token_server_and_nowhere_else() {
    let auth = Bearer {
        identity_token: Some(PASSWORD.to_owned()),
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    let elsewhere = FaultRegistry::start().await;
    let to = elsewhere.url().to_owned();
    registry.fault(Fault::new(Effect::Redirect { to }).path("/token"));
    let client = with(
        &registry,
        plain(&[&registry, &elsewhere]),
        identity(&registry, PASSWORD),
    );
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains("no secrets are sent"), "{error}");
    // The token is not sent as a password either.
    registry.set_auth(basic());
    let client = with(
        &registry,
        plain(&[&registry]),
        identity(&registry, PASSWORD),
    );
    client.manifest(&tag("1")).await.unwrap_err();
    assert_eq!(
        registry.count(|r| r.authorization.as_deref() == Some("Basic")),
        0
    );
    assert!(elsewhere.requests().is_empty());
}
