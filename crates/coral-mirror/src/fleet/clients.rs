//! The clients of a process's mirrors.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_distribution::{Client, ClientOptions, Error, HostOptions};
use coral_image::Host;
use futures::future::join_all;

/// A client for each set of options. The options of the process hold everywhere; what a mirror says
/// of its sources holds for its sources only, and what it says of its destination for that
/// destination only, never for another mirror.
#[derive(Debug)]
pub struct Clients {
    options: ClientOptions,
    made: Mutex<Vec<(HostsOptions, Client)>>,
}

type HostsOptions = BTreeMap<Host, HostOptions>;

impl Clients {
    /// Clients that treat hosts as `options` say, unless a mirror says more.
    pub fn new(options: ClientOptions) -> Self {
        let made = Mutex::default();
        Self { options, made }
    }

    /// The client for hosts with these options of their own. Equal options share a client.
    pub fn client(&self, own: &HostsOptions) -> Result<Client, Error> {
        let mut made = self.made();
        if let Some((_, client)) = made.iter().find(|(known, _)| known == own) {
            return Ok(client.clone());
        }
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
        let client = Client::new(options)?;
        made.push((own.clone(), client.clone()));
        Ok(client)
    }

    /// Waits, at most as long as `patience`, until uploads that were cut are given up.
    pub async fn settle(&self, patience: Duration) {
        let clients: Vec<Client> = self.made().iter().map(|(_, c)| c.clone()).collect();
        join_all(clients.iter().map(|client| client.settle(patience))).await;
    }

    fn made(&self) -> MutexGuard<'_, Vec<(HostsOptions, Client)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
