//! The signing key and the certificate of the endpoint, followed in their Secrets.

use std::sync::{Arc, PoisonError, RwLock};

use coral_rt::{CertificatePair, Tls};
use coral_token::SigningKey;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;

use crate::ObjectKey;
use crate::ca::token_key::{TOKENS_SECRET, TokenKey};
use crate::ca::{CONTROLLER_SECRET, pair_of};
use crate::changes::{Changes, Topic};
use crate::secrets::Secrets;

/// The name under which the Secrets are asked for.
const USER: &str = "credentials";

/// The key that credentials are signed with, once it is known. Cheap to clone; all clones share one state.
#[derive(Clone, Default)]
pub(super) struct SigningMaterial(Arc<RwLock<Option<SigningKey>>>);

impl SigningMaterial {
    /// The signing key.
    pub(super) fn key(&self) -> Option<SigningKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the signing key.
    pub(super) fn set(&self, key: SigningKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

/// Follows both Secrets until it is dropped. The leading controller writes them, which may be another one.
pub(super) async fn follow(client: Client, namespace: String, tls: Tls, material: SigningMaterial) {
    let changes = Changes::default();
    let mut woken = changes.subscribe(&[Topic::Secrets]);
    let secrets = Secrets::new(client, changes.clone());
    let own = |name: &str| ObjectKey::new(&namespace, name);
    let (certificate, tokens) = (own(CONTROLLER_SECRET), own(TOKENS_SECRET));
    loop {
        woken.mark_seen();
        let (pair, key) = tokio::join!(secrets.get(USER, &certificate), secrets.get(USER, &tokens));
        match pair {
            Ok(secret) => take_certificate(&certificate, &secret, &tls),
            Err(problem) => tracing::debug!(%problem, "no certificate for the credential endpoint"),
        }
        match key {
            Ok(secret) => take_key(&tokens, &secret, &material),
            Err(problem) => tracing::debug!(%problem, "no signing key for credentials"),
        }
        woken.changed().await;
    }
}

/// If the Secret cannot be used, the previous content stays in use.
fn take_certificate(key: &ObjectKey, secret: &Secret, tls: &Tls) {
    let Some(pair) = pair_of(secret) else {
        tracing::warn!(secret = %key, "has no certificate; the previous one stays in use");
        return;
    };
    match CertificatePair::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()) {
        Ok(pair) => tls.set(Some(pair)),
        Err(error) => {
            tracing::warn!(secret = %key, %error, "the previous certificate stays in use");
        }
    }
}

fn take_key(key: &ObjectKey, secret: &Secret, material: &SigningMaterial) {
    match TokenKey::read(key, secret) {
        Ok(read) => material.set(read.signing),
        Err(error) => tracing::warn!(%error, "the previous signing key stays in use"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::token_key::new_secret;

    #[test]
    fn a_secret_that_cannot_be_used_replaces_nothing() {
        let key = ObjectKey::new("coral-system", TOKENS_SECRET);
        let material = SigningMaterial::default();
        take_key(&key, &Secret::default(), &material);
        assert_eq!(material.key(), None);
        take_key(&key, &new_secret(&key).unwrap(), &material);
        let first = material.key();
        assert!(first.is_some());
        take_key(&key, &Secret::default(), &material);
        assert_eq!(material.key(), first);
        take_key(&key, &new_secret(&key).unwrap(), &material);
        assert_ne!(material.key(), first);
        let tls = Tls::required();
        take_certificate(&key, &Secret::default(), &tls);
        assert!(!tls.has_certificate());
    }
}
