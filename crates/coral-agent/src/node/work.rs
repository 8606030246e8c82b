//! Tasks beside the loop: pulls, and one probe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::names::{PROBE_DIGEST, PROBE_PATH};
use coral_api::node_images::NodeRegistry;
use coral_cri::{ImageRuntime, RuntimeError};
use jiff::Timestamp;
use tokio::task::{AbortHandle, JoinSet};

use crate::images::decide::Pull;

/// How long a probe may take: the image has no layers, and other hosts wait for their probes.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);

/// A task that has ended.
pub(super) enum FinishedTask {
    /// A pull.
    Pulled {
        /// `HOST/PATH@DIGEST`.
        name: String,
        result: Result<(), RuntimeError>,
    },
    /// A probe.
    Probed {
        entry: NodeRegistry,
        outcome: Result<(), String>,
    },
}

/// The running tasks.
#[derive(Default)]
pub(super) struct RunningTasks {
    tasks: JoinSet<FinishedTask>,
    pulling: BTreeMap<String, Running>,
    probing: Option<AbortHandle>,
}

/// A running pull.
struct Running {
    since: Timestamp,
    task: AbortHandle,
}

impl RunningTasks {
    /// The next task that ends. Never completes if no task is running.
    pub(super) async fn next(&mut self) -> FinishedTask {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(done)) => return self.ended(done),
                // The task was cancelled, or it panicked, which was logged.
                Some(Err(_)) => self.forget_finished(),
                None => std::future::pending().await,
            }
        }
    }

    /// A task that has already ended.
    pub(super) fn try_next(&mut self) -> Option<FinishedTask> {
        loop {
            match self.tasks.try_join_next()? {
                Ok(done) => return Some(self.ended(done)),
                Err(_) => self.forget_finished(),
            }
        }
    }

    fn ended(&mut self, done: FinishedTask) -> FinishedTask {
        match &done {
            FinishedTask::Pulled { name, .. } => {
                self.pulling.remove(name);
            }
            FinishedTask::Probed { .. } => self.probing = None,
        }
        done
    }

    fn forget_finished(&mut self) {
        self.pulling
            .retain(|_, running| !running.task.is_finished());
        self.probing = self.probing.take().filter(|task| !task.is_finished());
    }

    /// The running pulls, and since when they run. A time in the future was recorded before the
    /// clock was set back: such a pull counts from now on.
    pub(super) fn pulling(&mut self, now: Timestamp) -> BTreeMap<String, Timestamp> {
        let pulling = self.pulling.iter_mut();
        pulling
            .map(|(name, running)| {
                running.since = running.since.min(now);
                (name.clone(), running.since)
            })
            .collect()
    }

    pub(super) fn is_probing(&self) -> bool {
        self.probing.is_some()
    }

    /// Cancels pulls that are no longer wanted, and returns whether there were any. They end a
    /// moment later.
    pub(super) fn cancel_all_but(&mut self, wanted: &BTreeSet<String>) -> bool {
        let mut is_any = false;
        for (name, running) in &self.pulling {
            if !wanted.contains(name) {
                tracing::info!(image = name, "pull cancelled: the image is not wanted now");
                running.task.abort();
                is_any = true;
            }
        }
        is_any
    }

    /// Starts a pull, unless it runs already.
    pub(super) fn pull<R: ImageRuntime>(&mut self, runtime: Arc<R>, pull: Pull, now: Timestamp) {
        if self.pulling.contains_key(&pull.name) {
            return;
        }
        tracing::info!(image = pull.name, "pulling");
        let name = pull.name.clone();
        let task = self.tasks.spawn(async move {
            let result = pull_and_mark(&*runtime, &pull).await;
            FinishedTask::Pulled {
                name: pull.name,
                result,
            }
        });
        self.pulling.insert(name, Running { since: now, task });
    }

    /// Starts a probe.
    pub(super) fn probe<R: ImageRuntime>(&mut self, runtime: Arc<R>, entry: NodeRegistry) {
        let task = self.tasks.spawn(async move {
            let outcome = probe(&*runtime, &entry.host).await;
            FinishedTask::Probed { entry, outcome }
        });
        self.probing = Some(task);
    }
}

async fn pull_and_mark<R: ImageRuntime>(runtime: &R, pull: &Pull) -> Result<(), RuntimeError> {
    runtime.pull(&pull.name, None).await?;
    // An image without the mark counts as one that was there before: never removed by the agent.
    if let Err(error) = runtime.mark(&pull.name, &pull.marks).await {
        tracing::warn!(image = pull.name, %error, "a pulled image could not be marked");
    }
    Ok(())
}

/// Pulls the reserved image by its digest and removes it. If it were pulled by a tag, the registry
/// would choose the image: the pull would store it, and the removal would remove every name of that
/// image.
async fn probe<R: ImageRuntime>(runtime: &R, host: &str) -> Result<(), String> {
    let image = format!("{host}/{PROBE_PATH}@{PROBE_DIGEST}");
    let pulled = tokio::time::timeout(PROBE_DEADLINE, runtime.pull(&image, None)).await;
    // Also after a failure: the runtime may have stored the image before the pull was given up.
    if let Err(error) = runtime.remove(&image).await {
        tracing::warn!(image, %error, "the probe's image could not be removed");
    }
    match pulled {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the probe failed: {}", error.message())),
        Err(_) => Err(format!(
            "the probe failed: no answer within {} s",
            PROBE_DEADLINE.as_secs()
        )),
    }
}
