//! Names in a policy that refer to no object. Pure.
//!
//! No pod can use a mirror that does not exist, and no image comes from a Registry that does not
//! exist. Either may be created later, so neither is an error of the policy; but a person should
//! know.

use std::collections::BTreeSet;

use coral_api::injection_policy::InjectionPolicy;
use coral_api::names::{REGISTRY_PORT, registry_host};

use super::decide::{LockInput, listed};
use crate::ObjectKey;

/// What a policy names that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DanglingReferences {
    mirrors: Vec<String>,
    /// Hosts of the lock.
    hosts: Vec<String>,
}

impl DanglingReferences {
    /// The names in this policy that do not exist. Those of the lock are checked only if
    /// `has_lock`.
    pub(crate) fn in_policy(policy: &InjectionPolicy, has_lock: bool, input: &LockInput) -> Self {
        let mirrors = policy.spec.mirrors.iter();
        let mirrors: BTreeSet<ObjectKey> = mirrors
            .map(|mirror| ObjectKey::new(&mirror.namespace, &mirror.name))
            .filter(|key| !input.mirrors.contains(key))
            .collect();
        let lock = policy.spec.lock.as_ref().filter(|_| has_lock);
        let hosts = lock.map_or(&[][..], |lock| &lock.registries[..]);
        let hosts = hosts.iter().filter(|host| is_of_no_registry(host, input));
        Self {
            mirrors: mirrors.iter().map(ToString::to_string).collect(),
            hosts: hosts.cloned().collect(),
        }
    }

    /// Reason and message of the condition; `None` if everything exists.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        let mirrors = (!self.mirrors.is_empty()).then(|| {
            format!(
                "spec.mirrors names RegistryMirrors that do not exist: {}. No pod can use them: \
                 create them, or correct the names",
                listed(&self.mirrors)
            )
        });
        let hosts = (!self.hosts.is_empty()).then(|| {
            format!(
                "lock.registries names hosts of Registries that do not exist: {}. Nodes cannot \
                 pull from them: create the Registries, or correct the names \
                 (NAME.NAMESPACE.svc:{REGISTRY_PORT})",
                listed(&self.hosts)
            )
        });
        match (mirrors, hosts) {
            (None, None) => None,
            (Some(mirrors), None) => Some(("MirrorNotFound", mirrors)),
            (None, Some(hosts)) => Some(("RegistryNotFound", hosts)),
            (Some(mirrors), Some(hosts)) => {
                Some(("RegistryNotFound", format!("{hosts}. {mirrors}")))
            }
        }
    }

    /// The names alone, to be appended to a message.
    pub(crate) fn in_short(&self) -> Option<String> {
        let mirrors = self
            .mirrors
            .iter()
            .map(|name| format!("RegistryMirror {name}"));
        let hosts = self
            .hosts
            .iter()
            .map(|host| format!("the Registry of {host}"));
        let names: Vec<String> = hosts.chain(mirrors).collect();
        (!names.is_empty()).then(|| format!("missing: {}", listed(&names)))
    }
}

/// Whether the host is written as that of a Registry, and there is none. Nodes find such a host only
/// by a Registry or a route: the cluster's DNS is not theirs.
fn is_of_no_registry(host: &str, input: &LockInput) -> bool {
    let port = format!(".svc:{REGISTRY_PORT}");
    let Some((name, namespace)) = host
        .strip_suffix(&port)
        .and_then(|host| host.split_once('.'))
    else {
        return false;
    };
    let mut routes = input.routes.iter();
    let is_routed = routes.any(|route| route.spec.hosts.iter().any(|routed| routed == host));
    registry_host(namespace, name) == host
        && !namespace.contains('.')
        && !input.registries.contains(&ObjectKey::new(namespace, name))
        && !is_routed
}
