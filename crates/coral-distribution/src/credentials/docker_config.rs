//! Docker's `config.json` and what Kubernetes makes of it.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use coral_image::Host;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Credential, CredentialsError, Grant, HostPattern, Scope};
use crate::redacted::Redacted;

/// A Secret holds at most 1 MiB; nobody has a larger file.
pub(super) const MAX_CONFIG: usize = 1024 * 1024;

/// Base64 as the tools write it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

pub(super) fn read(json: &[u8], origin: &str) -> Result<Vec<(Scope, Grant)>, CredentialsError> {
    if json.len() > MAX_CONFIG {
        return Err(CredentialsError::TooLarge {
            origin: origin.to_owned(),
            limit: MAX_CONFIG,
        });
    }
    let root: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| form(origin, &error))?;
    let mut entries = Vec::new();
    for (key, value) in auths(&root, origin)? {
        entries.extend(entry(key, value, origin)?);
    }
    entries.extend(helpers(&root, origin));
    Ok(entries)
}

fn form(origin: &str, error: &serde_json::Error) -> CredentialsError {
    let problem = match error.classify() {
        serde_json::error::Category::Eof => "the JSON ends too early",
        serde_json::error::Category::Data => "it must be a JSON object",
        _ => "the JSON is malformed",
    };
    let (line, column) = (error.line(), error.column());
    CredentialsError::Form {
        origin: origin.to_owned(),
        problem,
        line,
        column,
    }
}

/// The entries under `auths`. The legacy format has them at the top, where they are known by
/// their fields.
fn auths<'a>(
    root: &'a Map<String, Value>,
    origin: &str,
) -> Result<Vec<(&'a String, &'a Value)>, CredentialsError> {
    let is_entry = |value: &Value| {
        ["auth", "username", "password"]
            .iter()
            .any(|field| value.get(field).is_some())
    };
    match root.get("auths") {
        Some(Value::Object(auths)) => Ok(auths.iter().collect()),
        Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err(CredentialsError::Entry {
            origin: origin.to_owned(),
            entry: "auths".to_owned(),
            problem: "it must be an object with an entry for each registry",
        }),
        None => Ok(root.iter().filter(|(_, value)| is_entry(value)).collect()),
    }
}

fn entry(
    key: &str,
    value: &Value,
    origin: &str,
) -> Result<Option<(Scope, Grant)>, CredentialsError> {
    let wrong = |problem| CredentialsError::Entry {
        origin: origin.to_owned(),
        entry: shown(key),
        problem,
    };
    let scope = scope(key).ok_or_else(|| wrong("the key is not a registry: write HOST[/PATH]"))?;
    let entry = Entry::deserialize(value).map_err(|_| {
        wrong("it must be an object with \"auth\", or \"username\" and \"password\"")
    })?;
    let origin = format!("{:?} in {origin}", shown(key));
    if [&entry.identitytoken, &entry.registrytoken]
        .into_iter()
        .flatten()
        .any(|t| !t.is_empty())
    {
        let why = format!("the entry {origin} has an identity token, which is not supported yet");
        return Ok(Some((scope, Grant::Unusable(why))));
    }
    let pair = user_and_password(entry).map_err(wrong)?;
    Ok(pair.map(|(username, password)| {
        let password = Redacted::new(password);
        (
            scope,
            Grant::Credential(Credential {
                username,
                password,
                origin,
            }),
        )
    }))
}

/// `None` for an empty entry, as Docker leaves it behind for a credential helper.
fn user_and_password(entry: Entry) -> Result<Option<(String, String)>, &'static str> {
    if let Some(auth) = entry.auth.filter(|auth| !auth.trim().is_empty()) {
        let decoded = BASE64
            .decode(auth.trim())
            .map_err(|_| "\"auth\" is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "\"auth\" does not hold text")?;
        let (user, password) = decoded
            .split_once(':')
            .ok_or("\"auth\" must hold user:password in base64")?;
        // Docker's own writer has left trailing zero bytes there.
        return Ok(Some((
            user.to_owned(),
            password.trim_end_matches('\0').to_owned(),
        )));
    }
    match (entry.username, entry.password) {
        (Some(user), Some(password)) if !user.is_empty() => Ok(Some((user, password))),
        (Some(user), None) if !user.is_empty() => {
            Err("it has a \"username\" without a \"password\"")
        }
        _ => Ok(None),
    }
}

/// Credential helpers come later; they are remembered so that a refusal can name them.
fn helpers(root: &Map<String, Value>, origin: &str) -> Vec<(Scope, Grant)> {
    let why = |helper: &Value| {
        let name = helper.as_str().map(shown).unwrap_or_default();
        format!("{origin} names the credential helper {name:?} for it, which is not supported yet")
    };
    let mut found = Vec::new();
    if let Some(Value::Object(helpers)) = root.get("credHelpers") {
        for (key, helper) in helpers {
            found.extend(scope(key).map(|scope| (scope, Grant::Unusable(why(helper)))));
        }
    }
    if let (Some(store), Some(Value::Object(auths))) = (root.get("credsStore"), root.get("auths")) {
        for key in auths.keys() {
            found.extend(scope(key).map(|scope| (scope, Grant::Unusable(why(store)))));
        }
    }
    found
}

/// `https://index.docker.io/v1/`, `quay.io`, `quay.io/org/team`, `*.azurecr.io`.
fn scope(key: &str) -> Option<Scope> {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = match path.trim_matches('/') {
        "v1" | "v2" => "",
        path => path,
    };
    let host = if host.contains('*') {
        HostPattern::Glob(host.to_ascii_lowercase())
    } else {
        HostPattern::Exact(match Host::parse(host).ok()? {
            hub if matches!(
                hub.as_str(),
                "registry-1.docker.io" | "registry.hub.docker.com"
            ) =>
            {
                Host::parse("docker.io").ok()?
            }
            host => host,
        })
    };
    Some(Scope {
        host,
        path: path.to_owned(),
    })
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests;
