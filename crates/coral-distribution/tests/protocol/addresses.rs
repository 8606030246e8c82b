//! Refused addresses: as a source, behind a redirect, as a token server.

use std::collections::BTreeSet;

use coral_distribution::{AddressRules, Category, ClientOptions, Credentials, Disposition, Error};
use coral_testkit::{Effect, Fault, FaultRegistry};

use crate::fixture::*;

/// Options for these registries, of which the last one's address is refused.
fn refusing(registries: &[&FaultRegistry]) -> ClientOptions {
    let mut options = plain(registries);
    let refused = registries.last().unwrap().host().parse().unwrap();
    options.addresses = AddressRules {
        refuse_local: false,
        refused: Some(BTreeSet::from([refused]).into()),
        ..AddressRules::default()
    };
    options
}

fn assert_refused(error: &Error, registry: &FaultRegistry) {
    assert_eq!(error.category(), Category::Protocol, "{error}");
    assert_eq!(error.disposition(), Disposition::WaitForChange);
    let chain = coral_distribution_chain(error);
    assert!(chain.contains("images are not read from there"), "{chain}");
    assert!(registry.requests().is_empty(), "nothing was sent there");
}

fn coral_distribution_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn a_refused_address_is_not_asked_as_a_source() {
    let (registry, _) = registry_with_image().await;
    let client = with(&registry, refusing(&[&registry]), Credentials::none());
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert_refused(&error, &registry);
    let mut local = plain(&[&registry]);
    local.addresses.refuse_local = true;
    let client = with(&registry, local, Credentials::none());
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert_refused(&error, &registry);
}

#[tokio::test]
async fn a_name_that_resolves_to_the_machine_itself_is_refused() {
    let (registry, _) = registry_with_image().await;
    let (_, port) = registry
        .host()
        .rsplit_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .unwrap();
    let name = coral_image::Repository::parse(&format!("localhost:{port}/{PATH}")).unwrap();
    let mut options = ClientOptions::default();
    let http = coral_distribution::HostOptions {
        plain_http: true,
        ..coral_distribution::HostOptions::default()
    };
    options.hosts.insert(name.host().clone(), http);
    options.addresses.refuse_local = true;
    let client = coral_distribution::Client::new(options).unwrap();
    let client = client.repository(&name, std::sync::Arc::new(Credentials::none()));
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert_refused(&error, &registry);
}

#[tokio::test]
async fn a_refused_address_is_not_asked_behind_a_redirect() {
    let (source, _) = registry_with_image().await;
    let inside = FaultRegistry::start().await;
    let to = format!("http://{}", inside.host());
    source.fault(Fault::new(Effect::Redirect { to }));
    let client = with(&source, refusing(&[&source, &inside]), Credentials::none());
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert_refused(&error, &inside);
}

#[tokio::test]
async fn a_refused_address_is_not_asked_as_a_token_server() {
    let (source, _) = registry_with_image().await;
    let inside = FaultRegistry::start().await;
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\"",
        inside.host()
    );
    source.fault(Fault::new(status(401, &[("www-authenticate", &realm)], "")));
    let client = with(&source, refusing(&[&source, &inside]), Credentials::none());
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert_refused(&error, &inside);
}
