//! The folder and the file of a registry's host.

use std::path::Path;

use coral_api::node_images::{NodeRegistry, NodeRegistryPolicy};

use super::MARKER;

/// How long containerd waits for a connection to a registry in the cluster. Its own limit is 30 s,
/// which every request would cost to a Service that was just created, or to a node that has just
/// failed. A lost packet is retransmitted after one second. containerd 1.x ignores the key.
const OWN_DIAL: &str = "dial_timeout = \"3s\"\n";

/// A host's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Name of the folder under `config_path`.
    pub(crate) folder: String,
    /// Content of its `hosts.toml`.
    pub(crate) content: String,
}

/// Why there can be no file for a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    /// The host would not be a safe folder name.
    #[error(
        "host {0:?} is not a host name of lower-case letters, digits, dots and dashes with an \
         optional port"
    )]
    Host(String),
    /// The endpoint is not a plain URL.
    #[error("endpoint {0:?} is not a URL of the form https://ADDRESS:PORT")]
    Endpoint(String),
    /// The policy is one of a newer Coral.
    #[error("this agent does not know the policy of this host: update the agent")]
    Policy,
    /// The route would hide an administrator's default rules.
    #[error(
        "the node has rules for every host (_default), which a route that allows contacting the \
         source would hide: remove the _default folder, or use NeverContactSource"
    )]
    Default,
}

/// The entry of a registry or routed host; `ca` is the path that containerd reads the CA from.
pub(crate) fn entry(
    registry: &NodeRegistry,
    ca: &Path,
    has_default: bool,
) -> Result<Entry, EntryError> {
    let folder = folder(&registry.host)?;
    let endpoint = &registry.endpoint;
    if !is_plain_url(endpoint) {
        return Err(EntryError::Endpoint(endpoint.clone()));
    }
    let head = format!(
        "{MARKER} for {}. Changes are overwritten; what was here before is put back.\n",
        registry.host
    );
    let ca = toml::Value::from(ca.display().to_string());
    // The empty [host] stays: containerd 1.6 ignores `server` without it and asks the source.
    let rules = match registry.policy {
        NodeRegistryPolicy::Registry => {
            format!("server = \"{endpoint}\"\nca = {ca}\n{OWN_DIAL}\n[host]\n")
        }
        NodeRegistryPolicy::NeverContactSource => format!(
            "server = \"{endpoint}\"\nca = {ca}\n{OWN_DIAL}\n[header]\nX-Coral-Route = \"never\"\n\n[host]\n"
        ),
        NodeRegistryPolicy::AllowContactingSource if has_default => {
            return Err(EntryError::Default);
        }
        // Without `server` containerd tries the source itself after our host.
        NodeRegistryPolicy::AllowContactingSource => format!(
            "[host.\"{endpoint}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = {ca}\n\
             dial_timeout = \"1s\"\n"
        ),
        NodeRegistryPolicy::Unknown => return Err(EntryError::Policy),
    };
    Ok(Entry {
        folder,
        content: head + &rules,
    })
}

/// The folder that containerd looks at first: `HOST_PORT_` for a host with a port, which wins over
/// `HOST:PORT`, so a folder of that other name is never touched.
pub(crate) fn folder(host: &str) -> Result<String, EntryError> {
    let refused = || EntryError::Host(host.to_owned());
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = name.starts_with(is_letter)
        && name.ends_with(is_letter)
        && name.chars().all(|c| is_letter(c) || ".-".contains(c))
        && !name.contains("..");
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    if !is_name || !is_port || host.len() > 255 {
        return Err(refused());
    }
    Ok(match port {
        Some(port) => format!("{name}_{port}_"),
        None => name.to_owned(),
    })
}

/// Whether this is a scheme, a host and a port, without characters that are special in TOML.
fn is_plain_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        !rest.is_empty() && rest.chars().all(is_plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "https://10.96.0.7:5000";

    fn made(host: &str, policy: NodeRegistryPolicy) -> Result<Entry, EntryError> {
        let registry = NodeRegistry {
            host: host.to_owned(),
            registry: "reg.coral-system.svc:5000".to_owned(),
            endpoint: "https://10.96.0.7:5000".to_owned(),
            policy,
        };
        entry(&registry, Path::new("/etc/containerd/coral/ca.crt"), false)
    }

    #[test]
    fn each_policy_has_its_file() {
        let own = made("reg.coral-system.svc:5000", NodeRegistryPolicy::Registry).unwrap();
        assert_eq!(own.folder, "reg.coral-system.svc_5000_");
        let rules = own.content.split_once('\n').unwrap().1;
        assert_eq!(
            rules,
            "server = \"https://10.96.0.7:5000\"\nca = \"/etc/containerd/coral/ca.crt\"\n\
             dial_timeout = \"3s\"\n\n[host]\n"
        );
        let never = made("quay.io", NodeRegistryPolicy::NeverContactSource).unwrap();
        assert_eq!(never.folder, "quay.io");
        let header = "\n[header]\nX-Coral-Route = \"never\"\n\n[host]\n";
        assert!(never.content.ends_with(header), "{}", never.content);
        let allow = made("docker.io", NodeRegistryPolicy::AllowContactingSource).unwrap();
        assert!(!allow.content.contains("server ="), "{}", allow.content);
        for (entry, at, wait) in [(own, "", "3s"), (never, "", "3s"), (allow, ENDPOINT, "1s")] {
            assert!(entry.content.starts_with(MARKER));
            let parsed: toml::Table = entry.content.parse().unwrap();
            let host = parsed["host"].as_table().unwrap();
            let rules = host
                .get(at)
                .map_or(&parsed, |rules| rules.as_table().unwrap());
            assert_eq!(rules["dial_timeout"].as_str(), Some(wait), "{parsed}");
        }
    }

    #[test]
    fn a_route_that_allows_the_source_does_not_hide_an_administrators_default() {
        let registry = NodeRegistry {
            host: "docker.io".to_owned(),
            registry: "reg.ns.svc:5000".to_owned(),
            endpoint: "https://10.96.0.7:5000".to_owned(),
            policy: NodeRegistryPolicy::AllowContactingSource,
        };
        let refused = entry(&registry, Path::new("/ca"), true).unwrap_err();
        assert_eq!(refused, EntryError::Default);
        let never = NodeRegistry {
            policy: NodeRegistryPolicy::NeverContactSource,
            ..registry
        };
        assert!(entry(&never, Path::new("/ca"), true).is_ok());
    }

    #[test]
    fn a_host_that_is_no_safe_folder_name_is_refused() {
        let bad = [
            "", ".", "..", "_default", "a/b", "../x", "a..b", "A.io", "a:", "a:x", "a:1:2",
            "[::1]", "a:99999", ".hidden", "a b", "a\nb",
        ];
        for host in bad {
            let refused = made(host, NodeRegistryPolicy::Registry).unwrap_err();
            assert_eq!(refused, EntryError::Host(host.to_owned()));
        }
    }

    #[test]
    fn an_endpoint_cannot_add_lines_to_the_file() {
        let registry = NodeRegistry {
            host: "a.io".to_owned(),
            registry: "a.io".to_owned(),
            endpoint: "https://x\"\n[host.\"https://evil".to_owned(),
            policy: NodeRegistryPolicy::Registry,
        };
        let refused = entry(&registry, Path::new("/ca"), false).unwrap_err();
        assert!(matches!(refused, EntryError::Endpoint(_)));
    }
}
