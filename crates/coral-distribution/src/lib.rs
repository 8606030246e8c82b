//! A client for the OCI distribution API, and OCI image layouts.
//!
//! This crate talks to registries (authentication, manifests, blobs, uploads, tags, referrers) and
//! reads and writes OCI image layout directories, behind one set of operations: [`Endpoint`]. It
//! never retries (except that a [`BlobSource`] resumes after an interruption), never decides what
//! to copy, and knows nothing about Kubernetes. Every failure is an [`Error`] with a [`Category`]
//! and a [`Disposition`]; the caller decides what to do.
//!
//! Start reading at [`Client`] and [`RepositoryClient`].
//! ```no_run
//! use std::sync::Arc;
//!
//! use coral_distribution::{Client, ClientOptions, Credentials};
//! use coral_image::ImageRef;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let image = ImageRef::parse("quay.io/prometheus/node-exporter:v1.8.2")?;
//! let client = Client::new(ClientOptions::default())?;
//! // The credentials that `docker login` stored.
//! let credentials = Arc::new(Credentials::load_user(None)?);
//! let repository = client.repository(image.repository(), credentials);
//! match repository.head(&image.version()).await {
//!     Ok(Some(manifest)) => println!("{} of {} bytes", manifest.digest, manifest.size),
//!     Ok(None) => println!("there is no such tag"),
//!     Err(error) => println!("{} ({:?})", error, error.category()),
//! }
//! # Ok(())
//! # }
//! ```

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
mod page_sizes;
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
pub use credentials::{Credential, CredentialKind, Credentials, CredentialsError};
pub use endpoint::Endpoint;
pub use error::{Category, Disposition, Error};
pub use layout::{FolderEntry, Layout, LayoutFiles, NewArchive};
pub use open_uploads::OpenUploads;
pub use options::{ClientOptions, HostOptions};
pub use probe::{Certificate, Probe};
pub use rate_limit::RateLimit;
pub use redacted::Redacted;
pub use repository::{PutManifest, RepositoryClient};
pub use transport::{certificates_as_pem, trusting};
pub use upload::{BlobPush, BlobPushError, Upload};
