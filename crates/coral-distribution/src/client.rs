//! The client: connections and tokens that all repositories share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coral_image::{Host, Repository};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;
use url::Url;

use crate::abandoned::Abandoned;
use crate::auth::{Auth, AuthRequest, Session};
use crate::credentials::{Candidate, Credentials};
use crate::error::{Error, Problem};
use crate::open_uploads::OpenUploads;
use crate::options::ClientOptions;
use crate::rate_limit::RateLimit;
use crate::repository::{ReferrersLocks, RepositoryClient, ThrottledMounts};
use crate::transport::{Body, Response, Transport, is_html, read_document, refusal, url_authority};

/// Most bytes that are read of a storage document.
const MAX_ROOM: usize = 64 * 1024;

/// The answer of `/coral/v1/storage`.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct StorageStatus {
    stored: u64,
    uploads: u64,
    limit: Option<u64>,
    free: Option<u64>,
    min_free: Option<u64>,
}

impl StorageStatus {
    fn room(self) -> Option<u64> {
        let used = self.stored.saturating_add(self.uploads);
        let below_limit = self.limit.map(|limit| limit.saturating_sub(used));
        // A floor of 0 means that no floor is set.
        let disk = self.free.zip(self.min_free.filter(|floor| *floor > 0));
        let above_floor = disk.map(|(free, floor)| free.saturating_sub(floor));
        below_limit.into_iter().chain(above_floor).min()
    }
}

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
    /// A client with these options. It does not connect yet. A CA that cannot be read is an error.
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

    /// The client of one repository, with the credentials that it may use.
    pub fn repository(
        &self,
        repository: &Repository,
        credentials: Arc<Credentials>,
    ) -> RepositoryClient {
        let path = Some(repository.path().as_str());
        let applicable = credentials.candidates(repository.host(), path);
        let session = self.session(applicable, credentials.hint_for(repository), credentials);
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

    /// Sends `GET /v2/` to check that a registry answers at `host` and accepts the credentials.
    pub async fn ping(&self, host: &Host, credentials: &Credentials) -> Result<(), Error> {
        // This tests the credential, so anonymous access does not count as success.
        let asked = self.get_authenticated(host, credentials, "/v2/", "asking /v2/");
        let response = asked.await?;
        if response.status().is_success() {
            // Captive portals and other sites answer any request.
            if is_html(&response) {
                return Err(response.error(Problem::Html));
            }
            return Ok(());
        }
        let asked = response.asked.clone();
        Err(Error::new(host, asked, refusal(response).await))
    }

    /// Asks a Coral registry how many more bytes may be pushed to it. `None` if the registry has no
    /// bound or does not report one, as is the case for other registries.
    pub async fn room(&self, host: &Host, credentials: &Credentials) -> Result<Option<u64>, Error> {
        let asked = self.get_authenticated(
            host,
            credentials,
            "/coral/v1/storage",
            "asking for its room",
        );
        let response = asked.await?;
        if response.status().is_server_error() {
            let asked = response.asked.clone();
            return Err(Error::new(host, asked, refusal(response).await));
        }
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = read_document(response, MAX_ROOM).await?;
        let storage: Option<StorageStatus> = serde_json::from_slice(&body).ok();
        Ok(storage.and_then(StorageStatus::room))
    }

    /// A document outside the distribution API, such as Coral's `/status.json`; `None` if the
    /// registry has none. The credential for the host is sent without waiting for a challenge. More
    /// than `limit` bytes are an error.
    pub async fn document(
        &self,
        host: &Host,
        credentials: &Credentials,
        path: &str,
        limit: usize,
    ) -> Result<Option<Bytes>, Error> {
        self.expect_basic(host);
        let asked = format!("reading {path}");
        let response = self
            .get_authenticated(host, credentials, path, &asked)
            .await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(read_document(response, limit).await?)),
            _ => Err(Error::new(host, asked, refusal(response).await)),
        }
    }

    /// Sends a GET with the credential for the host; it never falls back to anonymous access.
    async fn get_authenticated(
        &self,
        host: &Host,
        credentials: &Credentials,
        path: &str,
        asked: &str,
    ) -> Result<Response, Error> {
        let applicable = credentials.candidates(host, None);
        let (transport, auth) = (Arc::clone(&self.transport), Arc::clone(&self.auth));
        let session = Session::strict(transport, auth, applicable);
        let url = self.base(host).and_then(|base| {
            let url = base.join(path);
            url.map_err(|error| Problem::Options(error.to_string()))
        });
        let ask = AuthRequest {
            method: Method::GET,
            url: url.map_err(|problem| Error::new(host, asked, problem))?,
            headers: HeaderMap::new(),
            body: Body::Empty,
            scopes: Vec::new(),
            asked: asked.to_owned(),
            attempts: 0,
        };
        session.send(ask).await
    }

    /// From now on, sends user and password to this host without waiting for a challenge, if they
    /// are configured. This is for a registry that also answers anonymous clients, but shows them
    /// less.
    pub fn expect_basic(&self, host: &Host) {
        if let Ok(base) = self.base(host) {
            self.auth.expect_basic(&base);
        }
    }

    /// Waits up to `timeout` until dropped uploads are cancelled at their registries. Call it
    /// before the process ends.
    pub async fn settle(&self, timeout: Duration) {
        let _ = tokio::time::timeout(timeout, self.abandoned.settle()).await;
    }

    /// The rate limit that a registry reports: the latest report now, and each new one from now on.
    /// `None` until the first report.
    pub fn rate_limit(&self, host: &Host) -> watch::Receiver<Option<RateLimit>> {
        let name = match self.base(host) {
            Ok(url) => url_authority(&url),
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

    /// The base URL of a host's API. Docker Hub's registry has a host name of its own.
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
            .map(|url| self.transport.with_known_scheme(url))
            .map_err(|_| Problem::Options(format!("{host} cannot be written as a URL")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_tighter_bound_leaves() {
        let storage = |limit, free, min_free| StorageStatus {
            stored: 60,
            uploads: 10,
            limit,
            free,
            min_free,
        };
        for (storage, room) in [
            (storage(None, None, None), None),
            (storage(Some(100), None, None), Some(30)),
            (storage(Some(50), None, None), Some(0)),
            (storage(Some(100), Some(45), Some(20)), Some(25)),
            (storage(None, Some(45), Some(60)), Some(0)),
            (storage(None, Some(45), Some(0)), None),
        ] {
            assert_eq!(storage.room(), room, "{storage:?}");
        }
    }
}
