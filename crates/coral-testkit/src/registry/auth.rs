//! Authentication: none, Basic, or tokens from the registry's own endpoint.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::reply::Reply;
use super::route::Route;

/// The name under which the token endpoint knows the registry.
const SERVICE: &str = "service=\"fault-registry\"";

/// What a registry asks of its clients.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// A name and a password with every request.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token from `/token`, with the right scope.
    Bearer(Bearer),
}

/// Tokens, and how long they are valid.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bearer {
    /// Who gets a token.
    pub username: String,
    /// With which password.
    pub password: String,
    /// What can be exchanged for tokens in place of name and password.
    pub identity_token: Option<String>,
    /// Whether tokens to pull are given to every client.
    pub anonymous_pull: bool,
    /// `expires_in` of the answer, in seconds; left out, a client has to assume 60.
    pub announced_seconds: Option<u64>,
    /// After how many seconds a token is really refused.
    pub real_seconds: Option<u64>,
    /// After how many uses a token is refused: expiry without a clock.
    pub uses: Option<u32>,
    /// The realm of the challenge, in place of the registry's own `/token`.
    pub realm: Option<String>,
}

#[derive(Debug)]
struct IssuedToken {
    scopes: Vec<String>,
    since: Instant,
    used: u32,
}

/// The tokens that were issued.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    issued: BTreeMap<String, IssuedToken>,
    pub(super) count: u64,
}

/// What the registry knows of itself for a challenge.
pub(super) struct Challenger<'a> {
    pub(super) auth: &'a Auth,
    pub(super) url: &'a str,
}

impl Challenger<'_> {
    /// The challenge that a request is answered with, unless it is let through. `mount_from` is a
    /// second repository that it wants to read.
    pub(super) fn refusal(
        &self,
        tokens: &mut Tokens,
        method: &Method,
        route: &Route,
        mount_from: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<Reply> {
        match self.auth {
            Auth::None => None,
            Auth::Basic { username, password } => {
                let given = basic(headers);
                let right = given.is_some_and(|(u, p)| u == *username && p == *password);
                let challenge = "Basic realm=\"fault registry\"";
                (!right).then(|| unauthorized().header("www-authenticate", challenge))
            }
            Auth::Bearer(bearer) => {
                let needed = scopes_needed(method, route, mount_from);
                let admitted = tokens.admit(bearer, headers, &needed);
                admitted.err().map(|why| self.challenge(&needed, why))
            }
        }
    }

    /// A 401 that names the scopes, whatever the mode is.
    pub(super) fn challenge(&self, scopes: &[String], why: Option<&str>) -> Reply {
        let own = format!("{}/token", self.url);
        let realm = match self.auth {
            Auth::Bearer(Bearer {
                realm: Some(realm), ..
            }) => realm,
            _ => &own,
        };
        let mut fields = vec![format!("Bearer realm=\"{realm}\""), SERVICE.to_owned()];
        if !scopes.is_empty() {
            fields.push(format!("scope=\"{}\"", scopes.join(" ")));
        }
        fields.extend(why.map(|why| format!("error=\"{why}\"")));
        unauthorized().header("www-authenticate", fields.join(","))
    }
}

impl Bearer {
    /// Whether a form is the exchange of the identity token.
    fn knows_identity(&self, fields: &[(String, String)]) -> bool {
        let field = |name: &str| {
            let found = fields.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value)
        };
        self.identity_token.is_some()
            && field("grant_type").is_some_and(|grant| grant == "refresh_token")
            && field("refresh_token") == self.identity_token.as_ref()
    }
}

