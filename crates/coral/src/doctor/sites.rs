//! The registries that mirrors depend on, each once.

use std::sync::Arc;

use coral_distribution::{Client, Credentials};
use coral_image::{Host, ImageRef, Tag};

use crate::client::Clients;
use crate::load::LoadedMirror;

/// Repositories of one registry that are looked at.
const MOST_WANTED: usize = 20;

/// What a registry is to the mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Images come from there.
    Source,
    /// Images go there.
    Destination,
    /// Images go there, and it is the one that Coral runs itself.
    Own,
}

/// A registry, and how mirrors reach it.
pub(super) struct Site {
    pub(super) host: Host,
    pub(super) role: Role,
    pub(super) client: Client,
    pub(super) credentials: Arc<Credentials>,
    /// An image of each repository that is wanted from there.
    pub(super) wanted: Vec<ImageRef>,
}

impl Site {
    /// Its name in the result.
    pub(super) fn place(&self) -> String {
        self.host.to_string()
    }

    fn is(&self, host: &Host, role: Role, credentials: &Arc<Credentials>) -> bool {
        self.host == *host && self.role == role && Arc::ptr_eq(&self.credentials, credentials)
    }
}

/// All of them, in the order in which the mirrors name them; a registry that is reached with
/// several credentials is there once for each.
pub(super) fn sites(mirrors: &[LoadedMirror], clients: &Clients, own: &Host) -> Vec<Site> {
    let mut sites: Vec<Site> = vec![];
    for mirror in mirrors {
        for settings in &mirror.settings.repositories {
            let host = settings.repository.host();
            let credentials = &mirror.source_credentials;
            let site = of(
                &mut sites,
                host,
                Role::Source,
                clients.sources(),
                credentials,
            );
            let tag = settings
                .tags
                .first()
                .cloned()
                .or_else(|| Tag::parse("latest").ok());
            let wanted = tag.map(|tag| settings.repository.tagged(tag));
            if site.wanted.len() < MOST_WANTED {
                site.wanted.extend(wanted);
            }
        }
        let role = if mirror.destination == *own {
            Role::Own
        } else {
            Role::Destination
        };
        let client = clients.destination(mirror.host_options.as_ref());
        let credentials = &mirror.destination_credentials;
        of(&mut sites, &mirror.destination, role, client, credentials);
    }
    // The own registry is asked for without credentials, whoever mirrors into it.
    let mut seen_own = false;
    sites.retain(|site| site.role != Role::Own || !std::mem::replace(&mut seen_own, true));
    sites
}

fn of<'a>(
    sites: &'a mut Vec<Site>,
    host: &Host,
    role: Role,
    client: &Client,
    credentials: &Arc<Credentials>,
) -> &'a mut Site {
    let known = sites
        .iter()
        .position(|site| site.is(host, role, credentials));
    let place = known.unwrap_or_else(|| {
        sites.push(Site {
            host: host.clone(),
            role,
            client: client.clone(),
            credentials: credentials.clone(),
            wanted: vec![],
        });
        sites.len() - 1
    });
    &mut sites[place]
}
