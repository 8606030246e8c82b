//! Container runtimes: a client for CRI and for containerd's own services.
//!
//! [`ImageRuntime`] is the interface that a node's agent needs of its container runtime: list,
//! pull, name, pin and remove images. [`Containerd`] implements it for containerd over its unix
//! socket. It uses CRI v1 to pull, list and remove, and containerd's own image service (namespace
//! `k8s.io`) for the features that CRI lacks: a further name for an image, and labels on names.
//!
//! This crate does not decide which images should be on a node, keeps no state, and never retries:
//! each call is one request with a deadline and a typed error. Start reading at [`ImageRuntime`].
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
