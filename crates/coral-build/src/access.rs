//! Access to registries: to the internal one with a credential of the controller, to others with a
//! Docker configuration.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use coral_distribution::{
    Client, ClientOptions, Credentials, CredentialsError, Error, HostOptions,
};
use coral_image::Host;
use jiff::Timestamp;

use crate::contract::{AlsoTo, BuildContainer, path};
use crate::pod::{self, Pod, PodError};

/// Name of the certificates beside a Docker configuration.
const CA_FILE: &str = "ca.crt";
/// The names of a Docker configuration: as the contract says, and as the Secret's key is called.
const CONFIG_FILES: [&str; 2] = [path::CREDENTIAL_FILE, ".dockerconfigjson"];

/// A credential for the internal registry, and the controller's information about the build
/// container.
#[derive(Debug, Clone)]
pub struct StepCredential {
    /// The credential.
    pub credentials: Arc<Credentials>,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// The build container, for the provenance.
    pub container: BuildContainer,
}

impl StepCredential {
    /// This user and password for a registry, without expiry and without information about the
    /// build container.
    pub fn new(registry: &Host, user: &str, password: &str) -> Self {
        let origin = "the controller's credential";
        let credentials = Credentials::for_one_host(registry.clone(), user, password, origin);
        Self {
            credentials: Arc::new(credentials),
            expires: None,
            container: BuildContainer::default(),
        }
    }
}

/// Why the controller gave no credential.
#[derive(Debug, thiserror::Error)]
#[error("the controller gave no credential for the internal registry")]
pub struct CredentialError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The answer to a request for a credential.
pub type CredentialFuture<'a> =
    Pin<Box<dyn Future<Output = Result<StepCredential, CredentialError>> + Send + 'a>>;

/// Gives credentials of the internal registry: in a pod the controller, in tests a constant.
pub trait CredentialSource: Send + Sync {
    /// A credential that has just been made.
    fn credential(&self) -> CredentialFuture<'_>;
}

/// Why registries cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file of the contract.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// A Docker configuration.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Certificates.
    #[error(transparent)]
    Client(#[from] Error),
    /// The controller.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// A client for the internal registry, which has a certificate of Coral's authority.
pub(crate) fn internal(pod: &Pod, registry: &Host) -> Result<Client, AccessError> {
    Ok(client(registry, pod.authority()?, false)?)
}

/// A client for a registry outside, and the credentials in the folder of its Secret. Certificates in the
/// key `ca.crt` are trusted for this registry.
pub(crate) fn outside(
    folder: &Path,
    registry: &Host,
) -> Result<(Client, Arc<Credentials>), AccessError> {
    let ca_pem = pod::optional(&folder.join(CA_FILE))?;
    let client = client(registry, ca_pem, false)?;
    Ok((client, credentials(folder)?))
}

/// The same for a registry of `alsoTo`, whose certificates or plain HTTP the build may name.
pub(crate) fn also_to(
    folder: &Path,
    registry: &Host,
    named: &AlsoTo,
) -> Result<(Client, Arc<Credentials>), AccessError> {
    let ca_pem = match &named.ca {
        Some(ca) => Some(ca.clone().into_bytes()),
        None => pod::optional(&folder.join(CA_FILE))?,
    };
    let client = client(registry, ca_pem, named.plain_http)?;
    Ok((client, credentials(folder)?))
}

/// The credentials in the folder of a Secret; none if it has no Docker configuration.
fn credentials(folder: &Path) -> Result<Arc<Credentials>, AccessError> {
    for name in CONFIG_FILES {
        if let Some(json) = pod::optional(&folder.join(name))? {
            let credentials = Credentials::from_docker_config(&json, "the Secret")?;
            return Ok(Arc::new(credentials));
        }
    }
    Ok(Arc::new(Credentials::none()))
}

/// Loopback is only used in tests: it speaks HTTP unless there are certificates for it.
fn client(host: &Host, ca_pem: Option<Vec<u8>>, plain_http: bool) -> Result<Client, Error> {
    let options = HostOptions {
        plain_http: plain_http || ca_pem.is_none() && host.is_loopback(),
        ca_pem,
        ..HostOptions::default()
    };
    Client::new(ClientOptions {
        hosts: [(host.clone(), options)].into(),
        ..ClientOptions::default()
    })
}
