//! Bearer tokens: fetched, and cached until shortly before they expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::KnownAuthorizations;
use super::session::check_token_server;
use crate::credentials::{Credential, CredentialKind};
use crate::error::{Error, Problem};
use crate::transport::{
    Body, Request, Transport, is_html, markup, read_document, refusal, url_authority,
};

/// Some token servers list all groups of an account in the token; no token needs more than this.
const MAX_TOKEN_ANSWER: usize = 256 * 1024;
/// Longest token, in bytes: servers do not accept longer headers.
const MAX_TOKEN: usize = 64 * 1024;
/// The lifetime of a token that states none, according to the token specification.
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// A longer lifetime is capped at this value.
const MAX_LIFE: Duration = Duration::from_hours(24);
/// A token is renewed this long before it expires, or after three quarters of a short lifetime.
const MARGIN: Duration = Duration::from_secs(15);
/// Above this number of tokens, expired ones are removed.
const MANY_TOKENS: usize = 4096;

/// The host, scope and credential that a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) credential: Option<Arc<Credential>>,
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    pub(crate) scopes: Vec<String>,
}

#[derive(Debug, Clone)]
struct Token {
    header: HeaderValue,
    renew_at: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// All tokens of a client.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<TokenKey, Slot>>);

/// The answer of a token server.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

impl Tokens {
    /// The `Authorization` header for a key, and whether it was cached. Of many concurrent callers,
    /// one fetches the token; if that fails, each of the others tries on its own.
    pub(crate) async fn get(
        &self,
        transport: &Transport,
        key: &TokenKey,
    ) -> Result<(HeaderValue, Freshness), Error> {
        let slot = self.slot(key);
        if let Ok(mut first) = slot.try_lock() {
            if let Some(header) = valid(first.as_ref()) {
                return Ok((header, Freshness::Cached));
            }
            let token = fetch(transport, key).await?;
            let header = token.header.clone();
            *first = Some(token);
            return Ok((header, Freshness::New));
        }
        let kept = valid(slot.lock().await.as_ref());
        if let Some(header) = kept {
            return Ok((header, Freshness::New));
        }
        let token = fetch(transport, key).await?;
        let header = token.header.clone();
        *slot.lock().await = Some(token);
        Ok((header, Freshness::New))
    }

    /// Drops a token that was refused, unless another request has already replaced it.
    pub(crate) async fn forget(&self, key: &TokenKey, refused: &HeaderValue) {
        let slot = self.slot(key);
        let mut token = slot.lock().await;
        if token.as_ref().is_some_and(|token| token.header == refused) {
            *token = None;
        }
    }

