mod cel;
mod dangling;
mod passes;

use std::sync::Arc;

use coral_api::injection_policy::InjectionPolicy;
use coral_api::registry_route::RegistryRoute;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::{LockDecision, LockInput, LockState, MAX_HOSTS, decide};
use super::generate;
use super::objects::holds;
use crate::ObjectKey;

const REGISTRY: &str = "reg.coral-system.svc:5000";

fn policy(name: &str, spec: &Value) -> Arc<InjectionPolicy> {
    let object = json!({"metadata": {"name": name, "generation": 3}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn locked(extra: &Value) -> Arc<InjectionPolicy> {
    let mut lock = json!({"mode": "Mirrored", "registries": [REGISTRY]});
    for (key, value) in extra.as_object().unwrap() {
        lock[key] = value.clone();
    }
    policy("lock", &json!({"lock": lock}))
}

/// A route that no node may leave, with all hosts proved.
fn route(name: &str, hosts: &[&str]) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "hosts": hosts,
            "registry": {"namespace": "coral-system", "name": "reg"},
            "sourcePolicy": "NeverContactSource",
        },
        "status": {"provedHosts": hosts},
    })
}

fn input(policies: Vec<Arc<InjectionPolicy>>, routes: &[Value]) -> LockInput {
    let routes = routes.iter().cloned().map(|route| {
        let route: RegistryRoute = serde_json::from_value(route).unwrap();
        Arc::new(route)
    });
    LockInput {
        policies,
        routes: routes.collect(),
        namespaces: ["kube-system", "coral-system", "coral-nodes", "team"]
            .map(str::to_owned)
            .into(),
        mirrors: [].into(),
        registries: [ObjectKey::new("coral-system", "reg")].into(),
        unreadable: None,
    }
}

fn allowed(decision: &LockDecision) -> Vec<&str> {
    decision.hosts().map(String::as_str).collect()
}

/// `(status, reason, message)` of a condition.
fn condition(
    decision: &LockDecision,
    policy: &InjectionPolicy,
    kind: &str,
) -> (String, String, String) {
    let status = decision.status(policy, None, Timestamp::UNIX_EPOCH);
    let condition = status.conditions.into_iter().find(|c| c.type_ == kind);
    condition.map_or_else(Default::default, |c| (c.status, c.reason, c.message))
}

