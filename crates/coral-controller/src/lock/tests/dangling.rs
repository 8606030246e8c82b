use std::sync::Arc;

use coral_api::injection_policy::InjectionPolicy;
use serde_json::json;

use super::{condition, input, locked, policy, route};
use crate::ObjectKey;
use crate::lock::decide::decide;

fn is(seen: &(String, String, String), status: &str, reason: &str) {
    assert_eq!((seen.0.as_str(), seen.1.as_str()), (status, reason));
}

#[test]
fn mirrors_of_a_policy_that_do_not_exist_are_named() {
    let named = |name: &str| json!({"namespace": "coral-system", "name": name});
    let policy = policy(
        "p",
        &json!({"mirrors": [named("outside"), named("outsid")]}),
    );
    let mut seen = input(vec![policy.clone()], &[]);
    seen.mirrors = [ObjectKey::new("coral-system", "outside")].into();
    let decision = decide(&seen);
    let degraded = condition(&decision, &policy, "Degraded");
    is(&degraded, "True", "MirrorNotFound");
    assert!(
        degraded.2.contains("do not exist: coral-system/outsid."),
        "{}",
        degraded.2
    );
    let ready = condition(&decision, &policy, "Ready");
    is(&ready, "True", "Applied");
    assert!(
        ready
            .2
            .ends_with("missing: RegistryMirror coral-system/outsid"),
        "{}",
        ready.2
    );
    seen.mirrors
        .insert(ObjectKey::new("coral-system", "outsid"));
    let decision = decide(&seen);
    is(
        &condition(&decision, &policy, "Degraded"),
        "False",
        "AsExpected",
    );
}

#[test]
fn a_host_of_the_lock_that_is_no_registrys_is_named() {
    let policy = locked(&json!({"registries": [
        "reg.coral-systm.svc:5000", "reg.coral-system.svc:5000", "harbor.example:5000",
        "harbor.infra.svc:443", "old.infra.svc:5000",
    ]}));
    let condition_of = |policy: &Arc<InjectionPolicy>, kind| {
        let routes = [route("r", &["old.infra.svc:5000"])];
        let decision = decide(&input(vec![policy.clone()], &routes));
        condition(&decision, policy, kind)
    };
    let degraded = condition_of(&policy, "Degraded");
    is(&degraded, "True", "RegistryNotFound");
    assert!(
        degraded
            .2
            .contains("do not exist: reg.coral-systm.svc:5000."),
        "{}",
        degraded.2
    );
    let ready = condition_of(&policy, "Ready");
    is(&ready, "True", "LockInForce");
    assert!(
        ready
            .2
            .ends_with("missing: the Registry of reg.coral-systm.svc:5000"),
        "{}",
        ready.2
    );
    is(
        &condition_of(&locked(&json!({})), "Degraded"),
        "False",
        "AsExpected",
    );
}
