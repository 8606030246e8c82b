//! Reasons of the condition `Ready` of an [`ImageBuild`](super::ImageBuild).
//!
//! The controller writes them and `coral build` reads them; the page "Building in the cluster" of
//! the guide says what each means.

/// Declares each reason, and the list of all.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $text;)+

        /// Every reason.
        pub const ALL: &[&str] = &[$($text),+];
    };
}

reasons! {
    /// The run makes progress.
    RUNNING = "Running";
    /// All images are pushed.
    SUCCEEDED = "Succeeded";
    /// The image is pushed, and not public in the cluster yet.
    PUBLISHING = "Publishing";
    /// The controller waits for something internal, such as its certificates.
    WAITING = "Waiting";
    /// As many builds are running as may run at once.
    QUEUED = "Queued";
    /// The Job of an earlier spec is being deleted.
    SUPERSEDED = "Superseded";
    /// A field is wrong.
    INVALID = "InvalidSpec";
    /// `suspend` is true, and nothing runs.
    SUSPENDED = "Suspended";
    /// `suspend` was set during the run.
    CANCELLED = "Cancelled";
    /// The controller may not run builds in the namespace.
    NOT_GRANTED = "NotGranted";
    /// The Registry does not accept builds from the namespace.
    NOT_ALLOWED = "NotAllowed";
    /// The Registry does not exist.
    NO_REGISTRY = "NoRegistry";
    /// The Registry does not serve.
    REGISTRY_NOT_READY = "RegistryNotReady";
    /// Neither the build nor the installation names a builder.
    NO_BUILDER = "NoBuilderImage";
    /// The namespace's Pod Security level refuses the pod.
    POD_SECURITY = "PodSecurity";
    /// Another Job has the name of the run's Job.
    NAME_TAKEN = "NameTaken";
    /// The API server refused a request.
    APPLY_FAILED = "ApplyFailed";
    /// The Job has no pod.
    NO_POD = "NoPod";
    /// The node does not start the pod.
    NOT_STARTED = "NotStarted";
    /// No node can run the pod.
    UNSCHEDULABLE = "Unschedulable";
    /// The image of a step cannot be pulled.
    IMAGE_PULL = "ImagePullFailed";
    /// The API server or the node has no user namespaces.
    NO_USER_NAMESPACES = "UserNamespacesUnsupported";
    /// The step `fetch` failed.
    FETCH_FAILED = "FetchFailed";
    /// The step `build` failed.
    BUILD_FAILED = "BuildFailed";
    /// The step `push` failed.
    PUSH_FAILED = "PushFailed";
    /// The push to a registry of `alsoTo` failed.
    ALSO_TO_FAILED = "AlsoToFailed";
    /// The run took longer than its timeout.
    TIMED_OUT = "TimedOut";
    /// The node evicted the pod.
    EVICTED = "Evicted";
    /// The pod or its Job was deleted, or its node was lost.
    POD_LOST = "PodLost";
}

/// Reasons of a run whose pod the cluster does not start.
pub const BLOCKS_START: [&str; 4] = [NO_POD, NOT_STARTED, UNSCHEDULABLE, IMAGE_PULL];

/// Reasons for which a run does not begin before a person has acted.
pub const NEEDS_ACTION: [&str; 7] = [
    NOT_GRANTED,
    NO_REGISTRY,
    NOT_ALLOWED,
    NO_BUILDER,
    POD_SECURITY,
    NAME_TAKEN,
    SUSPENDED,
];
