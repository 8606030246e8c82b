//! The agent: makes a node match its own NodeImages object.
//!
//! One agent runs on each node. It watches only the object that is named after its node, and makes
//! three things match the spec: `hosts.toml` files by which containerd finds the registries in the
//! cluster (`hosts`), proved by a probe pull (`probe`); images, which it pulls by digest, names,
//! pins and removes (`images`); and the object's status (`report`, `publish`).
//!
//! It reads no Secret, writes no Node, and knows nothing of Images, mirrors or routes: the
//! controller makes one flat list of them. Its memory can be lost at any moment, because everything
//! in it can be read again from the runtime, the files and the object's status. Start reading at
//! `node`.
//!
//! ```no_run
//! use coral_agent::{AgentError, Config};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), AgentError> {
//! let config = Config {
//!     node: "worker-1".to_owned(),
//!     runtime: "/run/containerd/containerd.sock".into(),
//!     certs_dir: None,
//!     coral_dir: "/etc/coral".into(),
//!     parallel_pulls: 2,
//!     listen: ([0, 0, 0, 0], 8080).into(),
//! };
//! coral_agent::run(config, CancellationToken::new()).await
//! # }
//! ```

mod backoff;
mod health_monitor;
mod hosts;
mod images;
mod metrics;
mod node;
mod probe;
mod publish;
mod report;
mod run;
mod watch;

pub use run::{AgentError, Config, run};