impl Tokens {
    fn admit(
        &mut self,
        bearer: &Bearer,
        headers: &HeaderMap,
        needed: &[String],
    ) -> Result<(), Option<&'static str>> {
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok());
        let Some(token) = value.and_then(|v| v.strip_prefix("Bearer ")) else {
            return Err(None);
        };
        let issued = self.issued.get_mut(token).ok_or(Some("invalid_token"))?;
        issued.used += 1;
        let age = issued.since.elapsed();
        let expired = bearer
            .real_seconds
            .is_some_and(|s| age >= Duration::from_secs(s));
        if expired || bearer.uses.is_some_and(|uses| issued.used > uses) {
            return Err(Some("invalid_token"));
        }
        if needed.iter().all(|scope| covers(&issued.scopes, scope)) {
            return Ok(());
        }
        Err(Some("insufficient_scope"))
    }

    /// Answers the token endpoint; `fields` are those of the query or of the form.
    pub(super) fn issue(
        &mut self,
        auth: &Auth,
        headers: &HeaderMap,
        fields: &[(String, String)],
    ) -> Reply {
        let Auth::Bearer(bearer) = auth else {
            return Reply::error(404, "NOT_FOUND", "this registry gives out no tokens");
        };
        let known = match basic(headers).or_else(|| form_credential(fields)) {
            Some(given) if given == (bearer.username.clone(), bearer.password.clone()) => true,
            Some(_) => return unauthorized(),
            None => false,
        };
        let known = known || bearer.knows_identity(fields);
        if !known && !bearer.anonymous_pull {
            return unauthorized();
        }
        let scopes = fields
            .iter()
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' '))
            .map(|scope| {
                if known {
                    scope.to_owned()
                } else {
                    only_pull(scope)
                }
            })
            .collect();
        self.count += 1;
        let token = format!("token-{}-{}", self.count, uuid::Uuid::new_v4());
        self.issued.insert(
            token.clone(),
            IssuedToken {
                scopes,
                since: Instant::now(),
                used: 0,
            },
        );
        let mut answer = json!({ "token": token, "access_token": token });
        if let Some(seconds) = bearer.announced_seconds {
            answer["expires_in"] = seconds.into();
        }
        Reply::json(&answer)
    }
}

/// What an anonymous client is granted of a scope.
fn only_pull(scope: &str) -> String {
    match scope.rsplit_once(':') {
        Some((resource, actions)) if actions.split(',').any(|a| a == "pull") => {
            format!("{resource}:pull")
        }
        _ => String::new(),
    }
}

fn unauthorized() -> Reply {
    Reply::error(401, "UNAUTHORIZED", "authentication required")
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

fn form_credential(fields: &[(String, String)]) -> Option<(String, String)> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, v)| v.clone())
    };
    Some((field("username")?, field("password")?))
}

/// The scopes of a request, as they stand in a challenge.
pub(super) fn scopes_needed(method: &Method, route: &Route, mount: Option<&str>) -> Vec<String> {
    let Some(path) = route.repository() else {
        return Vec::new();
    };
    let actions = match *method {
        Method::GET | Method::HEAD => "pull",
        Method::DELETE if matches!(route, Route::Upload { .. }) => "pull,push",
        Method::DELETE => "delete",
        _ => "pull,push",
    };
    let own = format!("repository:{path}:{actions}");
    let other = mount.map(|from| format!("repository:{from}:pull"));
    [own].into_iter().chain(other).collect()
}

/// Whether what was granted includes every action of `needed`.
fn covers(granted: &[String], needed: &str) -> bool {
    let Some((resource, actions)) = needed.rsplit_once(':') else {
        return false;
    };
    actions.split(',').all(|action| {
        granted.iter().any(|scope| {
            scope.rsplit_once(':').is_some_and(|(r, granted)| {
                r == resource && granted.split(',').any(|g| g == action || g == "*")
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_covers_its_own_repository_and_actions_only() {
        let granted = ["repository:a/b:pull,push".to_owned()];
        assert!(covers(&granted, "repository:a/b:pull"));
        assert!(covers(&granted, "repository:a/b:pull,push"));
        assert!(!covers(&granted, "repository:a/b:delete"));
        assert!(!covers(&granted, "repository:a:pull"));
    }
}
