//! Requests to one registry on behalf of one repository, with the appropriate `Authorization`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::elsewhere::{Elsewhere, KnownAuthorizations};
use super::scheme::{Scheme, challenge_scopes, choose, log_challenge};
use super::token::{Freshness, TokenKey, basic};
use super::{Auth, HostState, parse_challenges};
use crate::blob_stream::BlobStream;
use crate::credentials::{Candidate, Credential, CredentialKind, Credentials};
use crate::error::{Answer, Category, Error, Problem};
use crate::location;
use crate::transport::{Body, Request, Response, Transport, refusal, url_authority};

/// At most four rounds: without a scheme, with it, with a new token, with other scopes.
pub(super) const MAX_ROUNDS: usize = 4;

/// A request that may need authentication.
pub(crate) struct AuthRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The access that a token must grant: `repository:library/debian:pull`.
    pub(crate) scopes: Vec<String>,
    pub(crate) asked: String,
    /// How often the request has been sent so far.
    pub(crate) attempts: u32,
}

/// The credentials for one repository.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) transport: Arc<Transport>,
    pub(super) auth: Arc<Auth>,
    /// The credentials for all hosts, for those that a redirect leads to.
    pub(super) credentials: Arc<Credentials>,
    pub(super) elsewhere: Elsewhere,
    /// The candidates, in the order in which they are tried.
    candidates: Vec<Candidate>,
    /// The index of the candidate that succeeded last.
    good: AtomicUsize,
    /// Appended to refusals: why a configured credential cannot be used.
    hint: Option<String>,
}

/// A token that a request carried.
pub(super) struct UsedToken {
    pub(super) key: TokenKey,
    pub(super) header: HeaderValue,
    pub(super) freshness: Freshness,
}

/// The result of one attempt with one candidate.
enum Attempt {
    Answered(Response),
    Refused(Error),
}

impl Session {
    pub(crate) fn new(
        transport: Arc<Transport>,
        auth: Arc<Auth>,
        mut candidates: Vec<Candidate>,
        hint: Option<String>,
        credentials: Arc<Credentials>,
    ) -> Self {
        candidates.push(Candidate::Anonymous);
        Self {
            transport,
            auth,
            credentials,
            elsewhere: Elsewhere::default(),
            candidates,
            good: AtomicUsize::new(0),
            hint,
        }
    }

    /// A session that never falls back to anonymous access once a credential was refused.
    pub(crate) fn strict(
        transport: Arc<Transport>,
        auth: Arc<Auth>,
        candidates: Vec<Candidate>,
    ) -> Self {
        let mut session = Self::new(transport, auth, candidates, None, Arc::default());
        if session.candidates.len() > 1 {
            session.candidates.pop();
        }
        session
    }

    /// Sends a request with the matching credential. A refusal (401, 403) is an error; every other
    /// answer is returned unchanged.
    pub(crate) async fn send(&self, mut ask: AuthRequest) -> Result<Response, Error> {
        if self.transport.is_undetected(&ask.url) {
            // Boxed: this is rare, and would enlarge the future of every request.
            Box::pin(self.find_scheme(&mut ask)).await;
        }
        ask.url = self.transport.with_known_scheme(ask.url);
        let host = self.auth.host(&ask.url);
        let first = host.wait_for_first().await;
        let result = self.try_candidates(&host, &mut ask).await;
        drop(first);
        if result.as_ref().map_or(true, is_of_another_scheme) {
            self.transport.forget_plain_http(&ask.url);
        }
        result
    }

    async fn find_scheme(&self, ask: &mut AuthRequest) {
        let spoken = self.transport.with_detected_scheme(ask.url.clone()).await;
        self.auth.moved(&ask.url, &spoken);
        ask.url = spoken;
    }

