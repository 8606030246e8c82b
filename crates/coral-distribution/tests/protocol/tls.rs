//! TLS: which certificates are trusted, and the errors for those that are not.

use coral_distribution::{
    Category, Client, ClientOptions, Credentials, Disposition, Error, HostOptions, Redacted,
};
use coral_testkit::{FaultRegistry, Options};

use crate::fixture::*;

fn options(registry: &FaultRegistry, of_host: HostOptions) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.hosts.insert(host(registry), of_host);
    options
}

/// The result of looking up a tag.
async fn ask(registry: &FaultRegistry, of_host: HostOptions) -> Result<(), Error> {
    let client = with(registry, options(registry, of_host), Credentials::none());
    client.head(&tag("1")).await.map(drop)
}

#[tokio::test]
async fn a_ca_of_its_own_is_trusted_where_it_is_named() {
    let registry = FaultRegistry::start_tls().await;
    let ca_pem = registry.ca_pem().map(|pem| pem.as_bytes().to_vec());
    ask(
        &registry,
        HostOptions {
            ca_pem,
            ..HostOptions::default()
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_ca_that_was_not_named_is_not_trusted() {
    let registry = FaultRegistry::start_tls().await;
    let other = FaultRegistry::start_tls().await;
    let others = other.ca_pem().map(|pem| pem.as_bytes().to_vec());
    for ca_pem in [None, others] {
        let of_host = HostOptions {
            ca_pem,
            ..HostOptions::default()
        };
        let error = ask(&registry, of_host).await.unwrap_err();
        assert_eq!(error.category(), Category::Tls, "{error}");
        assert!(error.to_string().contains("--ca "), "{error}");
        // A retry cannot help.
        assert_eq!(error.disposition(), Disposition::WaitForChange);
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn verification_is_skipped_only_where_it_is_asked_for() {
    let registry = FaultRegistry::start_tls().await;
    let other = FaultRegistry::start_tls().await;
    let skipping = HostOptions {
        skip_tls_verify: true,
        ..HostOptions::default()
    };
    ask(&registry, skipping.clone()).await.unwrap();
    let client = with(&other, options(&registry, skipping), Credentials::none());
    assert_eq!(
        client.head(&tag("1")).await.unwrap_err().category(),
        Category::Tls
    );
}

#[tokio::test]
async fn plain_http_to_a_tls_server_is_named() {
    let registry = FaultRegistry::start_tls().await;
    let plain = HostOptions {
        plain_http: true,
        ..HostOptions::default()
    };
    let error = ask(&registry, plain).await.unwrap_err();
    assert!(
        error.to_string().contains("TLS"),
        "{}: {error}",
        error.category()
    );
    assert_eq!(error.disposition(), Disposition::WaitForChange);
}

#[test]
fn a_ca_that_cannot_be_read_is_refused_at_once() {
    for pem in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let of_host = HostOptions {
            ca_pem: Some(pem.into()),
            ..HostOptions::default()
        };
        let mut options = ClientOptions::default();
        options
            .hosts
            .insert(coral_image::Host::parse("reg.example").unwrap(), of_host);
        let error = Client::new(options).unwrap_err();
        assert_eq!(error.category(), Category::Options, "{error}");
        assert!(error.to_string().contains("reg.example"), "{error}");
    }
}

fn client_pem(of: &FaultRegistry) -> Option<Redacted<Vec<u8>>> {
    let (certificate, key) = of.client_pem()?;
    Some(Redacted::new(format!("{certificate}{key}").into_bytes()))
}

fn trusting(registry: &FaultRegistry) -> HostOptions {
    HostOptions {
        ca_pem: registry.ca_pem().map(|pem| pem.as_bytes().to_vec()),
        ..HostOptions::default()
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_its_own_host_only() {
    let asking = Options {
        tls: true,
        client_auth: true,
        ..Options::default()
    };
    let registry = FaultRegistry::start_with(asking.clone()).await.unwrap();
    let other = FaultRegistry::start_with(asking).await.unwrap();
    let of_host = HostOptions {
        client_pem: client_pem(&registry),
        ..trusting(&registry)
    };
    ask(&registry, of_host.clone()).await.unwrap();
    ask(&registry, trusting(&registry)).await.unwrap_err();
    // The certificate for another host is not accepted, and this one is not presented there.
    let mut options = options(&registry, of_host);
    options.hosts.insert(host(&other), trusting(&other));
    let client = with(&other, options, Credentials::none());
    client.head(&tag("1")).await.unwrap_err();
    assert!(other.requests().is_empty());
}

#[test]
fn a_client_certificate_that_is_none_is_refused_at_once_and_not_shown() {
    for pem in ["", "secret nonsense"] {
        let of_host = HostOptions {
            client_pem: Some(Redacted::new(pem.into())),
            ..HostOptions::default()
        };
        let mut options = ClientOptions::default();
        let host = coral_image::Host::parse("reg.example").unwrap();
        options.hosts.insert(host, of_host);
        let error = Client::new(options).unwrap_err();
        assert_eq!(error.category(), Category::Options, "{error}");
        assert!(error.to_string().contains("client certificate"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered_and_one_connection_is_enough() {
    let offering = Options {
        tls: true,
        http2: true,
        ..Options::default()
    };
    let registry = FaultRegistry::start_with(offering).await.unwrap();
    let built = image();
    registry.load(PATH, &built);
    let client = with(
        &registry,
        options(&registry, trusting(&registry)),
        Credentials::none(),
    );
    client.head(&tag("1")).await.unwrap();
    let version = tag("1");
    let asking = (0..20).map(|_| client.manifest(&version));
    futures::future::try_join_all(asking).await.unwrap();
    assert!(registry.requests().iter().all(|r| r.version == "HTTP/2.0"));
    assert_eq!(registry.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (registry, built) = registry_with_image().await;
    let client = anonymous(&registry);
    for _ in 0..5 {
        client.manifest(&tag("1")).await.unwrap();
        let (blob, _) = large_blob(&built);
        read(client.blob(&blob, 0).await).await.unwrap();
    }
    assert_eq!(registry.connections(), 1);
}
