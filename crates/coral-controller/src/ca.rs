//! The certificate authority of the installation, the certificates of the webhook and of the
//! controller's credential endpoint, and the key that signs credentials.
//!
//! The authority lives in the Secret `coral-ca`. It is created if it is missing, and never
//! overwritten: if two controllers create it, the later one uses that of the first, and an
//! unreadable one is left for a person to repair. The trust bundle goes into the webhook's
//! configuration and, for the agents, into the ConfigMap `coral` of their namespace. The signing
//! key is in the Secret `coral-tokens` and is kept in the same way; its public key goes to the
//! Registries.

pub(crate) mod certificate;
pub(crate) mod token_key;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::ObjectKey;
use crate::api::{ApiError, Writer};
use crate::changes::Topic;
use crate::context::Context;
use crate::part::{Part, PassError, Wake};
use crate::secrets::SecretProblem;
use certificate::{Authority, CertificateError, Names, Pair, due};
use token_key::{TOKENS_SECRET, TokenKey};

/// The Secret of the authority, in the controller's namespace.
pub(crate) const CA_SECRET: &str = "coral-ca";
/// The webhook's Secret, Service and configuration.
const WEBHOOK_SECRET: &str = "coral-webhook-tls";
const WEBHOOK_SERVICE: &str = "coral-webhook";
/// The Secret with the certificate of the controller's own endpoint.
pub(crate) const CONTROLLER_SECRET: &str = "coral-controller-tls";
/// The controller's Service.
pub(crate) const CONTROLLER_SERVICE: &str = "coral-controller";
/// The name of the webhook's configuration.
pub(crate) const WEBHOOK_CONFIGURATION: &str = "coral";
const WEBHOOK: &str = "pods.image.stvz.io";
/// The agents' ConfigMap, in their namespace.
pub(crate) const AGENTS_CONFIG: &str = "coral";
const BUNDLE_KEY: &str = "ca.crt";
const CERTIFICATE_KEY: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";

/// Maintains the certificate authority, the certificates of Coral's own servers and the trust
/// bundles.
pub(crate) struct CaPart {
    context: Context,
    writer: Writer,
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "secret {key} has no usable certificate authority ({cause}): restore the secret, or delete it \
     to have a new authority made, which then reissues every certificate"
)]
struct BrokenAuthority {
    key: ObjectKey,
    cause: CertificateError,
}

