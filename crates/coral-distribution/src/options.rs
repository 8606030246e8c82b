//! Options of a client, and of single hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_image::Host;

use crate::addresses::AddressRules;
use crate::open_uploads::OpenUploads;
use crate::redacted::Redacted;

/// Options of one host. The default is HTTPS with the system's trust anchors. A host on loopback
/// that does not speak TLS is then contacted over plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HostOptions {
    /// Speak HTTP without TLS.
    pub plain_http: bool,
    /// Accept any certificate.
    pub skip_tls_verify: bool,
    /// Trust this CA (PEM, one or more certificates) in addition to the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Present this certificate if the host asks for one: the chain and its private key (PEM).
    pub client_pem: Option<Redacted<Vec<u8>>>,
}

/// Options of a [`Client`](crate::Client).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// Hosts whose options differ from the default. A host is matched as it appears in a URL (also
    /// the URL of a redirect, an upload or a token server), with or without a default port; the
    /// options of `docker.io` apply to Docker Hub's registry.
    pub hosts: BTreeMap<Host, HostOptions>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
    /// How long a request may go on without a byte moving in either direction. It is also the
    /// window in which a transfer must average 1 KiB a second. The total time of a transfer is not
    /// limited.
    pub stall_timeout: Duration,
    /// Addresses that the client refuses to connect to, whether a registry's name, a redirect or a
    /// token server leads to them.
    pub addresses: AddressRules,
    /// Where open uploads are stored, so that they resume after a restart of the process. Without
    /// it, open uploads are cancelled.
    pub open_uploads: Option<OpenUploads>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            user_agent: concat!("coral/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_mins(1),
            addresses: AddressRules::default(),
            open_uploads: None,
        }
    }
}
