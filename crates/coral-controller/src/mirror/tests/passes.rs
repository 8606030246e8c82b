//! Passes over an API server that answers as a test says.

use kube::runtime::watcher;

use super::*;
use crate::context::Context;
use crate::mirror::MirrorPart;
use crate::part::Part as _;
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
    MirrorPart::new(context).pass(at(20)).await.unwrap();
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
    let mut part = MirrorPart::new(context);
    let error = part.pass(at(20)).await.unwrap_err().to_string();
    assert!(error.contains("addresses of the API servers"), "{error}");
    assert!(writes.to("/status").is_empty());
    part.pass(at(21)).await.unwrap();
    assert_eq!(writes.to("/status").len(), 1);
}

#[tokio::test]
async fn a_mirror_that_cannot_be_decoded_leaves_what_is_public_as_it_is() {
    let (context, server) = away();
    let broken = json!({"metadata": {"namespace": "a", "name": "n"}, "spec": 7});
    let event = watcher::Event::Apply(serde_json::from_value(broken).unwrap());
    context.cluster.mirrors.take(event, |_, _| false);
    server.serve(|_| None);
    let shared = context.shared.clone();
    MirrorPart::new(context).pass(at(20)).await.unwrap();
    let public = shared.public_paths.get().unwrap();
    assert_eq!(public.of(&ObjectKey::new("a", "reg")), None);
    assert_eq!(
        public.of(&ObjectKey::new("b", "reg")),
        Some(BTreeSet::new())
    );
}
