//! `coral registry serve`, and the registry inside `coral up`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use coral_registry::{FileStore, Registry};
use coral_rt::{Health, health_router, shutdown_on_signal};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::arguments::ServeArguments;
use crate::failure::Failure;
use crate::status_page::{self, Board, Site};
use crate::terminal::Terminal;

pub(crate) async fn serve(
    arguments: ServeArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let stop = shutdown_on_signal()
        .map_err(|error| Failure::failed("signals cannot be handled", &error))?;
    let listener = listen(arguments.listen, "--listen").await?;
    let address = local_address(&listener)?;
    let (router, health) = open(&arguments.storage).await?;
    let router = status_page::beside(router, Site::new(address, Board::default())?);
    terminal.line(&format!("registry listening on http://{address}"));
    serve_until(listener, router, health, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Binds; the flag is named when it does not work.
pub(crate) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Failure::failed(
                format!(
                    "{address} is in use by another program; choose another address with {flag}"
                ),
                &error,
            ),
            _ => Failure::failed(format!("cannot listen on {address} ({flag})"), &error),
        })
}

pub(crate) fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener
        .local_addr()
        .map_err(|error| Failure::failed("the listener has no address", &error))
}

/// Opens the store and puts the registry's front, health and metrics on one router.
pub(crate) async fn open(storage: &Path) -> Result<(axum::Router, Health), Failure> {
    let folder: PathBuf = storage.to_owned();
    // Opening sweeps what a crash left behind, on the file system.
    let store = tokio::task::spawn_blocking(move || FileStore::open(&folder))
        .await
        .map_err(|error| Failure::failed("the store could not be opened", &error))?
        .map_err(|error| Failure::error(&error))?;
    let mut metrics = prometheus_client::registry::Registry::default();
    let registry = Registry::new(store, &mut metrics);
    let health = Health::default();
    let router = registry
        .router()
        .merge(health_router(health.clone(), Arc::new(metrics)));
    Ok((router, health))
}

/// Serves until told to stop, and then lets running requests end.
pub(crate) async fn serve_until(
    listener: TcpListener,
    router: axum::Router,
    health: Health,
    stop: CancellationToken,
) -> Result<(), Failure> {
    health.set_ready();
    let unready = health.clone();
    let early = stop.clone();
    tokio::spawn(async move {
        early.cancelled().await;
        unready.set_not_ready();
    });
    coral_registry::serve(listener, router, stop)
        .await
        .map_err(|error| Failure::failed("the registry ended", &error))
}
