//! The client: connections and tokens shared by all repositories.

use std::sync::Arc;

use coral_image::{Host, Repository};

use crate::credentials::Credentials;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::repository::RepositoryClient;

/// One pool of connections and one cache of tokens; cloning shares them.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// A client with these options. Nothing is connected yet.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let _ = options;
        todo!()
    }

    /// The verbs on one repository, with what may be used to authenticate.
    pub fn repository(
        &self,
        repository: &Repository,
        credentials: Arc<Credentials>,
    ) -> RepositoryClient {
        let _ = (repository, credentials);
        todo!()
    }

    /// Asks `GET /v2/`: whether a registry answers at `host` and takes the credentials.
    pub async fn ping(&self, host: &Host, credentials: &Credentials) -> Result<(), Error> {
        let _ = (host, credentials);
        todo!()
    }
}
