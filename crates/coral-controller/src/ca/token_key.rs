//! The key that signs credentials, in its Secret.

use std::fmt::Write as _;

use coral_token::{KeyError, PublicKeys, SigningKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ObjectKey;

/// The Secret of the signing key, in the controller's namespace.
pub(crate) const TOKENS_SECRET: &str = "coral-tokens";
/// The private key that signs.
const SIGNING_KEY: &str = "signing.pem";
/// Public keys of earlier or later signing keys that Registries accept too, if there are any.
const ALSO_TRUSTED: &str = "also-trusted.pem";

/// The key that signs, and every public key that Registries accept.
#[derive(Debug, Clone)]
pub(crate) struct TokenKey {
    pub(crate) signing: SigningKey,
    also_trusted: String,
}

/// Why the Secret cannot be used. No key is quoted.
#[derive(Debug, thiserror::Error)]
#[error(
    "secret {key} has no usable signing key ({field}: {cause}): restore the secret, or delete it \
     to have a new key made; running builds then ask for credentials again"
)]
pub(crate) struct BrokenTokenKey {
    key: ObjectKey,
    field: &'static str,
    cause: KeyError,
}

impl TokenKey {
    /// Reads the Secret.
    pub(crate) fn read(key: &ObjectKey, secret: &Secret) -> Result<Self, BrokenTokenKey> {
        let value = |field: &str| secret.data.as_ref().and_then(|data| data.get(field));
        let broken = |field, cause| BrokenTokenKey {
            key: key.clone(),
            field,
            cause,
        };
        let signing = value(SIGNING_KEY).map_or(&[][..], |value| &value.0);
        let signing = SigningKey::from_pem(signing).map_err(|it| broken(SIGNING_KEY, it))?;
        let also_trusted = match value(ALSO_TRUSTED).filter(|value| !value.0.is_empty()) {
            None => String::new(),
            Some(ByteString(pem)) => {
                PublicKeys::from_pem(pem).map_err(|it| broken(ALSO_TRUSTED, it))?;
                String::from_utf8(pem.clone()).map_err(|_| broken(ALSO_TRUSTED, KeyError::Pem))?
            }
        };
        Ok(Self {
            signing,
            also_trusted,
        })
    }

    /// Every public key, as PEM, that of the signing key first.
    pub(crate) fn public(&self) -> String {
        let mut keys = self.signing.public_pem().to_owned();
        if !self.also_trusted.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(keys, "{}", self.also_trusted);
        }
        keys
    }
}

/// A Secret with a new key.
pub(crate) fn new_secret(key: &ObjectKey) -> Result<Secret, KeyError> {
    let pem = SigningKey::generate_pem()?;
    let label = ("app.kubernetes.io/managed-by", "coral");
    let label = (label.0.to_owned(), label.1.to_owned());
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            labels: Some([label].into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some([(SIGNING_KEY.to_owned(), ByteString(pem.into_bytes()))].into()),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new("coral-system", TOKENS_SECRET)
    }

    fn also(secret: &Secret, pem: &str) -> Secret {
        let mut secret = secret.clone();
        let value = ByteString(pem.as_bytes().to_vec());
        let data = secret.data.as_mut().unwrap();
        data.insert(ALSO_TRUSTED.to_owned(), value);
        secret
    }

    #[test]
    fn a_new_key_is_read_back_from_its_secret_and_never_printed() {
        let secret = new_secret(&key()).unwrap();
        let read = TokenKey::read(&key(), &secret).unwrap();
        let public = PublicKeys::from_pem(read.public().as_bytes()).unwrap();
        assert_eq!(public.len(), 1);
        assert!(!format!("{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn other_public_keys_are_trusted_beside_the_one_that_signs() {
        let secret = new_secret(&key()).unwrap();
        let other = TokenKey::read(&key(), &new_secret(&key()).unwrap()).unwrap();
        let both = TokenKey::read(&key(), &also(&secret, &other.public())).unwrap();
        let public = PublicKeys::from_pem(both.public().as_bytes()).unwrap();
        assert_eq!(public.len(), 2);
        assert!(TokenKey::read(&key(), &also(&secret, "")).is_ok());
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_told_with_its_field() {
        let secret = new_secret(&key()).unwrap();
        for (secret, field) in [
            (Secret::default(), "signing.pem"),
            (also(&secret, "nothing"), "also-trusted.pem"),
        ] {
            let said = TokenKey::read(&key(), &secret).unwrap_err().to_string();
            assert!(said.contains("coral-system/coral-tokens"), "{said}");
            assert!(said.contains(field) && said.contains("delete"), "{said}");
        }
    }
}
