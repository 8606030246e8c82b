//! Pure: under which addresses mirrors write to Registries of the cluster.

use std::collections::BTreeMap;

use coral_api::RegistryMirror;
use coral_api::names::{REGISTRY_PORT, registry_host};
use coral_image::Host;

use super::destination;
use crate::ObjectKey;
use crate::shared::RegistryAccess;
use crate::store::Snapshot;

/// The addresses of mirrors that are a Registry of the cluster, and the host of that Registry: its
/// endpoint, and the longer and shorter names that the cluster's DNS has for it.
pub(super) fn known_as(
    mirrors: &Snapshot<RegistryMirror>,
    registries: &BTreeMap<ObjectKey, RegistryAccess>,
) -> BTreeMap<Host, Host> {
    let mut hosts = BTreeMap::new();
    for access in registries.values() {
        let endpoint = access.endpoint.split_once("://").map(|(_, rest)| rest);
        let parsed = (endpoint.map(Host::parse), Host::parse(&access.host));
        if let (Some(Ok(endpoint)), Ok(host)) = parsed {
            hosts.insert(endpoint, host);
        }
    }
    let named = mirrors
        .iter()
        .filter_map(|(key, mirror)| destination(key, mirror))
        .filter_map(|address| Some((address.clone(), by_name(&address)?)));
    hosts.extend(named);
    hosts
}

/// `NAME.NAMESPACE:5000` and `NAME.NAMESPACE.svc.DOMAIN:5000` by the name that references use.
fn by_name(address: &Host) -> Option<Host> {
    let (name, port) = address.as_str().rsplit_once(':')?;
    if port.parse() != Ok(REGISTRY_PORT) {
        return None;
    }
    let mut labels = name.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    match labels.next() {
        None | Some("svc") => Host::parse(&registry_host(namespace, name)).ok(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_dns_has_for_a_registry_are_one() {
        let known = |address| by_name(&Host::parse(address).unwrap()).map(|host| host.to_string());
        for name in [
            "reg.a:5000",
            "reg.a.svc:5000",
            "reg.a.svc.cluster.local:5000",
        ] {
            assert_eq!(known(name).as_deref(), Some("reg.a.svc:5000"), "{name}");
        }
        for other in ["reg.a.svc:443", "reg.a.svc", "10.0.0.1:5000", "local:5000"] {
            assert_eq!(known(other), None, "{other}");
        }
    }
}
