//! What every component reports, and that none of them is busy without a reason.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::cluster::{AuditedRequest, Cluster, names_of};
use e2e::until;

use crate::stage::Stage;

const MINUTE: Duration = Duration::from_mins(1);
#[test]
#[ignore = "needs a cluster"]
fn every_part_tells_that_it_lives_that_it_is_ready_and_what_it_counts() {
    let cluster = Cluster::connect();
    let Some(_stage) = Stage::set(&cluster) else {
        return;
    };
    for (namespace, part, address) in [
        ("coral-system", "controller", "http:POD:8080"),
        ("coral-system", "webhook", "http:POD:8080"),
        ("coral-nodes", "agent", "http:POD:8080"),
        ("coral-system", "registry", "https:POD:5000"),
    ] {
        let selector = format!("app.kubernetes.io/name=coral-{part}");
        let pods = cluster
            .get(&["-n", namespace, "pods", "-l", &selector])
            .unwrap();
        let pods = names_of(&pods);
        assert!(!pods.is_empty(), "no pod of {part}");
        for pod in pods {
            let address = address.replace("POD", &pod);
            let get = |path: &str| {
                let url = format!("/api/v1/namespaces/{namespace}/pods/{address}/proxy/{path}");
                cluster.kubectl(&["get", "--raw", &url]).succeeded().stdout
            };
            get("healthz");
            get("readyz");
            let metrics = get("metrics");
            let counts = metrics
                .lines()
                .filter(|line| line.starts_with("coral_"))
                .count();
            assert!(counts > 0, "{pod}: {metrics}");
        }
    }
}

/// Whether a request is what a part sends while nothing happens: it renews a lease, or follows on
/// from a watch that the API server ended.
fn is_idle(request: &AuditedRequest) -> bool {
    let renews = ["get", "update", "patch"].contains(&request.verb.as_str());
    request.verb == "watch" || (request.resource == "leases" && renews)
}

/// The requests of a minute in which every part was idle; `Err` with those that were none if there
/// is no such minute in `patience`.
fn idle_minute(stage: &Stage<'_>, patience: Duration) -> Result<Vec<AuditedRequest>, String> {
    let began = Instant::now();
    let (mut from, mut since) = (stage.own.audited().len(), began);
    let mut busy = Vec::new();
    until("an idle minute, or none in time", patience * 2, || {
        let requests = stage.own.audited().split_off(from);
        if let Some(last) = requests.iter().rposition(|request| !is_idle(request)) {
            busy = requests[..=last]
                .iter()
                .filter(|r| !is_idle(r))
                .cloned()
                .collect();
            from += last + 1;
            since = Instant::now();
        }
        if since.elapsed() >= MINUTE {
            return Some(Ok(requests));
        }
        (began.elapsed() > patience).then(|| Err(format!("{busy:#?}")))
    })
}

#[test]
#[ignore = "needs a cluster"]
fn in_an_idle_minute_the_parts_only_renew_leases_and_open_watches_again() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let requests = idle_minute(&stage, MINUTE * 4).unwrap_or_else(|busy| panic!("{busy}"));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for request in &requests {
        let AuditedRequest {
            user,
            verb,
            resource,
            ..
        } = request;
        *counts
            .entry(format!("{user}: {verb} {resource}"))
            .or_default() += 1;
    }
    e2e::report!("an idle minute: {counts:?}");
    // Every node has an agent of the same name; the API server ends a watch after some minutes.
    let most = 2 * cluster.nodes().len();
    for (request, count) in &counts {
        let is_lease = request.ends_with(" leases");
        let most = if is_lease { 60 } else { most };
        assert!(*count <= most, "{request}: {count} times: {counts:#?}");
    }
    let renews = |request: &AuditedRequest| request.resource == "leases";
    assert!(
        requests.iter().any(renews),
        "the audit log tells of no lease: {counts:#?}"
    );
}
