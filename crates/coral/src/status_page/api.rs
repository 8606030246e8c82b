//! The registry's own API, asked in process with the credentials of the page's visitor.

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use coral_image::{Digest, MAX_MANIFEST_SIZE, Manifest, RepositoryPath, Tag, Version};
use coral_registry::{OwnRequest, WholeCatalog};
use coral_rt::{Peer, Transport};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use super::order::newest_first;
use super::storage::{Scrub, ScrubAnswer, Storage};

/// Everything that is shown is far smaller; lists are requested in pages.
const MAX_ANSWER: usize = MAX_MANIFEST_SIZE + 64 * 1024;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*";

/// How many names one request to the registry asks for.
pub(super) const MOST_LISTED: usize = 1000;
/// How many names are searched for one page.
pub(super) const MOST_SEARCHED: usize = 20_000;

/// The routes of the registry.
#[derive(Clone)]
pub(super) struct Api(Router);

/// The visitor: the `Authorization` of the request, and what the server knows about its connection.
/// Nothing else is passed on: the path parameters of the page would be taken for those of the inner
/// request.
pub(super) struct Reader {
    authorization: Option<HeaderValue>,
    peer: Option<Peer>,
    transport: Option<Transport>,
}

impl Reader {
    pub(super) fn from_parts(parts: &Parts) -> Self {
        Self {
            authorization: parts.headers.get(header::AUTHORIZATION).cloned(),
            peer: parts.extensions.get().copied(),
            transport: parts.extensions.get().copied(),
        }
    }

    pub(super) fn has_login(&self) -> bool {
        self.authorization.is_some()
    }
}

/// Why something cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// It is not there.
    #[error("there is nothing here under this name")]
    Missing,
    /// The reader may not see it.
    #[error("you may not read this")]
    Refused {
        status: StatusCode,
        challenge: Vec<HeaderValue>,
    },
    /// Too many pages are being made.
    #[error("many pages are being prepared now; reload this one in a moment")]
    Busy,
    /// The registry could not answer.
    #[error("the registry cannot answer now; its log says why")]
    Failed,
}

impl ApiError {
    /// A challenge that makes a browser ask for a name and a password.
    pub(super) fn login_needed() -> Self {
        Self::Refused {
            status: StatusCode::UNAUTHORIZED,
            challenge: vec![HeaderValue::from_static("Basic realm=\"coral\"")],
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Missing => StatusCode::NOT_FOUND,
            Self::Refused { status, .. } => *status,
            Self::Busy | Self::Failed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One page of names, and whether there are more.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) names: Vec<T>,
    pub(super) more: bool,
    /// Whether the reader may see every entry.
    pub(super) is_whole: bool,
}

impl<T> Listed<T> {
    /// The name after which the next page begins.
    pub(super) fn next(&self) -> Option<&T> {
        self.names.last().filter(|_| self.more)
    }
}

/// The body of a list, and what its headers state.
struct List<T> {
    entries: T,
    more: bool,
    is_whole: bool,
}

struct Answer {
    is_whole: bool,
    headers: HeaderMap,
    body: Bytes,
}

impl Api {
    pub(super) fn new(router: Router) -> Self {
        Self(router)
    }

    /// A page of the repositories that the reader may see.
    pub(super) async fn repositories(
        &self,
        reader: &Reader,
        last: Option<&RepositoryPath>,
        limit: usize,
    ) -> Result<Listed<RepositoryPath>, ApiError> {
        #[derive(Deserialize)]
        struct Catalog {
            #[serde(default)]
            repositories: Option<Vec<String>>,
        }
        let path = listing("/v2/_catalog", last.map(RepositoryPath::as_str), limit);
        let found: List<Catalog> = self.list(reader, &path).await?;
        let names = found.entries.repositories.into_iter().flatten();
        let names = names.filter_map(|name| RepositoryPath::parse(&name).ok());
        Ok(Listed {
            names: names.collect(),
            more: found.more,
            is_whole: found.is_whole,
        })
    }

    /// Repositories that the reader may see and whose path contains `part`, in any case. Looks at
    /// [`MOST_SEARCHED`] repositories at most.
    pub(super) async fn repositories_with(
        &self,
        reader: &Reader,
        part: &str,
        limit: usize,
    ) -> Result<Listed<RepositoryPath>, ApiError> {
        let part = part.to_lowercase();
        let mut found = Listed {
            names: vec![],
            more: false,
            is_whole: false,
        };
        let mut last = None;
        for _ in 0..MOST_SEARCHED / MOST_LISTED {
            let page = self
                .repositories(reader, last.as_ref(), MOST_LISTED)
                .await?;
            last = page.next().cloned();
            found.is_whole = page.is_whole;
            let fits = page.names.into_iter();
            let fits = fits.filter(|name| name.as_str().contains(&part));
            found.names.extend(fits);
            found.more = found.names.len() > limit || last.is_some();
            if found.names.len() > limit || last.is_none() {
                break;
            }
        }
        found.names.truncate(limit);
        Ok(found)
    }

    /// All tags of a repository, the newest version first; if it has more than [`MOST_SEARCHED`],
    /// only the first of them by name.
    pub(super) async fn newest_tags(
        &self,
        reader: &Reader,
        repository: &RepositoryPath,
    ) -> Result<Listed<Tag>, ApiError> {
        let mut tags = vec![];
        let mut last: Option<Tag> = None;
        while tags.len() < MOST_SEARCHED {
            let page = self
                .tags(reader, repository, last.as_ref(), MOST_LISTED)
                .await?;
            last = page.next().cloned();
            tags.extend(page.names);
            if last.is_none() {
                break;
            }
        }
        newest_first(&mut tags);
        Ok(Listed {
            names: tags,
            more: last.is_some(),
            is_whole: false,
        })
    }

