//! Process plumbing: the HTTP server with TLS and limits, logs, metrics and health, shutdown.
//!
//! Every role of the binary is started through here, so that all of them log, stop, serve and
//! report their health alike. Nothing here knows what a registry or an image is.
//! ```
//! use coral_rt::Health;
//!
//! let health = Health::default();
//! assert!(!health.is_ready());
//! health.set_ready();
//! assert!(health.is_ready());
//! // `/readyz` also asks this each time.
//! health.check_with(|| Err("the disk is gone".to_owned()));
//! ```

mod client_buckets;
mod encode_gauge;
mod follow;
mod health;
mod logging;
mod open_files;
mod process_metrics;
mod register;
mod request_id;
mod serve;
mod shutdown;
mod tls;

pub use client_buckets::ClientBuckets;
pub use encode_gauge::encode_gauge;
pub use follow::FollowedFiles;
pub use health::{Health, health_router, serve_health};
pub use logging::{LogArgs, LogFormat, init_logging};
pub use open_files::raise_open_file_limit;
pub use register::register_each;
pub use request_id::with_request_ids;
pub use serve::{
    Connections, HostError, Overload, Peer, ReadLimit, RepeatedEvent, RequestHost, Serving,
    Timeouts, Transport, network_of, serve,
};
pub use shutdown::shutdown_on_signal;
pub use tls::{
    CertificateError, CertificateFileError, CertificateFiles, CertificatePair, Tls, Validity,
};