    fn slot(&self, key: &TokenKey) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() > MANY_TOKENS {
            slots.retain(|_, slot| {
                slot.try_lock()
                    .map_or(true, |t| valid(t.as_ref()).is_some())
            });
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

/// Whether a token has been used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    New,
    Cached,
}

fn valid(token: Option<&Token>) -> Option<HeaderValue> {
    token
        .filter(|token| Instant::now() < token.renew_at)
        .map(|token| token.header.clone())
}

/// `Basic` with user and password (RFC 7617).
pub(crate) fn basic(credential: &Credential) -> HeaderValue {
    let pair = format!("{}:{}", credential.username, credential.password.expose());
    let text = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    );
    let mut header =
        HeaderValue::from_str(&text).expect("base64 has only letters that a header takes");
    header.set_sensitive(true);
    header
}

async fn fetch(transport: &Transport, key: &TokenKey) -> Result<Token, Error> {
    let asked_at = Instant::now();
    let asked = match key.scopes.as_slice() {
        [] => "getting a token".to_owned(),
        scopes => format!("getting a token for {}", scopes.join(" ")),
    };
    let request = match &key.credential {
        Some(credential) if credential.kind == CredentialKind::IdentityToken => {
            grant(key, credential, asked)
        }
        _ => Request {
            method: Method::GET,
            url: token_url(key),
            headers: HeaderMap::new(),
            authorization: key.credential.as_deref().map(basic),
            body: Body::Empty,
            asked,
            attempt: 1,
            elsewhere: KnownAuthorizations::new(),
        },
    };
    let response = transport.send(request).await?;
    if !response.status().is_success() {
        let (host, asked) = (response.host.clone(), response.asked.clone());
        return Err(Error::new(host, asked, refusal(response).await));
    }
    let (host, asked) = (response.host.clone(), response.asked.clone());
    // The target of a redirect has to satisfy the same rule as the URL that the registry named.
    check_token_server(transport, &key.realm, response.url())
        .map_err(|problem| Error::new(&host, &asked, problem))?;
    let is_page = is_html(&response);
    let body = read_document(response, MAX_TOKEN_ANSWER).await?;
    if let Some(problem) = markup(&body) {
        return Err(Error::new(host, asked, problem));
    }
    let fail = |text: &str| {
        let problem = if is_page {
            Problem::Html
        } else {
            Problem::Permanent(text.to_owned())
        };
        Error::new(&host, &asked, problem)
    };
    let (header, life) = read(&body).map_err(fail)?;
    log_token(key, life);
    Ok(Token {
        header,
        renew_at: asked_at + life.saturating_sub(MARGIN.min(life / 4)),
    })
}

fn log_token(key: &TokenKey, life: Duration) {
    let credential = key.credential.as_deref();
    let credential = credential.map_or("none", |credential| credential.origin.as_str());
    tracing::debug!(
        server = %url_authority(&key.realm), path = %key.realm.path(), service = ?key.service,
        scopes = ?key.scopes, credential, life_seconds = life.as_secs(), "token received"
    );
}

/// Parses a token server's answer into the header of the token and its lifetime.
pub(crate) fn read(answer: &[u8]) -> Result<(HeaderValue, Duration), &'static str> {
    // The parser's own message may quote the token.
    let answer: TokenAnswer =
        serde_json::from_slice(answer).map_err(|_| "the answer is not a token in JSON")?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|t| !t.is_empty());
    let token = token.ok_or("the answer has no token in it")?;
    // RFC 6750 allows fewer characters than a header does; anything else is not sent as a token.
    let is_token = token.len() <= MAX_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        return Err(
            "the token in the answer is invalid: it is too long, or contains characters that are not allowed",
        );
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "the token is not valid in a header")?;
    header.set_sensitive(true);
    Ok((header, token_lifetime(answer.expires_in)))
}

/// The form of an identity token's exchange (OAuth 2, RFC 6749, section 6, as in the token
/// specification of the distribution project).
fn grant(key: &TokenKey, credential: &Credential, asked: String) -> Request {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token");
    form.append_pair("client_id", "coral");
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    form.append_pair("scope", &key.scopes.join(" "));
    form.append_pair("refresh_token", credential.password.expose());
    let mut headers = HeaderMap::new();
    let urlencoded = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, urlencoded);
    Request {
        method: Method::POST,
        url: key.realm.clone(),
        headers,
        authorization: None,
        body: Body::Secret(form.finish().into()),
        asked,
        attempt: 1,
        elsewhere: KnownAuthorizations::new(),
    }
}

fn token_lifetime(expires_in: Option<f64>) -> Duration {
    expires_in
        .filter(|seconds| *seconds > 0.0)
        .map_or(DEFAULT_LIFE, |s| {
            Duration::try_from_secs_f64(s)
                .unwrap_or(MAX_LIFE)
                .min(MAX_LIFE)
        })
}

