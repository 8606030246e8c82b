//! Registries on this machine without options: HTTPS first, then plain HTTP.

use coral_distribution::{Category, ClientOptions, Credentials};
use coral_testkit::{Auth, FaultRegistry, Options, Recorded};

use crate::fixture::*;

fn unsaid(registry: &FaultRegistry) -> coral_distribution::RepositoryClient {
    with(registry, ClientOptions::default(), credentials(registry))
}

fn is_question(request: &Recorded) -> bool {
    request.method == "GET" && request.path == "/v2/"
}

#[tokio::test]
async fn a_registry_on_loopback_without_tls_is_read_and_written_over_plain_http() {
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(bearer())).await;
    let client = unsaid(&registry);
    let (blob, bytes) = large_blob(&image());
    let upload = begin(&client, &blob.digest).await.unwrap();
    upload.put(blob.size, stream_of(&bytes)).await.unwrap();
    assert_eq!(read(client.blob(&blob, 0).await).await.unwrap(), bytes);
    let requests = registry.requests();
    let questions: Vec<_> = requests.iter().filter(|r| is_question(r)).collect();
    assert_eq!(questions.len(), 1, "it is asked once: {questions:?}");
    assert_eq!(questions[0].authorization, None);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_does_not_lead_to_plain_http() {
    let registry = FaultRegistry::start_tls().await;
    let error = unsaid(&registry).head(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Tls, "{error}");
    assert!(error.to_string().contains("--ca "), "{error}");
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_registry_that_gets_tls_later_is_no_longer_asked_by_plain_http() {
    let registry = FaultRegistry::start().await;
    let client = unsaid(&registry);
    assert!(client.head(&tag("1")).await.unwrap().is_none());
    let listen = registry.addr();
    drop(registry);
    let options = Options {
        listen,
        tls: true,
        auth: Auth::None,
        ..Options::default()
    };
    let registry = start_again(options).await;
    let _ = client.head(&tag("1")).await.unwrap_err();
    let error = client.head(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains("--ca "), "{error}");
    assert!(registry.requests().is_empty());
}

/// The port is free once the dropped registry has closed its listener.
async fn start_again(options: Options) -> FaultRegistry {
    loop {
        match FaultRegistry::start_with(options.clone()).await {
            Ok(registry) => return registry,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn a_registry_on_loopback_that_is_not_there_is_told_as_that() {
    let registry = FaultRegistry::start().await;
    let client = with(&registry, ClientOptions::default(), Credentials::none());
    drop(registry);
    let error = loop {
        match client.head(&tag("1")).await {
            Err(error) if error.category() == Category::Connect => break error,
            // The old registry is about to stop.
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(error.to_string().contains("refused"), "{error}");
}
