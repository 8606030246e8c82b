//! Every kind of failure has its category, its disposition and a helpful message.

use std::sync::Arc;
use std::time::Duration;

use coral_distribution::{Category, Client, ClientOptions, Credentials, Disposition, Error};
use coral_testkit::{Effect, Fault, FaultRegistry, Throttle};

use crate::fixture::*;

/// The error of reading a manifest under this fault.
async fn failure(effect: Effect) -> Error {
    let (registry, _) = registry_with_image().await;
    let options = patient_enough(&registry, &effect);
    registry.fault(Fault::new(effect));
    let client = with(&registry, options, Credentials::none());
    client.manifest(&tag("1")).await.unwrap_err()
}

#[tokio::test]
async fn every_status_has_its_category_and_disposition() {
    use Category as C;
    use Disposition::{Retry, WaitForChange, WaitForRoom};
    let cases = [
        (401, C::Unauthorized, WaitForChange),
        (403, C::Forbidden, WaitForChange),
        (404, C::NotFound, WaitForChange),
        (400, C::Refused, WaitForChange),
        (408, C::Timeout, Retry),
        (429, C::RateLimited, Retry),
        (500, C::Server, Retry),
        (502, C::Server, Retry),
        (503, C::Server, Retry),
        (204, C::Protocol, WaitForChange),
        (206, C::Protocol, WaitForChange),
        (299, C::Protocol, WaitForChange),
        (300, C::Protocol, WaitForChange),
        (304, C::Protocol, WaitForChange),
        (501, C::Server, WaitForChange),
        (505, C::Server, WaitForChange),
        (507, C::NoRoom, WaitForRoom),
        (511, C::Server, WaitForChange),
    ];
    for (code, category, disposition) in cases {
        let error = failure(status(code, &[], "because")).await;
        assert_eq!(error.category(), category, "{code}: {error}");
        assert_eq!(error.disposition(), disposition, "{code}: {error}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(error.to_string().contains("team/app:1"), "{error}");
    }
}

#[tokio::test]
async fn a_rate_limit_is_one_in_every_shape() {
    let seconds = |s| Disposition::RetryAfter(Duration::from_secs(s));
    let cases = [
        (Throttle::Seconds(9), seconds(9)),
        (Throttle::Bare, Disposition::Retry),
        (
            Throttle::RateLimit {
                limit: 100,
                window: 21_600,
            },
            Disposition::Retry,
        ),
        (Throttle::Body, Disposition::Retry),
        (
            Throttle::Forbidden { retry_after: None },
            Disposition::Retry,
        ),
        (
            Throttle::Forbidden {
                retry_after: Some(9),
            },
            seconds(9),
        ),
    ];
    for (shape, disposition) in cases {
        let error = failure(Effect::Throttle(shape.clone())).await;
        assert_eq!(
            error.category(),
            Category::RateLimited,
            "{shape:?}: {error}"
        );
        assert_eq!(error.disposition(), disposition, "{shape:?}: {error}");
    }
    let limited = Throttle::RateLimit {
        limit: 100,
        window: 21_600,
    };
    let error = failure(Effect::Throttle(limited)).await;
    assert!(
        error.to_string().contains("100 requests in 21600 s"),
        "{error}"
    );
    let error = failure(Effect::Throttle(Throttle::Date(100))).await;
    let wait = error.retry_after().unwrap().as_secs();
    assert!((90..=100).contains(&wait), "{wait}");
    let error = failure(status(429, &[("ratelimit-reset", "30")], "")).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    let error = failure(status(503, &[("retry-after", "30")], "")).await;
    assert_eq!(error.disposition(), seconds(30));
}

/// A rate limit must not be reported as a wrong credential.
#[tokio::test]
async fn a_403_to_head_is_asked_about_once_and_a_rate_limit_says_nothing_of_credentials() {
    let (registry, _) = registry_with_image().await;
    let limited = Effect::Throttle(Throttle::Forbidden { retry_after: None });
    registry.fault(Fault::new(limited));
    let error = logged_in(&registry).head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::RateLimited, "{error}");
    assert_eq!(error.disposition(), Disposition::Retry);
    assert!(!error.to_string().contains("credential"), "{error}");
    let asked = |registry: &FaultRegistry| -> Vec<String> {
        registry
            .requests()
            .iter()
            .map(|r| r.method.clone())
            .collect()
    };
    assert_eq!(asked(&registry), ["HEAD", "GET"]);
    // A forbidden request stays forbidden, even if reading would be allowed.
    let (registry, _) = registry_with_image().await;
    registry.fault(Fault::new(status(403, &[], "")).method("HEAD"));
    let error = anonymous(&registry).head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Forbidden, "{error}");
    assert!(
        error.to_string().contains("without a credential"),
        "{error}"
    );
    assert_eq!(asked(&registry), ["HEAD", "GET"]);
}

