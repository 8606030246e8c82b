//! Answers the challenge of another host that a redirect led to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use coral_image::{Digest, Host};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use url::Url;

use super::parse_challenges;
use super::scheme::{Scheme, challenge_scopes, choose};
use super::session::{AuthRequest, MAX_ROUNDS, Session, is_reading, is_refusal, request};
use super::token::Freshness;
use crate::credentials::Candidate;
use crate::error::Error;
use crate::location;
use crate::transport::{Body, Response, url_authority};

/// How many repositories elsewhere a session remembers. A registry chooses where it redirects to,
/// so without a limit it could fill the memory. A forgotten repository costs one more request.
const MAX_REPOSITORIES: usize = 64;

/// The authorization that each repository elsewhere accepted last, by the address of the
/// repository.
pub(crate) type KnownAuthorizations = HashMap<String, HeaderValue>;

/// What one session has learnt about the hosts that redirects led it to.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(Mutex<KnownAuthorizations>);

impl Elsewhere {
    /// The authorizations that may be sent at once; empty for a request that may not use a login
    /// there.
    pub(super) fn known(&self, ask: &AuthRequest) -> KnownAuthorizations {
        if may_use_logins(ask) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        } else {
            KnownAuthorizations::new()
        }
    }

    fn remember(&self, url: &Url, header: HeaderValue) {
        if let Some(place) = repository_address(url) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_REPOSITORIES && !known.contains_key(&place) {
                known.clear();
            }
            known.insert(place, header);
        }
    }

    fn forget(&self, url: &Url) {
        if let Some(place) = repository_address(url) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.remove(&place);
        }
    }
}

/// Scheme, host, port and repository of a URL of the distribution API. `None` for any other URL,
/// and for one with a query, which may be signed and then accepts no `Authorization`.
pub(crate) fn repository_address(url: &Url) -> Option<String> {
    let repository = repository_path(url)?;
    let origin = url.origin().ascii_serialization();
    url.query()
        .is_none()
        .then(|| format!("{origin}/v2/{repository}"))
}

fn repository_path(url: &Url) -> Option<&str> {
    let path = url.path().strip_prefix("/v2/")?;
    let kinds = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let end = kinds.iter().find_map(|kind| path.rfind(kind))?;
    Some(&path[..end])
}

/// Whether a request may use the user's login for a host that a redirect leads to. The registry
/// that is asked chooses what is read there. It must not be able to have that content stored under
/// a tag at the destination, where others may read it. So the content has to be fixed by its
/// digest: reading by tag, and lists, use no login.
fn may_use_logins(ask: &AuthRequest) -> bool {
    let last = ask.url.path().rsplit('/').next();
    is_reading(&ask.method) && last.is_some_and(|last| Digest::parse(last).is_ok())
}

/// Whether the answer is a challenge of another host than the requested one.
fn is_challenged(ask: &AuthRequest, response: &Response) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        && !location::same_origin(response.url(), &ask.url)
        && !matches!(ask.body, Body::Stream(..))
}

impl Session {
    /// Answers the challenge of another host that a redirect led to. Authentication belongs to the
    /// host that answers: it gets the credential that is configured for it, if there is one, and
    /// never the authorization that the first host got.
    pub(super) async fn answered_elsewhere(
        &self,
        ask: &mut AuthRequest,
        mut response: Response,
    ) -> Result<Response, Error> {
        for _ in 1..MAX_ROUNDS {
            if !is_challenged(ask, &response) {
                break;
            }
            let url = response.url().clone();
            // This is rarely needed, so it must not enlarge the futures of all other requests.
            response = Box::pin(self.answered_at(&url, ask, response)).await?;
            if location::same_origin(response.url(), &url) {
                break;
            }
        }
        Ok(response)
    }

