//! Process plumbing: logs, metrics and health, shutdown, shared arguments.
//!
//! Every role of the binary is started through here, so that all of them log, stop and report
//! their health alike. Nothing here knows what a registry or an image is.

mod health;
mod logging;
mod request_id;
mod shutdown;

pub use health::{Health, health_router};
pub use logging::{LogArgs, LogFormat, init_logging};
pub use request_id::with_request_ids;
pub use shutdown::shutdown_on_signal;
