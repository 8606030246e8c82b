//! Rules for the addresses that the client may connect to.
//!
//! A name does not show where it leads: only the resolved address counts, for a registry as well as
//! for redirects and token servers. So the resolver that the connection uses checks the addresses
//! after it has resolved the name.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

/// Addresses that a client does not connect to. The default refuses none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Refuse loopback, link-local and unspecified addresses, and the cloud metadata services at
    /// other addresses.
    pub refuse_local: bool,
    /// Single addresses with their ports that are refused: those of the Kubernetes API server.
    pub refused: Option<RefusedAddresses>,
    /// The machine's own addresses, which are refused at every port.
    pub own: BTreeSet<IpAddr>,
}

/// A set of addresses with their ports. All clones share one set, which may be replaced while
/// clients exist: each connection that begins later is checked against the new set.
#[derive(Debug, Clone, Default)]
pub struct RefusedAddresses(Arc<RwLock<BTreeSet<SocketAddr>>>);

impl RefusedAddresses {
    /// Replaces the set.
    pub fn replace(&self, addresses: BTreeSet<SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The current set.
    pub fn addresses(&self) -> BTreeSet<SocketAddr> {
        let addresses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        addresses.clone()
    }

    fn contains(&self, address: IpAddr, port: u16) -> bool {
        let addresses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut addresses = addresses.iter();
        addresses.any(|refused| unmapped(refused.ip()) == address && refused.port() == port)
    }
}

impl From<BTreeSet<SocketAddr>> for RefusedAddresses {
    fn from(addresses: BTreeSet<SocketAddr>) -> Self {
        Self(Arc::new(RwLock::new(addresses)))
    }
}

/// Only clones of each other are equal, since two sets may be replaced independently.
impl PartialEq for RefusedAddresses {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RefusedAddresses {}

/// An address that the rules refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}, and images are not read from there", subject = subject(.host, .address, .why))]
pub(crate) struct Refused {
    host: String,
    address: IpAddr,
    why: &'static str,
}

/// Names host and address; a host that is itself an address is named only once.
fn subject(host: &str, address: &IpAddr, why: &str) -> String {
    let literal = host.trim_matches(['[', ']']);
    if literal.parse() == Ok(*address) {
        format!("{host} is {why}")
    } else {
        format!("{host} leads to {address}, {why}")
    }
}

impl AddressRules {
    /// Whether the rules refuse no address, now or later.
    pub(crate) fn is_empty(&self) -> bool {
        !self.refuse_local && self.refused.is_none() && self.own.is_empty()
    }

    /// Why this address is refused; `None` if it is not.
    fn refusal(&self, address: IpAddr, port: u16) -> Option<&'static str> {
        let address = unmapped(address);
        if self.refuse_local {
            let why = match address {
                _ if address.is_loopback() => Some("the machine itself"),
                _ if address.is_unspecified() => Some("the machine itself"),
                IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("the machine itself"),
                IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
                IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
                _ if METADATA.contains(&address) => Some("the metadata service of a cloud"),
                _ => None,
            };
            if why.is_some() {
                return why;
            }
        }
        if self.own.iter().any(|own| unmapped(*own) == address) {
            return Some("the machine itself");
        }
        let refused = self.refused.as_ref();
        let is_refused = refused.is_some_and(|refused| refused.contains(address, port));
        is_refused.then_some("the address of the Kubernetes API server")
    }

    fn check(&self, host: &str, address: IpAddr, port: u16) -> Result<(), Refused> {
        match self.refusal(address, port) {
            None => Ok(()),
            Some(why) => Err(Refused {
                host: host.to_owned(),
                address,
                why,
            }),
        }
    }

    /// Checks a URL whose host is an address literal, for which no resolver is asked.
    pub(crate) fn check_literal(&self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => IpAddr::V4(address),
            Some(url::Host::Ipv6(address)) => IpAddr::V6(address),
            Some(url::Host::Domain(_)) | None => return Ok(()),
        };
        let port = url.port_or_known_default().unwrap_or(0);
        self.check(url.host_str().unwrap_or_default(), address, port)
    }
}

