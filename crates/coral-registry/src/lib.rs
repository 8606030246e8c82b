//! The registry: one HTTP front (OCI distribution API) over stores.
//!
//! What it owns: the wire protocol, and the file-system store with its durability rules. What it
//! never does: talk to Kubernetes, or to another registry. The front sees stores only through
//! [`Source`] (what can be read) and [`Store`] (what can be written), so that sources can be
//! combined and other engines added without touching the protocol.
//!
//! Start reading at `front.rs` for the protocol, and at `store/file/durable.rs` for what
//! "durable" means here.

mod front;
mod metrics;
mod serve;
mod store;

pub use front::Registry;
pub use serve::serve;
pub use store::{
    BlobContent, BlobHandle, FileStore, ManifestRecord, Page, PutManifestError, Source, Store,
    StoreError, StoredManifest, Stretch, UploadError, UploadId, UploadWriter,
};
