//! Docker's `config.json` and the variants that Kubernetes uses.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use coral_image::Host;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Credential, CredentialKind, CredentialsError, Grant, Helper, Helpers, HostPattern, Scope,
};
use crate::redacted::Redacted;

/// A Secret holds at most 1 MiB; no file needs to be larger.
pub(super) const MAX_CONFIG: usize = 1024 * 1024;

/// Base64 with or without padding, since tools write both.
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

pub(super) fn read(
    json: &[u8],
    origin: &str,
    programs: Helpers,
) -> Result<Vec<(Scope, Grant)>, CredentialsError> {
    if json.len() > MAX_CONFIG {
        return Err(CredentialsError::TooLarge {
            origin: origin.to_owned(),
            limit: MAX_CONFIG,
        });
    }
    let root = root(json, origin)?;
    // Docker asks a helper before it looks at the entries in the file itself.
    let mut entries = match programs {
        Helpers::Run => helpers(&root, origin),
        Helpers::Refused => refused_helpers(&root, origin),
    };
    let auths = auths(&root, origin).unwrap_or_else(|wrong| {
        entries.push((Scope::ANY, Grant::Unusable(wrong.to_string())));
        Vec::new()
    });
    for (key, value) in auths {
        let Some(scope) = scope(key) else {
            log_skipped(origin, key);
            continue;
        };
        // An invalid entry is reported only when its registry asks for a credential.
        let grant = entry(key, value, origin)
            .unwrap_or_else(|wrong| Some(Grant::Unusable(wrong.to_string())));
        entries.extend(grant.map(|grant| (scope, grant)));
    }
    Ok(entries)
}

/// The JSON object in the file. As in Docker, an empty file is an empty object, a byte order mark
/// is skipped, and invalid UTF-8 becomes a replacement character that fits no credential.
fn root(json: &[u8], origin: &str) -> Result<Map<String, Value>, CredentialsError> {
    let text = String::from_utf8_lossy(json);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() || text == "null" {
        return Ok(Map::new());
    }
    serde_json::from_str(text)
        .or_else(|error| serde_json::from_str(&replace_lone_surrogates(text)).map_err(|_| error))
        .map_err(|error| form(origin, &error))
}

/// `\ud800` is valid only in a surrogate pair; as Go does, a lone one is replaced.
fn replace_lone_surrogates(json: &str) -> String {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut mended, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let pair = (unit(rest), rest.get(6..).and_then(unit));
        let length = match pair {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => 6,
            // An escaped backslash is copied as well.
            _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        let (escape, after) = rest.split_at(length);
        mended.push_str(if length == 6 { "\\ufffd" } else { escape });
        rest = after;
    }
    mended + rest
}

/// Other programs write entries of their own into the file; an entry for no registry is ignored.
fn log_skipped(origin: &str, key: &str) {
    let entry = shown(key);
    tracing::debug!(
        origin,
        entry,
        "an entry whose key is not a registry is skipped"
    );
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

/// The entries under `auths`. The legacy format has them at the top level, where they are
/// recognised by their fields.
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

fn entry(key: &str, value: &Value, origin: &str) -> Result<Option<Grant>, CredentialsError> {
    let wrong = |problem| CredentialsError::Entry {
        origin: origin.to_owned(),
        entry: shown(key),
        problem,
    };
    if value.is_null() {
        return Ok(None);
    }
    let entry = Entry::deserialize(value).map_err(|_| {
        wrong("it must be an object with \"auth\", or \"username\" and \"password\"")
    })?;
    let origin = format!("{:?} in {origin}", shown(key));
    if entry
        .registrytoken
        .as_ref()
        .is_some_and(|text| !text.is_empty())
    {
        let why = format!("the entry {origin} has a registry token, which is not supported");
        return Ok(Some(Grant::Unusable(why)));
    }
    if let Some(token) = entry.identitytoken.clone().filter(|text| !text.is_empty()) {
        let grant = Grant::Credential(Credential {
            username: entry.username.unwrap_or_default(),
            password: Redacted::new(token),
            kind: CredentialKind::IdentityToken,
            origin,
        });
        return Ok(Some(grant));
    }
    let pair = user_and_password(entry).map_err(wrong)?;
    Ok(pair.map(|(username, password)| {
        Grant::Credential(Credential {
            username,
            password: Redacted::new(password),
            kind: CredentialKind::Password,
            origin,
        })
    }))
}

/// `None` for an empty entry, which Docker leaves behind for a credential helper.
fn user_and_password(entry: Entry) -> Result<Option<(String, String)>, &'static str> {
    if let Some(auth) = entry.auth.filter(|auth| !auth.trim().is_empty()) {
        let decoded = BASE64
            .decode(auth.trim())
            .map_err(|_| "\"auth\" is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "\"auth\" does not hold text")?;
        let (user, password) = decoded
            .split_once(':')
            .ok_or("\"auth\" must hold user:password in base64")?;
        // Docker's own writer has left trailing zero bytes in this field.
        return Ok(Some((
            user.to_owned(),
            password.trim_end_matches('\0').to_owned(),
        )));
    }
    match (entry.username, entry.password) {
        // The text after the colon would be sent as a part of the password.
        (Some(user), _) if user.contains(':') => Err("it has a \"username\" with a colon"),
        (Some(user), Some(password)) if !user.is_empty() => Ok(Some((user, password))),
        (Some(user), None) if !user.is_empty() => {
            Err("it has a \"username\" without a \"password\"")
        }
        _ => Ok(None),
    }
}

/// `credHelpers`, each for its host, and `credsStore` for all others.
fn helpers(root: &Map<String, Value>, origin: &str) -> Vec<(Scope, Grant)> {
    let helper = |field: &str, value: &Value| {
        let name = value
            .as_str()
            .and_then(|name| Helper::new(name, format!("{field} of {origin}")));
        match name {
            Some(helper) => Grant::Helper(Arc::new(helper)),
            None => Grant::Unusable(format!(
                "{field} of {origin} must name a helper: NAME of a program docker-credential-NAME"
            )),
        }
    };
    let set = |value: &Value| value.as_str() != Some("") && !value.is_null();
    let mut found = Vec::new();
    for (key, value) in root
        .get("credHelpers")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !set(value) {
            continue;
        }
        match scope(key) {
            Some(scope) => found.push((scope, helper("credHelpers", value))),
            None => log_skipped(origin, key),
        }
    }
    if let Some(store) = root.get("credsStore").filter(|value| set(value)) {
        found.push((Scope::ANY, helper("credsStore", store)));
    }
    found
}

/// Helpers that are not run are kept, so that a refusal can name them.
fn refused_helpers(root: &Map<String, Value>, origin: &str) -> Vec<(Scope, Grant)> {
    let why = |helper: &Value| {
        let name = helper.as_str().map(shown).unwrap_or_default();
        format!(
            "{origin} names the credential helper {name:?} for it, and helpers are run only for \
             files of this machine"
        )
    };
    let mut found = Vec::new();
    for (key, helper) in root
        .get("credHelpers")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        found.extend(scope(key).map(|scope| (scope, Grant::Unusable(why(helper)))));
    }
    if let (Some(store), Some(Value::Object(auths))) = (root.get("credsStore"), root.get("auths")) {
        for key in auths.keys() {
            found.extend(scope(key).map(|scope| (scope, Grant::Unusable(why(store)))));
        }
    }
    found
}

/// Parses an entry's key: `https://index.docker.io/v1/`, `quay.io`, `quay.io/org/team`,
/// `*.azurecr.io`.
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
