//! The operations on one repository of a registry.

mod blobs;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod listing;
mod manifests;
mod referrers;
mod uploads;

use std::fmt;
use std::sync::Arc;

use coral_image::{Repository, Version};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::abandoned::Abandoned;
use crate::auth::{AuthRequest, Session};
use crate::error::{Error, Problem};
use crate::open_uploads::OpenUploads;
use crate::transport::{Body, Response, refusal};

pub(crate) use referrers::ReferrersLocks;
pub(crate) use uploads::{RegistryUpload, ThrottledMounts};

/// The result of writing a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutManifest {
    /// Whether the registry maintains the list of referrers itself: it said so (`OCI-Subject`), or
    /// the manifest has no subject. If this is `false`, the client has written the referrers tag.
    pub subject_recorded: bool,
}

/// The access that a token must grant.
#[derive(Debug, Clone, Copy)]
enum TokenScope {
    Pull,
    Push,
    Delete,
}

impl TokenScope {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "delete",
        }
    }
}

/// One repository of a registry; cheap to clone.
#[derive(Debug, Clone)]
pub struct RepositoryClient {
    repository: Arc<Repository>,
    base: Result<Url, String>,
    session: Arc<Session>,
    referrers: Arc<ReferrersLocks>,
    throttled_mounts: Arc<ThrottledMounts>,
    abandoned: Abandoned,
    open_uploads: Option<OpenUploads>,
}

/// A request on this repository, with the defaults that most requests share.
struct Call<'a> {
    method: Method,
    /// The path after `/v2/<name>/`.
    path: String,
    access: TokenScope,
    asked: fmt::Arguments<'a>,
}

impl RepositoryClient {
    pub(crate) fn new(
        repository: Repository,
        base: Result<Url, Problem>,
        session: Arc<Session>,
        referrers: Arc<ReferrersLocks>,
        throttled_mounts: Arc<ThrottledMounts>,
        abandoned: Abandoned,
        open_uploads: Option<OpenUploads>,
    ) -> Self {
        let base = base.map_err(|problem| problem.to_string());
        Self {
            repository: Arc::new(repository),
            base,
            session,
            referrers,
            throttled_mounts,
            abandoned,
            open_uploads,
        }
    }

    /// The name of the repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn scope(&self, access: TokenScope) -> String {
        format!("repository:{}:{}", self.repository.path(), access.actions())
    }

    fn url(&self, path: &str, asked: fmt::Arguments<'_>) -> Result<Url, Error> {
        let fail = |text: String| Error::new(self.repository.host(), asked, Problem::Options(text));
        let base = self.base.as_ref().map_err(|text| fail(text.clone()))?;
        base.join(&format!("{}/{path}", self.repository.path()))
            .map(|url| self.session.transport.with_known_scheme(url))
            .map_err(|_| fail(format!("{path} cannot be written as a URL")))
    }

    fn ask(&self, call: Call<'_>) -> Result<AuthRequest, Error> {
        Ok(AuthRequest {
            method: call.method,
            url: self.url(&call.path, call.asked)?,
            headers: HeaderMap::new(),
            body: Body::Empty,
            scopes: vec![self.scope(call.access)],
            asked: call.asked.to_string(),
            attempts: 0,
        })
    }

    /// `path:tag` or `path@digest`, for messages.
    fn named(&self, version: &Version) -> String {
        let path = self.repository.path();
        match version {
            Version::Tag(tag) => format!("{path}:{tag}"),
            Version::Digest(digest) => format!("{path}@{digest}"),
        }
    }
}

/// Whether the refusal of a `HEAD` may be due to the method, so that `GET` may succeed. For a
/// missing object, a refused client, or a busy or broken registry, `GET` would be answered in the
/// same way.
fn is_without_head(status: StatusCode) -> bool {
    status == StatusCode::NOT_IMPLEMENTED
        || status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429)
}

/// Returns the answer if it has one of these statuses, else the error that it reports.
async fn expect(response: Response, statuses: &[u16]) -> Result<Response, Error> {
    if statuses.contains(&response.status().as_u16()) {
        return Ok(response);
    }
    let (host, asked) = (response.host.clone(), response.asked.clone());
    if response.status().is_success() {
        let text = format!("answered {}, which makes no sense here", response.status());
        return Err(Error::new(host, asked, Problem::Permanent(text)));
    }
    Err(Error::new(host, asked, refusal(response).await))
}

fn header(ask: &mut AuthRequest, name: HeaderName, value: &str) -> Result<(), Error> {
    let value = HeaderValue::from_str(value).map_err(|_| {
        let text = format!("{value:?} is not valid in the header {name}");
        Error::new(
            ask.url.host_str().unwrap_or_default(),
            &ask.asked,
            Problem::Protocol(text),
        )
    })?;
    ask.headers.insert(name, value);
    Ok(())
}