    /// Whether the reader may see everything. Then this includes what is not in the registry, such
    /// as the images that mirrors want and their failures.
    pub(super) async fn sees_everything(&self, reader: &Reader) -> Result<bool, ApiError> {
        Ok(self.repositories(reader, None, 1).await?.is_whole)
    }

    /// A page of a repository's tags.
    pub(super) async fn tags(
        &self,
        reader: &Reader,
        repository: &RepositoryPath,
        last: Option<&Tag>,
        limit: usize,
    ) -> Result<Listed<Tag>, ApiError> {
        #[derive(Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let path = format!("/v2/{repository}/tags/list");
        let path = listing(&path, last.map(Tag::as_str), limit);
        let found: List<Tags> = self.list(reader, &path).await?;
        let names = found.entries.tags.into_iter().flatten();
        let names = names.filter_map(|name| Tag::parse(&name).ok());
        Ok(Listed {
            names: names.collect(),
            more: found.more,
            is_whole: found.is_whole,
        })
    }

    /// The digest of a version now.
    pub(super) async fn digest(
        &self,
        reader: &Reader,
        repository: &RepositoryPath,
        version: &Version,
    ) -> Result<Digest, ApiError> {
        let path = format!("/v2/{repository}/manifests/{version}");
        let answer = self.ask(reader, Method::HEAD, &path).await?;
        let digest = answer.headers.get("docker-content-digest");
        let digest = digest.and_then(|value| Digest::parse(value.to_str().ok()?).ok());
        digest.ok_or(ApiError::Failed)
    }

    /// A manifest by its digest.
    pub(super) async fn manifest(
        &self,
        reader: &Reader,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Manifest, ApiError> {
        let path = format!("/v2/{repository}/manifests/{digest}");
        let answer = self.ask(reader, Method::GET, &path).await?;
        let content_type = answer.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        Manifest::parse_pinned(answer.body, content_type, digest).map_err(|_| ApiError::Failed)
    }

    /// A small blob, as JSON.
    pub(super) async fn json_blob<T: DeserializeOwned>(
        &self,
        reader: &Reader,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<T, ApiError> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.json(reader, &path).await
    }

    /// Stored and free bytes, which every client may see.
    pub(super) async fn storage(&self, reader: &Reader) -> Result<Storage, ApiError> {
        self.json(reader, "/coral/v1/storage").await
    }

    /// The state of the scrub, which every client may see.
    pub(super) async fn scrub(&self, reader: &Reader) -> Result<Scrub, ApiError> {
        let answer: ScrubAnswer = self.json(reader, "/coral/v1/scrub").await?;
        Ok(answer.into())
    }

    /// Bytes of all content of a repository; `None` if the reader may not see it, or if it is a
    /// layout folder, which takes no space in the storage.
    pub(super) async fn stored(&self, reader: &Reader, repository: &RepositoryPath) -> Option<u64> {
        #[derive(Deserialize)]
        struct Stored {
            stored: u64,
        }
        let path = format!("/coral/v1/storage/{repository}");
        let answer: Stored = self.json(reader, &path).await.ok()?;
        Some(answer.stored).filter(|stored| *stored > 0)
    }

    async fn json<T: DeserializeOwned>(&self, reader: &Reader, path: &str) -> Result<T, ApiError> {
        let answer = self.ask(reader, Method::GET, path).await?;
        serde_json::from_slice(&answer.body).map_err(|_| ApiError::Failed)
    }

    async fn list<T: DeserializeOwned>(
        &self,
        reader: &Reader,
        path: &str,
    ) -> Result<List<T>, ApiError> {
        let answer = self.ask(reader, Method::GET, path).await?;
        Ok(List {
            more: answer.headers.contains_key(header::LINK),
            is_whole: answer.is_whole,
            entries: serde_json::from_slice(&answer.body).map_err(|_| ApiError::Failed)?,
        })
    }

    async fn ask(&self, reader: &Reader, method: Method, path: &str) -> Result<Answer, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, MANIFESTS);
        if let Some(authorization) = &reader.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let mut request = request.body(Body::empty()).map_err(|_| ApiError::Missing)?;
        let extensions = request.extensions_mut();
        extensions.insert(OwnRequest);
        if let Some(peer) = reader.peer {
            extensions.insert(peer);
        }
        if let Some(transport) = reader.transport {
            extensions.insert(transport);
        }
        let Ok(response) = self.0.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        match head.status {
            StatusCode::OK => Ok(Answer {
                is_whole: head.extensions.get::<WholeCatalog>().is_some(),
                body: to_bytes(body, MAX_ANSWER)
                    .await
                    .map_err(|_| ApiError::Failed)?,
                headers: head.headers,
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ApiError::Refused {
                status: head.status,
                challenge: head
                    .headers
                    .get_all(header::WWW_AUTHENTICATE)
                    .into_iter()
                    .cloned()
                    .collect(),
            }),
            StatusCode::NOT_FOUND => Err(ApiError::Missing),
            _ => Err(ApiError::Failed),
        }
    }
}

fn listing(path: &str, last: Option<&str>, limit: usize) -> String {
    // The characters of names and tags need no escaping in a query.
    let last = last.map(|last| format!("&last={last}")).unwrap_or_default();
    format!("{path}?n={limit}{last}")
}
