//! What runs inside the pod of an `ImageBuild`, before and after the user's container.
//!
//! A build is one pod with three steps: `fetch` fetches the source, `build` is the user's
//! container, `push` pushes what it wrote. `contract` is the contract between the three and the
//! controller: paths, names of environment variables, the description of the run and the reports of
//! the steps. Nothing here knows a Kubernetes client: the steps read files and talk to registries
//! and to the controller's credential endpoint.
//!
//! `ignore` has the rules of `.dockerignore`, by which a folder is packed as a source:
//!
//! ```
//! use coral_build::ignore::Ignore;
//!
//! let ignore = Ignore::parse("target\n*.log\n!keep.log")?;
//! assert!(ignore.excludes("target") && ignore.excludes("build.log"));
//! assert!(!ignore.excludes("keep.log") && !ignore.excludes("src/main.rs"));
//! # Ok::<(), coral_build::ignore::IgnoreError>(())
//! ```
//!
//! Start reading at [`contract`].

mod access;
mod beneath;
pub mod contract;
pub mod credentials;
mod fetch;
pub mod ignore;
mod login;
mod pod;
mod provenance;
mod push;

pub use access::{
    AccessError, CredentialError, CredentialFuture, CredentialSource, StepCredential,
};
pub use fetch::{FetchError, GitError, fetch};
pub use pod::{Pod, PodError};
pub use push::{OutputError, PushError, RetryPolicies, push};
