//! The admission policies of a lock, as JSON for server-side apply: pure.

use coral_api::injection_policy::Enforcement;
use serde_json::{Value, json};

use super::decide::{LockState, listed};

/// The image references of a pod's spec, as a CEL list. Every list of it is optional.
fn images_of(spec: &str) -> String {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let mut parts: Vec<String> = lists
        .iter()
        .map(|list| format!("{spec}.?{list}.orValue([]).map(c, c.?image.orValue(''))"))
        .collect();
    parts.push(format!(
        "{spec}.?volumes.orValue([]).filter(v, has(v.image)).map(v, v.image.?reference.orValue(''))"
    ));
    parts.join(" + ")
}

/// The references of `variables.judged` whose host, as containerd reads it, is not in
/// `variables.allowed`. Hosts are compared case-sensitively: containerd finds no `hosts.toml` for a
/// host in upper case and contacts the host itself.
const DISALLOWED: &str = "variables.judged.filter(i, !((\
     !i.contains('/') || i.startsWith('index.docker.io/') ? 'docker.io' : \
     i.startsWith('localhost/') || i.substring(0, i.indexOf('/')).matches('[.:A-Z]') ? i.substring(0, i.indexOf('/')) : \
     'docker.io') in variables.allowed))";

/// The policy for pods, and its binding.
pub(crate) fn pods(lock: &LockState) -> [Value; 2] {
    let judged = format!(
        "({}).filter(i, !(i in variables.old))",
        images_of("object.spec")
    );
    let old = format!("oldObject == null ? [] : {}", images_of("oldObject.spec"));
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {
            "namespaceSelector": namespace_selector(lock),
            "resourceRules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["pods", "pods/ephemeralcontainers"],
            }],
        },
        "variables": [
            {"name": "allowed", "expression": literal_list(&lock.allowed)},
            {"name": "old", "expression": old},
            {"name": "judged", "expression": judged},
            {"name": "away", "expression": DISALLOWED},
        ],
        "validations": [{
            "expression": "variables.away.size() == 0",
            "reason": "Forbidden",
            "message": format!("an image of this pod is not from a registry that the lock allows. {}", advice(lock)),
            "messageExpression": message(lock, "image"),
        }],
        "auditAnnotations": [{"key": "images", "valueExpression": "variables.away.join(' ')"}],
    });
    let actions = match enforcement(lock) {
        Enforcement::Warn => json!(["Warn", "Audit"]),
        Enforcement::Audit => json!(["Audit"]),
        Enforcement::Enforce | Enforcement::Unknown => json!(["Deny", "Audit"]),
    };
    [policy(super::LOCK, &spec), binding(super::LOCK, &actions)]
}

/// The policy that warns of templates whose pods would be refused, and its binding. With `Audit`
/// there is none: nothing is shown to people then.
pub(crate) fn templates(lock: &LockState) -> Option<[Value; 2]> {
    if enforcement(lock) == Enforcement::Audit {
        return None;
    }
    let spec = "object.kind == 'CronJob' ? object.spec.jobTemplate.spec.template.spec : object.spec.template.spec";
    let rule = |group: &str, resources: Value| {
        json!({
            "apiGroups": [group],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": resources,
        })
    };
    let spec = json!({
        "failurePolicy": "Ignore",
        "matchConstraints": {
            "namespaceSelector": namespace_selector(lock),
            "resourceRules": [
                rule("apps", json!(["deployments", "statefulsets", "daemonsets"])),
                rule("batch", json!(["jobs", "cronjobs"])),
            ],
        },
        "variables": [
            {"name": "allowed", "expression": literal_list(&lock.allowed)},
            {"name": "spec", "expression": spec},
            {"name": "judged", "expression": images_of("variables.spec")},
            {"name": "away", "expression": DISALLOWED},
        ],
        "validations": [{
            "expression": "variables.away.size() == 0",
            "message": format!("pods of this template would be refused: an image is not from a registry that the lock allows. {}", advice(lock)),
            "messageExpression": message(lock, "pods of this template would be refused: image"),
        }],
    });
    Some([
        policy(super::TEMPLATES, &spec),
        binding(super::TEMPLATES, &json!(["Warn"])),
    ])
}

/// The hosts that a policy as stored allows; `None` if its list is not one of ours.
pub(crate) fn hosts_of(variables: &[(&str, &str)]) -> Option<Vec<String>> {
    let (_, list) = variables.iter().find(|(name, _)| *name == "allowed")?;
    let list = list.strip_prefix('[')?.strip_suffix(']')?;
    if list.is_empty() {
        return Some(vec![]);
    }
    let hosts = list.split(", ");
    let unquoted = |host: &str| {
        let host = host.strip_prefix('\'')?.strip_suffix('\'')?;
        Some(host.to_owned())
    };
    hosts.map(unquoted).collect()
}

fn enforcement(lock: &LockState) -> Enforcement {
    let policy = lock.policy.as_ref();
    policy.map_or(Enforcement::Enforce, |(_, enforcement)| *enforcement)
}

fn namespace_selector(lock: &LockState) -> Value {
    json!({"matchExpressions": [{
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": lock.exempt,
    }]})
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels()},
        "spec": spec,
    })
}

fn binding(name: &str, actions: &Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels()},
        "spec": {"policyName": name, "validationActions": actions},
    })
}

fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "coral", "app.kubernetes.io/part-of": "coral"})
}

/// Hosts contain no characters that need escaping in a CEL string: `decide.rs` refuses others.
fn literal_list(hosts: &[String]) -> String {
    let quoted: Vec<String> = hosts.iter().map(|host| quoted(host)).collect();
    format!("[{}]", quoted.join(", "))
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{escaped}'")
}

/// A CEL expression of the sentence that a person reads. It names the first image.
fn message(lock: &LockState, subject: &str) -> String {
    let end = quoted(&format!(
        " not from a registry that {}. {}",
        allowing(lock),
        advice(lock)
    ));
    let subject = quoted(&format!("{subject} "));
    format!(
        "{subject} + (variables.away[0].size() > 300 ? variables.away[0].substring(0, 300) + '…' : variables.away[0]) + \
         (variables.away.size() > 1 ? ' and ' + string(variables.away.size() - 1) + ' more are' : ' is') + {end}"
    )
}

/// `InjectionPolicy "x" allows (reg.coral-system.svc:5000 or 3 routed hosts)`.
fn allowing(lock: &LockState) -> String {
    let name = lock.policy.as_ref().map_or("", |(name, _)| name.as_str());
    let registries = listed(&lock.allowed[..lock.registries]);
    let routed = match lock.allowed.len() - lock.registries {
        0 => String::new(),
        1 => format!(" or {}", lock.allowed[lock.registries]),
        n => format!(" or {n} routed hosts"),
    };
    format!("InjectionPolicy \"{name}\" allows ({registries}{routed})")
}

fn advice(lock: &LockState) -> String {
    let registries = &lock.allowed[..lock.registries];
    let is_inside = |host: &&String| host.contains(".svc:");
    let registry = registries.iter().find(is_inside).or(registries.first());
    let registry = registry.map_or("", String::as_str);
    format!(
        "Mirror it with a RegistryMirror and name it there ({registry}/HOST/PATH; of a host with a port, HOST_PORT), or ask an administrator for a RegistryRoute of its host."
    )
}
