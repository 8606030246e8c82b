//! Turns a mirror's object, and what it refers to, into a mirror that can run.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use coral_api::{
    MirrorSettings, Problem, RegistryMirror, RepositorySettings, Secret, SecretError, Target,
    TransportSettings, metadata,
};
use coral_distribution::{Credentials, CredentialsError, Error as ClientError, HostOptions};
use coral_image::{Digest, Host, error_chain};

use super::Clients;
use crate::access::MirrorAccess;
use crate::bandwidth::Bandwidth;
use crate::copy::Catalogue;
use crate::creations::Creations;
use crate::pace::Paces;

const PULL_SECRETS: &str = "spec.imagePullSecrets";
const PUSH_SECRET: &str = "spec.registry.secretRef";
const REGISTRY_NAME: &str = "spec.registry.name";

/// A mirror with everything that it refers to.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// `namespace/name`.
    pub name: String,
    /// Its settings.
    pub settings: MirrorSettings,
    /// Changes whenever the mirror's spec or something that it refers to changes.
    pub fingerprint: Digest,
    /// Digest of the mirror's `prune` without `dryRun`; `None` if nothing is pruned.
    pub prune: Option<Digest>,
    /// The registry that it copies to.
    pub destination: Host,
    /// Sent to sources only.
    pub source_credentials: Arc<Credentials>,
    /// Sent to the destination only.
    pub destination_credentials: Arc<Credentials>,
    /// Options of source hosts that differ from the default.
    pub source_options: BTreeMap<Host, HostOptions>,
    /// Options of the destination, if they differ from the default.
    pub destination_options: BTreeMap<Host, HostOptions>,
}

/// Looks up the objects that a mirror refers to.
pub trait Lookup {
    /// Why an object cannot be used.
    type Error: Error + 'static;

    /// The Secret with this name.
    fn secret(&self, namespace: &str, name: &str) -> Result<&Secret, Self::Error>;

    /// The Registry with this name.
    fn registry(&self, namespace: &str, name: &str) -> Result<NamedRegistry, Self::Error>;

    /// The credentials for mirrors that name no Secret.
    fn fallback(&self) -> Fallback;
}

/// A Registry object, as a mirror reaches it.
#[derive(Debug, Clone)]
pub struct NamedRegistry {
    /// Its address.
    pub host: Host,
    /// The credentials for pushes.
    pub credentials: Arc<Credentials>,
    /// How it is reached.
    pub options: HostOptions,
    /// Changes whenever the credentials change.
    pub version: Vec<u8>,
}

/// Credentials for mirrors that name no Secret.
#[derive(Debug, Clone, Default)]
pub struct Fallback {
    /// The credentials.
    pub credentials: Arc<Credentials>,
    /// Changes whenever the credentials change.
    pub version: u64,
}

/// Why a mirror cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError<E: Error + 'static> {
    /// Its spec is invalid; one problem or more.
    #[error("{}", together(.0))]
    Settings(Vec<Problem>),
    /// Something that it refers to cannot be used.
    #[error("{field}: {}", error_chain(source))]
    Named {
        /// The field with the name.
        field: &'static str,
        /// Why.
        #[source]
        source: E,
    },
    /// A Secret does not have the expected content.
    #[error("{field}: {}", error_chain(source))]
    Secret {
        /// The field that names it.
        field: &'static str,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The credentials of a Secret cannot be read.
    #[error("{field}: {}", error_chain(source))]
    Credentials {
        /// The field that names it.
        field: &'static str,
        /// Why.
        #[source]
        source: CredentialsError,
    },
}

fn together(problems: &[Problem]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}

impl<E: Error + 'static> PrepareError<E> {
    /// All problems, one message each.
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::Settings(problems) => problems.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        }
    }
}

/// Validates a mirror's spec and reads what it refers to.
pub fn prepare<L: Lookup>(
    mirror: &RegistryMirror,
    lookup: &L,
) -> Result<Prepared, PrepareError<L::Error>> {
    let settings = mirror.settings().map_err(PrepareError::Settings)?;
    // As JSON without absent fields, so that a newer version computes the same digest.
    let namespace = metadata::namespace(&mirror.metadata);
    let mut named = References {
        namespace,
        lookup,
        seen: format!("{:?}", mirror.spec).into_bytes(),
    };
    let source_credentials = named.credentials(PULL_SECRETS, &settings.pull_secrets)?;
    let (destination, destination_credentials, reached) = match &settings.target {
        Target::Named(name) => {
            let registry = named.registry(name)?;
            (registry.host, registry.credentials, registry.options)
        }
        Target::Address(address) => {
            let wanted: Vec<String> = address.secret.iter().cloned().collect();
            let credentials = named.credentials(PUSH_SECRET, &wanted)?;
            (
                address.host.clone(),
                credentials,
                options(&address.transport),
            )
        }
    };
    let sources = settings.repositories.iter();
    let sources = sources.map(|s| (s.repository.host().clone(), options(&s.transport)));
    Ok(Prepared {
        name: format!("{namespace}/{}", metadata::name(&mirror.metadata)),
        fingerprint: Digest::sha256(&named.seen),
        prune: mirror.spec.prune_digest(),
        source_options: sources.filter(|(_, options)| is_special(options)).collect(),
        destination_options: [(destination.clone(), reached)]
            .into_iter()
            .filter(|(_, options)| is_special(options))
            .collect(),
        settings,
        destination,
        source_credentials,
        destination_credentials,
    })
}

