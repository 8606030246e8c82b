//! A probe of a registry reports which step fails.

use coral_distribution::{Category, Client, ClientOptions, Credentials, HostOptions, Probe};
use coral_image::Host;
use coral_testkit::{Fault, FaultRegistry, Options};
use jiff::Timestamp;

use crate::fixture::*;

async fn probe(options: ClientOptions, host: &Host, credentials: &Credentials) -> Probe {
    let client = Client::new(options).unwrap();
    client.probe(host, credentials).await.unwrap()
}

fn trusting(registry: &FaultRegistry) -> ClientOptions {
    let of_host = HostOptions {
        ca_pem: registry.ca_pem().map(|pem| pem.as_bytes().to_vec()),
        ..HostOptions::default()
    };
    let mut options = ClientOptions::default();
    options.hosts.insert(host(registry), of_host);
    options
}

#[tokio::test]
async fn all_is_well_with_a_registry_over_tls() {
    let options = Options {
        tls: true,
        auth: basic(),
        ..Options::default()
    };
    let registry = FaultRegistry::start_with(options).await.unwrap();
    registry.fault(Fault::new(set_header("ratelimit-remaining", "7")));
    let seen = probe(
        trusting(&registry),
        &host(&registry),
        &credentials(&registry),
    )
    .await;
    assert_eq!(seen.addresses.unwrap(), [registry.addr().ip()]);
    assert_eq!(seen.connection.unwrap().unwrap(), registry.addr());
    let certificate = seen.tls.unwrap().unwrap().unwrap();
    assert!(
        certificate.issuer.contains("coral fault registry CA"),
        "{certificate:?}"
    );
    assert!(certificate.expires > Timestamp::now());
    seen.answer.unwrap().unwrap();
    // The answer has whole seconds, and a busy machine reads it later.
    assert!(seen.clock_ahead.unwrap().abs().as_secs() <= 120);
    assert_eq!(seen.rate_limit.unwrap().remaining, Some(7));
    assert_eq!(seen.proxy, None);
}

#[tokio::test]
async fn the_step_that_fails_is_the_last_one() {
    let name = Host::parse("no-such-host.invalid").unwrap();
    let seen = probe(plain(&[]), &name, &Credentials::none()).await;
    assert_eq!(seen.addresses.unwrap_err().category(), Category::Dns);
    assert!(seen.connection.is_none());

    let closed = Host::parse("127.0.0.1:1").unwrap();
    let seen = probe(plain(&[]), &closed, &Credentials::none()).await;
    assert_eq!(
        seen.connection.unwrap().unwrap_err().category(),
        Category::Connect
    );
    assert!(seen.tls.is_none());

    let registry = FaultRegistry::start_tls().await;
    let seen = probe(plain(&[]), &host(&registry), &Credentials::none()).await;
    assert!(seen.connection.unwrap().is_ok());
    assert_eq!(seen.tls.unwrap().unwrap_err().category(), Category::Tls);
    assert!(seen.answer.is_none());
}

#[tokio::test]
async fn a_credential_that_is_refused_is_said_where_anybody_may_read() {
    let auth = coral_testkit::Auth::Bearer(coral_testkit::Bearer {
        anonymous_pull: true,
        ..bearer()
    });
    let registry = FaultRegistry::start_with_auth(auth).await;
    // This makes the registry send a challenge.
    registry.fault(
        Fault::new(coral_testkit::Effect::Unauthorized)
            .path("/v2/")
            .first(2),
    );
    let wrong = Credentials::for_one_host(host(&registry), USER, "wrong", "the test");
    let seen = probe(plain(&[&registry]), &host(&registry), &wrong).await;
    let error = seen.answer.unwrap().unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized, "{error}");
    assert!(seen.tls.unwrap().unwrap().is_none(), "it speaks plain HTTP");
}
