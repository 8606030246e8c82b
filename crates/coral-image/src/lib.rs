//! References, digests, tags, platforms, manifests and tag selection, as pure values.
//! [`error_chain()`] formats errors for every crate.
//!
//! Nothing here does I/O, reads a clock or knows about HTTP or Kubernetes. Untrusted input is
//! turned into a validated value once, by the `parse` function of its type; all further code works
//! on values that cannot be malformed. Start reading at [`ImageRef`] and [`Manifest`].
//! ```
//! use coral_image::{ImageRef, destination_path};
//!
//! let image = ImageRef::parse("debian:bookworm-slim")?;
//! assert_eq!(image.repository().to_string(), "docker.io/library/debian");
//! // Where a mirror puts it: the host becomes the first part of the path.
//! let path = destination_path(image.repository())?;
//! assert_eq!(path.as_str(), "docker.io/library/debian");
//! assert!(ImageRef::parse("debian:a tag").is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod amount;
mod byte_order_mark;
mod destination;
mod digest;
mod error_chain;
mod manifest;
mod null;
mod platform;
mod reference;

pub mod media_type;
pub mod select;

pub use amount::Amount;
pub use byte_order_mark::without_byte_order_marks;
pub use destination::{DestinationError, destination_path, destination_path_below};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error_chain::error_chain;
pub use manifest::{
    Descriptor, MAX_MANIFEST_SIZE, Manifest, ManifestBody, ManifestError, ManifestKind,
};
pub use null::null_as_default;
pub use platform::{Platform, PlatformError, PlatformPattern};
pub use reference::{
    Host, ImageRef, PinnedRef, ReferenceError, Repository, RepositoryPath, Tag, Version,
};