#[test]
fn the_lock_allows_its_registries_and_hosts_that_no_node_contacts() {
    let change = |change: fn(&mut Value)| {
        let mut route = route("a", &["docker.io", "quay.io"]);
        change(&mut route);
        route
    };
    for (route, expected) in [
        (change(|_| {}), vec![REGISTRY, "docker.io", "quay.io"]),
        (
            change(|r| r["status"]["provedHosts"] = json!(["quay.io"])),
            vec![REGISTRY, "quay.io"],
        ),
        (change(|r| r["status"] = json!(null)), vec![REGISTRY]),
        (
            change(|r| r["spec"]["hosts"] = json!(["quay.io"])),
            vec![REGISTRY, "quay.io"],
        ),
        (
            change(|r| r["spec"]["sourcePolicy"] = json!("AllowContactingSource")),
            vec![REGISTRY],
        ),
        (
            change(|r| r["spec"]["sourcePolicy"] = json!("Later")),
            vec![REGISTRY],
        ),
        (
            change(|r| r["spec"]["sourcePolicy"] = json!(null)),
            vec![REGISTRY],
        ),
        (
            change(|r| r["spec"]["nodeSelector"] = json!([{"key": "a", "operator": "exists"}])),
            vec![REGISTRY],
        ),
        (
            change(|r| r["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            vec![REGISTRY],
        ),
    ] {
        let decision = decide(&input(vec![locked(&json!({}))], &[route]));
        assert_eq!(allowed(&decision), expected);
    }
}

#[test]
fn without_a_lock_nothing_is_in_force_and_a_lock_of_a_newer_version_changes_nothing() {
    let none = decide(&input(vec![policy("a", &json!({"registry": "Off"}))], &[]));
    assert_eq!(none.lock, Some(LockState::default()));
    let newer = locked(&json!({"mode": "Available"}));
    let decision = decide(&input(vec![newer.clone()], &[]));
    assert_eq!(decision.lock, None);
    let (status, reason, _) = condition(&decision, &newer, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "UnknownMode"));
}

#[test]
fn of_several_policies_the_first_by_name_has_the_lock_and_the_others_say_so() {
    let first = policy("a", &json!({"lock": {"registries": ["a.example"]}}));
    let second = policy("b", &json!({"lock": {"registries": ["b.example"]}}));
    let without = policy("0", &json!({}));
    let decision = decide(&input(
        vec![second.clone(), first.clone(), without.clone()],
        &[],
    ));
    assert_eq!(allowed(&decision), ["a.example"]);
    let ready = |policy| condition(&decision, policy, "Ready");
    assert_eq!(ready(&first).1, "LockInForce");
    assert_eq!(ready(&without).1, "Applied");
    let (status, reason, message) = condition(&decision, &second, "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "OtherLock"));
    assert!(message.contains(r#"InjectionPolicy "a""#), "{message}");
    assert_eq!(
        condition(&decision, &second, "LockComplete"),
        Default::default()
    );
}

#[test]
fn exempt_namespaces_that_do_not_exist_are_named() {
    let policy = locked(&json!({"exemptNamespaces": ["team", "gone"]}));
    let decision = decide(&input(vec![policy.clone()], &[]));
    let exempt = decision.lock.clone().unwrap().exempt;
    let exempt: Vec<&str> = exempt.iter().map(String::as_str).collect();
    assert_eq!(
        exempt,
        ["coral-nodes", "coral-system", "gone", "kube-system", "team"]
    );
    let (status, reason, message) = condition(&decision, &policy, "Degraded");
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("True", "ExemptNamespaceMissing")
    );
    assert!(message.contains("do not exist: gone."), "{message}");
    assert_eq!(condition(&decision, &policy, "Ready").0, "True");
}

#[test]
fn hosts_beyond_the_room_of_a_lock_are_left_out_and_counted() {
    let hosts: Vec<String> = (0..MAX_HOSTS + 50)
        .map(|i| format!("h{i}.example"))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let policy = locked(&json!({}));
    let decision = decide(&input(vec![policy.clone()], &[route("r", &hosts)]));
    assert_eq!(decision.hosts().count(), MAX_HOSTS);
    let (_, reason, message) = condition(&decision, &policy, "Degraded");
    assert_eq!(reason, "TooManyHosts");
    assert!(message.contains("and 46 more"), "{message}");
    let status = decision.status(&policy, None, Timestamp::UNIX_EPOCH);
    assert_eq!(status.allowed_hosts.len(), 100);
    assert_eq!(status.omitted_hosts, Some(1400));
    let long: Vec<String> = (0..600)
        .map(|i| format!("{i}.{}", "x".repeat(250)))
        .collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let decision = decide(&input(vec![policy], &[route("r", &long)]));
    let [pods, _] = generate::pods(&decision.lock.unwrap());
    let list = pods["spec"]["variables"][0]["expression"].as_str().unwrap();
    assert!((80_000..100_000).contains(&list.len()), "{}", list.len());
}

#[test]
fn nodes_that_lack_a_host_of_the_lock_are_named() {
    let policy = locked(&json!({}));
    let mut lacking = route("r", &["docker.io"]);
    lacking["status"]["lacking"] = json!(["n3: no agent"]);
    let decision = decide(&input(vec![policy.clone()], &[lacking]));
    let (status, _, message) = condition(&decision, &policy, "LockComplete");
    assert_eq!(status, "False");
    assert!(message.starts_with("n3: no agent: "), "{message}");
    let decision = decide(&input(vec![policy.clone()], &[route("r", &["docker.io"])]));
    assert_eq!(condition(&decision, &policy, "LockComplete").0, "True");
    let mut waiting = route("r", &["docker.io"]);
    waiting["status"] = json!({"provedHosts": [], "lacking": ["n3: no agent"]});
    let decision = decide(&input(vec![policy.clone()], &[waiting]));
    let (_, _, message) = condition(&decision, &policy, "Ready");
    assert!(
        message.contains("has reported them: docker.io"),
        "{message}"
    );
}

#[test]
fn a_lock_that_cannot_be_written_says_why() {
    let policy = locked(&json!({}));
    let decision = decide(&input(vec![policy.clone()], &[]));
    let status = decision.status(
        &policy,
        Some("cannot apply: forbidden"),
        Timestamp::UNIX_EPOCH,
    );
    let ready = &status.conditions[0];
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "LockNotWritten")
    );
    assert!(ready.message.starts_with("cannot apply: forbidden"));
    assert_eq!(status.enforcement, None);
    // The second time, nothing changes.
    let mut again = (*policy).clone();
    again.status = Some(status.clone());
    let later = Timestamp::from_second(60).unwrap();
    assert_eq!(
        decision.status(&again, Some("cannot apply: forbidden"), later),
        status
    );
}

#[test]
fn enforcement_is_a_list_of_actions_and_audit_warns_no_user() {
    for (enforcement, actions, warns) in [
        (json!(null), json!(["Deny", "Audit"]), true),
        (json!("Enforce"), json!(["Deny", "Audit"]), true),
        (json!("Later"), json!(["Deny", "Audit"]), true),
        (json!("Warn"), json!(["Warn", "Audit"]), true),
        (json!("Audit"), json!(["Audit"]), false),
    ] {
        let policy = locked(&json!({"enforcement": enforcement}));
        let lock = decide(&input(vec![policy], &[])).lock.unwrap();
        let [_, binding] = generate::pods(&lock);
        assert_eq!(binding["spec"]["validationActions"], actions);
        let templates = generate::templates(&lock);
        assert_eq!(templates.is_some(), warns);
        if let Some([policy, binding]) = templates {
            assert_eq!(policy["spec"]["failurePolicy"], "Ignore");
            assert_eq!(binding["spec"]["validationActions"], json!(["Warn"]));
        }
    }
}

#[test]
fn the_hosts_of_a_stored_policy_are_read_back() {
    let policy = locked(&json!({}));
    let decision = decide(&input(
        vec![policy],
        &[route("r", &["docker.io", "h:5000"])],
    ));
    let [pods, _] = generate::pods(decision.lock.as_ref().unwrap());
    let list = pods["spec"]["variables"][0]["expression"].as_str().unwrap();
    let hosts = generate::hosts_of(&[("x", "1"), ("allowed", list)]);
    assert_eq!(hosts.unwrap(), [REGISTRY, "docker.io", "h:5000"]);
    assert_eq!(generate::hosts_of(&[("allowed", "[]")]), Some(vec![]));
    assert_eq!(generate::hosts_of(&[("allowed", "object.hosts")]), None);
}

#[test]
fn defaults_of_the_api_server_are_no_difference() {
    let wanted = json!({"spec": {"rules": [{"a": 1}], "b": "x"}});
    let stored =
        json!({"spec": {"rules": [{"a": 1, "scope": "*"}], "b": "x", "c": 1}, "status": {}});
    assert!(holds(&stored, &wanted));
    for other in [
        json!({"spec": {"rules": [{"a": 1}, {"a": 2}], "b": "x"}}),
        json!({"spec": {"rules": [{"a": 2}], "b": "x"}}),
        json!({"spec": {"rules": [{"a": 1}]}}),
    ] {
        assert!(!holds(&other, &wanted), "{other}");
    }
}
