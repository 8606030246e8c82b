//! Credentials are never sent to another host.

use coral_distribution::{Category, ClientOptions, Credentials, Disposition, HostOptions};
use coral_image::Version;
use coral_testkit::{Auth, Bearer, Effect, Fault, FaultRegistry, Options};

use crate::fixture::*;

/// Whether any request to this registry carried an `Authorization`.
fn was_told(registry: &FaultRegistry) -> bool {
    registry.count(|request| request.authorization.is_some()) > 0
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credential_along() {
    for auth in [basic(), Auth::Bearer(bearer())] {
        let registry = FaultRegistry::start_with_auth(auth).await;
        let elsewhere = FaultRegistry::start().await;
        let built = image();
        registry.load(PATH, &built);
        elsewhere.load(PATH, &built);
        let client = logged_in(&registry);
        client.head(&tag("1")).await.unwrap();
        assert!(was_told(&registry));
        let to = elsewhere.url().to_owned();
        registry.fault(Fault::new(Effect::Redirect { to }).path("/v2/"));
        let (blob, bytes) = large_blob(&built);
        assert_eq!(read(client.blob(&blob, 0).await).await.unwrap(), bytes);
        client.manifest(&tag("1")).await.unwrap();
        assert_eq!(elsewhere.requests().len(), 2);
        assert!(!was_told(&elsewhere), "{:?}", elsewhere.requests());
    }
}

#[tokio::test]
async fn a_challenge_from_a_redirects_target_gets_no_answer() {
    let registry = FaultRegistry::start_with_auth(basic()).await;
    let elsewhere = FaultRegistry::start_with_auth(basic()).await;
    registry.load(PATH, &image());
    let to = elsewhere.url().to_owned();
    let client = logged_in(&registry);
    client.head(&tag("1")).await.unwrap();
    registry.fault(Fault::new(Effect::Redirect { to }));
    let error = client.head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized);
    assert!(!was_told(&elsewhere), "{:?}", elsewhere.requests());
}

#[tokio::test]
async fn a_redirects_target_that_wants_a_token_gets_one_of_its_own_without_a_credential() {
    let auth = Bearer {
        anonymous_pull: true,
        ..bearer()
    };
    let elsewhere = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    let built = image();
    elsewhere.load(PATH, &built);
    for auth in [Auth::None, basic(), Auth::Bearer(bearer())] {
        let registry = FaultRegistry::start_with_auth(auth).await;
        let to = elsewhere.url().to_owned();
        let client = logged_in(&registry);
        registry.load(PATH, &built);
        client.head(&tag("1")).await.unwrap();
        registry.fault(Fault::new(Effect::Redirect { to }).path("/v2/"));
        assert!(client.head(&tag("1")).await.unwrap().is_some());
        let (blob, bytes) = large_blob(&built);
        assert_eq!(read(client.blob(&blob, 0).await).await.unwrap(), bytes);
    }
    let asked = |r: &coral_testkit::Recorded| r.path.starts_with("/token");
    assert!(elsewhere.count(asked) > 0);
    assert_eq!(
        elsewhere.count(|r| asked(r) && r.authorization.is_some()),
        0
    );
    let basic = |r: &coral_testkit::Recorded| {
        let told = r.authorization.as_deref().unwrap_or_default();
        told.starts_with("Basic")
    };
    assert_eq!(elsewhere.count(basic), 0);
}

/// Regression: the entry for a redirect's target was not used, and each request was sent there
/// twice.
#[tokio::test]
async fn a_redirects_target_with_an_entry_of_its_own_is_told_that_one_and_remembered() {
    for auth in [basic(), Auth::Bearer(bearer())] {
        let elsewhere = FaultRegistry::start_with_auth(auth).await;
        let registry = FaultRegistry::start_with_auth(basic()).await;
        let built = image();
        elsewhere.load(PATH, &built);
        let to = elsewhere.url().to_owned();
        registry.fault(Fault::new(Effect::Redirect { to }).path("/v2/"));
        let both = credentials(&registry).merged_with(credentials(&elsewhere));
        let client = with(&registry, plain(&[&registry, &elsewhere]), both.clone());
        let pinned = Version::Digest(built.digest());
        client.head(&pinned).await.unwrap().unwrap();
        elsewhere.clear_requests();
        let (blob, bytes) = large_blob(&built);
        assert_eq!(read(client.blob(&blob, 0).await).await.unwrap(), bytes);
        client.manifest(&pinned).await.unwrap();
        assert_eq!(elsewhere.requests().len(), 2);
        // No secret is sent over plain HTTP unless it is configured.
        elsewhere.clear_requests();
        let client = with(&registry, plain(&[&registry]), both);
        client.head(&pinned).await.unwrap_err();
        assert!(!was_told(&elsewhere), "{:?}", elsewhere.requests());
    }
}

