//! The queue of one process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coral_image::Host;
use tokio::sync::{Notify, mpsc};

use super::{Delivery, Enqueued, PER_HOST, Queue, QueueError, Results, Subscription};
use crate::job::Job;
use crate::outcome::Outcome;
use crate::progress::Key;

/// The queue in this process. Jobs are taken in the order in which they were enqueued, except that
/// jobs of a source host with enough running jobs let others pass. The jobs are lost with the
/// process, so producers compare the registries again when they start. Cheap to clone; clones share
/// the queue.
#[derive(Debug, Clone, Default)]
pub struct InProcess(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    jobs: Mutex<Jobs>,
    arrived: Notify,
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Arc<Outcome>>>>,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    in_flight: HashSet<Key>,
    /// How many jobs of each source host are running.
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

    fn end(&mut self, job: &Job) {
        self.in_flight.remove(&job.key);
        self.leave_work(job.host());
    }

    fn give_back(&mut self, job: Job) {
        self.leave_work(job.host());
        self.waiting.push_front(job);
    }

    fn leave_work(&mut self, host: &Host) {
        if let Some(count) = self.in_work.get_mut(host) {
            *count -= 1;
            if *count == 0 {
                self.in_work.remove(host);
            }
        }
    }
}

impl InProcess {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Ignores poisoning: every critical section leaves the collections consistent, so a panic
        // elsewhere does no harm.
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<InProcessDelivery> {
        let job = self.jobs().next()?;
        Some(InProcessDelivery {
            queue: self.clone(),
            job,
            is_finished: false,
        })
    }

    fn publish(&self, outcome: Outcome) {
        let outcome = Arc::new(outcome);
        let subscribers = self.0.subscribers.lock();
        subscribers
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|subscriber| subscriber.send(outcome.clone()).is_ok());
    }
}

impl Queue for InProcess {
    type Delivery = InProcessDelivery;

    async fn enqueue(&self, job: Job) -> Result<Enqueued, QueueError> {
        let mut jobs = self.jobs();
        if !jobs.in_flight.insert(job.key.clone()) {
            return Ok(Enqueued::AlreadyInFlight);
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.0.arrived.notify_one();
        Ok(Enqueued::Queued)
    }

    async fn take(&self) -> Result<InProcessDelivery, QueueError> {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(delivery) = self.pop() {
                // Two arrivals may have been merged into one wake-up, so pass it on.
                self.0.arrived.notify_one();
                return Ok(delivery);
            }
            arrived.await;
        }
    }
}

impl Results for InProcess {
    fn subscribe(&self) -> Subscription {
        let (sender, subscription) = Subscription::channel();
        let subscribers = self.0.subscribers.lock();
        let mut subscribers = subscribers.unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| !subscriber.is_closed());
        subscribers.push(sender);
        subscription
    }
}

/// A job of the queue in this process.
#[derive(Debug)]
pub struct InProcessDelivery {
    queue: InProcess,
    job: Job,
    is_finished: bool,
}

impl Delivery for InProcessDelivery {
    fn job(&self) -> &Job {
        &self.job
    }

    /// There is no lease to renew: the job cannot outlive its process.
    async fn progress(&mut self) -> Result<(), QueueError> {
        Ok(())
    }

    async fn finish(mut self, outcome: Outcome) -> Result<(), QueueError> {
        self.is_finished = true;
        let queue = self.queue.clone();
        queue.jobs().end(&self.job);
        // The key is free again before a subscriber receives the outcome and queues it again.
        queue.publish(outcome);
        Ok(())
    }
}

