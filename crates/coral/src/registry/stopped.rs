//! A folder with content that no registry serves now.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use coral_registry::{FileStore, OpenError, Store, open_store};

use super::hinted;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Opens the storage in a folder, which has to be one.
pub(super) async fn open(storage: &Path) -> Result<Arc<dyn Store>, Failure> {
    let opened = open_if_there(storage).await;
    opened.map_err(|failure| hinted(failure, storage))
}

async fn open_if_there(storage: &Path) -> Result<Arc<dyn Store>, Failure> {
    if !FileStore::is_store(storage) {
        let storage = storage.display();
        return Err(Failure::input(format!(
            "--storage {storage}: there is no registry storage in this folder"
        )));
    }
    let folder = storage.to_owned();
    opened(move || open_store(&folder)).await
}

/// A store of files, made where there is none.
pub(super) async fn open_or_make(storage: &Path) -> Result<FileStore, Failure> {
    let folder = storage.to_owned();
    let store = opened(move || FileStore::open(&folder)).await;
    store.map_err(|failure| hinted(failure, storage))
}

async fn opened<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| Failure::failed("the store could not be opened", &error))?
        .map_err(|error| Failure::error(&error))
}

/// Says what a command came to, a line each, and ends it: with 0 if all is `well`, or else with 1.
pub(super) fn told(terminal: &Terminal, lines: &[String], well: bool) -> ExitCode {
    for line in lines {
        terminal.line(line);
    }
    ExitCode::from(u8::from(!well))
}

/// Ends the use of a store. What was done is done, whether or not the clock could be written.
pub(super) async fn close(store: &dyn Store) {
    if let Err(error) = store.close().await {
        tracing::warn!(%error, "the store was not closed in order: unused content stays longer");
    }
}
