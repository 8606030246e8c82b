//! Coral's API types, group `stvz.io`, version `v1`, and the reading of YAML documents.
//!
//! The types here are what people write; the crate makes no connections. Where text has to be parsed
//! (references, durations, schedules), a second type holds the result. One call, such as
//! [`RegistryMirror::settings`], makes the second type from the first and names every problem with
//! its path. Start reading at [`documents::read`] and [`RegistryMirror`].
//! ```
//! use coral_api::documents::{self, Object};
//!
//! let yaml = "
//! apiVersion: stvz.io/v1
//! kind: RegistryMirror
//! metadata: {name: web}
//! spec:
//!   registry: {name: local}
//!   repositories:
//!     - name: debian
//!       tags: [bookworm-slim]
//! ";
//! let documents = documents::read("web.yaml", yaml).expect("the file is well-formed");
//! let Object::RegistryMirror(mirror) = &documents[0].object else {
//!     panic!("the first document is a mirror");
//! };
//! let settings = mirror.settings().expect("the mirror has no problem");
//! assert_eq!(settings.repositories.len(), 1);
//!
//! // Errors name the file, the line and what to do.
//! let errors = documents::read("web.yaml", &yaml.replace("tags", "tag")).unwrap_err();
//! assert!(errors[0].to_string().starts_with("web.yaml:"));
//! ```

mod duration;
mod label_selector;
mod object_reference;
mod older;
mod problem;
mod quantity;
mod registry;
mod registry_mirror;
mod rules;
mod schedule;
mod secret;
mod selection;

pub mod conditions;
pub mod crds;
pub mod documents;
pub mod image;
pub mod image_build;
pub mod injection_policy;
pub mod metadata;
pub mod mirrored_images;
pub mod names;
pub mod node_images;
pub mod registry_route;

use coral_image::null_as_default as nullable;

pub use duration::{DurationError, GoDuration, parse_age};
pub use label_selector::{LabelOperator, LabelRequirement, LabelSelector};
pub use object_reference::LocalObjectReference;
pub use problem::Problem;
pub use quantity::{Quantity, QuantityError};
pub use registry::{
    AccessLog, AuthSettings, CollectionSettings, EmptyDir, GrantSettings, Grantees, HostPath,
    HtpasswdSource, ImageVolume, LayoutSettings, LimitSettings, LogFormat, LogLevel, PullRule,
    PushRule, Registry, RegistryAuth, RegistryBuilds, RegistryCollection, RegistryLimits,
    RegistryLog, RegistryScrub, RegistryScrubStatus, RegistrySettings, RegistrySpec,
    RegistryStatus, RegistryStorage, RegistryStorageStatus, RegistryTls, ScrubSettings,
    SpaceSettings, StorageSettings, StoredRepository,
};
pub use registry_mirror::{
    Cadence, Drift, DriftPolicy, ListSelection, MirrorFailure, MirrorLimitSettings, MirrorLimits,
    MirrorRepository, MirrorSettings, MirroredRepository, Prune, PruneSettings, PruningStatus,
    Referrers, ReferrersPolicy, RegistryAddress, RegistryMirror, RegistryMirrorSpec,
    RegistryMirrorStatus, RegistryTarget, RepositorySettings, Retry, RetrySettings,
    SourceGonePolicy, Target, TransportSettings, VerifyBy, VerifyMethod, VerifySettings,
    Visibility,
};
pub use schedule::{CronSchedule, ScheduleError};
pub use secret::{DockerConfig, Secret, SecretBytes, SecretError};
pub use selection::{LatestOrder, TagSelect};
