//! Uploads that are not continued: they are cancelled at the registry, where they would take room
//! until they are cleaned away.
//!
//! A copy is a future, and a future ends anywhere: when a sibling fails, or when the user stops.
//! What it leaves is given up behind its back, and [`Abandoned::settle`] waits for that.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// How long giving one upload up may take.
pub(crate) const GIVING_UP: Duration = Duration::from_secs(5);
/// Uploads given up at the same time.
const AT_ONCE: usize = 16;
/// Uploads waiting to be given up. What is dropped beyond is left to the other side's cleaning.
const MAX_WAITING: usize = 1024;

/// What is under way behind the back of those who asked; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Abandoned {
    tasks: TaskTracker,
    turns: Arc<Semaphore>,
}

impl Default for Abandoned {
    fn default() -> Self {
        let tasks = TaskTracker::new();
        // A closed tracker takes tasks as an open one does, and can be waited for at any time.
        tasks.close();
        Self {
            tasks,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Abandoned {
    /// Gives something up in the background. Nothing happens where no runtime is left to do it.
    pub(crate) fn give_up(&self, cancel: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.tasks.len() >= MAX_WAITING {
            return;
        }
        let turns = Arc::clone(&self.turns);
        let task = async move {
            let _turn = turns.acquire().await;
            let _ = tokio::time::timeout(GIVING_UP, cancel).await;
        };
        self.tasks.spawn_on(task.in_current_span(), &runtime);
    }

    /// Runs something to its end even when its caller is gone: what comes of it is then
    /// dropped, and given up if it is an upload.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        asking: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (waiting, outcome) = oneshot::channel();
        let task = async move {
            // A result without a caller is dropped in here, while this still counts as under way.
            drop(waiting.send(asking.await));
        };
        let task = self.tasks.spawn(task.in_current_span());
        if let Ok(outcome) = outcome.await {
            return outcome;
        }
        match task.await.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it the caller.
            _ => std::future::pending().await,
        }
    }

    /// Waits until nothing is under way any more.
    pub(crate) async fn settle(&self) {
        self.tasks.wait().await;
    }
}