/// Metadata services of clouds at addresses that are not link-local. They hand credentials to every
/// client. These are the addresses of AWS over IPv6, Alibaba Cloud, Azure and Oracle Cloud.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Maps an IPv4 address that is written as an IPv6 one back to IPv4, since both lead to the same
/// host. That includes the well-known NAT64 prefix `64:ff9b::/96`.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.octets()[..12] == NAT64 => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(v6) if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => {
            v6.to_ipv4().map_or(address, IpAddr::V4)
        }
        _ => address,
    }
}

const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/// Resolves names as the system does, and refuses the addresses that the rules refuse. There is one
/// resolver for each port, because a resolver is not told the port.
#[derive(Debug)]
pub(crate) struct FilteringResolver {
    pub(crate) rules: Arc<AddressRules>,
    pub(crate) port: u16,
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, port) = (self.rules.clone(), self.port);
        Box::pin(async move {
            let name = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            // One refused address is enough to refuse the name, since the connection may use any of
            // them.
            for address in &found {
                rules.check(name, address.ip(), port)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_link_local_addresses_are_refused_however_they_are_written() {
        let rules = AddressRules {
            refuse_local: true,
            refused: Some(BTreeSet::from(["10.96.0.1:443".parse().unwrap()]).into()),
            own: BTreeSet::from(["10.1.2.3".parse().unwrap()]),
        };
        let refused = |text: &str| {
            let url = Url::parse(text).unwrap();
            rules.check_literal(&url).is_err()
        };
        for url in [
            "http://127.0.0.1:5000/",
            "http://127.9.9.9/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0.0.0.0:5000/",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[fe80::1]/",
            "https://10.96.0.1/v2/",
            "https://[::ffff:10.96.0.1]:443/v2/",
            "http://10.1.2.3:8080/metrics",
            "http://[::ffff:10.1.2.3]/",
            "http://[fd00:ec2::254]/latest",
            "http://100.100.100.200/latest",
            "http://168.63.129.16/machine",
            "http://192.0.0.192/latest",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[64:ff9b::7f00:1]/",
        ] {
            assert!(refused(url), "{url}");
        }
        for url in [
            "https://10.96.0.1:5000/v2/",
            "https://10.96.0.2/v2/",
            "https://192.168.1.1/",
            "https://[2001:db8::1]/",
            "https://[64:ff9b::c0a8:101]/",
            "https://quay.io/",
        ] {
            assert!(!refused(url), "{url}");
        }
    }

    #[test]
    fn an_address_that_is_written_out_is_named_once() {
        let rules = AddressRules {
            refuse_local: true,
            ..AddressRules::default()
        };
        let told = |host: &str, address: &str| {
            let refused = rules.check(host, address.parse().unwrap(), 80);
            refused.unwrap_err().to_string()
        };
        let end = "and images are not read from there";
        let literal = format!("[::1] is the machine itself, {end}");
        assert_eq!(told("[::1]", "::1"), literal);
        let name = format!("near.example leads to 169.254.0.1, a link-local address, {end}");
        assert_eq!(told("near.example", "169.254.0.1"), name);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to_and_the_port() {
        let resolve = |rules: AddressRules, port| async move {
            let resolver = FilteringResolver {
                rules: Arc::new(rules),
                port,
            };
            resolver.resolve("localhost".parse().unwrap()).await
        };
        let local = AddressRules {
            refuse_local: true,
            ..AddressRules::default()
        };
        let error = resolve(local, 5000).await.err().unwrap();
        assert!(error.downcast_ref::<Refused>().is_some(), "{error}");
        let one = |port| AddressRules {
            refused: Some(
                BTreeSet::from(
                    ["127.0.0.1", "::1"]
                        .map(|address| SocketAddr::new(address.parse().unwrap(), port)),
                )
                .into(),
            ),
            ..AddressRules::default()
        };
        assert!(resolve(one(443), 443).await.is_err());
        assert!(resolve(one(443), 5000).await.is_ok());
    }
}