impl CaPart {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            writer: context.writer_for(Self::NAME),
            context,
        }
    }

    fn own(&self, name: &str) -> ObjectKey {
        ObjectKey::new(&self.context.config.namespace, name)
    }

    /// The existing authority, or a new one.
    async fn authority(&self, now: Timestamp) -> Result<Authority, PassError> {
        let key = self.own(CA_SECRET);
        match self.context.secrets.get(Self::NAME, &key).await {
            Ok(secret) => Ok(read_authority(&key, &secret)?),
            Err(SecretProblem::Missing(_)) => self.create_authority(&key, now).await,
            Err(problem) => Err(problem.into()),
        }
    }

    async fn create_authority(
        &self,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Result<Authority, PassError> {
        let authority = Authority::generate(now)?;
        let secret = tls_secret(key, authority.pair(), authority.bundle());
        match self.writer.create(&secret).await {
            Ok(_) => {
                tracing::info!(secret = %key, "certificate authority created");
                Ok(authority)
            }
            // The watch may lag behind. The stored authority wins.
            Err(error) if error.is_already_exists() => {
                let secret = self.writer.get::<Secret>(key).await?.ok_or(error)?;
                Ok(read_authority(key, &secret)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the certificate of one of Coral's own Services. Returns when it is to be renewed.
    async fn keep_certificate(
        &self,
        secret: &str,
        service: &str,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Timestamp, PassError> {
        let key = self.own(secret);
        let secret = match self.context.secrets.get(Self::NAME, &key).await {
            Ok(secret) => Some(secret),
            Err(SecretProblem::Missing(_)) => None,
            Err(problem) => return Err(problem.into()),
        };
        let pair = secret.as_deref().and_then(pair_of);
        let names = service_names(service, &self.context.config.namespace);
        let trusted = secret.as_deref().and_then(|it| text(it, BUNDLE_KEY));
        match due(pair.as_ref(), &names, authority, now) {
            Ok(renewal) if trusted.as_deref() == Some(authority.bundle()) => Ok(renewal),
            Ok(renewal) => {
                let same = pair.unwrap_or_else(|| authority.pair().clone());
                self.apply_secret(&key, &same, authority).await?;
                Ok(renewal)
            }
            Err(why) => {
                let pair = authority.issue(&names, now)?;
                self.apply_secret(&key, &pair, authority).await?;
                tracing::info!(secret = %key, why = why.reason_text(), "certificate issued");
                let renewal = due(Some(&pair), &names, authority, now);
                Ok(renewal.unwrap_or(now))
            }
        }
    }

    /// The key that signs credentials: the existing one, or a new one. An unreadable key is left for
    /// a person to repair.
    async fn keep_token_key(&self) -> Result<TokenKey, PassError> {
        let key = self.own(TOKENS_SECRET);
        let found = match self.context.secrets.get(Self::NAME, &key).await {
            Ok(secret) => secret,
            Err(SecretProblem::Missing(_)) => {
                let secret = token_key::new_secret(&key)?;
                match self.writer.create(&secret).await {
                    Ok(_) => {
                        tracing::info!(secret = %key, "signing key of credentials created");
                        secret.into()
                    }
                    Err(error) if error.is_already_exists() => {
                        self.writer.get::<Secret>(&key).await?.ok_or(error)?.into()
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(problem) => return Err(problem.into()),
        };
        Ok(TokenKey::read(&key, &found)?)
    }

    async fn apply_secret(
        &self,
        key: &ObjectKey,
        pair: &Pair,
        authority: &Authority,
    ) -> Result<(), ApiError> {
        let secret = tls_secret(key, pair, authority.bundle());
        self.writer.apply::<Secret>(key, &secret).await?;
        Ok(())
    }

    /// Writes only the bundle of the one webhook; a missing configuration is not an error.
    async fn keep_webhook_bundle(&self, authority: &Authority) -> Result<(), ApiError> {
        let key = ObjectKey::cluster(WEBHOOK_CONFIGURATION);
        let Some(found) = self.context.cluster.webhooks.get(&key) else {
            return Ok(());
        };
        if !needs_bundle(&found, authority.bundle()) {
            return Ok(());
        }
        let bundle = STANDARD.encode(authority.bundle());
        let webhook = json!({"name": WEBHOOK, "clientConfig": {"caBundle": bundle}});
        let patch = json!({"webhooks": [webhook]});
        self.writer
            .apply::<MutatingWebhookConfiguration>(&key, &patch)
            .await?;
        Ok(())
    }

    async fn keep_agents_config(&self, authority: &Authority) -> Result<(), ApiError> {
        let key = ObjectKey::new(&self.context.config.nodes_namespace, AGENTS_CONFIG);
        let found = self.context.cluster.agents_config.get(&key);
        let data = found.as_ref().and_then(|found| found.data.as_ref());
        if data
            .and_then(|data| data.get(BUNDLE_KEY))
            .map(String::as_str)
            == Some(authority.bundle())
        {
            return Ok(());
        }
        let data = BTreeMap::from([
            (BUNDLE_KEY, authority.bundle()),
            // Where agents will ask for credentials of private images.
            ("controller", ""),
        ]);
        let patch = json!({"data": data});
        self.writer.apply::<ConfigMap>(&key, &patch).await?;
        Ok(())
    }
}

impl Part for CaPart {
    const NAME: &'static str = "ca";
    const TOPICS: &'static [Topic] = &[
        Topic::Secrets,
        Topic::WebhookConfigurations,
        Topic::AgentsConfig,
    ];

    async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
        let authority = self.authority(now).await?;
        if authority.renewal()? <= now {
            tracing::warn!(
                "two thirds of the certificate authority's lifetime are over: delete the secret \
                 {CA_SECRET} in a maintenance window to have a new one made"
            );
        }
        // The bundles are written before the certificates: clients must trust an authority before a
        // server presents one of its certificates.
        let mut failed = None;
        for kept in [
            self.keep_agents_config(&authority).await,
            self.keep_webhook_bundle(&authority).await,
        ] {
            failed = failed.or(kept.err());
        }
        self.context.shared.ca.set(authority.bundle().to_owned());
        self.context.shared.authority.set(authority.clone());
        // The three steps are independent, so a failure of one is returned only after the others
        // have run.
        let webhook = self.keep_certificate(WEBHOOK_SECRET, WEBHOOK_SERVICE, &authority, now);
        let webhook = webhook.await;
        let own = self.keep_certificate(CONTROLLER_SECRET, CONTROLLER_SERVICE, &authority, now);
        let own = own.await;
        let token_key = self.keep_token_key().await?;
        self.context.shared.token_keys.set(token_key.public());
        let renewal = webhook?.min(own?);
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Wake::At(renewal)),
        }
    }
}

fn read_authority(key: &ObjectKey, secret: &Secret) -> Result<Authority, BrokenAuthority> {
    let pair = pair_of(secret).ok_or(CertificateError::Certificate);
    pair.and_then(Authority::from_pair)
        .map_err(|cause| BrokenAuthority {
            key: key.clone(),
            cause,
        })
}

/// Certificate and key of a Secret of type `kubernetes.io/tls`.
pub(crate) fn pair_of(secret: &Secret) -> Option<Pair> {
    Some(Pair {
        certificate: text(secret, CERTIFICATE_KEY)?,
        key: text(secret, PRIVATE_KEY)?,
    })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    String::from_utf8(value.0.clone()).ok()
}

/// A Secret of type `kubernetes.io/tls` with the bundle beside the pair.
pub(crate) fn tls_secret(key: &ObjectKey, pair: &Pair, bundle: &str) -> Secret {
    let data = [
        (CERTIFICATE_KEY, pair.certificate.as_str()),
        (PRIVATE_KEY, pair.key.as_str()),
        (BUNDLE_KEY, bundle),
    ];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())));
    let labels = [("app.kubernetes.io/managed-by", "coral")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Secret {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    }
}

/// The DNS names by which pods reach a Service. The first is the one that most clients use.
pub(crate) fn service_names(name: &str, namespace: &str) -> Names {
    Names {
        dns: vec![
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.cluster.local"),
            format!("{name}.{namespace}"),
            name.to_owned(),
        ],
        addresses: std::collections::BTreeSet::new(),
    }
}

fn needs_bundle(configuration: &MutatingWebhookConfiguration, bundle: &str) -> bool {
    let mut webhooks = configuration.webhooks.iter().flatten();
    let webhook = webhooks.find(|webhook| webhook.name == WEBHOOK);
    let current = webhook.map(|webhook| webhook.client_config.ca_bundle.as_ref());
    current.is_some_and(|current| current.map(|it| it.0.as_slice()) != Some(bundle.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(name: &str, bundle: Option<&str>) -> MutatingWebhookConfiguration {
        let bundle = bundle.map(|text| STANDARD.encode(text));
        serde_json::from_value(json!({
            "metadata": {"name": WEBHOOK_CONFIGURATION},
            "webhooks": [{
                "name": name,
                "clientConfig": {"caBundle": bundle},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }],
        }))
        .unwrap()
    }

    #[test]
    fn the_bundle_is_written_where_it_is_not_and_only_for_our_webhook() {
        assert!(needs_bundle(&configuration(WEBHOOK, None), "a"));
        assert!(needs_bundle(&configuration(WEBHOOK, Some("b")), "a"));
        assert!(!needs_bundle(&configuration(WEBHOOK, Some("a")), "a"));
        assert!(!needs_bundle(&configuration("other.example", None), "a"));
    }

    #[test]
    fn an_authority_goes_through_a_secret() {
        let authority = Authority::generate(Timestamp::now()).unwrap();
        let key = ObjectKey::new("coral-system", CA_SECRET);
        let secret = tls_secret(&key, authority.pair(), authority.bundle());
        assert_eq!(read_authority(&key, &secret).unwrap(), authority);
        let broken = Secret::default();
        let said = read_authority(&key, &broken).unwrap_err().to_string();
        assert!(
            said.contains("coral-system/coral-ca") && said.contains("delete"),
            "{said}"
        );
    }
}
