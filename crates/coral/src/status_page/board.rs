//! The running mirrors, as the status page shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coral_mirror::{Engine, ImagePage, ImageQuery, Summary};
use tokio::sync::watch;

/// The mirrors by name; cloning shares them. A registry without mirrors has an empty one.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    mirrors: BTreeMap<String, Arc<BoardMirror>>,
    broken: BTreeSet<String>,
}

/// A mirror that runs.
pub(crate) struct BoardMirror {
    /// `namespace/name`.
    pub(crate) name: String,
    /// The file that defines it.
    pub(crate) origin: String,
    /// The registry that it copies to, with the path prefix if there is one.
    pub(crate) destination: String,
    /// Whether that is the registry beside the page.
    pub(crate) is_here: bool,
    pub(crate) suspended: bool,
    pub(crate) summary: watch::Receiver<Summary>,
    pub(crate) engine: Arc<Engine>,
}

impl BoardMirror {
    pub(crate) fn summary(&self) -> Summary {
        self.summary.borrow().clone()
    }

    /// Whether it is copying: it has images to copy, and may copy them.
    pub(crate) fn is_busy(&self) -> bool {
        !self.suspended && self.summary.borrow().pending > 0
    }

    /// A page of its images; empty if it has just ended.
    pub(crate) async fn images(&self, query: ImageQuery) -> ImagePage {
        let page = self.engine.image_page(&self.name, query).await;
        page.unwrap_or_default()
    }
}

impl Board {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Every change is a single step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, mirror: BoardMirror) {
        let name = mirror.name.clone();
        self.entries().mirrors.insert(name, Arc::new(mirror));
    }

    pub(crate) fn remove(&self, name: &str) {
        self.entries().mirrors.remove(name);
    }

    /// Sets the files with a mistake, whose mirrors keep their last valid content.
    pub(crate) fn set_broken(&self, files: &BTreeSet<String>) {
        self.entries().broken.clone_from(files);
    }

    pub(crate) fn broken(&self) -> BTreeSet<String> {
        self.entries().broken.clone()
    }

    pub(crate) fn mirrors(&self) -> Vec<Arc<BoardMirror>> {
        self.entries().mirrors.values().cloned().collect()
    }

    pub(crate) fn mirror(&self, name: &str) -> Option<Arc<BoardMirror>> {
        self.entries().mirrors.get(name).cloned()
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.entries().mirrors.keys())
            .finish()
    }
}
