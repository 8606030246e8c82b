//! How a mirror reaches its sources and its destination: the only place that holds credentials.

use std::sync::Arc;

use coral_distribution::{Client, Credentials, Endpoint};
use coral_image::{Host, Repository};

use crate::bandwidth::Bandwidth;
use crate::copy::{Candidates, Catalogue, CopySide};
use crate::creations::Creations;
use crate::pace::Paces;

/// The clients and credentials that a mirror uses. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MirrorAccess {
    /// Connections and tokens for sources.
    pub client: Client,
    /// Connections and tokens for the destination: a mirror's settings for its destination's
    /// certificate apply to nothing else.
    pub destination_client: Client,
    /// The registry that images are copied to.
    pub destination: Host,
    /// Sent to sources only.
    pub source_credentials: Arc<Credentials>,
    /// Sent to the destination only.
    pub destination_credentials: Arc<Credentials>,
    /// The request rate of each source, shared by all mirrors of a process.
    pub paces: Paces,
    /// Limit on the bytes read from the sources.
    pub bandwidth: Option<Bandwidth>,
    /// Creation times that were read before.
    pub creations: Creations,
    /// The blobs of its images at the destination, as far as they were read.
    pub catalogue: Catalogue,
}

/// Gives a worker the access of a job's mirror: from a map in the same process, or by a call to the
/// controller.
pub trait AccessSource: Send + Sync + 'static {
    /// How the mirror of this name (`namespace/name`) reaches its registries.
    fn access(
        &self,
        mirror: &str,
    ) -> impl Future<Output = Result<MirrorAccess, MirrorAccessError>> + Send;
}

/// Why a worker got no access.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorAccessError {
    /// No mirror with this name runs any more.
    #[error("its mirror was removed")]
    Unknown,
    /// The access could not be determined.
    #[error("the access of its mirror could not be read: {0}")]
    Unavailable(String),
}

impl MirrorAccess {
    pub(crate) fn source(&self, repository: &Repository) -> CopySide {
        let mut site = site(&self.client, repository, &self.source_credentials);
        site.pace = Some(self.paces.for_host(repository.host()));
        site.rate_limit = Some(self.client.rate_limit(repository.host()));
        site.bandwidth.clone_from(&self.bandwidth);
        site
    }

    pub(crate) fn destination(&self, repository: &Repository) -> CopySide {
        let (client, credentials) = (&self.destination_client, &self.destination_credentials);
        let mut site = site(client, repository, credentials);
        site.candidates = Some(Candidates {
            catalogue: self.catalogue.clone(),
            client: client.clone(),
            credentials: credentials.clone(),
        });
        site
    }
}

fn site(client: &Client, repository: &Repository, credentials: &Arc<Credentials>) -> CopySide {
    let endpoint = Endpoint::from(client.repository(repository, credentials.clone()));
    CopySide::new(endpoint, repository)
}
