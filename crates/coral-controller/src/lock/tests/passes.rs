use std::collections::BTreeSet;

use coral_api::Registry;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::{REGISTRY, input, locked, policy, route};
use crate::lock::decide::decide;
use crate::lock::objects::LockObjects;
use crate::lock::{LockPart, generate};
use crate::part::{Part as _, Wake};
use crate::scripted::{ReceivedRequest, Server, context, refusal};
use crate::store::Store;

/// A part over a cluster with one locking policy and these routes, in which the lock allows the
/// Registry and `stored`.
fn part(routes: &[Value], stored: &[&str]) -> (LockPart, Server) {
    let (mut context, server) = context();
    let seen = input(vec![locked(&json!({}))], routes);
    context.cluster.routes = Store::from_objects(seen.routes.iter().map(|r| (**r).clone()));
    context.cluster.policies = Store::from_objects(vec![(*seen.policies[0]).clone()]);
    let registry = json!({"metadata": {"name": "reg", "namespace": "coral-system"}, "spec": {}});
    let registry: Registry = serde_json::from_value(registry).unwrap();
    context.cluster.registries = Store::from_objects([registry]);
    context.cluster.lock = in_force(stored);
    (LockPart::new(&context), server)
}

/// A lock that allows the Registry and these hosts, as the API server has it.
fn in_force(hosts: &[&str]) -> LockObjects {
    let seen = input(vec![locked(&json!({}))], &[route("r", hosts)]);
    let lock = decide(&seen).lock.unwrap();
    let [policy, _] = generate::pods(&lock);
    LockObjects::with_policy(serde_json::from_value(policy).unwrap())
}

fn published(part: &LockPart) -> Vec<String> {
    let hosts = part.context.shared.locked_hosts.get();
    hosts
        .as_deref()
        .cloned()
        .map(BTreeSet::into_iter)
        .unwrap()
        .collect()
}

/// Answers a write with what was written.
fn echo(asked: ReceivedRequest) {
    let mut body = asked.body.clone();
    // An applied status comes back with the whole object.
    if body.get("spec").is_none() {
        body["spec"] = json!({});
    }
    asked.answer(200, &body);
}