impl Drop for InProcessDelivery {
    fn drop(&mut self) {
        if !self.is_finished {
            self.queue.jobs().give_back(self.job.clone());
        }
        // A job of this host may have waited for this one.
        self.queue.0.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coral_image::{Digest, ImageRef};

    use super::*;
    use crate::copy::Sparse;
    use crate::outcome::Done;

    fn job(tag: &str) -> Job {
        job_from("quay.io", tag)
    }

    fn job_from(host: &str, tag: &str) -> Job {
        let source = ImageRef::parse(&format!("{host}/org/app:{tag}")).unwrap();
        let key = Key::from_reference(
            &ImageRef::parse(&format!("mirror:5000/{host}/org/app:{tag}")).unwrap(),
        );
        Job {
            completes: None,
            key,
            source,
            mirror: "default/m".into(),
            platforms: vec![],
            foreign_layers: false,
            referrers: true,
            broken: BTreeSet::new(),
        }
    }

    async fn take(queue: &InProcess) -> InProcessDelivery {
        queue.take().await.unwrap()
    }

    async fn finish(delivery: InProcessDelivery) {
        let done = Done {
            missed: 0,
            digest: Digest::sha256(b"x"),
            moved: 0,
            sparse: Sparse::default(),
            up_to_date: false,
            elapsed: std::time::Duration::ZERO,
        };
        let outcome = Outcome {
            job: delivery.job.clone(),
            result: Ok(done),
        };
        delivery.finish(outcome).await.unwrap();
    }

    #[tokio::test]
    async fn jobs_come_out_in_the_order_they_went_in() {
        let queue = InProcess::default();
        for tag in ["1", "2", "3"] {
            assert_eq!(queue.enqueue(job(tag)).await, Ok(Enqueued::Queued));
        }
        for tag in ["1", "2", "3"] {
            let delivery = take(&queue).await;
            assert_eq!(delivery.job, job(tag));
            finish(delivery).await;
        }
    }

    #[tokio::test]
    async fn a_key_is_in_flight_once_while_it_waits_and_while_it_is_worked_on() {
        let queue = InProcess::default();
        queue.enqueue(job("1")).await.unwrap();
        assert_eq!(queue.enqueue(job("1")).await, Ok(Enqueued::AlreadyInFlight));
        let delivery = take(&queue).await;
        assert_eq!(queue.enqueue(job("1")).await, Ok(Enqueued::AlreadyInFlight));
        finish(delivery).await;
        assert_eq!(queue.enqueue(job("1")).await, Ok(Enqueued::Queued));
    }

    #[tokio::test]
    async fn every_waiting_worker_gets_a_job() {
        let queue = InProcess::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { take(&queue).await.job.clone() })
            })
            .collect();
        tokio::task::yield_now().await;
        for tag in ["1", "2", "3"] {
            queue.enqueue(job(tag)).await.unwrap();
        }
        for worker in workers {
            worker.await.unwrap();
        }
    }

    /// Regression: one source that sent its bytes too slowly held every worker of the process.
    #[tokio::test]
    async fn a_host_with_enough_in_work_lets_others_by() {
        let queue = InProcess::default();
        let slow: Vec<String> = (0..=PER_HOST).map(|n| n.to_string()).collect();
        for tag in &slow {
            queue.enqueue(job_from("slow.example", tag)).await.unwrap();
        }
        queue.enqueue(job("1")).await.unwrap();
        let mut held = vec![];
        for tag in &slow[..PER_HOST] {
            held.push(take(&queue).await);
            assert_eq!(held.last().unwrap().job, job_from("slow.example", tag));
        }
        let other = take(&queue).await;
        assert_eq!(other.job, job("1"));
        assert!(queue.pop().is_none(), "the slow host has enough in work");
        // The end of one wakes the worker that waits for the next.
        let waiting = queue.clone();
        let waiting = tokio::spawn(async move { take(&waiting).await.job.clone() });
        tokio::task::yield_now().await;
        finish(held.pop().unwrap()).await;
        let next = waiting.await.unwrap();
        assert_eq!(next, job_from("slow.example", &PER_HOST.to_string()));
    }

    #[tokio::test]
    async fn a_dropped_delivery_gives_the_job_back_to_the_front() {
        let queue = InProcess::default();
        queue.enqueue(job("1")).await.unwrap();
        queue.enqueue(job("2")).await.unwrap();
        drop(take(&queue).await);
        let in_flight = Ok(Enqueued::AlreadyInFlight);
        assert_eq!(queue.enqueue(job("1")).await, in_flight);
        assert_eq!(take(&queue).await.job, job("1"));
    }

    #[tokio::test]
    async fn the_key_is_free_when_subscribers_hear_of_the_outcome() {
        let queue = InProcess::default();
        let mut subscriptions = [queue.subscribe(), queue.subscribe()];
        queue.enqueue(job("1")).await.unwrap();
        finish(take(&queue).await).await;
        for subscription in &mut subscriptions {
            assert_eq!(subscription.next().await.unwrap().job, job("1"));
        }
        assert_eq!(queue.enqueue(job("1")).await, Ok(Enqueued::Queued));
    }

    #[test]
    fn a_job_survives_being_written_down() {
        let text = serde_json::to_string(&job("1")).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job("1"));
    }
}
