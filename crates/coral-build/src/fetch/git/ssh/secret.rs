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
        _ => fail("is no private key in the form of OpenSSH, PKCS#8 or SEC 1"),
    })?;
    match key.algorithm() {
        algorithm if super::HOST_KEYS.contains(&algorithm) => Ok(key),
        _ => Err(fail(OTHER_TYPE)),
    }
}

const ENCRYPTED: &str = "is encrypted with a passphrase, which a build cannot type; use a key of its own \
                         without one";
const OTHER_TYPE: &str = "is of a type that is not supported, such as RSA; use ed25519 or ecdsa \
                          (ssh-keygen -t ed25519)";

#[cfg(test)]
mod tests {
    use russh::keys::ssh_key::private::Ed25519Keypair;
    use russh::keys::ssh_key::{Cipher, Kdf, LineEnding};

    use super::*;

    fn problem(text: &str) -> String {
        let read = private_key(&Redacted::new(text.to_owned()));
        read.unwrap_err().to_string()
    }

    #[test]
    fn a_key_that_no_build_can_use_is_refused_with_the_reason_and_without_its_text() {
        let key: PrivateKey = Ed25519Keypair::from_seed(&[1; 32]).into();
        let plain = key.to_openssh(LineEnding::LF).unwrap().to_string();
        assert!(private_key(&Redacted::new(plain.clone())).is_ok());
        assert!(private_key(&Redacted::new(plain.replace('\n', "\r\n"))).is_ok());
        let kdf = Kdf::Bcrypt {
            salt: vec![1; 16],
            rounds: 1,
        };
        let encrypted = key.encrypt_with(Cipher::Aes256Ctr, kdf, 1, "word").unwrap();
        let encrypted = encrypted.to_openssh(LineEnding::LF).unwrap();
        let pem = |kind: &str, more: &str| {
            format!("-----BEGIN {kind}-----\n{more}MIIEpAIB\n-----END {kind}-----\n")
        };
        for (text, said) in [
            (encrypted.to_string(), ENCRYPTED),
            (pem("ENCRYPTED PRIVATE KEY", ""), ENCRYPTED),
            (
                pem("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\n"),
                ENCRYPTED,
            ),
            (pem("RSA PRIVATE KEY", ""), OTHER_TYPE),
            (pem("PRIVATE KEY", ""), "is no private key"),
            ("t0p-s3cret".to_owned(), "is no private key"),
            (plain.replace('A', ""), "is no private key"),
        ] {
            let problem = problem(&text);
            assert!(problem.contains(said), "{problem}");
            assert!(problem.contains("ssh-privatekey"), "{problem}");
            assert!(
                !problem.contains("s3cret") && !problem.contains("MII"),
                "{problem}"
            );
        }
    }
}
