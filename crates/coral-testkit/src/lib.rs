//! For tests: image builders, and a registry with faults.
//!
//! [`ImageBuilder`] and [`IndexBuilder`] make images from a seed, with the odd fields and odd
//! whitespace that show whether bytes are kept. [`FaultRegistry`] is a whole OCI registry in
//! memory, on loopback, that lies, cuts, throttles and stalls as its list of [`Fault`]s says, and
//! remembers every request. `examples/faults.rs` is the same registry as a process, steered over
//! HTTP (`/_control/`), and a [`CountingProxy`] to look at what goes over a wire.
//!
//! The fakes have state and behave like the thing itself; nothing here is scripted call by call.
//! ```
//! use coral_testkit::{FaultRegistry, ImageBuilder};
//!
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # runtime.block_on(async {
//! let registry = FaultRegistry::start().await;
//! registry.load("team/web", &ImageBuilder::new(1).layer_of(1024).tag("1").build());
//! assert_eq!(registry.repositories(), ["team/web"]);
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

mod connect_proxy;
mod image;
mod proxy;
mod registry;

pub use connect_proxy::ConnectProxy;
pub use image::{Built, BuiltManifest, ImageBuilder, IndexBuilder, Kind, Seed, pseudo_random};
pub use proxy::CountingProxy;
pub use registry::{
    Auth, Bearer, Effect, Fault, FaultRegistry, Match, Options, Recorded, Throttle, Times,
};
