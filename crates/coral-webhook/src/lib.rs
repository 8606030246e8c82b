//! The webhook: points new pods at images in the cluster or on their node.
//!
//! It owns the admission of pods: it reads the annotations of a pod or its namespace, and changes
//! image names, pull policies and node selectors of the pod accordingly, as far as
//! `InjectionPolicies` allow. It never denies a pod, never calls the API server or a registry while
//! a pod waits, never changes templates, and never trusts its own annotations on a pod.
//!
//! Start reading at [`decide`](decide()), which is pure. [`run`](run()) keeps a [`World`] up to date
//! from watches (`store.rs`, `world/build.rs`) and serves admission reviews (`server.rs`,
//! `review.rs`).
//! ```
//! use coral_webhook::{Namespace, World, decide};
//! use serde_json::json;
//!
//! let pod = json!({
//!     "metadata": {"annotations": {"image.stvz.io/inject": "pull-policy"}},
//!     "spec": {"containers": [{"name": "web", "image": "debian:bookworm-slim"}]},
//! });
//! let namespace = Namespace { name: "team-a".to_owned(), ..Namespace::default() };
//! let decision = decide(&pod, &namespace, &World::default());
//! assert_eq!(decision.warnings, Vec::<String>::new());
//! ```

mod decide;
#[cfg(test)]
mod fixture;
mod injection;
mod metrics;
mod original;
mod patch;
mod pod;
mod review;
mod run;
mod server;
mod store;
mod world;

pub use decide::{Decision, decide};
pub use patch::Operation;
pub use run::{Config, RunError, run};
pub use world::{Namespace, Refusal, World};