/// Regression: a registry could have content that the user's other logins can read stored under its
/// tag.
#[tokio::test]
async fn a_tag_that_another_registry_redirects_is_read_without_the_login_for_the_target() {
    for auth in [basic(), Auth::Bearer(bearer())] {
        let elsewhere = FaultRegistry::start_with_auth(auth).await;
        let registry = FaultRegistry::start().await;
        let built = image();
        elsewhere.load(PATH, &built);
        let to = elsewhere.url().to_owned();
        registry.fault(Fault::new(Effect::Redirect { to }).path("/v2/"));
        let client = with(
            &registry,
            plain(&[&registry, &elsewhere]),
            credentials(&elsewhere),
        );
        // An authorization that was learnt with a digest is not used for a tag either.
        client
            .manifest(&Version::Digest(built.digest()))
            .await
            .unwrap();
        elsewhere.clear_requests();
        for error in [
            client.manifest(&tag("1")).await.unwrap_err(),
            client.tags().await.unwrap_err(),
        ] {
            let said = error.to_string();
            assert_eq!(error.category(), Category::Unauthorized, "{said}");
            assert!(said.contains("name "), "{said}");
            assert!(said.contains("or the image's digest"), "{said}");
        }
        assert!(!was_told(&elsewhere), "{:?}", elsewhere.requests());
    }
}

#[tokio::test]
async fn a_stale_entry_for_a_redirects_target_does_not_hide_what_is_public() {
    let auth = Bearer {
        anonymous_pull: true,
        ..bearer()
    };
    let elsewhere = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    let registry = FaultRegistry::start().await;
    elsewhere.load(PATH, &image());
    let to = elsewhere.url().to_owned();
    registry.fault(Fault::new(Effect::Redirect { to }));
    let stale = Credentials::for_one_host(host(&elsewhere), "other", "stale", "an old entry");
    let client = with(&registry, plain(&[&registry, &elsewhere]), stale);
    client.manifest(&tag("1")).await.unwrap();
}

#[tokio::test]
async fn a_redirects_target_whose_token_server_refuses_gets_no_credential() {
    let registry = FaultRegistry::start().await;
    let elsewhere = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    let to = elsewhere.url().to_owned();
    registry.fault(Fault::new(Effect::Redirect { to }));
    let client = logged_in(&registry);
    for _ in 0..2 {
        let error = client.head(&tag("1")).await.unwrap_err();
        assert_eq!(error.category(), Category::Unauthorized, "{error}");
    }
    assert!(!was_told(&elsewhere), "{:?}", elsewhere.requests());
}

#[tokio::test]
async fn an_upload_that_is_sent_elsewhere_takes_no_credential_along() {
    let registry = FaultRegistry::start_with_auth(basic()).await;
    let (blob, bytes) = large_blob(&image());
    let client = logged_in(&registry);
    // One host demands no credential, the other accepts exactly the one that the user has.
    let open = FaultRegistry::start().await;
    let greedy = FaultRegistry::start_with_auth(basic()).await;
    for (elsewhere, category) in [(open, Category::NotFound), (greedy, Category::Unauthorized)] {
        registry.clear_faults();
        let location = format!("{}/v2/{PATH}/blobs/uploads/x", elsewhere.url());
        registry.fault(Fault::new(set_header("location", &location)).method("POST"));
        let upload = begin(&client, &blob.digest).await.unwrap();
        let error = upload.put(blob.size, stream_of(&bytes)).await.unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        let upload = begin(&client, &blob.digest).await.unwrap();
        let error = upload
            .put_chunked(30_000, stream_of(&bytes))
            .await
            .unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        let mut methods: Vec<_> = elsewhere.requests().into_iter().map(|r| r.method).collect();
        // A failed upload may be cancelled there as well.
        methods.retain(|method| method != "DELETE");
        assert_eq!(methods, ["PUT", "PATCH"]);
        assert!(!was_told(&elsewhere), "{:?}", elsewhere.requests());
    }
}

/// Options that trust this registry's certificate, and speak plain HTTP to no host.
fn trusting(registry: &FaultRegistry) -> ClientOptions {
    let mut options = plain(&[]);
    let ca_pem = registry.ca_pem().map(|pem| pem.as_bytes().to_vec());
    let trusting = HostOptions {
        ca_pem,
        ..HostOptions::default()
    };
    options.hosts.insert(host(registry), trusting);
    options
}

#[tokio::test]
async fn an_upload_over_https_cannot_be_sent_on_to_plain_http() {
    let (blob, bytes) = large_blob(&image());
    // At the beginning of the upload, and half way.
    for (method, chunk) in [("POST", None), ("PATCH", Some(30_000))] {
        let registry = FaultRegistry::start_tls().await;
        let elsewhere = FaultRegistry::start().await;
        let location = format!("{}/v2/{PATH}/blobs/uploads/x", elsewhere.url());
        registry.fault(Fault::new(set_header("location", &location)).method(method));
        let push = async |options| {
            let client = with(&registry, options, credentials(&registry));
            let upload = begin(&client, &blob.digest).await?;
            match chunk {
                None => upload.put(blob.size, stream_of(&bytes)).await,
                Some(chunk) => upload.put_chunked(chunk, stream_of(&bytes)).await,
            }
        };
        let error = push(trusting(&registry)).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::WaitForChange, "{error}");
        let advice = format!("--plain-http {}", elsewhere.host());
        assert!(error.to_string().contains(&advice), "{error}");
        assert!(elsewhere.requests().is_empty(), "{method}");
        // If plain HTTP is allowed for the host, the upload continues there.
        let mut allowing = trusting(&registry);
        allowing.hosts.extend(plain(&[&elsewhere]).hosts);
        push(allowing).await.unwrap_err();
        assert!(!elsewhere.requests().is_empty(), "{method}");
    }
}