fn token_url(key: &TokenKey) -> Url {
    let mut url = key.realm.clone();
    let mut query = url.query_pairs_mut();
    if let Some(service) = &key.service {
        query.append_pair("service", service);
    }
    for scope in &key.scopes {
        query.append_pair("scope", scope);
    }
    if let Some(credential) = &key.credential {
        query.append_pair("account", &credential.username);
    }
    drop(query);
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::CredentialKind;
    use crate::redacted::Redacted;

    #[test]
    fn a_tokens_life_is_bounded_on_both_sides() {
        assert_eq!(token_lifetime(None), DEFAULT_LIFE);
        assert_eq!(token_lifetime(Some(300.0)), Duration::from_mins(5));
        assert_eq!(token_lifetime(Some(0.0)), DEFAULT_LIFE);
        assert_eq!(token_lifetime(Some(-5.0)), DEFAULT_LIFE);
        assert_eq!(token_lifetime(Some(f64::NAN)), DEFAULT_LIFE);
        assert_eq!(token_lifetime(Some(1e300)), MAX_LIFE);
    }

    /// Regression: any text that a server called a token was sent to the registry that named the
    /// server.
    #[test]
    fn what_can_be_no_token_is_not_taken_for_one() {
        let longest = "x".repeat(MAX_TOKEN);
        for good in ["a.b-c_d~e+f/g==", "1|opaque:token", &longest] {
            let answer = serde_json::json!({ "token": good }).to_string();
            let (header, _) = read(answer.as_bytes()).unwrap();
            assert_eq!(header, format!("Bearer {good}"));
            assert!(header.is_sensitive());
        }
        let longer = longest + "x";
        for bad in [
            "two words",
            "line\nline",
            "tab\tand",
            "\u{e9}",
            "\0",
            &longer,
        ] {
            for name in ["token", "access_token"] {
                let answer = serde_json::json!({ name: bad }).to_string();
                let refused = read(answer.as_bytes()).unwrap_err();
                assert!(!refused.contains(bad), "{refused}");
            }
        }
    }

    fn key(scopes: &[&str]) -> TokenKey {
        TokenKey {
            credential: None,
            realm: Url::parse("https://auth.example/token?tenant=1").unwrap(),
            service: Some("reg".to_owned()),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        }
    }

    fn token(renew_at: Instant) -> Token {
        let header = HeaderValue::from_static("Bearer x");
        Token { header, renew_at }
    }

    #[test]
    fn of_too_many_tokens_those_that_are_good_or_in_use_are_kept() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let good = tokens.slot(&key(&["good"]));
        *good.try_lock().unwrap() = Some(token(now + Duration::from_hours(1)));
        let fetched = tokens.slot(&key(&["being fetched"]));
        let fetching = fetched.try_lock().unwrap();
        let expired = tokens.slot(&key(&["expired"]));
        *expired.try_lock().unwrap() = Some(token(now));
        for n in 0..MANY_TOKENS {
            tokens.slot(&key(&[&n.to_string()]));
        }
        tokens.slot(&key(&["one more"]));
        let left = tokens.0.lock().unwrap().len();
        assert!(left < 10, "{left}");
        for (slot, scope) in [(&good, "good"), (&fetched, "being fetched")] {
            assert!(Arc::ptr_eq(slot, &tokens.slot(&key(&[scope]))), "{scope}");
        }
        assert!(!Arc::ptr_eq(&expired, &tokens.slot(&key(&["expired"]))));
        drop(fetching);
    }

    /// HTTP/2 keeps headers in tables, and logs of headers show them, except those marked as
    /// sensitive.
    #[test]
    fn a_password_in_a_header_is_marked_as_secret() {
        let credential = Credential {
            username: "anna".to_owned(),
            password: Redacted::new("hunter2-secret".to_owned()),
            kind: CredentialKind::Password,
            origin: "the test".to_owned(),
        };
        let header = basic(&credential);
        assert!(header.is_sensitive());
        assert_eq!(format!("{header:?}"), "Sensitive");
    }

    #[test]
    fn the_realms_own_query_is_kept() {
        let key = key(&["repository:a/b:pull", "repository:c:pull"]);
        let expected = "https://auth.example/token?tenant=1&service=reg\
                        &scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull";
        assert_eq!(token_url(&key).as_str(), expected);
    }
}
