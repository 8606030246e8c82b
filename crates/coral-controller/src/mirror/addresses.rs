//! Addresses that a mirror's YAML must not lead the controller to: a tenant writes the YAML, and
//! the controller makes the requests.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use coral_distribution::{AddressRules, RefusedAddresses};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::ObjectKey;
use crate::api::ApiError;
use crate::context::Context;

/// Where the API server's own addresses stand.
const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";

/// Rules of every client: no loopback, no link-local address, none of the pod's own, none of these.
pub(super) fn rules(servers: RefusedAddresses) -> AddressRules {
    AddressRules {
        refuse_local: true,
        refused: Some(servers),
        own: own(std::env::var("POD_IPS").ok().as_deref()),
    }
}

/// The API server's address with its port, as its Service has it.
pub(super) fn service() -> Option<SocketAddr> {
    let var = |name: &str| std::env::var(name).ok();
    socket(
        var("KUBERNETES_SERVICE_HOST").as_deref(),
        var("KUBERNETES_SERVICE_PORT").as_deref(),
    )
}

/// The addresses with their ports behind the API server's Service; none while there are none.
pub(super) async fn api_servers(context: &Context) -> Result<BTreeSet<SocketAddr>, ApiError> {
    let key = ObjectKey::new(NAMESPACE, SERVICE);
    let slice = context.writer().get::<EndpointSlice>(&key).await?;
    Ok(slice.iter().flat_map(endpoints).collect())
}

/// The pod's own addresses, one of each family that the cluster has, separated by commas.
fn own(pod: Option<&str>) -> BTreeSet<IpAddr> {
    let all = pod.into_iter().flat_map(|all| all.split(','));
    all.filter_map(|ip| ip.trim().parse().ok()).collect()
}

fn socket(host: Option<&str>, port: Option<&str>) -> Option<SocketAddr> {
    let address: IpAddr = host?.parse().ok()?;
    let port = port.and_then(|port| port.parse().ok()).unwrap_or(443);
    Some(SocketAddr::new(address, port))
}

fn endpoints(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
    let ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
    let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
    let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    addresses
        .flat_map(|address| {
            ports
                .iter()
                .map(move |&port| SocketAddr::new(address, port))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pods_own_addresses_are_kept_from() {
        let [v4, v6] = ["10.0.0.7", "fd00::7"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(own(Some("10.0.0.7")), BTreeSet::from([v4]));
        assert_eq!(own(Some("10.0.0.7,fd00::7")), BTreeSet::from([v4, v6]));
        assert_eq!(own(None), BTreeSet::new());
    }

    #[test]
    fn the_service_and_every_address_behind_it_are_kept_from() {
        let one = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(
            socket(Some("10.96.0.1"), Some("443")),
            Some(one("10.96.0.1:443"))
        );
        assert_eq!(socket(None, None), None);
        let slice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.168.1.2"]}, {"addresses": ["192.168.1.3"]}],
            "ports": [{"name": "https", "port": 6443}],
        }))
        .unwrap();
        let expected = BTreeSet::from([one("192.168.1.2:6443"), one("192.168.1.3:6443")]);
        assert_eq!(endpoints(&slice), expected);
    }
}
