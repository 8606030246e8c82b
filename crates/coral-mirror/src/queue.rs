//! The queue of copy jobs. In process here; other engines come behind the same trait.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use coral_image::{Digest, Host, ImageRef, PlatformPattern};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::progress::Key;

/// Jobs of one source host that are worked on at the same time: one that hardly answers holds up
/// its own images only.
pub(crate) const PER_HOST: usize = 6;

/// One image to copy. Holds no credential: whoever takes the job asks for them by `mirror`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Where to: at most one job in flight for each.
    pub key: Key,
    /// Where from.
    pub source: ImageRef,
    /// The mirror it belongs to, as `namespace/name`.
    pub mirror: String,
    /// Platforms to copy; empty means all.
    pub platforms: Vec<PlatformPattern>,
    /// Whether referrers and cosign's tags are copied too.
    pub referrers: bool,
    /// What is broken at the destination and sent again, whatever that says of it.
    pub broken: BTreeSet<Digest>,
}

impl Job {
    fn host(&self) -> &Host {
        self.source.repository().host()
    }
}

/// What came of an attempt to enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// The job waits for a worker.
    Queued,
    /// One with the same key waits or is being worked on.
    AlreadyInFlight,
}

/// Jobs between producers and workers. At most one job per key is in flight: from `enqueue`
/// until its delivery is dropped, and then it can be queued at once again.
pub trait Queue: Send + Sync + 'static {
    /// Puts a job at the end.
    fn enqueue(&self, job: Job) -> impl Future<Output = Enqueued> + Send;
    /// Waits for the next job.
    fn take(&self) -> impl Future<Output = Delivery> + Send;
}

/// A job in a worker's hands. Dropping it ends the job, whatever came of it.
pub struct Delivery {
    /// The job.
    pub job: Job,
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl Delivery {
    /// A delivery that calls `done` when dropped.
    pub fn new(job: Job, done: impl FnOnce() + Send + 'static) -> Self {
        Self {
            job,
            done: Some(Box::new(done)),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

/// The queue in this process: first in, first out, but that jobs of a source host which has enough
/// in work let others by; gone with the process, which is why producers
/// look at the registries again when they start.
#[derive(Debug, Clone, Default)]
pub struct InProcess(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    jobs: Mutex<Jobs>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    in_flight: HashSet<Key>,
    /// How many jobs of each source host are worked on.
    in_work: HashMap<Host, usize>,
}

impl Jobs {
    fn next(&mut self) -> Option<Job> {
        let in_work = &self.in_work;
        let may_begin = |job: &Job| {
            let of_host = in_work.get(job.host()).copied().unwrap_or(0);
            of_host < PER_HOST
        };
        let first = self.waiting.iter().position(may_begin)?;
        let job = self.waiting.remove(first)?;
        *self.in_work.entry(job.host().clone()).or_default() += 1;
        Some(job)
    }

    fn end(&mut self, key: &Key, host: &Host) {
        self.in_flight.remove(key);
        if let Some(count) = self.in_work.get_mut(host) {
            *count -= 1;
            if *count == 0 {
                self.in_work.remove(host);
            }
        }
    }
}

impl InProcess {
    fn jobs(&self) -> std::sync::MutexGuard<'_, Jobs> {
        // Every critical section leaves the two collections consistent, so a panic elsewhere
        // does not spoil them.
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<Delivery> {
        let job = self.jobs().next()?;
        let (queue, key, host) = (self.clone(), job.key.clone(), job.host().clone());
        Some(Delivery::new(job, move || {
            queue.jobs().end(&key, &host);
            // A job of this host may have waited for this one.
            queue.0.arrived.notify_one();
        }))
    }
}

impl Queue for InProcess {
    async fn enqueue(&self, job: Job) -> Enqueued {
        let mut jobs = self.jobs();
        if !jobs.in_flight.insert(job.key.clone()) {
            return Enqueued::AlreadyInFlight;
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.0.arrived.notify_one();
        Enqueued::Queued
    }

    async fn take(&self) -> Delivery {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(delivery) = self.pop() {
                // Two arrivals may have been folded into one wake-up: pass it on.
                self.0.arrived.notify_one();
                return delivery;
            }
            arrived.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(tag: &str) -> Job {
        job_from("quay.io", tag)
    }

    fn job_from(host: &str, tag: &str) -> Job {
        let source = ImageRef::parse(&format!("{host}/org/app:{tag}")).unwrap();
        let key = Key::of(&ImageRef::parse(&format!("mirror:5000/{host}/org/app:{tag}")).unwrap());
        Job {
            key,
            source,
            mirror: "default/m".into(),
            platforms: vec![],
            referrers: true,
            broken: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn jobs_come_out_in_the_order_they_went_in() {
        let queue = InProcess::default();
        for tag in ["1", "2", "3"] {
            assert_eq!(queue.enqueue(job(tag)).await, Enqueued::Queued);
        }
        for tag in ["1", "2", "3"] {
            assert_eq!(queue.take().await.job, job(tag));
        }
    }

    #[tokio::test]
    async fn a_key_is_in_flight_once_while_it_waits_and_while_it_is_worked_on() {
        let queue = InProcess::default();
        queue.enqueue(job("1")).await;
        assert_eq!(queue.enqueue(job("1")).await, Enqueued::AlreadyInFlight);
        let delivery = queue.take().await;
        assert_eq!(queue.enqueue(job("1")).await, Enqueued::AlreadyInFlight);
        drop(delivery);
        assert_eq!(queue.enqueue(job("1")).await, Enqueued::Queued);
    }

    #[tokio::test]
    async fn every_waiting_worker_gets_a_job() {
        let queue = InProcess::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.take().await.job.clone() })
            })
            .collect();
        tokio::task::yield_now().await;
        for tag in ["1", "2", "3"] {
            queue.enqueue(job(tag)).await;
        }
        for worker in workers {
            worker.await.unwrap();
        }
    }

    /// Regression: one source that dripped held every worker of the process.
    #[tokio::test]
    async fn a_host_with_enough_in_work_lets_others_by() {
        let queue = InProcess::default();
        let slow: Vec<String> = (0..=PER_HOST).map(|n| n.to_string()).collect();
        for tag in &slow {
            queue.enqueue(job_from("slow.example", tag)).await;
        }
        queue.enqueue(job("1")).await;
        let mut held = vec![];
        for tag in &slow[..PER_HOST] {
            held.push(queue.take().await);
            assert_eq!(held.last().unwrap().job, job_from("slow.example", tag));
        }
        assert_eq!(queue.take().await.job, job("1"));
        assert!(queue.pop().is_none(), "the slow host has enough in work");
        // The end of one wakes who waits for the next.
        let waiting = queue.clone();
        let waiting = tokio::spawn(async move { waiting.take().await.job.clone() });
        tokio::task::yield_now().await;
        held.pop();
        let next = waiting.await.unwrap();
        assert_eq!(next, job_from("slow.example", &PER_HOST.to_string()));
    }

    #[test]
    fn a_job_survives_being_written_down() {
        let text = serde_json::to_string(&job("1")).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job("1"));
    }
}
