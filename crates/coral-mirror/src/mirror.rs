//! A mirror as it is passed to an engine: its settings, and how it reaches its registries.

use std::sync::Arc;

use coral_api::{MirrorSettings, Target};
use coral_image::Repository;

use crate::access::MirrorAccess;
use crate::expand::destination_repository;
use crate::prune::Destination;
use crate::snapshot::Snapshot;

/// A mirror and how it reaches its registries.
/// ```
/// use std::sync::Arc;
///
/// use coral_api::documents::{self, Object};
/// use coral_distribution::{Client, ClientOptions, Credentials};
/// use coral_image::Host;
/// use coral_mirror::{MirrorAccess, Catalogue, Creations, Mirror, Paces, Verify};
///
/// let yaml = "
/// apiVersion: stvz.io/v1
/// kind: RegistryMirror
/// metadata: {name: web}
/// spec:
///   registry: {name: local}
///   repositories: [{name: debian, tags: [bookworm-slim]}]
/// ";
/// let documents = documents::read("web.yaml", yaml).expect("the file is well-formed");
/// let Object::RegistryMirror(document) = &documents[0].object else {
///     panic!("the first document is a mirror");
/// };
/// let client = Client::new(ClientOptions::default())?;
/// let mirror = Mirror {
///     name: "default/web".to_owned(),
///     settings: document.settings().expect("the mirror has no problem"),
///     access: MirrorAccess {
///         client: client.clone(),
///         destination_client: client,
///         destination: Host::parse("127.0.0.1:5000")?,
///         source_credentials: Arc::new(Credentials::none()),
///         destination_credentials: Arc::new(Credentials::none()),
///         paces: Paces::default(),
///         bandwidth: None,
///         creations: Creations::default(),
///         catalogue: Catalogue::default(),
///     },
///     changed: false,
///     verify: Verify::default(),
///     restored: None,
/// };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Mirror {
    /// `namespace/name`.
    pub name: String,
    /// The settings: which images it wants.
    pub settings: MirrorSettings,
    /// How it reaches its registries.
    pub access: MirrorAccess,
    /// Whether its settings have changed: then equal digests do not prove that every platform is
    /// there.
    pub changed: bool,
    /// When blobs at the destination are verified.
    pub verify: Verify,
    /// What an earlier process knew: images that are mirrored and not due are not compared again.
    /// If `changed`, only its knowledge of the destination is used, and whether deletions are
    /// paused.
    pub restored: Option<Arc<Snapshot>>,
}

/// When blobs at the destination are verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// As the mirror's settings say, while it runs.
    #[default]
    AsScheduled,
    /// Every image, at once.
    Now,
}

impl Mirror {
    /// Which registry it writes to, as far as its address identifies it.
    pub(crate) fn destination(&self) -> Destination {
        match self.settings.target {
            Target::Named(_) => Destination::Named(self.access.destination.clone()),
            Target::Address(_) => Destination::Anywhere,
        }
    }

    /// The repositories at the destination, in the order of the settings.
    pub(crate) fn places(&self) -> Vec<Repository> {
        let registry = &self.access.destination;
        let settings = self.settings.repositories.iter();
        settings
            .map(|settings| destination_repository(registry, settings))
            .collect()
    }
}
