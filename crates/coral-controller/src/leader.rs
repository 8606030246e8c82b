//! The leader lease: at most one controller acts at a time.
//!
//! Rules:
//! - The lease is created, or replaced with its resourceVersion, so that of two writers one loses.
//! - Another holder's lease has expired once it has not changed for its duration *as seen here, on a
//!   monotonic clock*. The times in the object are for people; clocks of machines differ.
//! - A holder that cannot renew steps down before others may take over.
//! - On shutdown the lease is released, so that the next holder need not wait.
//!
//! [`Election`] is the state machine; [`Leader`] makes the calls that it asks for.

mod election;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use election::Timing;
use election::{Election, Step, Write};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// One candidate for the lease.
pub(crate) struct Leader {
    api: Api<Lease>,
    election: Election,
    began: Instant,
    /// The error of the last call, so that the same one is logged once.
    trouble: Option<String>,
}

/// How a call ended.
enum CallResult {
    Lease(Box<Lease>),
    Absent,
    /// Another writer was first.
    Conflict,
    Failed(String),
}

impl Leader {
    /// A candidate for the lease `name`. `identity` names this process among all candidates; a
    /// process that finds its own identity in the lease takes it at once, so it must be that of a
    /// pod, whose earlier process is gone.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: Timing,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            election: Election::new(name, identity, timing),
            began: Instant::now(),
            trouble: None,
        }
    }

    /// Waits until this process holds the lease; `false` if `stop` came first. `answered` is called
    /// after each answer of the API server.
    pub(crate) async fn acquire(&mut self, stop: &CancellationToken, answered: impl Fn()) -> bool {
        while !self.election.is_held() {
            let next = self.election.step(self.now(), Timestamp::now());
            tokio::select! {
                () = stop.cancelled() => return false,
                () = self.make(next) => {}
            }
            if self.trouble.is_none() {
                answered();
            }
        }
        true
    }

    /// Renews the lease until it is lost. Cancel-safe: the state is read again after a call that
    /// was dropped.
    pub(crate) async fn hold(&mut self) {
        loop {
            match self.election.step(self.now(), Timestamp::now()) {
                Step::Lost => return,
                step => self.make(step).await,
            }
        }
    }

    /// Gives the lease back, if this process holds it. Best effort: a lease that is not released
    /// expires.
    pub(crate) async fn release(&mut self) {
        if self.election.is_held()
            && !self.election.is_known()
            && let CallResult::Lease(lease) = self.read().await
        {
            // A renewal that was cut off may have taken effect, so the lease is read before it is
            // released.
            self.election.read(Some(*lease), self.now());
        }
        for _ in 0..2 {
            let Some(write) = self.election.release(Timestamp::now()) else {
                return;
            };
            match self.write(&write).await {
                CallResult::Conflict => {
                    // A renewal that was cut off may have been the last write.
                    if let CallResult::Lease(lease) = self.read().await {
                        self.election.read(Some(*lease), self.now());
                    }
                }
                CallResult::Lease(_) | CallResult::Absent => return,
                CallResult::Failed(why) => {
                    tracing::warn!(%why, "lease cannot be released; it expires");
                    return;
                }
            }
        }
    }

    async fn make(&mut self, step: Step) {
        match step {
            Step::Wait(time) => {
                tokio::time::sleep(time).await;
                self.election.look_again();
            }
            Step::Read => {
                let read = self.read().await;
                let now = self.now();
                match read {
                    CallResult::Lease(lease) => self.election.read(Some(*lease), now),
                    CallResult::Absent => self.election.read(None, now),
                    CallResult::Conflict => self.election.outdated(),
                    CallResult::Failed(why) => return self.failed(why),
                }
                self.works();
            }
            Step::Write(write) => {
                let began = self.now();
                // A call that ends without an answer may still have taken effect. The state is
                // therefore unknown until the call succeeds, and the lease is read before the next
                // write.
                self.election.outdated();
                match self.write(&write).await {
                    CallResult::Lease(lease) => self.election.wrote(*lease, began),
                    CallResult::Absent | CallResult::Conflict => {}
                    CallResult::Failed(why) => return self.failed(why),
                }
                self.works();
            }
            Step::Lost => {}
        }
    }

    async fn read(&self) -> CallResult {
        let name = self.election.name();
        let reading = self.api.get_opt(name);
        match tokio::time::timeout(self.time_for_a_call(), reading).await {
            Ok(Ok(Some(lease))) => CallResult::Lease(Box::new(lease)),
            Ok(Ok(None)) => CallResult::Absent,
            Ok(Err(error)) => CallResult::Failed(error.to_string()),
            Err(_) => CallResult::Failed("no answer in time".to_owned()),
        }
    }

    async fn write(&self, write: &Write) -> CallResult {
        let params = PostParams::default();
        let writing = async {
            match write {
                Write::Create(lease) => self.api.create(&params, lease).await,
                Write::Replace(lease) => {
                    self.api.replace(self.election.name(), &params, lease).await
                }
            }
        };
        match tokio::time::timeout(self.time_for_a_call(), writing).await {
            Ok(Ok(lease)) => CallResult::Lease(Box::new(lease)),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => CallResult::Conflict,
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => CallResult::Absent,
            Ok(Err(error)) => CallResult::Failed(error.to_string()),
            Err(_) => CallResult::Failed("no answer in time".to_owned()),
        }
    }

    /// A holder's call must end before its deadline to step down.
    fn time_for_a_call(&self) -> Duration {
        let left = self.election.time_to_deadline(self.now());
        left.map_or(CALL_TIMEOUT, |left| left.min(CALL_TIMEOUT))
    }

    fn failed(&mut self, why: String) {
        self.election.failed(self.now());
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(%why, "lease cannot be read or written; trying again");
            self.trouble = Some(why);
        }
    }

    fn works(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("lease can be read and written again");
        }
    }

    /// Time since this candidate began, on the monotonic clock.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests;
