//! The controller: reconciles Coral's kinds in a cluster.
//!
//! It owns the desired state: it reads the objects that people write, makes what Registries need,
//! decides what each node should hold, and publishes statuses. It never pulls onto nodes and never
//! sees a pod while it is created.
//!
//! Start reading at [`run`](run()): one process holds the leader lease and runs the *parts*
//! (`parts.rs` lists them). A part (`part.rs`) is a level-triggered loop over the stores of
//! `cluster.rs`: observe → decide → apply → publish. Parts talk to each other through values in
//! `shared.rs`, never by calls.
//!
//! ```no_run
//! use coral_controller::{Config, RunError};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), RunError> {
//! let config = Config {
//!     pod_name: "coral-controller-0".to_owned(),
//!     namespace: "coral-system".to_owned(),
//!     nodes_namespace: "coral-nodes".to_owned(),
//!     listen: ([0, 0, 0, 0], 8080).into(),
//!     credentials_listen: ([0, 0, 0, 0], 8443).into(),
//!     image: None,
//!     builder_image: None,
//!     max_builds: 20,
//!     max_builds_per_namespace: 10,
//! };
//! coral_controller::run(config, CancellationToken::new()).await
//! # }
//! ```

mod advice;
mod api;
mod backoff;
mod builds;
mod ca;
mod changes;
mod cluster;
mod context;
mod credentials;
mod events;
mod follow;
mod gauges;
mod key;
mod leader;
mod lock;
mod metrics;
mod mirror;
mod namespace_watches;
mod nodes;
mod part;
mod parts;
mod permission;
mod registry;
mod results;
mod run;
#[cfg(test)]
mod scripted;
mod secrets;
mod shared;
mod store;

pub use key::ObjectKey;
pub use run::{Config, RunError, run};
