//! The calls that a candidate makes, against a scripted API server.

use std::pin::pin;

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::scripted::{Server, pair, refusal};

fn candidate() -> (Leader, Server) {
    let (client, server) = pair();
    let leader = Leader::new(
        client,
        "coral-system",
        "coral-controller",
        "me",
        Timing::default(),
    );
    (leader, server)
}

/// Answers one request; returns its method and body.
async fn answer(server: &mut Server, code: u16, body: Value) -> (Method, Value) {
    let mut asked = server.next().await;
    let path = "/namespaces/coral-system/leases";
    assert!(asked.uri.contains(path), "{}", asked.uri);
    let heard = (asked.method.clone(), std::mem::take(&mut asked.body));
    asked.answer(code, &body);
    heard
}

/// What the API server stores: the same with a resourceVersion.
fn stored(holder: &str, version: u32) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "coral-controller", "namespace": "coral-system", "resourceVersion": version.to_string()},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 0,
            "renewTime": "2026-01-01T00:00:00.000000Z"},
    })
}

/// Creates the lease.
async fn acquire(leader: &mut Leader, server: &mut Server) {
    let stop = CancellationToken::new();
    let serve = async {
        answer(server, 404, refusal(404, "NotFound")).await;
        let (method, sent) = answer(server, 201, stored("me", 1)).await;
        assert_eq!(method, Method::POST);
        assert_eq!(sent["spec"]["holderIdentity"], "me");
    };
    let (held, ()) = tokio::join!(leader.acquire(&stop, || {}), serve);
    assert!(held);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_create_the_lease_the_later_one_waits() {
    let (mut leader, mut server) = candidate();
    let stop = CancellationToken::new();
    let serve = async {
        answer(&mut server, 404, refusal(404, "NotFound")).await;
        let (method, _) = answer(&mut server, 409, refusal(409, "AlreadyExists")).await;
        assert_eq!(method, Method::POST);
        for _ in 0..3 {
            let (method, _) = answer(&mut server, 200, stored("other", 1)).await;
            assert_eq!(method, Method::GET);
        }
        stop.cancel();
    };
    let (held, ()) = tokio::join!(leader.acquire(&stop, || {}), serve);
    assert!(!held);
}

#[tokio::test(start_paused = true)]
async fn a_holder_renews_with_the_version_it_knows_and_releases() {
    let (mut leader, mut server) = candidate();
    acquire(&mut leader, &mut server).await;
    {
        let mut holding = pin!(leader.hold());
        for version in 1..4 {
            let serve = answer(&mut server, 200, stored("me", version + 1));
            let (method, sent) = tokio::select! {
                () = &mut holding => panic!("the lease is not lost"),
                answered = serve => answered,
            };
            assert_eq!(method, Method::PUT);
            assert_eq!(sent["metadata"]["resourceVersion"], version.to_string());
        }
        // The answer to the last renewal is taken in before the lease is let go.
        let rest = tokio::time::timeout(Duration::from_secs(1), &mut holding).await;
        assert!(rest.is_err());
    }
    let serve = answer(&mut server, 200, stored("", 5));
    let ((), (method, sent)) = tokio::join!(leader.release(), serve);
    assert_eq!(method, Method::PUT);
    assert_eq!(sent["spec"]["holderIdentity"], "");
    assert_eq!(sent["metadata"]["resourceVersion"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_after_a_renewal_that_was_cut_off() {
    let (mut leader, mut server) = candidate();
    acquire(&mut leader, &mut server).await;
    let cut = tokio::select! {
        () = leader.hold() => panic!("the lease is not lost"),
        renewal = server.next() => renewal,
    };
    assert_eq!(cut.method, Method::PUT);
    drop(cut);
    let serve = async {
        let (method, _) = answer(&mut server, 200, stored("me", 2)).await;
        assert_eq!(method, Method::GET);
        answer(&mut server, 200, stored("", 3)).await
    };
    let ((), (method, sent)) = tokio::join!(leader.release(), serve);
    assert_eq!(method, Method::PUT);
    assert_eq!(sent["spec"]["holderIdentity"], "");
    assert_eq!(sent["metadata"]["resourceVersion"], "2");
}

#[tokio::test(start_paused = true)]
async fn a_holder_steps_down_when_the_api_server_hangs() {
    let (mut leader, mut server) = candidate();
    acquire(&mut leader, &mut server).await;
    let began = Instant::now();
    let hang = async {
        // Requests are taken and never answered.
        let mut kept = Vec::new();
        loop {
            kept.push(server.next().await);
        }
    };
    tokio::select! {
        () = leader.hold() => {}
        () = hang => {}
    }
    let took = began.elapsed();
    assert!(took <= Timing::default().deadline, "{took:?}");
    assert!(took >= Timing::default().renew, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_steps_down_when_another_holds_the_lease() {
    let (mut leader, mut server) = candidate();
    acquire(&mut leader, &mut server).await;
    let serve = async {
        let (method, _) = answer(&mut server, 409, refusal(409, "Conflict")).await;
        assert_eq!(method, Method::PUT);
        let (method, _) = answer(&mut server, 200, stored("other", 9)).await;
        assert_eq!(method, Method::GET);
    };
    tokio::join!(leader.hold(), serve);
}