    /// Requests this URL again: with each of the user's credentials for it, then without one.
    async fn answered_at(
        &self,
        url: &Url,
        ask: &mut AuthRequest,
        mut response: Response,
    ) -> Result<Response, Error> {
        self.elsewhere.forget(url);
        let headers = response.inner.headers().get_all(WWW_AUTHENTICATE);
        let challenges = parse_challenges(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some((scheme, challenge)) = choose(&challenges, &response)? else {
            return Ok(response);
        };
        if let Scheme::Bearer { realm, .. } = &scheme {
            self.check_realm(url, realm)
                .map_err(|problem| response.error(problem))?;
        }
        let named = challenge_scopes(challenge);
        let scopes = if named.is_empty() {
            ask.scopes.clone()
        } else {
            named
        };
        for candidate in self.candidates_at(url, ask) {
            // First with a cached token, then with a new one.
            for _ in 0..2 {
                let header = self.header(Some(&scheme), (url, &ask.asked), &candidate, &scopes);
                let Ok((Some(header), used)) = header.await else {
                    break;
                };
                let mut again = request(ask, Some(header.clone()));
                again.url = url.clone();
                response = self.transport.send(again).await?;
                if !is_refusal(&response) || !location::same_origin(response.url(), url) {
                    if may_use_logins(ask) {
                        self.elsewhere.remember(url, header);
                    }
                    return Ok(response);
                }
                let Some(used) = used else { break };
                self.auth.tokens.forget(&used.key, &used.header).await;
                if used.freshness == Freshness::New {
                    break;
                }
            }
        }
        Ok(response)
    }

    /// The candidates for the URL that a redirect led to: entries for that host only, never over
    /// plain HTTP unless that is configured for the host, and only to read content that a digest
    /// names.
    fn candidates_at(&self, url: &Url, ask: &AuthRequest) -> Vec<Candidate> {
        let mut candidates = if may_use_logins(ask) {
            self.logins_at(url)
        } else {
            vec![]
        };
        candidates.push(Candidate::Anonymous);
        candidates
    }

    fn logins_at(&self, url: &Url) -> Vec<Candidate> {
        let is_safe = url.scheme() == "https" || self.transport.allows_plain_http(url);
        let host = Host::parse(&url_authority(url)).ok().filter(|_| is_safe);
        let own = host.map(|host| self.credentials.candidates(&host, repository_path(url)));
        own.unwrap_or_default()
    }

    /// Advice for a redirect to a host that refuses anonymous requests, when a login for that host
    /// is configured but this request may not use it.
    pub(super) fn advice_elsewhere(&self, ask: &AuthRequest, url: &Url) -> Option<String> {
        let is_elsewhere = !location::same_origin(url, &ask.url);
        if !is_elsewhere || may_use_logins(ask) || self.logins_at(url).is_empty() {
            return None;
        }
        let host = url_authority(url);
        Some(format!(
            "it redirects to {host}, whose login is not used for a tag that another registry \
             chooses: name {host} itself, or the image's digest"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_a_registry_leads_to_are_remembered_up_to_a_bound() {
        let elsewhere = Elsewhere::default();
        let count = || elsewhere.0.lock().unwrap().len();
        for n in 0..10 * MAX_REPOSITORIES {
            let url = Url::parse(&format!("https://b/v2/x{n}/blobs/d")).unwrap();
            elsewhere.remember(&url, HeaderValue::from_static("Bearer x"));
            let place = repository_address(&url).unwrap();
            assert!(elsewhere.0.lock().unwrap().contains_key(&place), "{n}");
            assert!(count() <= MAX_REPOSITORIES, "{n}");
        }
    }

    #[test]
    fn a_place_is_a_repository_of_one_origin() {
        for (url, expected) in [
            ("https://b/v2/x/y/manifests/1", Some("https://b/v2/x/y")),
            ("https://b:5000/v2/x/blobs/d", Some("https://b:5000/v2/x")),
            ("http://b/v2/x/blobs/d", Some("http://b/v2/x")),
            ("https://b/v2/x/blobs/d?signature=s", None),
            ("https://b/store/d", None),
            ("https://b/v2/", None),
        ] {
            let place = repository_address(&Url::parse(url).unwrap());
            assert_eq!(place.as_deref(), expected, "{url}");
        }
    }
}