fn options(transport: &TransportSettings) -> HostOptions {
    HostOptions {
        plain_http: transport.plain_http,
        skip_tls_verify: !transport.tls_verify,
        ca_pem: transport.ca.clone().map(String::into_bytes),
        client_pem: None,
    }
}

fn is_special(options: &HostOptions) -> bool {
    *options != HostOptions::default()
}

impl Prepared {
    /// How the mirror reaches its registries; `paces` are shared by the process.
    pub fn access(&self, clients: &Clients, paces: &Paces) -> Result<MirrorAccess, ClientError> {
        Ok(MirrorAccess {
            client: clients.client(&self.source_options)?,
            destination_client: clients.client(&self.destination_options)?,
            destination: self.destination.clone(),
            source_credentials: self.source_credentials.clone(),
            destination_credentials: self.destination_credentials.clone(),
            paces: paces.clone(),
            bandwidth: self.settings.limits.bandwidth.map(Bandwidth::new),
            creations: Creations::default(),
            catalogue: Catalogue::default(),
        })
    }

    /// Drops repositories for which `keep` is false, and has the mirror restarted if that changes
    /// what it copies.
    pub fn retain_repositories(&mut self, keep: impl Fn(&RepositorySettings) -> bool) {
        let left_out = |settings: &&RepositorySettings| !keep(settings);
        let left_out: Vec<String> = self
            .settings
            .repositories
            .iter()
            .filter(left_out)
            .map(|settings| settings.repository.to_string())
            .collect();
        if left_out.is_empty() {
            return;
        }
        self.settings.repositories.retain(keep);
        let seen = format!("{} without {left_out:?}", self.fingerprint);
        self.fingerprint = Digest::sha256(seen.as_bytes());
    }

    /// Replaces the options of the destination, and has the mirror restarted if they differ.
    pub fn set_destination_options(&mut self, options: HostOptions) {
        let seen = format!("{} {options:?}", self.fingerprint);
        self.fingerprint = Digest::sha256(seen.as_bytes());
        self.destination_options = BTreeMap::from([(self.destination.clone(), options)]);
    }
}

/// The objects that a mirror refers to.
struct References<'a, L> {
    namespace: &'a str,
    lookup: &'a L,
    /// Everything the mirror depends on, for its fingerprint.
    seen: Vec<u8>,
}

impl<L: Lookup> References<'_, L> {
    fn registry(&mut self, name: &str) -> Result<NamedRegistry, PrepareError<L::Error>> {
        let field = REGISTRY_NAME;
        let registry = self.lookup.registry(self.namespace, name);
        let registry = registry.map_err(|source| PrepareError::Named { field, source })?;
        self.seen
            .extend(format!("{} {:?}", registry.host, registry.options).bytes());
        self.seen.extend_from_slice(&registry.version);
        Ok(registry)
    }

    fn credentials(
        &mut self,
        field: &'static str,
        names: &[String],
    ) -> Result<Arc<Credentials>, PrepareError<L::Error>> {
        if names.is_empty() {
            let fallback = self.lookup.fallback();
            self.seen.extend_from_slice(&fallback.version.to_le_bytes());
            return Ok(fallback.credentials);
        }
        let mut all = Credentials::none();
        for name in names {
            let secret = self.lookup.secret(self.namespace, name);
            let secret = secret.map_err(|source| PrepareError::Named { field, source })?;
            let config = secret.docker_config();
            let config = config.map_err(|source| PrepareError::Secret { field, source })?;
            self.seen.extend_from_slice(config.json.expose());
            let origin = format!("Secret {name:?}");
            let found = Credentials::from_docker_config(config.json.expose(), &origin);
            let found = found.map_err(|source| PrepareError::Credentials { field, source })?;
            all = all.merged_with(found);
        }
        Ok(Arc::new(all))
    }
}