#[tokio::test]
async fn what_the_registry_says_is_shown_clean_and_short() {
    let body = r#"{"errors":[{"code":"DENIED","message":"pay \u001b[31mup\r\nnow"}]}"#;
    let error = failure(status(403, &[], body)).await;
    assert!(
        error.to_string().contains("DENIED: pay [31mup now"),
        "{error}"
    );
    let error = failure(status(500, &[], &"x".repeat(1_000_000))).await;
    assert!(error.to_string().len() < 600);
}

/// A blob may disappear between the check and the manifest: it was cleaned up, or found to be
/// damaged.
#[tokio::test]
async fn a_blob_that_is_gone_again_is_worth_another_try() {
    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"push it first"}]}"#;
    let error = failure(status(400, &[], body)).await;
    assert_eq!(error.category(), Category::Refused);
    assert_eq!(error.disposition(), Disposition::Retry);
}

#[tokio::test]
async fn a_web_page_is_named() {
    for code in [200, 404, 502] {
        let error = failure(Effect::Html { status: code }).await;
        assert!(error.to_string().contains("HTML"), "{error}");
        assert!(!error.to_string().contains("guest network"), "{error}");
    }
    assert_eq!(
        failure(Effect::Html { status: 200 }).await.category(),
        Category::Protocol
    );
}

