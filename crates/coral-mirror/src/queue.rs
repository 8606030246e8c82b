//! The queue of copy jobs, and the channel for their outcomes. Here they are in process; other
//! implementations can provide the same traits.

mod in_process;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::job::Job;
use crate::outcome::Outcome;
pub use in_process::{InProcess, InProcessDelivery};

/// How many jobs of one source host run at the same time, so that a slow host delays only its own
/// images.
pub(crate) const PER_HOST: usize = 6;

/// The result of an attempt to enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// The job waits for a worker.
    Queued,
    /// A job with the same key is waiting or running.
    AlreadyInFlight,
}

/// Why an operation of the queue failed. The in-process queue never fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// It cannot be reached, or has no space.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The lease of a delivery has expired: another worker has the job, or will get it.
    #[error("the lease of the job has expired")]
    LeaseExpired,
}

/// Jobs between producers and workers. At most one job per key is in flight, from `enqueue` until
/// its delivery is finished; from then on the key can be queued again.
pub trait Queue: Send + Sync + 'static {
    /// A job that a worker has taken.
    type Delivery: Delivery;

    /// Puts a job at the end.
    fn enqueue(&self, job: Job) -> impl Future<Output = Result<Enqueued, QueueError>> + Send;

    /// Waits for the next job.
    fn take(&self) -> impl Future<Output = Result<Self::Delivery, QueueError>> + Send;
}

/// A job that a worker has taken. Dropping it returns the job to the queue, so a worker that ends
/// during a copy loses nothing.
pub trait Delivery: Send + 'static {
    /// The job.
    fn job(&self) -> &Job;

    /// Reports that the worker is still working, which renews the lease.
    fn progress(&mut self) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Ends the job. The outcome goes to every subscriber of the queue's [`Results`]; before any of
    /// them receives it, the key can be queued again.
    fn finish(self, outcome: Outcome) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// The channel from workers back to producers.
pub trait Results: Send + Sync + 'static {
    /// Every outcome from now on, of every mirror: two mirrors may want the same image.
    fn subscribe(&self) -> Subscription;
}

/// Outcomes, in the order in which the jobs ended.
#[derive(Debug)]
pub struct Subscription(mpsc::UnboundedReceiver<Arc<Outcome>>);

impl Subscription {
    /// A subscription that receives from the sender; it ends when every sender is dropped.
    pub fn channel() -> (mpsc::UnboundedSender<Arc<Outcome>>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// Waits for the next outcome; `None` when no further one can come.
    pub async fn next(&mut self) -> Option<Arc<Outcome>> {
        self.0.recv().await
    }
}
