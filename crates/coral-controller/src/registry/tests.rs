//! Passes over an API server that answers as a test says.

use serde_json::Value;

use super::*;
use crate::ca::certificate::Authority;
use crate::scripted::{ReceivedRequest, Server, Writes, context, list, refusal};
use crate::store::Store;

const ENDPOINT: &str = "https://10.0.0.1:5000";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A Registry that served before this process began to lead.
fn registry(generation: i64, spec: &Value) -> Registry {
    let object = json!({
        "apiVersion": "stvz.io/v1", "kind": "Registry",
        "metadata": {"name": "reg", "namespace": "a", "uid": "uid-1", "generation": generation},
        "spec": spec,
        "status": {
            "observedGeneration": generation, "clusterIP": "10.0.0.1",
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Serving", "message": "",
                "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    serde_json::from_value(object).unwrap()
}

fn service(registry: &Registry) -> Value {
    let mut service = Builder::new(registry).service();
    service["spec"]["clusterIP"] = json!("10.0.0.1");
    service
}

/// A part of a process that has just begun to lead.
fn part(registry: Registry) -> (RegistryPart, Server) {
    let (mut context, server) = context();
    context.cluster.registries = Store::from_objects([registry]);
    (RegistryPart::new(context), server)
}

fn published(part: &RegistryPart) -> Option<RegistryAccess> {
    let all = part.context.shared.registries.get()?;
    all.get(&ObjectKey::new("a", "reg")).cloned()
}

/// Whether a pass of a new leader found out how the Registry is.
fn is_observed(part: &RegistryPart) -> bool {
    published(part).is_some_and(|access| access.is_observed)
}

/// The reasons of `Ready` that were written.
fn reasons(writes: &Writes) -> Vec<String> {
    let statuses = writes.to("/registries/reg/status");
    let conditions = statuses
        .iter()
        .flat_map(|body| body["status"]["conditions"].as_array().unwrap());
    let ready = conditions.filter(|condition| condition["type"] == READY);
    ready
        .map(|condition| condition["reason"].as_str().unwrap().to_owned())
        .collect()
}

async fn kept_at_its_address(
    registry: Registry,
    answer: impl FnMut(&ReceivedRequest) -> Option<(u16, Value)> + Send + 'static,
) -> Writes {
    let (mut part, server) = part(registry);
    let authority = Authority::generate(now()).unwrap();
    part.context.shared.authority.set(authority);
    let writes = server.serve(answer);
    // An error is tried again: what was found out is published all the same.
    let _ = part.pass(now()).await;
    let access = published(&part).expect("the Registry is still there");
    assert_eq!((access.endpoint.as_str(), access.ready), (ENDPOINT, false));
    let is_told = !reasons(&writes).is_empty();
    assert_eq!(
        is_observed(&part),
        is_told,
        "mirrors say what is known only"
    );
    writes
}

#[tokio::test]
async fn a_live_registry_whose_spec_is_refused_keeps_its_address() {
    let refused = registry(2, &json!({"readOnly": true}));
    let writes = kept_at_its_address(refused, |_| None).await;
    assert_eq!(reasons(&writes), ["NotYetInCluster"]);
}

#[tokio::test]
async fn a_live_registry_whose_grant_is_removed_keeps_its_address() {
    let writes = kept_at_its_address(registry(1, &json!({})), |asked| {
        let is_granted = !asked.uri.starts_with("/apis/apps/");
        (!is_granted).then(|| (403, refusal(403, "Forbidden")))
    });
    assert_eq!(reasons(&writes.await), ["NotGranted"]);
}

#[tokio::test]
async fn a_new_leader_whose_first_read_fails_keeps_the_address() {
    let writes = kept_at_its_address(registry(1, &json!({})), |asked| {
        let is_read = asked.uri.ends_with("/services/reg");
        is_read.then(|| (400, refusal(400, "BadRequest")))
    });
    assert_eq!(reasons(&writes.await), [""; 0]);
}

#[tokio::test]
async fn a_new_leader_that_may_not_write_publishes_the_address_and_says_why() {
    let registry = registry(1, &json!({}));
    let service = service(&registry);
    let writes = kept_at_its_address(registry, move |asked| {
        let is_object = asked.uri.contains("/namespaces/a/") && !asked.uri.contains("/status");
        match asked.method.as_str() {
            "GET" if asked.uri.contains("/services?") && asked.uri.contains("limit=") => {
                Some((200, list(std::slice::from_ref(&service))))
            }
            "PATCH" if is_object => Some((403, refusal(403, "Forbidden"))),
            _ => None,
        }
    });
    let statuses = writes.await.to("/registries/reg/status");
    assert!(
        statuses[0].to_string().contains("ApplyFailed"),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn an_authority_that_comes_during_the_reads_is_used() {
    let (mut part, server) = part(registry(1, &json!({})));
    let shared = part.context.shared.clone();
    let service = service(&registry(1, &json!({})));
    let authority = Authority::generate(now()).unwrap();
    let mut authority = Some(authority);
    let writes = server.serve(move |asked| {
        let is_list = asked.uri.contains("/services?") && asked.uri.contains("limit=");
        if is_list && let Some(authority) = authority.take() {
            shared.authority.set(authority);
        }
        is_list.then(|| (200, list(std::slice::from_ref(&service))))
    });
    part.pass(now()).await.unwrap();
    assert_eq!(writes.to("/secrets/reg-tls").len(), 1);
    assert!(!reasons(&writes).contains(&"Authority".to_owned()));
}

#[tokio::test]
async fn a_corrected_spec_does_not_wait_for_the_failures_of_the_one_before() {
    let (mut part, server) = part(registry(1, &json!({})));
    let mut has_failed = false;
    let writes = server.serve(move |asked| {
        let fails = !has_failed && asked.uri.ends_with("/services/reg");
        has_failed |= fails;
        fails.then(|| (400, refusal(400, "BadRequest")))
    });
    part.pass(now()).await.unwrap();
    part.context.cluster.registries =
        Store::from_objects([registry(2, &json!({"readOnly": true}))]);
    part.pass(now()).await.unwrap();
    assert_eq!(reasons(&writes), ["NotYetInCluster"]);
}

#[tokio::test]
async fn a_change_of_the_space_is_told_in_one_event() {
    let registry = registry(1, &json!({}));
    let (part, server) = part(registry.clone());
    let writes = server.serve(|_| None);
    let mut events = Vec::new();
    let mut before = registry;
    for (stored, expected) in [
        (1, None),
        (95, Some("SpaceLow")),
        (96, None),
        (100, Some("StorageFull")),
        (100, None),
        (1, Some("Available")),
    ] {
        let said = json!({"stored": stored, "uploads": 0, "counted": true, "limit": 100});
        let said: space::Space = serde_json::from_value(said).unwrap();
        let mut conditions = RegistryConditions::default();
        conditions.stores(said.storage(before.status.as_ref()));
        let after = conditions.status(&before, now());
        part.tell_of_space(&before, &after).await;
        before.status = Some(after);
        events.extend(expected.map(str::to_owned));
        let published = writes.to("/events");
        let reasons: Vec<_> = published
            .iter()
            .map(|event| event["reason"].as_str().unwrap())
            .collect();
        assert_eq!(reasons, events, "{stored}");
    }
}
