//! The registry: one HTTP front (OCI distribution API) over stores.
//!
//! It owns the wire protocol and the file-system store with its durability rules. It never talks to
//! Kubernetes. It talks to other registries only to fetch what [`PullThrough`] names. The front knows stores only as [`Source`] (what can be read)
//! and [`Store`] (what can be written), so that sources can be combined and other backends added
//! without touching the protocol.
//!
//! Start reading at `front.rs` for the protocol, and at `store/file/durable.rs` for the meaning of
//! "durable".
//! ```no_run
//! use std::path::Path;
//!
//! use coral_registry::{FileStore, Registry, Settings};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let store = FileStore::open(Path::new("/var/lib/registry"))?;
//! let mut metrics = prometheus_client::registry::Registry::default();
//! let registry = Registry::new(std::sync::Arc::new(store) as std::sync::Arc<dyn coral_registry::Store>, &mut metrics);
//! registry.configure(Settings::default());
//! // An axum router; `coral_rt::serve` serves it with limits and TLS.
//! let router = registry.router();
//! # let _ = router;
//! # Ok(())
//! # }
//! ```

mod access;
mod front;
#[cfg(fuzzing)]
pub mod fuzzing;
mod import;
mod kernel;
mod layout;
mod public;
mod pull_through;
mod serve;
mod settings;
mod stamp;
mod store;

pub use access::{
    Access, Grant, Grants, Htpasswd, HtpasswdError, InternalUser, PathPatterns, PatternError, Who,
};
pub use coral_token::{KeyError as TokenKeyError, PublicKeys as TokenKeys, USER as TOKEN_USER};
pub use front::{OwnRequest, Registry, WholeCatalog};
pub use import::{ImportError, ImportInto, ImportRules, Imported, Skipped, import};
pub use kernel::keep_memory_together;
pub use layout::{LayoutError, LayoutFolder};
pub use public::{PublicPaths, PublicPathsError};
pub use pull_through::{PullThrough, UpstreamError};
pub use serve::serve;
pub use settings::{CollectionSettings, Limits, ScrubSettings, Settings, Writes};
pub use store::{
    BlobContent, BlobHandle, BlobReader, Bound, Collected, CollectionRules, Damage, Disk,
    FileStore, GrowingFile, Idle, ManifestRecord, MinFree, Mounted, NoRoom, OpenError, Pace, Page,
    PageQuery, PutManifestError, ReadOnlySource, ReferrersPage, ReferrersQuery, RepositoryBytes,
    RoundEnd, ScrubRules, ScrubState, ScrubWatch, Scrubbed, Source, Space, SpaceBounds, Store,
    StoreError, StoredManifest, Transfer, UploadError, UploadId, UploadWriter, first_names,
    open_store,
};
