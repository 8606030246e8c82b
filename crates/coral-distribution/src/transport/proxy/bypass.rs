//! `NO_PROXY`, in all forms that curl, Go and Docker understand.

use std::net::IpAddr;

use url::Url;

/// Hosts that are contacted without a proxy.
#[derive(Debug, Default)]
pub(super) struct Bypass(Vec<Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    target: BypassTarget,
    /// The port; `None` matches every port.
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum BypassTarget {
    Everything,
    /// An address, or all addresses that share its first bits.
    Network(IpAddr, u8),
    /// A name and all names below it.
    Domain(String),
    /// All names below a name.
    Below(String),
}

impl Bypass {
    /// Reads both spellings of the variable.
    pub(super) fn from_environment() -> Self {
        let set = ["NO_PROXY", "no_proxy"].map(|name| std::env::var(name).unwrap_or_default());
        Self::parse(&set.join(","))
    }

    /// Entries are separated by commas or spaces. Malformed entries are skipped.
    fn parse(text: &str) -> Self {
        let entries = text.split([',', ' ', '\t', '\n', ';']);
        Self(entries.filter_map(entry).collect())
    }

    pub(super) fn holds(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        self.0.iter().any(|entry| {
            (entry.port.is_none() || entry.port == port) && entry.target.holds(url.host().as_ref())
        })
    }
}

impl BypassTarget {
    fn holds(&self, host: Option<&url::Host<&str>>) -> bool {
        let address = match host {
            Some(url::Host::Ipv4(v4)) => Some(IpAddr::V4(*v4)),
            Some(url::Host::Ipv6(v6)) => Some(IpAddr::V6(*v6).to_canonical()),
            _ => None,
        };
        let name = match host {
            Some(url::Host::Domain(name)) => name.trim_end_matches('.').to_ascii_lowercase(),
            _ => String::new(),
        };
        let is_below = |domain: &str| {
            name.strip_suffix(domain)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match self {
            Self::Everything => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| shares_bits(*network, address, *bits))
            }
            Self::Domain(domain) => name == *domain || is_below(domain),
            Self::Below(domain) => is_below(domain),
        }
    }
}

fn entry(text: &str) -> Option<Entry> {
    let text = text.trim().to_ascii_lowercase();
    let text = text
        .split_once("://")
        .map_or(text.as_str(), |(_, rest)| rest);
    if let Some(target) = network(text) {
        return Some(Entry { target, port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text, None),
    };
    let target = match network(host) {
        Some(target) => target,
        None => domain(host)?,
    };
    Some(Entry { target, port })
}

/// Parses `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`, and forms with brackets around an IPv6 address.
fn network(text: &str) -> Option<BypassTarget> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => address,
    };
    let address: IpAddr = address.parse().ok()?;
    let address = if bits.is_none() {
        address.to_canonical()
    } else {
        address
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some(BypassTarget::Network(address, bits))
}

fn domain(text: &str) -> Option<BypassTarget> {
    let name = text.trim_end_matches('.');
    match name.strip_prefix("*.") {
        _ if name == "*" => Some(BypassTarget::Everything),
        Some(below) => is_name(below).then(|| BypassTarget::Below(below.to_owned())),
        None => {
            let name = name.trim_start_matches('.');
            is_name(name).then(|| BypassTarget::Domain(name.to_owned()))
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['*', '/', '[', ']', ':'])
}

fn shares_bits(network: IpAddr, address: IpAddr, bits: u8) -> bool {
    let shares = |network: u128, address: u128, width: u32| {
        let rest = width - u32::from(bits).min(width);
        network.checked_shr(rest) == address.checked_shr(rest)
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            shares(u32::from(network).into(), u32::from(address).into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => shares(network.into(), address.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_curl_go_or_docker_knows_excepts_its_hosts() {
        for (text, url, expected) in [
            ("*", "https://reg.corp.test/", true),
            ("*", "http://192.0.2.7:5000/", true),
            ("a.test, *", "https://reg.corp.test/", true),
            ("corp.test", "https://corp.test/", true),
            ("corp.test", "https://reg.corp.test/", true),
            ("corp.test", "https://notcorp.test/", false),
            (".corp.test", "https://a.b.corp.test/", true),
            (".corp.test", "https://corp.test/", true),
            ("*.corp.test", "https://reg.corp.test/", true),
            ("*.corp.test", "https://corp.test/", false),
            ("*.corp.test:5000", "http://reg.corp.test:5000/", true),
            ("CORP.Test.", "https://REG.corp.test/", true),
            ("reg.corp.test:5000", "https://reg.corp.test:5000/", true),
            ("reg.corp.test:5000", "https://reg.corp.test/", false),
            ("reg.corp.test:443", "https://reg.corp.test/", true),
            ("a  b.test\treg.corp.test", "https://reg.corp.test/", true),
            ("10.0.0.0/8", "https://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("10.1.2.3", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "https://10.1.2.3/", false),
            ("2001:db8::1", "https://[2001:db8::1]:5000/", true),
            ("[2001:DB8::1]", "https://[2001:db8::1]/", true),
            ("[2001:db8::1]:5000", "https://[2001:db8::1]:5000/", true),
            ("[2001:db8::1]:5000", "https://[2001:db8::1]/", false),
            ("2001:db8::/32", "https://[2001:db8:1::1]/", true),
            ("2001:db8::/32", "https://[2001:db9::1]/", false),
            ("http://reg.corp.test", "https://reg.corp.test/", true),
            ("https://10.1.2.3:5000", "https://10.1.2.3:5000/", true),
            ("", "https://reg.corp.test/", false),
            (",.,/8,[", "https://reg.corp.test/", false),
            ("10.0.0.0/33", "https://10.0.0.1/", false),
        ] {
            let bypass = Bypass::parse(text);
            assert_eq!(
                bypass.holds(&Url::parse(url).unwrap()),
                expected,
                "{text:?} and {url}"
            );
        }
    }
}
