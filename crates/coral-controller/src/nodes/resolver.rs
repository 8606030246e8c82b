//! Asks registries which digest a tag stands for, where the nodes will ask too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coral_distribution::{
    AddressRules, Category, Client, ClientOptions, Credentials, Error, HostOptions,
};
use coral_image::{Digest, Host, ImageRef, Repository, RepositoryPath, destination_path};

use crate::advice::{AdviceTarget, in_cluster};

/// Longest time that one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a reference is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookupTarget {
    /// At this repository of a Registry, by its address.
    Registry {
        /// Host and port of the Registry's address.
        address: Host,
        /// The path there.
        path: RepositoryPath,
    },
    /// At the host that the reference names.
    Source,
}

/// Where a host's images are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookupRoute {
    /// The host is a Registry's own name.
    Own {
        /// Host and port of the Registry's address.
        address: Host,
    },
    /// The host is routed to a Registry.
    Routed {
        /// Host and port of the Registry's address.
        address: Host,
        /// Whether the host itself is asked after a miss.
        then_source: bool,
    },
}

/// The hosts that are not contacted, or not first.
pub(crate) type LookupRoutes = BTreeMap<String, LookupRoute>;

/// Decides where a reference is looked up, in the same order as a node's container runtime.
pub(crate) fn targets(
    image: &ImageRef,
    lookup_routes: &LookupRoutes,
) -> Result<Vec<LookupTarget>, String> {
    let repository = image.repository();
    match lookup_routes.get(repository.host().as_str()) {
        None => Ok(vec![LookupTarget::Source]),
        Some(LookupRoute::Own { address }) => Ok(vec![LookupTarget::Registry {
            address: address.clone(),
            path: repository.path().clone(),
        }]),
        Some(LookupRoute::Routed {
            address,
            then_source,
        }) => {
            let path = destination_path(repository).map_err(|error| error.to_string())?;
            let registry = LookupTarget::Registry {
                address: address.clone(),
                path,
            };
            let source = then_source.then_some(LookupTarget::Source);
            Ok(std::iter::once(registry).chain(source).collect())
        }
    }
}

/// Clients for all places. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Resolver {
    client: Client,
    lookup_routes: Arc<LookupRoutes>,
}

impl Resolver {
    /// A resolver for these hosts; Registries are trusted by the certificates in `ca`. Tenants
    /// write the references, so addresses that `rules` refuse are not asked.
    pub(crate) fn new(
        lookup_routes: LookupRoutes,
        ca: &str,
        rules: &AddressRules,
    ) -> Result<Self, Error> {
        let addresses = lookup_routes.values().map(|route| match route {
            LookupRoute::Own { address } | LookupRoute::Routed { address, .. } => address.clone(),
        });
        let trust = HostOptions {
            ca_pem: Some(ca.as_bytes().to_vec()),
            ..HostOptions::default()
        };
        let hosts = addresses.map(|address| (address, trust.clone())).collect();
        let client = Client::new(ClientOptions {
            hosts,
            addresses: rules.clone(),
            ..ClientOptions::default()
        })?;
        Ok(Self {
            client,
            lookup_routes: Arc::new(lookup_routes),
        })
    }

    /// The digest that the reference stands for, or why there is none, in words.
    pub(crate) async fn resolve(&self, image: &ImageRef) -> Result<Digest, String> {
        let looked_up = self.look_up(image);
        match tokio::time::timeout(PATIENCE, looked_up).await {
            Ok(answer) => answer.map_err(|why| in_cluster(&why, AdviceTarget::Image)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn look_up(&self, image: &ImageRef) -> Result<Digest, String> {
        let mut missing = Vec::new();
        for place in targets(image, &self.lookup_routes)? {
            let repository = match &place {
                LookupTarget::Registry { address, path } => {
                    Repository::new(address.clone(), path.clone())
                }
                LookupTarget::Source => image.repository().clone(),
            };
            let host = repository.host().clone();
            let client = self
                .client
                .repository(&repository, Arc::new(Credentials::none()));
            match client.head(&image.version()).await {
                Ok(Some(descriptor)) => return Ok(descriptor.digest),
                Ok(None) => missing.push(host.to_string()),
                // The registry gives this answer for private repositories and for missing ones.
                Err(error)
                    if matches!(place, LookupTarget::Registry { .. }) && is_refusal(&error) =>
                {
                    missing.push(host.to_string());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(not_found(image, &missing, self.lookup_routes.as_ref()))
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error.category(),
        Category::Unauthorized | Category::Forbidden
    )
}

fn not_found(image: &ImageRef, missing: &[String], lookup_routes: &LookupRoutes) -> String {
    let host = image.repository().host();
    match lookup_routes.get(host.as_str()) {
        Some(LookupRoute::Routed {
            then_source: false, ..
        }) => format!(
            "it is not mirrored or not public, and {host} is never contacted: add it to a \
             RegistryMirror"
        ),
        Some(LookupRoute::Own { .. }) => {
            "the Registry does not have it, or it is not public there".to_owned()
        }
        _ => format!("{} does not have it", missing.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn asked(image: &str, lookup_routes: &LookupRoutes) -> Vec<String> {
        let image = ImageRef::parse(image).unwrap();
        let places = targets(&image, lookup_routes).unwrap();
        let shown = places.into_iter().map(|place| match place {
            LookupTarget::Registry { address, path } => format!("{address}/{path}"),
            LookupTarget::Source => "source".to_owned(),
        });
        shown.collect()
    }

    #[tokio::test]
    async fn a_reference_does_not_lead_the_controller_to_a_refused_address() {
        let rules = AddressRules {
            refuse_local: true,
            ..AddressRules::default()
        };
        let resolver = Resolver::new(LookupRoutes::new(), "", &rules).unwrap();
        for host in ["127.0.0.1:9", "169.254.169.254", "localhost:9"] {
            let image = ImageRef::parse(&format!("{host}/a/b:1")).unwrap();
            let why = resolver.resolve(&image).await.unwrap_err();
            let said = ["machine itself", "loopback", "link-local"];
            assert!(said.iter().any(|word| why.contains(word)), "{why}");
        }
    }

    #[test]
    fn a_reference_is_looked_up_where_the_node_will_ask() {
        let address = host("10.0.0.1:5000");
        let routed = |then_source| LookupRoute::Routed {
            address: address.clone(),
            then_source,
        };
        let own = LookupRoute::Own {
            address: address.clone(),
        };
        let lookup_routes = LookupRoutes::from([
            ("docker.io".to_owned(), routed(false)),
            ("quay.io".to_owned(), routed(true)),
            ("reg.coral-system.svc:5000".to_owned(), own),
        ]);
        for (image, expected) in [
            ("debian:12", &["10.0.0.1:5000/docker.io/library/debian"][..]),
            (
                "quay.io/a/b:1",
                &["10.0.0.1:5000/quay.io/a/b", "source"][..],
            ),
            (
                "reg.coral-system.svc:5000/quay.io/a/b:1",
                &["10.0.0.1:5000/quay.io/a/b"][..],
            ),
            ("ghcr.io/a/b:1", &["source"][..]),
        ] {
            assert_eq!(asked(image, &lookup_routes), expected, "{image}");
        }
    }
}
