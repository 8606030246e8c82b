//! Serves a registry with the HTTP server that all roles share.

use std::io;

use axum::Router;
use coral_rt::{Overload, ReadLimit, Serving};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::front::read_limit;

/// The answer to clients above the limit of connections, in the form of the API.
const OVERLOAD: Overload = Overload {
    content_type: "application/json",
    body: "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"too many connections are open; \
           try again later\"}]}\n",
    advice: "--max-connections, or limits.connections of the Registry, raises the limits",
};

/// Serves a registry's router, and what was merged with it, until `shutdown` is cancelled; then
/// waits up to ten seconds for the running requests. Reads from connections shrink while many
/// uploads share the memory for their buffers.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    serving: Serving,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let serving = Serving {
        read_limit: ReadLimit(read_limit),
        overload: OVERLOAD,
        ..serving
    };
    coral_rt::serve(listener, router, serving, shutdown).await
}
