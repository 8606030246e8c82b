//! The secrets that tests use, and the check that no output of Coral contains one.
//!
//! Every [`Process`](crate::Process) that runs Coral is checked when it ends, whatever the test is
//! about. What a test gives to Coral is registered here by the code that makes it up: the registries
//! that ask for a password do so by themselves.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// Shorter texts occur in any output by chance.
const SHORTEST: usize = 8;

static SECRETS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on no output of Coral's may hold this text, nor its encodings.
pub fn secret(text: &str) {
    if text.len() < SHORTEST {
        return;
    }
    let encoded = [
        STANDARD.encode(text),
        STANDARD_NO_PAD.encode(text),
        URL_SAFE_NO_PAD.encode(text),
        text.replace(' ', "%20"),
        text.replace(' ', "+"),
        text.to_owned(),
    ];
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    secrets.extend(encoded);
}

/// The password of a user, alone and as it goes over the wire.
pub fn password(user: &str, password: &str) {
    secret(password);
    if password.len() >= SHORTEST {
        secret(&format!("{user}:{password}"));
    }
}

/// Every password in the description of what a registry asks for.
pub fn passwords_in(auth: &Value) {
    if let (Some(user), Some(word)) = (auth["username"].as_str(), auth["password"].as_str()) {
        password(user, word);
    }
    let fields = auth.as_object().into_iter().flatten();
    fields.for_each(|(_, value)| passwords_in(value));
}

/// The first secret in a text.
pub(crate) fn found_in(text: &str) -> Option<String> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = secrets.iter().find(|secret| text.contains(*secret));
    known.cloned().or_else(|| token_in(text))
}

/// A token of the fault registry: `token-NUMBER-UUID`.
fn token_in(text: &str) -> Option<String> {
    let mut after = text.split("token-").skip(1);
    let found = after.find(|rest| {
        let mut parts = rest.splitn(3, '-');
        let number = parts.next().unwrap_or_default();
        let uuid = parts.next().unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number && uuid.len() == 8 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    found.map(|_| "a token of the fault registry".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_as_it_is_and_encoded() {
        password("anna", "hush-hush-1");
        for text in [
            "it is hush-hush-1!",
            "Basic c29tZWJvZHk6aHVzaC1odXNoLTE=",
            "aHVzaC1odXNoLTE",
            "Bearer token-12-0f8fad5b-d9cb-469f-a165-70867728950e",
        ] {
            assert!(found_in(text).is_some(), "{text}");
        }
        assert_eq!(found_in("hush-hush-2, token-bucket, token-1-x"), None);
    }
}
