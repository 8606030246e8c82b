//! Reasons of the condition `Ready` of a build.

pub(super) const SUCCEEDED: &str = "Succeeded";
pub(super) const RUNNING: &str = "Running";
pub(super) const PUBLISHING: &str = "Publishing";
pub(super) const INVALID: &str = "InvalidSpec";
pub(super) const SUSPENDED: &str = "Suspended";
pub(super) const CANCELLED: &str = "Cancelled";
pub(super) const SUPERSEDED: &str = "Superseded";
pub(super) const NOT_GRANTED: &str = "NotGranted";
pub(super) const NOT_ALLOWED: &str = "NotAllowed";
pub(super) const NO_REGISTRY: &str = "NoRegistry";
pub(super) const REGISTRY_NOT_READY: &str = "RegistryNotReady";
pub(super) const NO_BUILDER: &str = "NoBuilderImage";
pub(super) const POD_SECURITY: &str = "PodSecurity";
pub(super) const WAITING: &str = "Waiting";
pub(super) const NAME_TAKEN: &str = "NameTaken";
pub(super) const NO_POD: &str = "NoPod";
pub(super) const NOT_STARTED: &str = "NotStarted";
pub(super) const UNSCHEDULABLE: &str = "Unschedulable";
pub(super) const IMAGE_PULL: &str = "ImagePullFailed";
pub(super) const NO_USER_NAMESPACES: &str = "UserNamespacesUnsupported";
pub(super) const FETCH_FAILED: &str = "FetchFailed";
pub(super) const BUILD_FAILED: &str = "BuildFailed";
pub(super) const PUSH_FAILED: &str = "PushFailed";
pub(super) const ALSO_TO_FAILED: &str = "AlsoToFailed";
pub(super) const TIMED_OUT: &str = "TimedOut";
pub(super) const EVICTED: &str = "Evicted";
pub(super) const POD_LOST: &str = "PodLost";
pub(super) const APPLY_FAILED: &str = "ApplyFailed";

/// Reasons of a run whose pod the cluster does not start.
pub(super) const KEEPS_FROM_RUNNING: [&str; 4] = [NO_POD, NOT_STARTED, UNSCHEDULABLE, IMAGE_PULL];

/// Reasons that pass by themselves.
pub(super) const NEEDS_NO_PERSON: [&str; 4] = [WAITING, PUBLISHING, SUPERSEDED, SUSPENDED];
