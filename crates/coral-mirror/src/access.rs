//! How a mirror reaches its sources and its destination: the one place where credentials are.

use std::sync::Arc;

use coral_distribution::{Client, Credentials, Endpoint};
use coral_image::{Host, Repository};

use crate::bandwidth::Bandwidth;
use crate::copy::{Candidates, Catalogue, CopySide};
use crate::creations::Creations;
use crate::pace::Paces;

/// What a mirror reads and writes through. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MirrorAccess {
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
    /// How fast each source is asked: one for all mirrors of a process.
    pub paces: Paces,
    /// Limit on what is read from the sources.
    pub bandwidth: Option<Bandwidth>,
    /// Times of creation that were read before.
    pub creations: Creations,
    /// What its images at the destination consist of, as far as was read.
    pub catalogue: Catalogue,
}

/// Where a worker gets the access of a job's mirror: a map in one process, a call to the controller
/// elsewhere.
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
    /// No mirror of that name runs any more.
    #[error("its mirror was removed")]
    Unknown,
    /// It could not be found out.
    #[error("the access of its mirror could not be read: {0}")]
    Unavailable(String),
}

impl MirrorAccess {
    pub(crate) fn source(&self, repository: &Repository) -> CopySide {
        let mut site = site(&self.client, repository, &self.source_credentials);
        site.pace = Some(self.paces.of(repository.host()));
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
