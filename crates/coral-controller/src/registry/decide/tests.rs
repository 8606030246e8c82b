mod pod;
mod public;

use serde_json::json;

use super::super::observe::ExistingObjects;
use super::super::reports::Report;
use super::refusal::is_label;
use super::*;
use crate::permission::Rights;
use crate::registry::Registry;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn registry(name: &str, spec: &Value) -> Arc<Registry> {
    let object = json!({
        "apiVersion": "stvz.io/v1", "kind": "Registry",
        "metadata": {"name": name, "namespace": "a", "uid": "uid-1", "generation": 1},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

/// Nothing is there yet.
fn fresh(spec: &Value) -> RegistryInput {
    RegistryInput {
        registry: registry("reg", spec),
        rights: Rights::Granted,
        existing: ExistingObjects::default(),
        image: "example.org/coral:1".to_owned(),
        authority: Some(Arc::new(Authority::generate(now()).unwrap())),
        token_keys: None,
        public: Some(BTreeSet::new()),
        answer: super::super::loaded::Loaded::default(),
        report: Report::default(),
        confirmed: None,
        now: now(),
    }
}

fn typed<K: serde::de::DeserializeOwned>(value: &Value) -> Option<Arc<K>> {
    serde_json::from_value(value.clone()).ok().map(Arc::new)
}

/// Carries the actions out as the API server would, defaults included.
fn carry_out(input: &mut RegistryInput, plan: &Plan) {
    let registry = input.registry.clone();
    let builder = Builder::new(&registry);
    let existing = &mut input.existing;
    for action in &plan.actions {
        match action {
            Action::ApplyService(service) => {
                let mut service = service.clone();
                service["spec"]["clusterIP"] = json!("10.96.0.7");
                service["spec"]["sessionAffinity"] = json!("None");
                existing.service = typed(&service);
            }
            Action::IssueCertificate(names, _) => {
                let authority = input.authority.as_ref().unwrap();
                let pair = authority.issue(names, input.now).unwrap();
                existing.tls = Some(Arc::new(builder.tls(&pair, authority.bundle())));
            }
            Action::WriteCredential(known, address) => {
                let password = known.as_ref().map_or("s3cret", PushCredential::expose);
                existing.push = Some(Arc::new(builder.push(password, *address)));
                existing.users = Some(Arc::new(builder.users("$2b$", &hash(password))));
            }
            Action::ApplyPublic(list) => existing.public = typed(list),
            Action::ApplyStatefulSet(set) => {
                let mut set = set.clone();
                set["spec"]["podManagementPolicy"] = json!("OrderedReady");
                set["metadata"]["generation"] = json!(1);
                existing.stateful_set = typed(&set);
            }
            Action::RemindKubelet(pod, reminder) => {
                assert_eq!(pod.name, "reg-0");
                let pod = json!({"metadata": {"name": "reg-0", "namespace": "a",
                    "annotations": {CONFIG_HASH: reminder}}});
                existing.pod = typed(&pod);
            }
        }
    }
}

/// Decides and carries out until nothing is left to do; returns the last plan.
fn settle(input: &mut RegistryInput) -> Plan {
    for _ in 0..10 {
        let plan = decide(input);
        if plan.actions.is_empty() {
            return plan;
        }
        carry_out(input, &plan);
    }
    panic!("it never settles: {:?}", decide(input).actions);
}

/// The pod runs.
fn start(input: &mut RegistryInput) {
    let mut set = json!(input.existing.stateful_set.as_deref().unwrap());
    set["status"] =
        json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1});
    input.existing.stateful_set = typed(&set);
    input.existing.pod = typed(&json!({"metadata": {"name": "reg-0", "namespace": "a"}}));
}

fn running(spec: &Value) -> RegistryInput {
    let mut input = fresh(spec);
    settle(&mut input);
    start(&mut input);
    input.answer.generation = Some(1);
    settle(&mut input);
    input
}

/// Status, reason and message of a condition.
fn condition(input: &RegistryInput, kind: &str) -> (String, String, String) {
    let status = decide(input).conditions.status(&input.registry, input.now);
    let mut all = status.conditions.unwrap().into_iter();
    let existing = all.find(|condition| condition.type_ == kind).unwrap();
    assert_eq!(existing.observed_generation, Some(1));
    (existing.status, existing.reason, existing.message)
}

#[test]
fn a_new_registry_settles_and_then_nothing_is_written_any_more() {
    let mut input = fresh(&json!({}));
    let first = decide(&input);
    assert!(
        matches!(first.actions[..], [Action::ApplyService(_)]),
        "{:?}",
        first.actions
    );
    assert_eq!(condition(&input, "Ready").0, "False");
    let plan = settle(&mut input);
    assert_eq!(plan.ask, None);
    assert!(!plan.access.unwrap().ready);
    start(&mut input);
    let plan = settle(&mut input);
    assert_eq!(plan.ask, Some(1));
    input.answer.generation = Some(1);
    let plan = decide(&input);
    assert!(plan.actions.is_empty() && plan.ask.is_none());
    let access = plan.access.unwrap();
    assert!(access.ready);
    assert_eq!(access.host, "reg.a.svc:5000");
    assert_eq!(access.endpoint, "https://10.96.0.7:5000");
    assert_eq!(access.push.unwrap().expose(), "s3cret");
    assert_eq!(condition(&input, "Ready").1, "Serving");
    assert_eq!(condition(&input, "Progressing").0, "False");
    let status = plan.conditions.status(&input.registry, input.now);
    assert_eq!(status.address.as_deref(), Some("reg.a.svc:5000"));
    assert_eq!(status.public_generation, Some(1));
}

#[test]
fn nothing_of_another_owner_is_adopted() {
    let foreign = json!({"metadata": {"name": "reg", "namespace": "a"}});
    let mut input = fresh(&json!({}));
    input.existing.service = typed(&foreign);
    let plan = decide(&input);
    assert!(plan.actions.is_empty() && plan.access.is_none());
    let (_, reason, message) = condition(&input, "Ready");
    assert_eq!(reason, "Conflict");
    assert!(message.contains("Service reg already exists"), "{message}");
    let mut input = running(&json!({}));
    input.existing.stateful_set = typed(&foreign);
    assert!(decide(&input).actions.is_empty());
    let earlier =
        json!({"apiVersion": "stvz.io/v1", "kind": "Registry", "name": "reg", "uid": "uid-0"});
    let earlier =
        json!({"metadata": {"name": "reg", "namespace": "a", "ownerReferences": [earlier]}});
    let mut input = fresh(&json!({}));
    input.existing.service = typed(&earlier);
    assert!(decide(&input).actions.is_empty());
    assert_eq!(condition(&input, "Ready").1, "RemovingEarlier");
    assert_eq!(condition(&input, "Degraded").0, "False");
}

#[test]
fn what_does_not_work_in_a_cluster_is_refused_by_name() {
    let cases = [
        (json!({"tls": {"secretName": "x"}}), "spec.tls"),
        (
            json!({"auth": {"htpasswd": {"secretName": "x"}}}),
            "spec.auth",
        ),
        (
            json!({"imageVolumes": [{"repository": "a/b", "hostPath": {"path": "/x"}}]}),
            "spec.imageVolumes",
        ),
        (json!({"readOnly": true}), "spec.readOnly"),
    ];
    for (spec, field) in cases {
        let input = fresh(&spec);
        assert!(decide(&input).actions.is_empty());
        let (status, reason, message) = condition(&input, "Ready");
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("False", "NotYetInCluster")
        );
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn a_name_that_is_no_service_name_is_refused() {
    for name in ["1reg", "reg.a", "reg-", &"r".repeat(51)] {
        let mut input = fresh(&json!({}));
        input.registry = registry(name, &json!({}));
        assert!(decide(&input).actions.is_empty(), "{name}");
        assert_eq!(condition(&input, "Ready").1, "InvalidName");
    }
    assert!(is_label("r") && is_label(&"r".repeat(50)) && is_label("a-1"));
}

#[test]
fn a_missing_right_is_told_with_the_command_to_run() {
    let mut input = fresh(&json!({}));
    input.rights = Rights::Refused;
    assert!(decide(&input).actions.is_empty());
    let (_, reason, message) = condition(&input, "Ready");
    assert_eq!(reason, "NotGranted");
    assert!(
        message.contains("coral grant --registry a reg | kubectl apply -f -"),
        "{message}"
    );
}

#[test]
fn a_registry_that_has_its_certificate_waits_for_no_authority() {
    let mut input = running(&json!({}));
    input.authority = None;
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert!(plan.access.is_some_and(|access| access.ready));
    assert_eq!(condition(&input, "Ready").1, "Serving");
}

#[test]
fn a_registry_of_which_nothing_is_heard_stays_ready() {
    let mut input = running(&json!({}));
    let status = decide(&input).conditions.status(&input.registry, now());
    let mut registry = (*input.registry).clone();
    registry.status = Some(status);
    input.registry = Arc::new(registry);
    input.rights = Rights::Unknown;
    assert_eq!(condition(&input, "Ready").1, "Serving");
    assert_eq!(condition(&input, "Progressing").1, "Reading");
}

#[test]
fn a_change_by_another_hand_is_undone() {
    let mut input = running(&json!({}));
    let mut set = json!(input.existing.stateful_set.as_deref().unwrap());
    set["spec"]["replicas"] = json!(0);
    input.existing.stateful_set = typed(&set);
    let plan = decide(&input);
    assert!(
        matches!(plan.actions[..], [Action::ApplyStatefulSet(_)]),
        "{:?}",
        plan.actions
    );
    input.existing.public = None;
    input.existing.tls = None;
    assert_eq!(decide(&input).actions.len(), 3);
}

#[test]
fn the_password_stays_as_long_as_its_secret_does() {
    let mut input = running(&json!({}));
    input.existing.users = None;
    let plan = decide(&input);
    let [Action::WriteCredential(Some(known), _)] = &plan.actions[..] else {
        panic!("{:?}", plan.actions);
    };
    assert_eq!(known.expose(), "s3cret");
    settle(&mut input);
    input.existing.push = None;
    let plan = decide(&input);
    assert!(
        matches!(plan.actions[..], [Action::WriteCredential(None, _)]),
        "{:?}",
        plan.actions
    );
}

#[test]
fn another_service_address_is_in_certificate_arguments_and_credential() {
    let mut input = running(&json!({}));
    let mut service = json!(input.existing.service.as_deref().unwrap());
    service["spec"]["clusterIP"] = json!("10.96.0.8");
    input.existing.service = typed(&service);
    let plan = decide(&input);
    assert!(
        matches!(
            plan.actions[..],
            [
                Action::IssueCertificate(_, RenewalReason::OtherNames),
                Action::WriteCredential(Some(_), _),
                Action::ApplyStatefulSet(_),
            ]
        ),
        "{:?}",
        plan.actions
    );
}

#[test]
fn a_status_says_what_is_stored_and_free_once_the_registry_has_said_it() {
    let mut input = running(&json!({}));
    let unheard = condition(&input, "StorageAvailable");
    assert_eq!((&*unheard.0, &*unheard.1), ("Unknown", "NotHeard"));
    let said = |stored: u64| {
        let answer = json!({"stored": stored, "uploads": 0, "counted": true, "limit": 1000});
        serde_json::from_value(answer).unwrap()
    };
    input.report.space = Some(said(600));
    let largest = json!([{"name": "team/app", "stored": 590}]);
    let repositories = json!({"count": 7, "counted": true, "largest": largest});
    input.report.repositories = serde_json::from_value(repositories).unwrap();
    let status = decide(&input).conditions.status(&input.registry, input.now);
    let storage = serde_json::to_value(&status.storage).unwrap();
    let expected = json!({"stored": "600", "free": "400", "repositories": 7,
        "largest": [{"name": "team/app", "stored": "590"}]});
    assert_eq!(storage, expected);
    assert_eq!(condition(&input, "StorageAvailable").0, "True");
    assert_eq!(condition(&input, "Degraded").0, "False");
    // Of a registry that does not answer, the last word stays.
    let mut registry = input.registry.as_ref().clone();
    registry.status = Some(status.clone());
    input.registry = Arc::new(registry);
    input.report.space = None;
    input.report.repositories = None;
    let silent = decide(&input).conditions.status(&input.registry, input.now);
    assert_eq!(silent.storage, status.storage);
    assert_eq!(condition(&input, "StorageAvailable").1, "Available");
    input.report.space = Some(said(1000));
    let full = condition(&input, "StorageAvailable");
    assert_eq!((&*full.0, &*full.1), ("False", "StorageFull"));
    assert_eq!(condition(&input, "Degraded").1, "StorageFull");
    assert_eq!(
        condition(&input, "Ready").0,
        "True",
        "what it has is served"
    );
}

#[test]
fn content_that_is_damaged_and_not_back_is_for_a_person_to_look_at() {
    let mut input = running(&json!({}));
    let said = json!({"completed": 1000, "open": true, "percent": 37, "readBytes": 5000,
        "damaged": 1, "missing": 1});
    input.report.scrub = serde_json::from_value(said).unwrap();
    let status = decide(&input).conditions.status(&input.registry, input.now);
    let scrub = status.scrub.unwrap();
    assert_eq!((scrub.progress, scrub.missing), (Some(30), Some(1)));
    let (truth, reason, message) = condition(&input, "Degraded");
    assert_eq!((&*truth, &*reason), ("True", "ContentDamaged"));
    assert!(message.contains("pushed again"), "{message}");
    assert_eq!(condition(&input, "Ready").0, "True");
}
