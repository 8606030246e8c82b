//! Container runtimes over CRI, and what containerd offers beside it.
//!
//! [`ImageRuntime`] is what a node's agent needs of its container runtime: list, pull, name, pin
//! and remove images. [`Containerd`] is the implementation for containerd over its unix socket; it
//! speaks CRI v1 for pulling, listing and removing, and containerd's own image service (namespace
//! `k8s.io`) for what CRI cannot say: a further name for an image, and labels on names.
//!
//! Nothing here decides what should be on a node, keeps state, or retries: each call is one
//! request with a deadline and a typed error. Start reading at [`ImageRuntime`].
//! ```no_run
//! use std::path::Path;
//!
//! use coral_cri::{Containerd, ImageRuntime};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Containerd::new(Path::new("/run/containerd/containerd.sock"))?;
//! for image in runtime.list().await? {
//!     println!("{} {:?}: {} bytes", image.id, image.names, image.size);
//! }
//! # Ok(())
//! # }
//! ```

mod containerd;
mod error;
mod proto;
mod runtime;

pub use containerd::{Containerd, SocketError};
pub use error::{Category, Disposition, RuntimeError};
pub use runtime::{
    ConfigPath, Credential, ImageName, ImageRuntime, Marks, RuntimeImage, RuntimeVersion,
};
