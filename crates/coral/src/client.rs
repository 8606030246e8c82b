//! How registries are reached: the flags, and the client made from them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use coral_api::GoDuration;
use coral_distribution::{
    Client, ClientOptions, Credentials, HostOptions, Redacted, certificates_as_pem,
};
use coral_image::Host;

use crate::failure::Failure;
use crate::load::open;
use crate::values::host;

/// How long a process waits at its end for its open uploads to be cancelled.
pub(crate) const SETTLING: Duration = Duration::from_secs(5);
/// Largest file with certificates or keys that is read.
const MAX_PEM: u64 = 4 * 1024 * 1024;

/// The command that copies an image of a registry without TLS into a layout. Coral finds out by
/// itself that a registry on loopback has none.
pub(crate) fn copy_command(host: &Host, image: impl std::fmt::Display) -> String {
    let option = if host.is_loopback() {
        String::new()
    } else {
        format!("--plain-http {host} ")
    };
    format!("coral copy {option}{image} oci:image:latest")
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reaching registries")]
pub(crate) struct ClientArguments {
    /// Use plain HTTP for this host. By default every host is reached over HTTPS; a loopback host
    /// that does not speak TLS is then tried over plain HTTP
    #[arg(long, env = "CORAL_PLAIN_HTTP", value_name = "HOST[:PORT]", value_parser = host, value_delimiter = ',')]
    plain_http: Vec<Host>,
    /// Accept any certificate from this host
    #[arg(long, env = "CORAL_SKIP_TLS_VERIFY", value_name = "HOST[:PORT]", value_parser = host, value_delimiter = ',')]
    skip_tls_verify: Vec<Host>,
    /// Trust the CA certificates of a file (PEM or DER) for this host, in addition to the system's
    #[arg(long, env = "CORAL_CA", value_name = "HOST[:PORT]=FILE", value_parser = host_file, value_delimiter = ',')]
    ca: Vec<(Host, PathBuf)>,
    /// Client certificate for this host: a file with the certificate and a file with its
    /// unencrypted private key, both PEM
    #[arg(long, env = "CORAL_CLIENT_CERT", value_name = "HOST[:PORT]=CERT:KEY", value_parser = host_pair, value_delimiter = ',')]
    client_cert: Vec<(Host, ClientCertificate)>,
    /// Docker configuration file with credentials [default: the file that `REGISTRY_AUTH_FILE`
    /// names, else Docker's own config.json and Podman's auth.json]
    #[arg(long, env = "CORAL_DOCKER_CONFIG", value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// Retry a request that has made no progress for this long, such as 30s or 2m
    #[arg(long, env = "CORAL_STALL_TIMEOUT", value_name = "TIME", default_value = "1m", value_parser = stall_timeout)]
    stall_timeout: Duration,
}

fn stall_timeout(text: &str) -> Result<Duration, String> {
    let time = GoDuration::parse(text).map_err(|error| error.to_string())?;
    match time.get() {
        Duration::ZERO => Err("must not be 0: give a duration such as 30s".to_owned()),
        time => Ok(time),
    }
}

fn host_file(text: &str) -> Result<(Host, PathBuf), String> {
    let (name, file) = text
        .split_once('=')
        .ok_or("expected HOST=FILE, such as registry.corp:5000=ca.pem")?;
    Ok((host(name)?, PathBuf::from(file)))
}

/// Files of a client certificate.
#[derive(Debug, Clone)]
struct ClientCertificate {
    certificate: PathBuf,
    key: PathBuf,
}

fn host_pair(text: &str) -> Result<(Host, ClientCertificate), String> {
    let expected = "expected HOST=CERT:KEY, such as registry.corp:5000=me.pem:me.key";
    let (name, files) = text.split_once('=').ok_or(expected)?;
    let (certificate, key) = files.split_once(':').ok_or(expected)?;
    let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
    Ok((host(name)?, ClientCertificate { certificate, key }))
}

/// Whether the options set anything about a host's TLS.
fn is_reached_with_tls(options: &HostOptions) -> bool {
    options.skip_tls_verify || options.ca_pem.is_some() || options.client_pem.is_some()
}

impl ClientArguments {
    /// The options that the flags set for single hosts.
    pub(crate) fn host_options(&self) -> Result<BTreeMap<Host, HostOptions>, Failure> {
        let mut hosts: BTreeMap<Host, HostOptions> = BTreeMap::new();
        for host in &self.plain_http {
            hosts.entry(host.clone()).or_default().plain_http = true;
        }
        for host in &self.skip_tls_verify {
            hosts.entry(host.clone()).or_default().skip_tls_verify = true;
        }
        for (host, file) in &self.ca {
            let pem = read_ca(file).map_err(|error| {
                Failure::input(format!("--ca {host}={}: {error}", file.display()))
            })?;
            hosts
                .entry(host.clone())
                .or_default()
                .ca_pem
                .get_or_insert_default()
                .extend(pem.into_bytes());
        }
        for (host, pair) in &self.client_cert {
            let read = |file: &Path| {
                read_pem(file).map_err(|error| {
                    Failure::input(format!("--client-cert {host}: {}: {error}", file.display()))
                })
            };
            let mut pem = read(&pair.certificate)?;
            pem.push(b'\n');
            pem.extend(read(&pair.key)?);
            hosts.entry(host.clone()).or_default().client_pem = Some(Redacted::new(pem));
        }
        // A host without a port may have a token server with TLS beside a registry without.
        let mut plain = self.plain_http.iter().filter(|host| host.port().is_some());
        match plain.find(|host| is_reached_with_tls(&hosts[*host])) {
            Some(host) => Err(Failure::input(format!(
                "--plain-http {host}: --skip-tls-verify, --ca and --client-cert have no effect for \
                 {host} then: leave one of the two out"
            ))),
            None => Ok(hosts),
        }
    }

    /// The files with the user's own credentials, whether or not they exist.
    pub(crate) fn credential_files(&self) -> Vec<PathBuf> {
        Credentials::user_files(self.docker_config.as_deref())
    }

    /// Options of a client with these options for single hosts.
    pub(crate) fn options(&self, hosts: BTreeMap<Host, HostOptions>) -> ClientOptions {
        ClientOptions {
            hosts,
            stall_timeout: self.stall_timeout,
            ..ClientOptions::default()
        }
    }

    /// A client with these options for single hosts.
    pub(crate) fn client(&self, hosts: BTreeMap<Host, HostOptions>) -> Result<Client, Failure> {
        made(self.options(hosts))
    }

    /// The user's own credentials.
    pub(crate) fn user_credentials(&self) -> Result<Arc<Credentials>, Failure> {
        let found = Credentials::load_user(self.docker_config.as_deref());
        found
            .map(Arc::new)
            .map_err(|error| Failure::input(coral_image::error_chain(&error)))
    }
}

/// As PEM, also if the file is DER, so that several files can be joined.
fn read_ca(file: &Path) -> std::io::Result<String> {
    certificates_as_pem(&read_pem(file)?).map_err(std::io::Error::other)
}

fn read_pem(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut pem = vec![];
    open(file)?.take(MAX_PEM + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > MAX_PEM {
        return Err(std::io::Error::other(format!(
            "larger than {MAX_PEM} bytes"
        )));
    }
    Ok(pem)
}

/// A client for hosts that Coral itself runs.
pub(crate) fn client(hosts: BTreeMap<Host, HostOptions>) -> Result<Client, Failure> {
    made(ClientOptions {
        hosts,
        ..ClientOptions::default()
    })
}

fn made(options: ClientOptions) -> Result<Client, Failure> {
    Client::new(options).map_err(|error| Failure::input(coral_image::error_chain(&error)))
}
