//! Coral's API types, group `stvz.io`, version `v1`, and the reading of YAML documents.
//!
//! The types here are what people write; nothing here talks to anything. Where typed text has a
//! meaning of its own (references, durations, schedules), a second type holds it, and one call
//! makes the one from the other and names every problem with its path:
//! [`RegistryMirror::settings`]. Start reading at [`documents::read`] and [`RegistryMirror`].

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

pub use duration::{DurationError, GoDuration, parse_age};
pub use label_selector::{LabelOperator, LabelRequirement, LabelSelector};
pub use object_reference::LocalObjectReference;
pub use problem::Problem;
pub use quantity::{Quantity, QuantityError};
pub use registry::{
    AuthSettings, CollectionSettings, EmptyDir, GrantSettings, Grantees, HostPath, HtpasswdSource,
    ImageVolume, LimitSettings, PullRule, PushRule, Registry, RegistryAuth, RegistryBuilds,
    RegistryCollection, RegistryLimits, RegistrySettings, RegistrySpec, RegistryStatus,
    RegistryStorage, RegistryTls, SpaceSettings, StorageSettings,
};
pub use registry_mirror::{
    Cadence, Drift, DriftPolicy, ListSelection, MirrorFailure, MirrorLimitSettings, MirrorLimits,
    MirrorRepository, MirrorSettings, MirroredRepository, Prune, PruneSettings, PruningStatus,
    Reach, Referrers, ReferrersPolicy, RegistryAddress, RegistryMirror, RegistryMirrorSpec,
    RegistryMirrorStatus, RegistryTarget, RepositorySettings, Retry, RetrySettings,
    SourceGonePolicy, Target, VerifyBy, VerifyMethod, VerifySettings, Visibility,
};
pub use schedule::{CronSchedule, ScheduleError};
pub use secret::{DockerConfig, Secret, SecretBytes, SecretError};
pub use selection::{LatestOrder, TagSelect};

/// Reads `null` as the type's default: Kubernetes writes it, and the older API allowed it.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de> + Default,
{
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Option::unwrap_or_default)
}
