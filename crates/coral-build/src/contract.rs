//! The contract between the controller, the steps and the user's container.
//!
//! The controller writes pods with these names, and the steps read them by the same names. The page
//! "The contract of a build container" of the documentation describes the part that users see.

mod credentials;
mod messages;
mod run;

pub use credentials::{
    AUDIENCE, BuildContainer, CREDENTIALS_PATH, CredentialAnswer, CredentialRefusal,
    CredentialRequest, RESULTS_PATH, TOKEN_SECONDS,
};
pub(crate) use messages::milliseconds;
pub use messages::{
    FetchRecord, FetchReport, MAX_FAILURE_TEXT, MAX_TERMINATION_MESSAGE, OutputState, PushReport,
    PushedBytes, PushedOutput, failure_text,
};
pub use run::{
    AlsoTo, BuildJson, BuilderJson, EnvironmentVariable, GitSource, ImageSource, OutputJson,
    PathSource, SourceJson, SourceKind, Step, StreamSource,
};

/// Folders and files in the pod.
pub mod path {
    /// The source. `fetch` writes it, `build` reads it.
    pub const SOURCE: &str = "/coral-build/source";
    /// The OCI layout or archive that `build` writes and `push` reads.
    pub const OUTPUT: &str = "/coral-build/output";
    /// Space for `build` to work in.
    pub const SCRATCH: &str = "/coral-build/scratch";
    /// The claim that keeps layers from one build to the next, for `build` only.
    pub const CACHE: &str = "/coral-build/cache";
    /// Written by `fetch` and read by `push`; `build` does not have it.
    pub const RECORD: &str = "/coral-build/record";
    /// What `fetch` recorded, a [`FetchRecord`](super::FetchRecord).
    pub const FETCH_RECORD: &str = "/coral-build/record/fetch.json";
    /// How registries are reached; nothing in it is secret.
    pub const REGISTRIES: &str = "/coral-build/registries";
    /// Routes for the tools that read `registries.conf`.
    pub const REGISTRIES_CONF: &str = "/coral-build/registries/registries.conf";
    /// Certificates of Coral's authority, in PEM.
    pub const CA: &str = "/coral-build/registries/ca.crt";
    /// The run, a [`BuildJson`](super::BuildJson).
    pub const BUILD_JSON: &str = "/coral-build/registries/build.json";
    /// Folder of the projected token of the pod's service account, for `fetch` and `push` only.
    pub const TOKEN_FOLDER: &str = "/coral-build/token";
    /// The token itself.
    pub const TOKEN: &str = "/coral-build/token/token";
    /// The Secret of a git source: `username` and `password`, or `token`.
    pub const GIT: &str = "/coral-build/git";
    /// Folder of the Docker configuration for a source image.
    pub const SOURCE_CREDENTIAL: &str = "/coral-build/source-credential";
    /// The `ConfigMap` or claim that the source is in, read-only, for `fetch` only.
    pub const INPUT: &str = "/coral-build/input";
    /// Docker configurations for `alsoTo`, each in a folder named by its position: see
    /// [`also_to_credential`](super::also_to_credential).
    pub const CREDENTIALS: &str = "/coral-build/credentials";
    /// Name of the Docker configuration in its folder.
    pub const CREDENTIAL_FILE: &str = "config.json";
    /// Where Kubernetes reads the message of a step that ended.
    pub const TERMINATION_LOG: &str = "/dev/termination-log";
}

/// Names of environment variables.
pub mod env {
    /// The source with its `path`: what `build` reads.
    pub const SOURCE: &str = "CORAL_SOURCE";
    /// Where `build` writes.
    pub const OUTPUT: &str = "CORAL_OUTPUT";
    /// Space to work in, for `build`.
    pub const SCRATCH: &str = "CORAL_SCRATCH";
    /// What is kept from one build to the next, for `build`. Unset without `spec.cache`.
    pub const CACHE: &str = "CORAL_CACHE";
    /// The file of routes.
    pub const REGISTRIES_CONF: &str = "CORAL_REGISTRIES_CONF";
    /// The same, by the name that buildah, podman and skopeo read.
    pub const CONTAINERS_REGISTRIES_CONF: &str = "CONTAINERS_REGISTRIES_CONF";
    /// Certificates of Coral's authority. `CORAL_CA` is an option of the program itself.
    pub const CA: &str = "CORAL_CA_FILE";
    /// Host and port of the internal registry.
    pub const REGISTRY: &str = "CORAL_REGISTRY";
    /// Address of the controller, such as `https://coral-controller.coral-system.svc:443`, for `fetch`
    /// and `push`.
    pub const CONTROLLER: &str = "CORAL_CONTROLLER";
}

/// The folder that holds the Docker configuration of `alsoTo[position]`.
pub fn also_to_credential(position: usize) -> String {
    format!("{}/{position}", path::CREDENTIALS)
}
