//! The client: connections and tokens shared by all repositories.

use std::sync::Arc;
use std::time::Duration;

use coral_image::{Host, Repository};
use http::{HeaderMap, Method};
use tokio::sync::watch;
use url::Url;

use crate::abandoned::Abandoned;
use crate::auth::{Ask, Auth, Session};
use crate::credentials::{Candidate, Credentials};
use crate::error::{Error, Problem};
use crate::open_uploads::OpenUploads;
use crate::options::ClientOptions;
use crate::rate_limit::RateLimit;
use crate::repository::{ReferrersLocks, RepositoryClient, ThrottledMounts};
use crate::transport::{Body, Transport, authority_of, is_html, refusal};

/// One pool of connections and one cache of tokens; cloning shares them.
/// A process needs one client for all its registries that take the same options:
///
/// ```
/// use coral_distribution::{Client, ClientOptions, Credentials};
/// use coral_image::ImageRef;
///
/// let client = Client::new(ClientOptions::default())?;
/// let image = ImageRef::parse("debian:bookworm-slim")?;
/// // Nothing is sent before a verb is called on the repository.
/// let repository = client.repository(image.repository(), Credentials::none().into());
/// assert_eq!(repository.repository().to_string(), "docker.io/library/debian");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    auth: Arc<Auth>,
    referrers: Arc<ReferrersLocks>,
    throttled_mounts: Arc<ThrottledMounts>,
    abandoned: Abandoned,
    open_uploads: Option<OpenUploads>,
}

impl Client {
    /// A client with these options. Nothing is connected yet; a CA that cannot be read is refused.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        // Another part of the process may have done so already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let open_uploads = options.open_uploads.clone();
        Ok(Self {
            open_uploads,
            transport: Arc::new(Transport::new(options)?),
            auth: Arc::default(),
            referrers: Arc::default(),
            throttled_mounts: Arc::default(),
            abandoned: Abandoned::default(),
        })
    }

    /// The verbs on one repository, with what may be used to authenticate.
    pub fn repository(
        &self,
        repository: &Repository,
        credentials: Arc<Credentials>,
    ) -> RepositoryClient {
        let path = Some(repository.path().as_str());
        let fitting = credentials.candidates(repository.host(), path);
        let session = self.session(fitting, credentials.hint_for(repository), credentials);
        let base = self.base(repository.host());
        RepositoryClient::new(
            repository.clone(),
            base,
            session,
            Arc::clone(&self.referrers),
            Arc::clone(&self.throttled_mounts),
            self.abandoned.clone(),
            self.open_uploads.clone(),
        )
    }

    /// Asks `GET /v2/`: whether a registry answers at `host` and takes the credentials.
    pub async fn ping(&self, host: &Host, credentials: &Credentials) -> Result<(), Error> {
        let fitting = credentials.candidates(host, None);
        let (transport, auth) = (Arc::clone(&self.transport), Arc::clone(&self.auth));
        // The question is about the credential, so anonymous access is no answer to it.
        let session = Session::strict(transport, auth, fitting);
        let url = self
            .base(host)
            .map_err(|problem| Error::new(host, "asking /v2/", problem))?;
        let ask = Ask {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Body::Empty,
            scopes: Vec::new(),
            asked: "asking /v2/".to_owned(),
            attempts: 0,
        };
        let response = session.send(ask).await?;
        if response.status().is_success() {
            // Portals and other sites answer whatever is asked.
            if is_html(&response) {
                return Err(response.error(Problem::Html));
            }
            return Ok(());
        }
        let asked = response.asked.clone();
        Err(Error::new(host, asked, refusal(response).await))
    }

    /// From now on sends a name and a password to this host without being asked for them, where
    /// there are any: for a registry that answers strangers too, but not with what they need.
    pub fn expect_basic(&self, host: &Host) {
        if let Ok(base) = self.base(host) {
            self.auth.expect_basic(&base);
        }
    }

    /// Waits until uploads that were dropped in the middle are given up at their registries, at
    /// most for this long. To be called before the process ends.
    pub async fn settle(&self, timeout: Duration) {
        let _ = tokio::time::timeout(timeout, self.abandoned.settle()).await;
    }

    /// What a registry says of its rate limit: the last word now, and each new one from now on.
    /// `None` until it has said something.
    pub fn rate_limit(&self, host: &Host) -> watch::Receiver<Option<RateLimit>> {
        let name = match self.base(host) {
            Ok(url) => authority_of(&url),
            Err(_) => host.to_string(),
        };
        self.transport.rate_limits.watch(&name)
    }

    fn session(
        &self,
        candidates: Vec<Candidate>,
        hint: Option<String>,
        credentials: Arc<Credentials>,
    ) -> Arc<Session> {
        let (transport, auth) = (Arc::clone(&self.transport), Arc::clone(&self.auth));
        let session = Session::new(transport, auth, candidates, hint, credentials);
        Arc::new(session)
    }

    /// Where the API of a host begins. Docker Hub's registry has a name of its own.
    pub(crate) fn base(&self, host: &Host) -> Result<Url, Problem> {
        let scheme = if self.transport.plain_http_host(host) {
            "http"
        } else {
            "https"
        };
        let authority = if host.is_docker_hub() {
            "registry-1.docker.io"
        } else {
            host.as_str()
        };
        Url::parse(&format!("{scheme}://{authority}/v2/"))
            .map_err(|_| Problem::Options(format!("{host} cannot be written as a URL")))
    }
}
