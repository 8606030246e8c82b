//! Cancels abandoned uploads at the registry, where they would otherwise take space until they
//! expire.
//!
//! A copy is a future, and a future can be dropped at any await point: when a sibling fails, or
//! when the user stops the program. The upload that it leaves open is cancelled in the background,
//! and [`Abandoned::settle`] waits for these cancellations.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// How long the cancellation of one upload may take.
pub(crate) const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many uploads are cancelled concurrently.
const AT_ONCE: usize = 16;
/// How many uploads may wait to be cancelled. Further ones are left to expire at the registry.
const MAX_WAITING: usize = 1024;

/// The background tasks; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Abandoned {
    tasks: TaskTracker,
    turns: Arc<Semaphore>,
}

impl Default for Abandoned {
    fn default() -> Self {
        let tasks = TaskTracker::new();
        // A closed tracker still accepts tasks, and can be awaited at any time.
        tasks.close();
        Self {
            tasks,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Abandoned {
    /// Runs a cancellation in the background. Does nothing if the runtime has already shut down.
    pub(crate) fn cancel_in_background(&self, cancel: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.tasks.len() >= MAX_WAITING {
            return;
        }
        let turns = Arc::clone(&self.turns);
        let task = async move {
            let _turn = turns.acquire().await;
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, cancel).await;
        };
        self.tasks.spawn_on(task.in_current_span(), &runtime);
    }

    /// Runs a future to completion even if its caller is dropped. The result is then dropped too,
    /// which cancels it if it is an upload.
    pub(crate) async fn run_to_completion<T: Send + 'static>(
        &self,
        asking: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (waiting, outcome) = oneshot::channel();
        let task = async move {
            // A result without a caller is dropped in here, while the task still counts as running.
            drop(waiting.send(asking.await));
        };
        let task = self.tasks.spawn(task.in_current_span());
        if let Ok(outcome) = outcome.await {
            return outcome;
        }
        match task.await.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and the caller goes with it.
            _ => std::future::pending().await,
        }
    }

    /// Waits until no background task is left.
    pub(crate) async fn settle(&self) {
        self.tasks.wait().await;
    }
}
