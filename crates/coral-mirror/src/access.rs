//! How a mirror reaches its sources and its destination: the one place where credentials are.

use std::sync::Arc;

use coral_distribution::{Client, Credentials, Endpoint};
use coral_image::{Host, Repository};

use crate::copy::Site;

/// What a mirror reads and writes through. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    /// Connections and tokens, to sources.
    pub client: Client,
    /// Connections and tokens, to the destination: what a mirror says of its destination's
    /// certificate holds for nothing else.
    pub destination_client: Client,
    /// The registry that images are copied to.
    pub destination: Host,
    /// Sent to sources only.
    pub source_credentials: Arc<Credentials>,
    /// Sent to the destination only.
    pub destination_credentials: Arc<Credentials>,
}

impl Access {
    pub(crate) fn source(&self, repository: &Repository) -> Site {
        site(&self.client, repository, &self.source_credentials)
    }

    pub(crate) fn destination(&self, repository: &Repository) -> Site {
        site(
            &self.destination_client,
            repository,
            &self.destination_credentials,
        )
    }
}

fn site(client: &Client, repository: &Repository, credentials: &Arc<Credentials>) -> Site {
    let endpoint = Endpoint::from(client.repository(repository, credentials.clone()));
    Site::new(endpoint, repository)
}
