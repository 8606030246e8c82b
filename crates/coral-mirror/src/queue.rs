//! The queue of copy jobs, and the way their outcomes go back. In process here; other engines come
//! behind the same traits.

mod in_process;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::job::Job;
use crate::outcome::Outcome;
pub use in_process::{InProcess, InProcessDelivery};

/// Jobs of one source host that are worked on at the same time: a host that hardly answers holds
/// up its own images only.
pub(crate) const PER_HOST: usize = 6;

/// What came of an attempt to enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// The job waits for a worker.
    Queued,
    /// A job with the same key waits or is being worked on.
    AlreadyInFlight,
}

/// Why the queue did not do what it was asked for. The queue of one process never fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// It cannot be reached, or has no room.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The lease of a delivery ran out: another worker has the job, or will get it.
    #[error("the lease of the job has expired")]
    LeaseExpired,
}

/// Jobs between producers and workers. At most one job per key is in flight, from `enqueue` until
/// its delivery is finished; from then on the key can be queued again.
pub trait Queue: Send + Sync + 'static {
    /// A job in a worker's hands.
    type Delivery: Delivery;

    /// Puts a job at the end.
    fn enqueue(&self, job: Job) -> impl Future<Output = Result<Enqueued, QueueError>> + Send;

    /// Waits for the next job.
    fn take(&self) -> impl Future<Output = Result<Self::Delivery, QueueError>> + Send;
}

/// A job in a worker's hands. Dropping it gives the job back to the queue, so a worker that ends in
/// the middle of a copy loses nothing.
pub trait Delivery: Send + 'static {
    /// The job.
    fn job(&self) -> &Job;

    /// Says that the worker is still at it, which renews the lease.
    fn progress(&mut self) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Ends the job. The outcome goes to every subscriber of the queue's [`Results`]; before any
    /// of them hears of it, the key can be queued again.
    fn finish(self, outcome: Outcome) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// The way back from workers to producers.
pub trait Results: Send + Sync + 'static {
    /// Every outcome from now on, of every mirror: two mirrors may want the same image.
    fn subscribe(&self) -> Subscription;
}

/// Outcomes, in the order in which the jobs ended.
#[derive(Debug)]
pub struct Subscription(mpsc::UnboundedReceiver<Arc<Outcome>>);

impl Subscription {
    /// A subscription that is fed through the sender; it ends when every sender is gone.
    pub fn channel() -> (mpsc::UnboundedSender<Arc<Outcome>>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// Waits for the next outcome; `None` when no further one can come.
    pub async fn next(&mut self) -> Option<Arc<Outcome>> {
        self.0.recv().await
    }
}
