//! A folder with content that no registry serves now.

use std::path::Path;

use coral_registry::{FileStore, Store as _};

use super::hinted;
use crate::failure::Failure;

/// Opens the storage in a folder, which has to be one.
pub(super) async fn open(storage: &Path) -> Result<FileStore, Failure> {
    let opened = open_if_there(storage).await;
    opened.map_err(|failure| hinted(failure, storage))
}

async fn open_if_there(storage: &Path) -> Result<FileStore, Failure> {
    if !FileStore::is_store(storage) {
        let storage = storage.display();
        return Err(Failure::input(format!(
            "--storage {storage}: there is no registry storage in this folder"
        )));
    }
    make(storage).await
}

/// The same, made where there is none.
pub(super) async fn open_or_make(storage: &Path) -> Result<FileStore, Failure> {
    let opened = make(storage).await;
    opened.map_err(|failure| hinted(failure, storage))
}

async fn make(storage: &Path) -> Result<FileStore, Failure> {
    let folder = storage.to_owned();
    tokio::task::spawn_blocking(move || FileStore::open(&folder))
        .await
        .map_err(|error| Failure::failed("the store could not be opened", &error))?
        .map_err(|error| Failure::error(&error))
}

/// Ends the use of a store. What was done is done, whether or not the clock could be written.
pub(super) async fn close(store: FileStore) {
    if let Err(error) = store.close().await {
        tracing::warn!(%error, "the store was not closed in order: unused content stays longer");
    }
}
