//! The authentication scheme that a host demands, chosen among the challenges that can be answered.

use url::Url;

use super::Challenge;
use crate::error::{Error, Problem};
use crate::location;
use crate::transport::Response;

/// The authentication that a host demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// None so far.
    Open,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

/// The scopes that a challenge names.
pub(super) fn challenge_scopes(challenge: &Challenge) -> Vec<String> {
    let named = challenge.get("scope").unwrap_or_default();
    named.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The URL of the token server: absolute, or relative to the host that names it.
fn token_server_url(bearer: &Challenge, response: &Response) -> Option<Url> {
    let text = bearer.get("realm")?;
    let is_address = text.contains("://") || text.starts_with(['/', '.', '?']);
    let realm = is_address.then(|| location::join(response.url(), text).ok())??;
    realm.has_host().then_some(realm)
}

pub(super) fn log_challenge(host: &str, scheme: &Scheme) {
    match scheme {
        Scheme::Bearer { realm, service } => tracing::debug!(
            host, token_server = %location::shown(realm), ?service, "the host asks for a token"
        ),
        Scheme::Basic => tracing::debug!(host, "the host asks for a user and a password"),
        Scheme::Open => {}
    }
}

/// The challenge that the client can answer best.
pub(super) fn choose<'a>(
    challenges: &'a [Challenge],
    response: &Response,
) -> Result<Option<(Scheme, &'a Challenge)>, Error> {
    let find = |name: &str| challenges.iter().find(|challenge| challenge.scheme == name);
    if let Some(bearer) = find("bearer") {
        let realm = token_server_url(bearer, response).ok_or_else(|| {
            let text = "its challenge names no usable token server";
            response.error(Problem::Permanent(text.to_owned()))
        })?;
        let service = bearer.get("service").map(ToOwned::to_owned);
        return Ok(Some((Scheme::Bearer { realm, service }, bearer)));
    }
    if let Some(basic) = find("basic") {
        return Ok(Some((Scheme::Basic, basic)));
    }
    match challenges.first() {
        Some(unknown) => {
            let scheme = crate::transport::clean(&unknown.scheme);
            let text = format!("it asks for authentication by {scheme:?}, which is not supported");
            Err(response.error(Problem::Unsafe(text)))
        }
        None => Ok(None),
    }
}
