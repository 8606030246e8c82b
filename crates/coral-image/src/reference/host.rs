//! The host of a registry.

use std::fmt;
use std::net::Ipv6Addr;

use super::{ReferenceError, shown};

/// Longest host with port: a DNS name has at most 253 characters.
const MAX_HOST: usize = 260;
pub(super) const DOCKER_HUB: &str = "docker.io";
const LEGACY_DOCKER_HUB: &str = "index.docker.io";

/// The host of a registry with an optional port, in lower case: `docker.io`, `localhost:5000`,
/// `[::1]:5000`. An IPv6 address always has brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl Host {
    /// Parses a host; `index.docker.io` becomes `docker.io`. Letters are lower-cased; an IPv6
    /// address and a port are normalised.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let error = || ReferenceError::Host(shown(text));
        if text.len() > MAX_HOST {
            return Err(error());
        }
        let (name, port) = split_port(text).ok_or_else(error)?;
        let name = normal_host_name(name).ok_or_else(error)?;
        let host = match port {
            Some(port) => format!("{name}:{}", port_number(port).ok_or_else(error)?),
            None if name == LEGACY_DOCKER_HUB => DOCKER_HUB.to_owned(),
            None => name,
        };
        Ok(Self(host))
    }

    /// The host as text, including the port.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name or address without the port; an IPv6 address keeps its brackets.
    pub fn name(&self) -> &str {
        split_port(&self.0).map_or(self.0.as_str(), |(name, _)| name)
    }

    /// The port, if the host has one.
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).and_then(|(_, port)| port)?.parse().ok()
    }

    /// Whether this is Docker Hub.
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// Whether the host is this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        let name = self.name().trim_matches(['[', ']']);
        name == "localhost"
            || name
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback())
    }
}

/// Splits `name[:port]` or `[v6][:port]`; `None` if brackets or colons do not match.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (name, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Some((name, Some(port))),
            None if rest.is_empty() => Some((name, None)),
            None => None,
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((name, port)) => Some((name, Some(port))),
        None => Some((text, None)),
    }
}

fn port_number(text: &str) -> Option<u16> {
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// Normalises a DNS name, an IPv4 address or an IPv6 address in brackets.
fn normal_host_name(name: &str) -> Option<String> {
    if let Some(inner) = name.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.')
        .all(label)
        .then(|| name.to_ascii_lowercase())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling_and_what_is_none_is_refused() {
        for (text, expected) in [
            ("QUAY.io", "quay.io"),
            ("Reg.Corp:5000", "reg.corp:5000"),
            ("[2001:DB8:0::1]:5000", "[2001:db8::1]:5000"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), expected);
        }
        for text in [
            "quay.io.",
            "localhost.:5000",
            "2001:db8::1",
            "[fe80::1%eth0]",
            "[::1",
            "[::1]5000",
            "a..b",
        ] {
            let refused = Host::parse(text).unwrap_err().to_string();
            assert!(refused.contains("not a registry host"), "{refused}");
        }
    }

    /// Regression: an IPv4 address embedded in an IPv6 one was taken for another machine.
    #[test]
    fn this_machine_is_known_in_every_spelling() {
        for own in [
            "LOCALHOST:5000",
            "127.1.2.3",
            "[::1]:5000",
            "[::ffff:127.0.0.1]:5000",
        ] {
            assert!(Host::parse(own).unwrap().is_loopback(), "{own}");
        }
        for other in ["localhost.example", "[::ffff:10.0.0.1]", "128.0.0.1"] {
            assert!(!Host::parse(other).unwrap().is_loopback(), "{other}");
        }
    }
}