    async fn try_candidates(
        &self,
        host: &HostState,
        ask: &mut AuthRequest,
    ) -> Result<Response, Error> {
        let good = self.good.load(Ordering::Relaxed);
        let mut refused: Option<Error> = None;
        for step in 0..self.candidates.len() {
            let index = (good + step) % self.candidates.len();
            let candidate = &self.candidates[index];
            // After a refused credential, anonymous access is tried for reads only.
            let is_anonymous = matches!(candidate, Candidate::Anonymous);
            if is_anonymous && refused.is_some() && !is_reading(&ask.method) {
                continue;
            }
            match self.try_one(host, ask, candidate).await? {
                Attempt::Answered(response) => {
                    self.remember(index, refused.as_ref());
                    return Ok(response);
                }
                Attempt::Refused(error) if !other_candidate_may_help(&error, ask) => {
                    return Err(error);
                }
                Attempt::Refused(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.expect("there is always a candidate, and each was refused"))
    }

    fn remember(&self, index: usize, refused: Option<&Error>) {
        if let Some(error) = refused {
            tracing::warn!(%error, "a credential was refused, but another one works");
        }
        self.good.store(index, Ordering::Relaxed);
    }

    /// Tries one candidate: first with what is known about the host, then once or twice more as its
    /// challenge demands.
    async fn try_one(
        &self,
        host: &HostState,
        ask: &mut AuthRequest,
        candidate: &Candidate,
    ) -> Result<Attempt, Error> {
        let mut scopes = ask.scopes.clone();
        let mut round = 0;
        loop {
            round += 1;
            let mut known = host.scheme();
            let at = (&ask.url, ask.asked.as_str());
            let found = self.header(known.as_ref(), at, candidate, &scopes).await;
            let (header, used) = match found {
                Ok(found) => found,
                // The demand came with the answer to another request, perhaps of a repository whose
                // token server cannot be used.
                // A body that can be sent only once is not risked for that.
                Err(error)
                    if round == 1
                        && !is_token_refusal(&error)
                        && !matches!(ask.body, Body::Stream(..)) =>
                {
                    if let Some(unmet) = known.take() {
                        host.forget(&unmet);
                    }
                    (None, None)
                }
                Err(error) => return self.token_refused(error, candidate),
            };
            let mut sent = request(ask, header.clone());
            sent.elsewhere = self.elsewhere.known(ask);
            let response = self.transport.send(sent).await?;
            let response = self.answered_elsewhere(ask, response).await?;
            if !is_refusal(&response) {
                host.set_open();
                return Ok(Attempt::Answered(response));
            }
            let again = response.status() == StatusCode::UNAUTHORIZED
                && location::same_origin(response.url(), &ask.url)
                && self
                    .learn(host, known.as_ref(), &response, used.as_ref(), &mut scopes)
                    .await?;
            let once = matches!(ask.body, Body::Stream(..));
            let response = self.explained(response, ask, header).await;
            let advice = self.advice_elsewhere(ask, response.url());
            let advice = advice.unwrap_or_else(|| self.advice(candidate));
            let error = refused(response, advice, again && once).await;
            if once || !again || round == MAX_ROUNDS {
                return Ok(Attempt::Refused(error));
            }
        }
    }

    /// Learns from a challenge. Returns whether to try the same candidate again.
    async fn learn(
        &self,
        host: &HostState,
        known: Option<&Scheme>,
        response: &Response,
        used: Option<&UsedToken>,
        scopes: &mut Vec<String>,
    ) -> Result<bool, Error> {
        let headers = response.inner.headers().get_all(WWW_AUTHENTICATE);
        let challenges = parse_challenges(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some((scheme, challenge)) = choose(&challenges, response)? else {
            return Ok(false);
        };
        let changed = known != Some(&scheme);
        if changed {
            log_challenge(&response.host, &scheme);
        }
        host.set(scheme);
        let Some(used) = used.filter(|_| !changed) else {
            return Ok(changed);
        };
        self.auth.tokens.forget(&used.key, &used.header).await;
        if used.freshness == Freshness::Cached {
            return Ok(true);
        }
        // Some registries demand scopes of their own.
        let named = challenge_scopes(challenge);
        let other = !named.is_empty() && named != *scopes;
        if other {
            *scopes = named;
        }
        Ok(other)
    }

    /// The `Authorization` that the host demands, for a URL and a purpose.
    pub(super) async fn header(
        &self,
        scheme: Option<&Scheme>,
        at: (&Url, &str),
        candidate: &Candidate,
        scopes: &[String],
    ) -> Result<(Option<HeaderValue>, Option<UsedToken>), Error> {
        let fail = |problem| Error::new(url_authority(at.0), at.1, problem);
        match scheme {
            None | Some(Scheme::Open) => Ok((None, None)),
            Some(Scheme::Basic) => {
                let credential = credential(at, candidate).await?;
                // An identity token is for the token server; it is never sent as a password.
                let password = credential.filter(|c| c.kind == CredentialKind::Password);
                Ok((password.map(|c| basic(&c)), None))
            }
            Some(Scheme::Bearer { realm, service }) => {
                self.check_realm(at.0, realm).map_err(fail)?;
                let credential = credential(at, candidate).await?;
                let key = TokenKey {
                    credential,
                    realm: realm.clone(),
                    service: service.clone(),
                    scopes: scopes.to_vec(),
                };
                let (header, freshness) = self.auth.tokens.get(&self.transport, &key).await?;
                let used = UsedToken {
                    key,
                    header: header.clone(),
                    freshness,
                };
                Ok((Some(header), Some(used)))
            }
        }
    }

    /// See the rule in the documentation of [`crate::auth`]. It applies without a credential too:
    /// otherwise the answer of a server inside the network would be sent to the registry as a token.
    pub(super) fn check_realm(&self, registry: &Url, realm: &Url) -> Result<(), Problem> {
        check_token_server(&self.transport, registry, realm)
    }

    fn token_refused(&self, error: Error, candidate: &Candidate) -> Result<Attempt, Error> {
        if is_token_refusal(&error) {
            let advice = self.advice(candidate);
            Ok(Attempt::Refused(error.advised(advice)))
        } else {
            Err(error)
        }
    }

    /// An answer to `HEAD` has no body, and some registries report only there that a 403 is a rate
    /// limit. So the same request is made once with `GET`.
    async fn explained(
        &self,
        response: Response,
        ask: &mut AuthRequest,
        authorization: Option<HeaderValue>,
    ) -> Response {
        let unclear = ask.method == Method::HEAD
            && response.status() == StatusCode::FORBIDDEN
            && response.header(RETRY_AFTER).is_none();
        if !unclear {
            return response;
        }
        let mut again = request(ask, authorization);
        again.method = Method::GET;
        match Box::pin(self.transport.send(again)).await {
            Ok(explained) if explained.status().is_client_error() => explained,
            _ => response,
        }
    }

    fn advice(&self, candidate: &Candidate) -> String {
        let used = match candidate.described() {
            Some(origin) => format!("asked with the credential of {origin}"),
            None => "asked without a credential: log in, or name a Secret, and check the name: a \
                     repository that does not exist may look the same"
                .to_owned(),
        };
        self.hint
            .iter()
            .fold(used, |text, hint| format!("{text}; {hint}"))
    }
}

/// Whether a token server refused the credential.
fn is_token_refusal(error: &Error) -> bool {
    matches!(
        error.category(),
        Category::Unauthorized | Category::Forbidden
    )
}

async fn refused(response: Response, advice: String, expired: bool) -> Error {
    let (host, asked) = (response.host.clone(), response.asked.clone());
    let mut answer: Answer = refusal(response).await;
    // A rate limit says nothing about the client's credentials.
    if !answer.rate_limited {
        answer.advice = advice;
    }
    let problem = if expired {
        Problem::TokenExpired(answer)
    } else {
        Problem::Answer(answer)
    };
    Error::new(host, asked, problem)
}

/// Checks that a token may come from `url`, given the URL that named the token server: plain HTTP
/// that is configured for one host is not thereby allowed for another.
pub(super) fn check_token_server(
    transport: &Transport,
    named: &Url,
    server: &Url,
) -> Result<(), Problem> {
    let is_safe = server.scheme() == "https"
        || location::same_origin(named, server)
        || transport.allows_plain_http(server);
    if is_safe {
        return Ok(());
    }
    let server = url_authority(server);
    Err(Problem::Unsafe(format!(
        "its token server {server} speaks plain HTTP, over which no secrets are sent and no tokens \
         are read; allow that with --plain-http {server}"
    )))
}

async fn credential(
    (url, asked): (&Url, &str),
    candidate: &Candidate,
) -> Result<Option<Arc<Credential>>, Error> {
    let found = candidate.credential().await;
    found.map_err(|error| Error::new(url_authority(url), asked, Problem::Helper(error)))
}

pub(super) fn is_refusal(response: &Response) -> bool {
    matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    )
}

/// Whether another candidate may succeed. Another credential does not change a rate limit, and a
/// body that has been consumed cannot be sent again.
fn other_candidate_may_help(error: &Error, ask: &AuthRequest) -> bool {
    matches!(
        error.category(),
        Category::Unauthorized | Category::Forbidden
    ) && !matches!(ask.body, Body::Stream(..))
}

pub(super) fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether the host speaks another URL scheme: a server that speaks TLS answers a request in plain
/// HTTP with 400.
fn is_of_another_scheme(response: &Response) -> bool {
    response.status() == StatusCode::BAD_REQUEST
}

/// The request of this round. The body stays for the next round unless it can be sent only once.
pub(super) fn request(ask: &mut AuthRequest, authorization: Option<HeaderValue>) -> Request {
    ask.attempts += 1;
    let body = match &mut ask.body {
        Body::Empty => Body::Empty,
        Body::Bytes(bytes) => Body::Bytes(bytes.clone()),
        Body::Secret(bytes) => Body::Secret(bytes.clone()),
        Body::Stream(size, stream) => {
            Body::Stream(*size, std::mem::replace(stream, BlobStream::empty()))
        }
    };
    Request {
        method: ask.method.clone(),
        url: ask.url.clone(),
        headers: ask.headers.clone(),
        authorization,
        body,
        asked: ask.asked.clone(),
        attempt: ask.attempts,
        elsewhere: KnownAuthorizations::new(),
    }
}
