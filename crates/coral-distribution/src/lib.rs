//! Client of the OCI distribution API, and OCI layouts.
//!
//! Owns: speaking to registries (authentication, manifests, blobs, uploads, tags, referrers) and
//! reading and writing OCI image layout directories, behind one set of verbs: [`Endpoint`].
//! Never: retries by itself (but that a [`BlobSource`] goes on after a cut), decides what to copy,
//! or knows about Kubernetes. Every failure is an
//! [`Error`] that answers its [`Category`] and its [`Disposition`]; the caller decides.
//!
//! Start reading at [`Client`] and [`RepositoryClient`].

mod abandoned;
mod addresses;
mod auth;
mod blob_source;
mod blob_stream;
mod client;
mod credentials;
mod endpoint;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod layout;
mod location;
mod open_uploads;
mod options;
mod probe;
mod rate_limit;
mod redacted;
mod repository;
mod resume;
mod transport;
mod upload;

pub use addresses::{AddressRules, RefusedAddresses};
pub use blob_source::BlobSource;
pub use blob_stream::BlobStream;
pub use client::Client;
pub use credentials::{Credential, Credentials, CredentialsError, Kind};
pub use endpoint::Endpoint;
pub use error::{Category, Disposition, Error};
pub use layout::{Layout, LayoutFiles, NewArchive};
pub use open_uploads::OpenUploads;
pub use options::{ClientOptions, HostOptions};
pub use probe::{Certificate, Probe};
pub use rate_limit::RateLimit;
pub use redacted::Redacted;
pub use repository::{PutManifest, RepositoryClient};
pub use upload::{BlobPush, PushError, Upload};
