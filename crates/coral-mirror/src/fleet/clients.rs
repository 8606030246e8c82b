//! The clients of a process's mirrors.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_distribution::{Client, ClientOptions, Error, HostOptions};
use coral_image::Host;
use futures::future::join_all;
use quick_cache::sync::Cache;

/// How many clients are kept for mirrors to share. A client that is no longer kept lives on in the
/// mirrors that use it.
const MOST_KEPT: usize = 64;

/// A client for each set of options. The options of the process apply everywhere; a mirror's
/// options for its sources and its destination apply only to these, and never to another mirror.
#[derive(Debug)]
pub struct Clients {
    options: ClientOptions,
    made: Cache<HostsOptions, Client>,
}

type HostsOptions = BTreeMap<Host, HostOptions>;

impl Clients {
    /// Clients with these `options`, to which mirrors may add their own.
    pub fn new(options: ClientOptions) -> Self {
        let made = Cache::new(MOST_KEPT);
        Self { options, made }
    }

    /// The client for these options of hosts. Equal options share a client.
    pub fn client(&self, own: &HostsOptions) -> Result<Client, Error> {
        self.made.get_or_insert_with(own, || self.make(own))
    }

    fn make(&self, own: &HostsOptions) -> Result<Client, Error> {
        let mut options = self.options.clone();
        for (host, own) in own {
            let host = options.hosts.entry(host.clone()).or_default();
            host.plain_http |= own.plain_http;
            host.skip_tls_verify |= own.skip_tls_verify;
            if let Some(pem) = &own.ca_pem {
                let all = host.ca_pem.get_or_insert_default();
                all.push(b'\n');
                all.extend(pem);
            }
        }
        Client::new(options)
    }

    /// Waits up to `patience` for interrupted uploads to be cancelled.
    pub async fn settle(&self, patience: Duration) {
        let clients: Vec<Client> = self.made.iter().map(|(_, client)| client).collect();
        join_all(clients.iter().map(|client| client.settle(patience))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_of_a_mirror_do_not_add_clients_without_an_end() {
        let clients = Clients::new(ClientOptions::default());
        for port in 1000..1100 {
            let plain = HostOptions {
                plain_http: true,
                ..HostOptions::default()
            };
            let host = Host::parse(&format!("quay.io:{port}")).unwrap();
            clients.client(&BTreeMap::from([(host, plain)])).unwrap();
        }
        let kept = clients.made.len();
        assert!((MOST_KEPT / 2..=MOST_KEPT).contains(&kept), "{kept}");
    }
}
