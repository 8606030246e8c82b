//! The registries that are pulled through.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coral_distribution::{Category, Client, Credentials, Error, RepositoryClient};
use coral_image::{Host, Repository, RepositoryPath, destination_path};

/// Registries whose images are fetched when a client asks for one that is missing. An image lands
/// where a mirror would put it: `docker.io/library/alpine` is the repository of this name here.
///
/// ```
/// use coral_distribution::{Client, ClientOptions, Credentials};
/// use coral_image::Host;
/// use coral_registry::PullThrough;
///
/// let client = Client::new(ClientOptions::default())?;
/// let hub = PullThrough::new(client, Credentials::none().into(), vec![Host::parse("docker.io")?]);
/// # let _ = hub;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PullThrough {
    client: Client,
    credentials: Arc<Credentials>,
    /// Each with the first part of the paths of its repositories here.
    hosts: Vec<(String, Host)>,
}

impl PullThrough {
    /// Fetches from these hosts with this client. Clients that may read the registry can read
    /// everything that the credentials give access to.
    pub fn new(client: Client, credentials: Arc<Credentials>, hosts: Vec<Host>) -> Self {
        let mut named = Vec::new();
        for host in hosts {
            // Every host has one: its own name is no longer than a path may be.
            if let Some(first) = first_part(&host)
                && !named.iter().any(|(_, known)| *known == host)
            {
                named.push((first, host));
            }
        }
        Self {
            client,
            credentials,
            hosts: named,
        }
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().map(|(_, host)| host)
    }

    /// The registry that the images of a repository come from.
    pub(crate) fn host_of(&self, repository: &RepositoryPath) -> Option<&Host> {
        let (first, _) = repository.as_str().split_once('/')?;
        let found = self.hosts.iter().find(|(name, _)| name == first);
        found.map(|(_, host)| host)
    }

    /// The repository there that this one is filled from.
    pub(crate) fn upstream_of(&self, repository: &RepositoryPath) -> Option<RepositoryClient> {
        let host = self.host_of(repository)?;
        let (_, path) = repository.as_str().split_once('/')?;
        let path = RepositoryPath::parse(path).ok()?;
        let upstream = Repository::new(host.clone(), path);
        let credentials = Arc::clone(&self.credentials);
        Some(self.client.repository(&upstream, credentials))
    }
}

fn first_part(host: &Host) -> Option<String> {
    let any = Repository::new(host.clone(), RepositoryPath::parse("a/a").ok()?);
    let path = destination_path(&any).ok()?;
    let (first, _) = path.as_str().split_once('/')?;
    Some(first.to_owned())
}

/// Why a registry that is pulled through did not send what was asked for. The text is for the log:
/// it may have advice for the operator, and name files of credentials.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamError {
    /// The kind of failure.
    pub category: Category,
    /// How long the registry asked to wait.
    pub retry_after: Option<Duration>,
    host: String,
    /// The status of its answer, if there was one.
    status: Option<u16>,
    message: String,
}

impl UpstreamError {
    /// Whether the registry answered that it does not have this.
    pub(crate) fn is_absence(&self) -> bool {
        self.category == Category::NotFound
    }

    /// What clients are told: which registry failed, and how.
    pub(crate) fn for_clients(&self) -> String {
        let host = &self.host;
        match (self.status, self.category) {
            (Some(status), _) => format!("{host} answered {status}"),
            (None, Category::Dns) => format!("the name of {host} does not resolve"),
            (None, Category::Connect) => format!("cannot connect to {host}"),
            (None, Category::Tls) => format!("cannot establish TLS with {host}"),
            (None, Category::Timeout) => format!("{host} did not answer in time"),
            (None, Category::Cut) => format!("{host} closed the connection early"),
            (None, Category::Digest) => format!("{host} sent content with another digest"),
            (None, other) => format!("{host} failed ({other})"),
        }
    }
}

impl From<Error> for UpstreamError {
    fn from(error: Error) -> Self {
        Self {
            category: error.category(),
            retry_after: error.retry_after(),
            host: error.place().to_owned(),
            status: error.status(),
            message: coral_image::error_chain(&error),
        }
    }
}

impl fmt::Display for PullThrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&str> = self.hosts.iter().map(|(_, host)| host.as_str()).collect();
        f.write_str(&hosts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use coral_distribution::ClientOptions;

    use super::*;

    fn path(text: &str) -> RepositoryPath {
        RepositoryPath::parse(text).unwrap()
    }

    #[test]
    fn a_repository_belongs_to_the_host_that_its_path_begins_with() {
        let hosts = ["docker.io", "quay.io:8443", "[::1]:5000", "index.docker.io"];
        let hosts = hosts.map(|host| Host::parse(host).unwrap());
        let client = Client::new(ClientOptions::default()).unwrap();
        let all = PullThrough::new(client, Credentials::none().into(), hosts.to_vec());
        for (repository, upstream) in [
            ("docker.io/library/alpine", Some("docker.io/library/alpine")),
            ("docker.io/alpine", Some("docker.io/library/alpine")),
            ("quay.io_8443/a/b", Some("quay.io:8443/a/b")),
            ("0-0-0-0-0-0-0-1_5000/a", Some("[::1]:5000/a")),
            ("quay.io/a/b", None),
            ("docker.io", None),
            ("docker.iox/a", None),
            ("team/docker.io/a", None),
        ] {
            let found = all.upstream_of(&path(repository));
            let found = found.map(|it| it.repository().to_string());
            assert_eq!(found.as_deref(), upstream, "{repository}");
        }
        assert_eq!(all.to_string(), "docker.io, quay.io:8443, [::1]:5000");
    }
}
