//! Pools of connections: one for each distinct set of options.

use std::sync::Arc;
use std::time::Duration;

use coral_image::{Host, without_byte_order_marks};
use quick_cache::sync::Cache;
use url::Url;

use super::proxy::{Proxies, Proxy};
use super::trust;
use crate::addresses::{AddressRules, FilteringResolver};
use crate::error::{Error, Problem};
use crate::options::{ClientOptions, HostOptions};
use crate::redacted::Redacted;

/// Idle connections are closed before common servers and load balancers close them (60 s).
const IDLE: Duration = Duration::from_secs(50);

/// Most pools of a client. If addresses are checked, each port has its own pool, and a source
/// chooses the ports that it redirects to. Requests that run in a dropped pool continue.
const MOST_POOLS: usize = 64;

/// The options that a pool is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PoolKey {
    /// HTTP without TLS; it needs no trust anchors on this system.
    Plain { direct: bool },
    /// HTTPS with these options.
    Tls {
        skip_verify: bool,
        ca_pem: Option<Vec<u8>>,
        client_pem: Option<Redacted<Vec<u8>>>,
        direct: bool,
    },
}

#[derive(Debug)]
pub(super) struct Connections {
    options: ClientOptions,
    proxies: Proxies,
    /// Whether answers carry the certificate of the server.
    certificates: bool,
    addresses: Arc<AddressRules>,
    /// The pools by their options, and by port if addresses are refused by port.
    pools: Cache<(PoolKey, Option<u16>), reqwest::Client>,
}

impl Connections {
    /// Refuses options with certificates that cannot be read. It does not connect.
    pub(super) fn new(options: ClientOptions) -> Result<Self, Error> {
        for (host, of_host) in &options.hosts {
            if let Some(pem) = &of_host.ca_pem {
                trust::certificates_as_pem(pem).map_err(|text| {
                    Error::new(host, "reading its CA certificate", Problem::Options(text))
                })?;
            }
            if let Some(pem) = &of_host.client_pem {
                check_identity(pem).map_err(|text| {
                    Error::new(
                        host,
                        "reading its client certificate",
                        Problem::Options(text),
                    )
                })?;
            }
        }
        Ok(Self {
            proxies: Proxies::from_environment()
                .map_err(|problem| Error::new("the environment", "looking for a proxy", problem))?,
            addresses: Arc::new(options.addresses.clone()),
            options,
            certificates: false,
            pools: Cache::new(MOST_POOLS),
        })
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The proxy for a URL, if there is one.
    pub(super) fn proxy_for(&self, url: &Url) -> Option<Proxy> {
        self.proxies.for_url(url)
    }

    pub(super) fn keep_certificates(&mut self) {
        self.certificates = true;
    }

    pub(super) fn configured_options(&self, host: &Host) -> Option<&HostOptions> {
        self.options.hosts.get(host)
    }

    /// The options of a URL's host, whether or not its port is written.
    pub(super) fn options_for(&self, url: &Url) -> HostOptions {
        let find = |name: &str| self.options.hosts.get(&Host::parse(name).ok()?);
        let name = url_host(url);
        let port = url.port_or_known_default().unwrap_or(443);
        find(&url_authority(url))
            .or_else(|| find(&format!("{name}:{port}")))
            .or_else(|| is_hub(&name).then(|| find("docker.io")).flatten())
            .cloned()
            .unwrap_or_default()
    }

    /// The pool for a URL, created when it is first needed.
    pub(super) fn client_for(&self, url: &Url) -> Result<reqwest::Client, Problem> {
        self.addresses
            .check_literal(url)
            .map_err(|refused| Problem::Unsafe(refused.to_string()))?;
        let port = url.port_or_known_default();
        let port = port.filter(|_| !self.addresses.is_empty());
        let key = (self.key_for(url), port);
        self.pools
            .get_or_insert_with(&key, || self.build(&key.0, port))
    }

    fn key_for(&self, url: &Url) -> PoolKey {
        let direct = self.proxies.is_direct(url);
        if url.scheme() == "http" {
            return PoolKey::Plain { direct };
        }
        let options = self.options_for(url);
        PoolKey::Tls {
            skip_verify: options.skip_tls_verify,
            ca_pem: options.ca_pem,
            client_pem: options.client_pem,
            direct,
        }
    }

    fn build(&self, key: &PoolKey, port: Option<u16>) -> Result<reqwest::Client, Problem> {
        let builder = match key {
            PoolKey::Plain { direct } => self.builder(*direct, port).tls_certs_only([]),
            PoolKey::Tls {
                skip_verify,
                ca_pem,
                client_pem,
                direct,
            } => {
                let mut builder = self.builder(*direct, port).tls_info(self.certificates);
                if let (false, Some(ca)) = (*skip_verify, ca_pem) {
                    let config = trust::config(ca, client_pem.as_ref());
                    builder = builder.tls_backend_preconfigured(config.map_err(Problem::Options)?);
                    return built(builder);
                }
                if let Some(pem) = client_pem {
                    builder = builder.identity(identity(pem).map_err(Problem::Options)?);
                }
                if *skip_verify {
                    builder
                        .tls_certs_only([])
                        .tls_danger_accept_invalid_certs(true)
                } else {
                    builder
                }
            }
        };
        built(builder)
    }

    fn builder(&self, direct: bool, port: Option<u16>) -> reqwest::ClientBuilder {
        let mut builder = reqwest::Client::builder()
            .user_agent(self.options.user_agent.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.options.connect_timeout)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true);
        if let Some(port) = port {
            let rules = self.addresses.clone();
            builder = builder.dns_resolver(FilteringResolver { rules, port });
        }
        if direct { builder.no_proxy() } else { builder }
    }
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Problem> {
    builder.build().map_err(|error| Problem::Tls {
        cause: super::failure::root(&error),
        advice: "install the system's CA certificates (package ca-certificates), or name one with \
                 --ca HOST=FILE"
            .to_owned(),
    })
}

pub(super) fn check_identity(pem: &Redacted<Vec<u8>>) -> Result<(), String> {
    let builder = reqwest::Client::builder().tls_certs_only([]);
    let built = builder.identity(identity(pem)?).build();
    built.map(drop).map_err(|e| {
        let cause = super::failure::root(&e);
        format!("certificate and key do not make a pair: {cause}")
    })
}

fn identity(pem: &Redacted<Vec<u8>>) -> Result<reqwest::Identity, String> {
    // The library's own message may quote what it read.
    reqwest::Identity::from_pem(&without_byte_order_marks(pem.expose())).map_err(|_| {
        "expected a certificate and its private key, not encrypted, both PEM".to_owned()
    })
}

/// Host and, if it is written, port.
pub(crate) fn url_authority(url: &Url) -> String {
    match url.port() {
        Some(port) => format!("{}:{port}", url_host(url)),
        None => url_host(url),
    }
}

fn url_host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_ascii_lowercase()
}

