//! What SSH needs of the Secret: a private key and `known_hosts`.

use std::path::Path;

use coral_distribution::Redacted;
use russh::keys::{Error as KeyError, PrivateKey, decode_secret_key};

use super::known_hosts::KnownHosts;
use crate::fetch::git::GitError;
use crate::pod;

/// Key of the Secret with the private key, as Secrets of the type `kubernetes.io/ssh-auth` have it.
const PRIVATE_KEY: &str = "ssh-privatekey";
/// Key of the Secret with the host keys of servers.
const KNOWN_HOSTS: &str = "known_hosts";

/// What was read.
pub(super) struct Secret {
    pub(super) key: PrivateKey,
    pub(super) known: KnownHosts,
}

/// Reads the folder of a Secret. `server` is for the messages.
pub(super) fn read(folder: &Path, server: &str) -> Result<Secret, GitError> {
    let read = |name: &str| -> Result<Option<Redacted<String>>, GitError> {
        let bytes = pod::optional(&folder.join(name))?;
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.filter(|text| !text.trim().is_empty());
        Ok(text.map(Redacted::new))
    };
    let missing = |what: &str, how: String| {
        let problem = format!("it is missing, or has no key {what}; {how}");
        GitError::SshSecret(problem)
    };
    let key = read(PRIVATE_KEY)?.ok_or_else(|| {
        let how = "put the private key that the server knows there".to_owned();
        missing(PRIVATE_KEY, how)
    })?;
    let known = read(KNOWN_HOSTS)?.ok_or_else(|| {
        let how = format!(
            "put the host keys of {server} there, as `ssh-keyscan` prints them and after a comparison with \
             what its operator publishes"
        );
        missing(KNOWN_HOSTS, how)
    })?;
    Ok(Secret {
        key: private_key(&key)?,
        known: KnownHosts::parse(known.expose()),
    })
}

/// Nothing of the key is in a message.
fn private_key(text: &Redacted<String>) -> Result<PrivateKey, GitError> {
    let fail = |problem: &str| GitError::SshSecret(format!("its key {PRIVATE_KEY} {problem}"));
    // The older form of encryption says so in a header of its own.
    if text.expose().contains("ENCRYPTED") {
        return Err(fail(ENCRYPTED));
    }
    let key = decode_secret_key(text.expose(), None).map_err(|error| match error {
        KeyError::KeyIsEncrypted => fail(ENCRYPTED),
        KeyError::UnsupportedKeyType { .. } | KeyError::UnknownAlgorithm(_) => fail(OTHER_TYPE),
        _ => fail("is not a private key in OpenSSH, PKCS#8 or SEC 1 format"),
    })?;
    match key.algorithm() {
        algorithm if super::HOST_KEYS.contains(&algorithm) => Ok(key),
        _ => Err(fail(OTHER_TYPE)),
    }
}

const ENCRYPTED: &str = "is encrypted with a passphrase, which a build cannot type; use a key of its own \
                         without one";
const OTHER_TYPE: &str = "is of a type that is not supported, such as RSA; the types ed25519 and ecdsa \
                          are: make a key with `ssh-keygen -t ed25519` and give the server its public \
                          part";

#[cfg(test)]
mod tests;