#[tokio::test]
async fn nothing_moving_is_a_timeout() {
    for effect in [Effect::Stall, Effect::StallBody { after: 10 }] {
        let error = failure(effect).await;
        assert_eq!(error.category(), Category::Timeout, "{error}");
        assert_eq!(error.disposition(), Disposition::Retry);
    }
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_a_timeout() {
    // Accepts the connection, but never answers the handshake.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/a", silent.local_addr().unwrap());
    let options = ClientOptions {
        connect_timeout: Duration::from_millis(200),
        ..plain(&[])
    };
    let repository = coral_image::Repository::parse(&name).unwrap();
    let client = Client::new(options).unwrap();
    let client = client.repository(&repository, Arc::new(Credentials::none()));
    let error = client.head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Timeout, "{error}");
    assert!(
        error.to_string().contains("no connection within 0.2 s"),
        "{error}"
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_no_failure() {
    let (registry, _) = registry_with_image().await;
    let client = anonymous(&registry);
    registry.fault(Fault::new(Effect::Close).first(1));
    assert!(client.head(&tag("1")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_cut_connection_is_named() {
    let effects = [
        Effect::Close,
        Effect::CutWire { after: 20 },
        Effect::CutWire { after: 300 },
        Effect::CutBody { after: 10 },
    ];
    for effect in effects {
        let error = failure(effect.clone()).await;
        assert_eq!(error.category(), Category::Cut, "{effect:?}: {error}");
        assert_eq!(error.disposition(), Disposition::Retry);
    }
}

#[tokio::test]
async fn redirects_in_a_circle_are_named() {
    let error = failure(Effect::RedirectLoop).await;
    assert_eq!(error.category(), Category::Protocol);
    assert!(error.to_string().contains("circle"), "{error}");
    let error = failure(status(302, &[], "")).await;
    assert!(error.to_string().contains("Location"), "{error}");
    let error = failure(status(307, &[("location", "file:///etc/passwd")], "")).await;
    assert!(error.to_string().contains("not an HTTP address"), "{error}");
}

#[tokio::test]
async fn a_chain_of_redirects_ends() {
    let mut chain = vec![registry_with_image().await.0];
    for _ in 0..12 {
        let registry = FaultRegistry::start().await;
        let to = chain.last().unwrap().url().to_owned();
        registry.fault(Fault::new(Effect::Redirect { to }));
        chain.push(registry);
    }
    let error = anonymous(&chain[12]).manifest(&tag("1")).await.unwrap_err();
    assert!(
        error.to_string().contains("more than 10 redirects"),
        "{error}"
    );
    anonymous(&chain[10]).manifest(&tag("1")).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_not_there_is_told_apart_from_a_name_that_is_not() {
    let (registry, _) = registry_with_image().await;
    let repository = |name: &str| {
        let client = coral_distribution::Client::new(plain(&[&registry])).unwrap();
        let repository = coral_image::Repository::parse(name).unwrap();
        client.repository(&repository, std::sync::Arc::new(Credentials::none()))
    };
    let error = repository("127.0.0.1:1/a")
        .head(&tag("1"))
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Connect, "{error}");
    let error = repository("no-such-host.invalid/a")
        .head(&tag("1"))
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Dns, "{error}");
    assert!(
        error.to_string().contains("no-such-host.invalid"),
        "{error}"
    );
}

#[tokio::test]
async fn redirects_to_nowhere_and_what_a_server_has_not_built_are_not_tried_again() {
    for effect in [
        status(302, &[], ""),
        status(307, &[("location", "ftp://elsewhere.example/x")], ""),
        status(501, &[], ""),
        status(505, &[], ""),
    ] {
        let (registry, _) = registry_with_image().await;
        registry.fault(Fault::new(effect.clone()));
        let error = anonymous(&registry).manifest(&tag("1")).await.unwrap_err();
        let disposition = error.disposition();
        assert_eq!(
            disposition,
            Disposition::WaitForChange,
            "{effect:?}: {error}"
        );
    }
}

/// Regression: HTML pages without the content type of HTML were tried five times.
#[tokio::test]
async fn pages_and_other_json_in_place_of_an_answer_are_not_tried_again() {
    let xml = [("content-type", "application/xml")];
    let pages = [
        status(200, &[], "\n<!DOCTYPE html><html></html>"),
        status(200, &xml, "<?xml version='1.0'?><Error/>"),
        status(200, &[("content-type", "text/html")], "<html>"),
    ];
    for effect in pages {
        let (registry, _) = registry_with_image().await;
        registry.fault(Fault::new(effect.clone()));
        let client = anonymous(&registry);
        for error in [
            client.manifest(&tag("1")).await.unwrap_err(),
            client.tags().await.unwrap_err(),
        ] {
            let disposition = error.disposition();
            assert_eq!(disposition, Disposition::WaitForChange, "{error}");
            assert!(error.to_string().contains("not a registry"), "{error}");
        }
    }
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(status(200, &[], "")));
    let client = anonymous(&registry);
    for error in [
        client.manifest(&tag("1")).await.unwrap_err(),
        client.tags().await.unwrap_err(),
        client.referrers(&built.digest()).await.unwrap_err(),
    ] {
        let disposition = error.disposition();
        assert_eq!(disposition, Disposition::WaitForChange, "{error}");
        assert!(error.to_string().contains("the answer is empty"), "{error}");
    }
    let (registry, _) = registry_with_image().await;
    registry.fault(Fault::new(status(200, &[], "{}")));
    let error = anonymous(&registry).tags().await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::WaitForChange, "{error}");
    assert!(error.to_string().contains("not a list of tags"), "{error}");
}

#[tokio::test]
async fn a_token_server_that_gives_no_token_is_not_asked_again() {
    for body in [
        "",
        "{}",
        "<html></html>",
        "<?xml version='1.0'?><Error/>",
        "busy",
    ] {
        let registry = FaultRegistry::start_with_auth(coral_testkit::Auth::Bearer(bearer())).await;
        registry.fault(Fault::new(status(200, &[], body)).path("/token"));
        let error = logged_in(&registry).manifest(&tag("1")).await.unwrap_err();
        let disposition = error.disposition();
        assert_eq!(disposition, Disposition::WaitForChange, "{body}: {error}");
        assert_eq!(error.category(), Category::Protocol, "{body}: {error}");
    }
}