/// Whether the name is one of Docker Hub's registry.
fn is_hub(name: &str) -> bool {
    name == "registry-1.docker.io"
}

/// Whether the host is on loopback: such a host is never contacted through a proxy.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_proxy_never_stands_between_this_machine_and_itself() {
        for own in [
            "http://localhost:5000/",
            "http://127.8.9.1/",
            "https://[::1]:5000/",
            "http://[::ffff:127.0.0.1]:5000/",
            "http://LOCALHOST./",
            "http://registry.localhost.:5000/",
        ] {
            assert!(is_loopback(&url(own)), "{own}");
        }
        for other in [
            "https://docker.io/",
            "http://10.0.0.1/",
            "http://localhost.example/",
            "http://[::ffff:10.0.0.1]/",
            "http://notlocalhost/",
        ] {
            assert!(!is_loopback(&url(other)), "{other}");
        }
    }

    #[test]
    fn a_source_that_names_many_ports_does_not_have_many_pools_kept() {
        let mut options = ClientOptions::default();
        options.addresses.refuse_local = true;
        let connections = Connections::new(options).unwrap();
        let used = url("http://quay.io/");
        connections.client_for(&used).unwrap();
        for port in 1000..1100 {
            let redirected = url(&format!("http://evil.example:{port}/"));
            connections.client_for(&redirected).unwrap();
            connections.client_for(&used).unwrap();
        }
        let kept = connections.pools.len();
        assert!((MOST_POOLS / 2..=MOST_POOLS).contains(&kept), "{kept}");
        let key = (connections.key_for(&used), Some(80));
        assert!(connections.pools.contains_key(&key));
    }

    #[test]
    fn options_are_found_with_and_without_a_default_port() {
        let mut options = ClientOptions::default();
        for host in [
            "reg.example:443",
            "other.example",
            "docker.io",
            "[::1]:5000",
        ] {
            let plain = HostOptions {
                plain_http: true,
                ..HostOptions::default()
            };
            options.hosts.insert(Host::parse(host).unwrap(), plain);
        }
        let connections = Connections::new(options).unwrap();
        let plain = |text: &str| connections.options_for(&url(text)).plain_http;
        for known in [
            "https://reg.example/v2/",
            "https://other.example:443/",
            "http://other.example:80/",
            "https://registry-1.docker.io/v2/",
            "http://[::1]:5000/",
        ] {
            assert!(plain(known), "{known}");
        }
        for unknown in [
            "http://reg.example/",
            "https://other.example:5000/",
            "https://x.docker.io/",
            "http://[::1]/",
        ] {
            assert!(!plain(unknown), "{unknown}");
        }
    }
}
