//! Passes over an API server that answers as a test says.

use kube::runtime::watcher;

use super::*;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::mirror::MirrorPart;
use crate::part::{Part as _, Wake};
use crate::scripted::{Server, context, refusal};

/// A mirror that has copied an image and whose Registry is away.
fn away() -> (Context, Server) {
    let (mut context, server) = context();
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let held = image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00"));
    mirror.status = Some(status_of(&mirror, &snapshot(vec![held]), true, 10));
    context.cluster.mirrors = Store::from_objects([mirror]);
    let registry = json!({"metadata": {"namespace": "a", "name": "reg"}, "spec": {}});
    let registry = serde_json::from_value(registry).unwrap();
    context.cluster.registries = Store::<coral_api::Registry>::from_objects([registry]);
    let registries = seen().registries.unwrap();
    let away = registries.iter().map(|(key, access)| {
        let (ready, access) = (false, access.clone());
        (key.clone(), RegistryAccess { ready, ..access })
    });
    context.shared.registries.set(away.collect());
    context.shared.ca.set(String::new());
    (context, server)
}

#[tokio::test]
async fn a_mirror_whose_registry_is_away_says_so_and_keeps_its_images() {
    let (context, server) = away();
    let writes = server.serve(|_| None);
    MirrorPart::new(context, &Metrics::default())
        .pass(at(20))
        .await
        .unwrap();
    let status = writes.to("/registrymirrors/m/status").remove(0);
    assert!(status.to_string().contains("RegistryNotReady"), "{status}");
    assert_eq!(status["status"]["mirrored"], 1);
}

#[tokio::test]
async fn no_mirror_starts_before_the_addresses_of_the_api_servers_are_known() {
    let (context, server) = away();
    let mut is_refused = true;
    let writes = server.serve(move |asked| {
        let is_read = asked.uri.ends_with("/endpointslices/kubernetes");
        let refused = is_read && std::mem::take(&mut is_refused);
        refused.then(|| (403, refusal(403, "Forbidden")))
    });
    let shared = context.shared.clone();
    let registries = shared.registries.get().unwrap();
    let back = registries.iter().map(|(key, access)| {
        let (ready, access) = (true, access.clone());
        (key.clone(), RegistryAccess { ready, ..access })
    });
    shared.registries.set(back.collect());
    let mut part = MirrorPart::new(context, &Metrics::default());
    let Wake::At(next) = part.pass(at(20)).await.unwrap() else {
        panic!("the addresses are read again");
    };
    let written = writes.to("/registrymirrors/m/status").remove(0).to_string();
    assert!(written.contains("WaitingForAddresses"), "{written}");
    assert!(
        written.contains("EndpointSlice default/kubernetes"),
        "{written}"
    );
    assert!(part.fleet.is_empty(), "no mirror runs");
    let why = shared.address_rules.get().unwrap();
    assert!(why.as_ref().as_ref().unwrap_err().contains("EndpointSlice"));
    assert!(shared.public_paths.get().is_some(), "public lists move");

    part.pass(next).await.unwrap();
    let written = writes.to("/registrymirrors/m/status").remove(1).to_string();
    // It would start: this test has no certificate of a CA.
    assert!(written.contains("ClientInvalid"), "{written}");
    assert!(shared.address_rules.get().unwrap().is_ok());
}

#[tokio::test]
async fn a_mirror_that_cannot_be_decoded_leaves_what_is_public_as_it_is() {
    let (context, server) = away();
    let broken = json!({"metadata": {"namespace": "a", "name": "n"}, "spec": 7});
    let event = watcher::Event::Apply(serde_json::from_value(broken).unwrap());
    context.cluster.mirrors.take(event, |_, _| false);
    server.serve(|_| None);
    let shared = context.shared.clone();
    MirrorPart::new(context, &Metrics::default())
        .pass(at(20))
        .await
        .unwrap();
    let public = shared.public_paths.get().unwrap();
    assert_eq!(public.for_registry(&ObjectKey::new("a", "reg")), None);
    assert_eq!(
        public.for_registry(&ObjectKey::new("b", "reg")),
        Some(BTreeSet::new())
    );
}
