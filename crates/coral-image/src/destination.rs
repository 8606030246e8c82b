//! The name that an image gets in a mirror's registry: a fixed contract, with test vectors in
//! `testdata/vectors.json`.

use crate::reference::{Host, ReferenceError, Repository, RepositoryPath};

/// Why a source has no name at the destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{repository} has no name at the destination")]
pub struct DestinationError {
    /// The repository at the source.
    repository: String,
    /// Why the name that it would get is invalid.
    #[source]
    source: ReferenceError,
}

/// The path at the destination for `source`: the host of the source, then its path.
///
/// The host is in lower case; `host:port` becomes `host_port`; an IPv6 host is written out in eight
/// groups with dashes for colons. A name that is too long is refused.
pub fn destination_path(source: &Repository) -> Result<RepositoryPath, DestinationError> {
    destination_path_below(None, source)
}

/// The path at the destination for `source`, below `prefix` if there is one: the prefix, a slash,
/// then [`destination_path`].
pub fn destination_path_below(
    prefix: Option<&RepositoryPath>,
    source: &Repository,
) -> Result<RepositoryPath, DestinationError> {
    let prefix = prefix.map_or_else(String::new, |prefix| format!("{prefix}/"));
    let name = format!(
        "{prefix}{}/{}",
        host_component(source.host()),
        source.path()
    );
    RepositoryPath::parse(&name).map_err(|error| DestinationError {
        repository: source.to_string(),
        source: error,
    })
}

fn host_component(host: &Host) -> String {
    let name = host.name();
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name = match address.and_then(|a| a.parse::<std::net::Ipv6Addr>().ok()) {
        Some(v6) => v6.segments().map(|group| format!("{group:x}")).join("-"),
        None => name.to_owned(),
    };
    match host.port() {
        Some(port) => format!("{name}_{port}"),
        None => name,
    }
}
