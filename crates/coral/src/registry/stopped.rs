//! The folder of a stopped registry.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use coral_registry::{FileStore, OpenError, Store, open_store};

use super::hinted;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Opens the storage in a folder; the folder must contain one.
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

/// Opens a file store, or creates it if there is none.
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

/// Prints the results of a command and returns its exit code: 0 if all is `well`, else 1.
pub(super) fn report(terminal: &Terminal, lines: &[String], well: bool) -> ExitCode {
    for line in lines {
        terminal.line(line);
    }
    ExitCode::from(u8::from(!well))
}

/// Closes a store. The work is done even if its clock could not be saved.
pub(super) async fn close(store: &dyn Store) {
    if let Err(error) = store.close().await {
        tracing::warn!(%error, "the store was not closed cleanly: unused content is kept longer");
    }
}