#[tokio::test]
async fn a_registry_over_https_cannot_lead_to_plain_http() {
    let registry = FaultRegistry::start_tls().await;
    let elsewhere = FaultRegistry::start().await;
    let options = trusting(&registry);
    let to = elsewhere.url().to_owned();
    registry.fault(Fault::new(Effect::Redirect { to }));
    let client = with(&registry, options, credentials(&registry));
    let error = client.head(&tag("1")).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::WaitForChange);
    assert!(
        error
            .to_string()
            .contains(&format!("--plain-http {}", elsewhere.host())),
        "{error}"
    );
    assert!(elsewhere.requests().is_empty());
}

/// Regression: the advice was --plain-http, which has no effect on an address with https.
#[tokio::test]
async fn a_redirect_to_https_where_plain_http_is_spoken_is_told_as_the_registrys_mistake() {
    let registry = FaultRegistry::start_tls().await;
    let elsewhere = FaultRegistry::start().await;
    let to = format!("https://{}", elsewhere.host());
    registry.fault(Fault::new(Effect::Redirect { to: to.clone() }));
    let client = with(&registry, trusting(&registry), credentials(&registry));
    let error = client.head(&tag("1")).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("gave the address {to}/")),
        "{error}"
    );
    assert!(!error.contains("--plain-http"), "{error}");
}

#[tokio::test]
async fn a_registry_over_https_cannot_send_passwords_to_a_plain_token_server() {
    let tokens = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    let realm = format!("{}/token", tokens.url());
    let options = Options {
        tls: true,
        auth: Auth::Bearer(Bearer {
            realm: Some(realm),
            ..bearer()
        }),
        ..Options::default()
    };
    let registry = FaultRegistry::start_with(options).await.unwrap();
    let client = with(&registry, trusting(&registry), credentials(&registry));
    let error = client.head(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains("token server"), "{error}");
    assert_eq!(error.disposition(), Disposition::WaitForChange);
    assert!(tokens.requests().is_empty());
}

#[tokio::test]
async fn a_credential_of_one_registry_is_not_shown_to_another() {
    let registry = FaultRegistry::start().await;
    let other = FaultRegistry::start_with_auth(basic()).await;
    let client = with(&other, plain(&[&registry, &other]), credentials(&registry));
    let error = client.head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized);
    assert!(!was_told(&other));
}

/// Regression: plain HTTP that was allowed for a registry was also allowed for its token server.
#[tokio::test]
async fn a_token_server_elsewhere_in_plain_http_gets_a_credential_only_where_that_was_asked_for() {
    let server = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    let auth = Bearer {
        realm: Some(format!("{}/token", server.url())),
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    registry.load(PATH, &image());
    let error = logged_in(&registry).head(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains("--plain-http"), "{error}");
    assert_eq!(error.disposition(), Disposition::WaitForChange);
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    let client = with(
        &registry,
        plain(&[&registry, &server]),
        credentials(&registry),
    );
    // Tokens for another registry are refused; the registry that was asked counts.
    let _ = client.head(&tag("1")).await;
    assert!(was_told(&server));
}

/// Regression: a registry over plain HTTP could name any server as its token server, and received
/// that server's answer.
#[tokio::test]
async fn what_a_server_that_was_not_allowed_answers_is_sent_to_no_registry_as_a_token() {
    let inside = FaultRegistry::start().await;
    let answer = r#"{"access_token": "token-of-another-service"}"#;
    inside.fault(Fault::new(status(200, &[], answer)));
    for is_redirected in [false, true] {
        let registry = FaultRegistry::start().await;
        let named = if is_redirected { &registry } else { &inside };
        let challenge = format!("Bearer realm=\"{}/token\"", named.url());
        let challenge = status(401, &[("www-authenticate", &challenge)], "");
        registry.fault(Fault::new(challenge).path("/v2/"));
        let to = inside.url().to_owned();
        registry.fault(Fault::new(Effect::Redirect { to }).path("/token"));
        let ask = async |options| {
            let client = with(&registry, options, Credentials::none());
            client.manifest(&tag("1")).await.unwrap_err()
        };
        let error = ask(plain(&[&registry])).await;
        assert_eq!(error.disposition(), Disposition::WaitForChange, "{error}");
        let advice = format!("--plain-http {}", inside.host());
        assert!(error.to_string().contains(&advice), "{error}");
        assert!(!was_told(&registry), "{:?}", registry.requests());
        // If the user allows the server, its tokens are used.
        ask(plain(&[&registry, &inside])).await;
        assert!(was_told(&registry), "{:?}", registry.requests());
    }
}