fn allowed_by(asked: &ReceivedRequest) -> String {
    asked.body["spec"]["variables"][0]["expression"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_host_stays_published_until_the_narrower_lock_is_in_force() {
    let (mut part, mut server) = part(&[], &["docker.io"]);
    let shared = part.context.shared.clone();
    let both = ["docker.io", REGISTRY].map(str::to_owned);
    let watching = tokio::spawn(async move {
        let first = server.next().await;
        assert!(
            first
                .uri
                .contains("/validatingadmissionpolicies/coral-lock?"),
            "{}",
            first.uri
        );
        assert_eq!(allowed_by(&first), format!("['{REGISTRY}']"));
        // The node files of docker.io are still there while the API server takes this.
        let before: BTreeSet<String> = shared.locked_hosts.get().unwrap().as_ref().clone();
        echo(first);
        let mut uris = Vec::new();
        // The binding, the policy of templates with its binding, the status, an event.
        for _ in 0..5 {
            let asked = server.next().await;
            uris.push(asked.uri.split('?').next().unwrap().to_owned());
            echo(asked);
        }
        (server, before, uris)
    });
    let wake = part.pass(at(100)).await.unwrap();
    let (_server, before, uris) = watching.await.unwrap();
    assert_eq!(before, BTreeSet::from(both.clone()));
    assert!(
        uris[0].ends_with("/validatingadmissionpolicybindings/coral-lock"),
        "{uris:?}"
    );
    assert!(
        uris[3].ends_with("/injectionpolicies/lock/status"),
        "{uris:?}"
    );
    // API servers take up a changed policy with a delay.
    assert_eq!(published(&part), both);
    assert_eq!(
        wake,
        Wake::At(
            at(100)
                .saturating_add(SignedDuration::from_secs(5))
                .unwrap()
        )
    );
}

#[tokio::test]
async fn a_lock_that_cannot_be_written_narrows_nothing_and_says_so() {
    let (mut part, mut server) = part(&[], &["docker.io"]);
    let refusing = tokio::spawn(async move {
        let asked = server.next().await;
        asked.answer(403, &refusal(403, "Forbidden"));
        let status = server.next().await;
        let conditions = status.body["status"]["conditions"].to_string();
        echo(status);
        // The event.
        echo(server.next().await);
        conditions
    });
    let failed = part.pass(at(100)).await.unwrap_err();
    assert!(failed.to_string().contains("Forbidden"), "{failed}");
    let conditions = refusing.await.unwrap();
    assert!(conditions.contains("LockNotWritten"), "{conditions}");
    assert_eq!(published(&part), ["docker.io", REGISTRY]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_leaves_in_a_write_that_fails_half_way_keeps_its_grace() {
    let (mut part, server) = part(&[], &["docker.io"]);
    let mut has_failed = false;
    server.serve(move |asked| {
        let fails = !has_failed && asked.uri.contains("/coral-lock-templates?");
        has_failed |= fails;
        fails.then(|| (403, refusal(403, "Forbidden")))
    });
    part.pass(at(100)).await.unwrap_err();
    // The watch has brought the narrower policy.
    part.context.cluster.lock = in_force(&[]);
    // The next pass is much later, and the grace begins once the lock was written.
    part.pass(at(140)).await.unwrap();
    assert_eq!(published(&part), ["docker.io", REGISTRY]);
    part.pass(at(145)).await.unwrap();
    assert_eq!(published(&part), [REGISTRY]);
}

#[tokio::test(start_paused = true)]
async fn the_grace_of_a_host_that_leaves_begins_when_a_slow_write_ends() {
    let (mut part, mut server) = part(&[], &["docker.io"]);
    tokio::spawn(async move {
        loop {
            let asked = server.next().await;
            if asked
                .uri
                .contains("/validatingadmissionpolicies/coral-lock?")
            {
                tokio::time::advance(std::time::Duration::from_secs(6)).await;
            }
            echo(asked);
        }
    });
    let wake = part.pass(at(100)).await.unwrap();
    assert_eq!(wake, Wake::At(at(111)));
    part.context.cluster.lock = in_force(&[]);
    part.pass(at(108)).await.unwrap();
    assert_eq!(published(&part), ["docker.io", REGISTRY]);
    part.pass(at(111)).await.unwrap();
    assert_eq!(published(&part), [REGISTRY]);
}

#[tokio::test]
async fn a_route_that_cannot_be_decoded_takes_nothing_out_of_the_lock() {
    let (mut part, server) = part(&[], &["docker.io"]);
    let broken = json!({"metadata": {"name": "r"}, "spec": {"hosts": 7}});
    let event = watcher::Event::Apply(serde_json::from_value(broken).unwrap());
    part.context.cluster.routes.take(event, |_, _| false);
    let writes = server.serve(|_| None);
    part.pass(at(100)).await.unwrap();
    assert!(writes.to("/coral-lock").is_empty());
    assert_eq!(published(&part), ["docker.io", REGISTRY]);
    let statuses = writes.to("/injectionpolicies/lock/status");
    let status = statuses[0].to_string();
    assert!(status.contains("RegistryRoute r"), "{status}");
}

#[tokio::test]
async fn a_new_leader_keeps_routed_hosts_for_as_long_as_an_earlier_lock_may_be_in_force() {
    let mut routed = route("r", &["quay.io"]);
    routed["status"]["provedHosts"] = json!(["quay.io"]);
    routed["spec"]["hosts"] = json!(["docker.io"]);
    let (mut part, _server) = part(&[routed], &[]);
    let decision = decide(&part.observe());
    // Nothing answers the write: what was published before it counts.
    let writing = part.apply(&decision, at(100));
    let _ = tokio::time::timeout(std::time::Duration::from_millis(1), writing).await;
    assert!(published(&part).contains(&"quay.io".to_owned()));
    let writing = part.apply(&decision, at(106));
    let _ = tokio::time::timeout(std::time::Duration::from_millis(1), writing).await;
    assert!(!published(&part).contains(&"quay.io".to_owned()));
}

#[tokio::test]
async fn a_policy_that_names_a_missing_mirror_gets_one_warning_event() {
    let (mut part, server) = part(&[], &[]);
    let mirrors = json!([{"namespace": "coral-system", "name": "outsid"}]);
    let named = policy("p", &json!({"mirrors": mirrors}));
    part.context.cluster.policies = Store::from_objects([(*named).clone()]);
    let writes = server.serve(|_| None);
    part.pass(at(100)).await.unwrap();
    let events = writes.to("/events");
    let reasons: Vec<&str> = events.iter().filter_map(|e| e["reason"].as_str()).collect();
    assert_eq!(reasons, ["Applied", "MirrorNotFound"]);
    let status = writes.to("/injectionpolicies/p/status")[0]["status"].clone();
    let mut with_status = (*named).clone();
    with_status.status = serde_json::from_value(status).unwrap();
    part.context.cluster.policies = Store::from_objects([with_status]);
    part.pass(at(101)).await.unwrap();
    assert_eq!(writes.to("/events").len(), 2, "it is told once");
}
