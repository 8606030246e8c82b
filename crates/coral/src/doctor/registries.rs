//! The registries that mirrors depend on, each once.

use std::collections::HashMap;
use std::sync::Arc;

use coral_api::RepositorySettings;
use coral_distribution::{Client, Credentials};
use coral_image::{Host, PlatformPattern, Repository, Version};
use coral_mirror::{Clients, Paces};

use crate::failure::Failure;
use crate::load::LoadedMirror;
use crate::mirror::no_client;

/// How many images and repositories of one registry are checked.
pub(super) const MOST_WANTED: usize = 20;

/// What a registry is to the mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Images come from there.
    Source,
    /// Images go there.
    Destination,
    /// Images go there, and Coral itself runs it.
    Own,
}

/// A registry, and how mirrors reach it.
pub(super) struct CheckedRegistry {
    pub(super) host: Host,
    pub(super) role: Role,
    pub(super) client: Client,
    pub(super) credentials: Arc<Credentials>,
    /// What mirrors read there or write there.
    pub(super) wanted: Vec<Requirement>,
}

/// Something of a registry that a mirror needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    pub(super) repository: Repository,
    pub(super) what: RequiredPart,
}

/// Which part of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequiredPart {
    /// An image, for these platforms; for all if none is named.
    Image(Version, Vec<PlatformPattern>),
    /// The list of its tags.
    Tags,
    /// The right to push images to it.
    Push,
}

impl CheckedRegistry {
    /// Its name in the result.
    pub(super) fn place(&self) -> String {
        self.host.to_string()
    }

    fn is(&self, host: &Host, role: Role, credentials: &Arc<Credentials>) -> bool {
        self.host == *host && self.role == role && Arc::ptr_eq(&self.credentials, credentials)
    }

    fn wants(&mut self, wanted: impl IntoIterator<Item = Requirement>) {
        for one in wanted {
            if !self.wanted.contains(&one) {
                self.wanted.push(one);
            }
        }
    }
}

/// All registries, in the order in which the mirrors name them; one that is reached with several
/// credentials is listed once for each.
pub(super) fn registries(
    mirrors: &[LoadedMirror],
    clients: &Clients,
    own: &Host,
) -> Result<Vec<CheckedRegistry>, Failure> {
    let mut registries: Vec<CheckedRegistry> = vec![];
    for mirror in mirrors.iter().map(|loaded| &loaded.prepared) {
        let access = mirror.access(clients, &Paces::default());
        let access = access.map_err(|error| no_client(&mirror.name, &error))?;
        let role = if mirror.destination == *own {
            Role::Own
        } else {
            Role::Destination
        };
        for settings in &mirror.settings.repositories {
            let host = settings.repository.host();
            let (client, credentials) = (&access.client, &mirror.source_credentials);
            let registry = entry(&mut registries, host, Role::Source, client, credentials);
            registry.wants(wanted(settings));
        }
        let client = &access.destination_client;
        let credentials = &mirror.destination_credentials;
        let registry = entry(
            &mut registries,
            &mirror.destination,
            role,
            client,
            credentials,
        );
        if role == Role::Destination {
            let repositories = mirror.settings.repositories.iter();
            registry.wants(repositories.map(pushed(&mirror.destination)));
        }
    }
    for registry in &mut registries {
        spread(&mut registry.wanted);
    }
    // Coral's own registry is checked without credentials, whichever mirror copies into it.
    let mut seen_own = false;
    registries
        .retain(|registry| registry.role != Role::Own || !std::mem::replace(&mut seen_own, true));
    Ok(registries)
}

/// What a mirror needs of a source.
fn wanted(settings: &RepositorySettings) -> Vec<Requirement> {
    let tags = settings.tags.iter().cloned().map(Version::Tag);
    let digests = settings.digests.iter().copied().map(Version::Digest);
    let image = |version| RequiredPart::Image(version, settings.platforms.clone());
    let images = tags.chain(digests).map(image);
    let list = settings.filter.as_ref().map(|_| RequiredPart::Tags);
    let repository = &settings.repository;
    let wanted = |what| Requirement {
        repository: repository.clone(),
        what,
    };
    list.into_iter().chain(images).map(wanted).collect()
}

/// Where a source's images are pushed at this destination.
fn pushed(destination: &Host) -> impl Fn(&RepositorySettings) -> Requirement {
    |settings| Requirement {
        repository: Repository::new(destination.clone(), settings.destination.clone()),
        what: RequiredPart::Push,
    }
}

/// The first of every repository comes first, then the second of each, since the list is truncated.
fn spread(wanted: &mut [Requirement]) {
    let mut seen: HashMap<Repository, usize> = HashMap::new();
    wanted.sort_by_cached_key(|one| {
        let rank = seen.entry(one.repository.clone()).or_default();
        *rank += 1;
        *rank
    });
}

fn entry<'a>(
    registries: &'a mut Vec<CheckedRegistry>,
    host: &Host,
    role: Role,
    client: &Client,
    credentials: &Arc<Credentials>,
) -> &'a mut CheckedRegistry {
    let known = registries
        .iter()
        .position(|registry| registry.is(host, role, credentials));
    let place = known.unwrap_or_else(|| {
        registries.push(CheckedRegistry {
            host: host.clone(),
            role,
            client: client.clone(),
            credentials: credentials.clone(),
            wanted: vec![],
        });
        registries.len() - 1
    });
    &mut registries[place]
}
