//! Values that several commands take, and how they are read.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::ValueEnum;
use coral_image::{Host, PlatformPattern};

/// Where `coral up` and `coral registry serve` listen by default.
pub(crate) const DEFAULT_REGISTRY: &str = "127.0.0.1:5000";

/// Format of what goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For machines
    Json,
}

pub(crate) fn host(text: &str) -> Result<Host, String> {
    Host::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn platform(text: &str) -> Result<PlatformPattern, String> {
    PlatformPattern::parse(text).map_err(|error| error.to_string())
}

/// `IP:PORT`, or a name of this machine such as `localhost:5000`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        || "expected ADDRESS:PORT, such as 127.0.0.1:5000, [::1]:5000 or 0.0.0.0:0".to_owned();
    text.parse().or_else(|_| {
        text.to_socket_addrs()
            .ok()
            .and_then(|mut a| a.next())
            .ok_or_else(wrong)
    })
}
