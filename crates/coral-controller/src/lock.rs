//! The part that enforces the lock of an `InjectionPolicy`.
//!
//! A lock is two `ValidatingAdmissionPolicies` with fixed names, so that the API server enforces it
//! with every part of Coral down. Which hosts it allows follows from the policy and from the routes
//! (`decide.rs`); `generate.rs` writes the CEL.
//!
//! The lock is narrowed before any route is removed from the nodes: this part publishes the allowed
//! hosts ([`crate::shared::Shared::locked_hosts`]), and the part that owns the routes keeps the
//! files of these hosts. So a RegistryRoute needs no finalizer. The order of a pass matters:
//!
//! 1. Publish the union of the hosts allowed now and those about to be allowed.
//! 2. Read the routes once more. A route that was removed before step 1 is no longer allowed; one
//!    that is removed later finds its host published.
//! 3. Write the policies.
//! 4. Publish the allowed hosts. Removed hosts stay published for a few seconds, because API
//!    servers apply a changed policy with a delay.

mod dangling;
mod decide;
mod generate;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use coral_api::conditions;
use coral_api::injection_policy::{InjectionPolicy, InjectionPolicyStatus};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use tokio::time::Instant;

use self::decide::{LockDecision, LockInput, decide};
pub(crate) use self::objects::{LOCK, LockObjects, TEMPLATES};
use crate::ObjectKey;
use crate::api::{ApiError, Writer};
use crate::changes::Topic;
use crate::cluster::Cluster;
use crate::context::Context;
use crate::part::{Part, PassError, Wake};
use crate::store::Store;

/// How long a host that was removed from the lock still counts as allowed, because API servers
/// apply a changed policy with a delay. One second was the longest delay measured.
const PROPAGATION_DELAY: SignedDuration = SignedDuration::from_secs(5);

/// The part; see the module.
pub(crate) struct LockPart {
    context: Context,
    /// Hosts that left the lock, each with the time until which it counts as allowed:
    /// `Timestamp::MAX` until the lock was written.
    leaving: BTreeMap<String, Timestamp>,
    /// Whether there was a pass already.
    has_begun: bool,
}

impl LockPart {
    /// The part.
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            leaving: BTreeMap::new(),
            has_begun: false,
        }
    }

    fn observe(&self) -> LockInput {
        let cluster = &self.context.cluster;
        let namespaces = cluster.namespaces.snapshot();
        LockInput {
            policies: cluster.policies.snapshot().values().cloned().collect(),
            routes: cluster.routes.snapshot().values().cloned().collect(),
            namespaces: namespaces.keys().map(|key| key.name.clone()).collect(),
            mirrors: keys(&cluster.mirrors),
            registries: keys(&cluster.registries),
            unreadable: unreadable(cluster),
        }
    }

    /// Writes the policies. See the module for the order.
    async fn apply(&mut self, decision: &LockDecision, now: Timestamp) -> Result<(), ApiError> {
        self.leaving.retain(|_, until| *until > now);
        let until = now
            .saturating_add(PROPAGATION_DELAY)
            .unwrap_or(Timestamp::MAX);
        if !std::mem::replace(&mut self.has_begun, true) {
            // The previous leader may have narrowed the lock a moment ago.
            let routes = self.context.cluster.routes.snapshot();
            let statuses = routes.values().filter_map(|route| route.status.as_ref());
            let hosts = statuses.flat_map(|status| status.proved_hosts.iter().cloned());
            self.leaving.extend(hosts.map(|host| (host, until)));
        }
        let stored = self.context.cluster.lock.hosts();
        let mut published = stored.clone();
        published.extend(self.leaving.keys().cloned());
        published.extend(decision.hosts().cloned());
        self.context.shared.locked_hosts.set(published);

        let Some(mut lock) = decision.lock.clone() else {
            // A lock that this version cannot read stays as it is.
            return Ok(());
        };
        let again = decide(&self.observe());
        if again.lock.is_none() {
            // It cannot be read any more: the next pass reports that.
            return Ok(());
        }
        let still: BTreeSet<&String> = again.hosts().collect();
        lock.allowed.retain(|host| still.contains(host));

        // Recorded before the write and without an end: a slow write may take effect late, and a
        // failed one may have taken effect.
        let gone = stored.iter().filter(|host| !lock.allowed.contains(host));
        let gone = gone.map(|host| (host.clone(), Timestamp::MAX));
        self.leaving.extend(gone);
        let (writer, began) = (self.context.writer(), Instant::now());
        self.context.cluster.lock.apply(&writer, &lock).await?;
        let until = until.saturating_add(began.elapsed());
        let until = until.unwrap_or(Timestamp::MAX);
        for end in self.leaving.values_mut() {
            *end = until.min(*end);
        }

        self.leaving.retain(|host, _| !lock.allowed.contains(host));
        let mut in_force: BTreeSet<String> = lock.allowed.iter().cloned().collect();
        in_force.extend(self.leaving.keys().cloned());
        self.context.shared.locked_hosts.set(in_force);
        Ok(())
    }

    async fn publish(
        &self,
        decision: &LockDecision,
        failure: Option<&str>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let writer = self.context.writer();
        let mut first = Ok(());
        for policy in self.context.cluster.policies.snapshot().values() {
            let status = decision.status(policy, failure, now);
            match publish_status(&writer, policy, &status).await {
                Ok(true) => self.report(policy, &status).await,
                Ok(false) => {}
                // A failure does not keep the other statuses from being written.
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// An event when a policy gets ready or stops being so, and when something is wrong with one
    /// that is ready.
    async fn report(&self, policy: &InjectionPolicy, status: &InjectionPolicyStatus) {
        let before = policy.status.as_ref();
        let news = |kind| {
            let (holds, reason, message) = condition_of(status, kind)?;
            let was = before.and_then(|before| condition_of(before, kind));
            let is_old = was.is_some_and(|was| (was.0, was.1) == (holds, reason));
            (!is_old).then_some((holds, reason, message))
        };
        let events = &self.context.events;
        let is_ready =
            condition_of(status, conditions::kind::READY).is_some_and(|(holds, ..)| holds);
        match news(conditions::kind::READY) {
            Some((true, reason, message)) => events.normal(policy, reason, message).await,
            Some((false, reason, message)) => events.warning(policy, reason, message).await,
            None => {}
        }
        if let Some((true, reason, message)) = news(conditions::kind::DEGRADED)
            && is_ready
        {
            events.warning(policy, reason, message).await;
        }
    }
}

/// The objects that exist, those that cannot be decoded included.
fn keys<K>(store: &Store<K>) -> BTreeSet<ObjectKey> {
    let decoded = store.snapshot();
    let broken = store.broken().into_keys();
    decoded.keys().cloned().chain(broken).collect()
}

/// Which policy or route cannot be decoded, if one cannot. It may hold hosts of the lock, or the
/// lock itself.
fn unreadable(cluster: &Cluster) -> Option<String> {
    let policies = cluster.policies.broken().into_iter();
    let policies = policies.map(|(key, why)| format!("InjectionPolicy {key}: {why}"));
    let routes = cluster.routes.broken().into_iter();
    let routes = routes.map(|(key, why)| format!("RegistryRoute {key}: {why}"));
    let first = policies.chain(routes).next()?;
    Some(format!(
        "the current lock stays in effect, because this version of Coral cannot read an object: \
         {first}"
    ))
}

/// Whether a condition holds, its reason and its message.
fn condition_of<'a>(
    status: &'a InjectionPolicyStatus,
    kind: &str,
) -> Option<(bool, &'a str, &'a str)> {
    let mut conditions = status.conditions.iter();
    let found = conditions.find(|condition| condition.type_ == kind)?;
    Some((found.status == "True", &found.reason, &found.message))
}

async fn publish_status(
    writer: &Writer,
    policy: &InjectionPolicy,
    status: &InjectionPolicyStatus,
) -> Result<bool, ApiError> {
    let key = ObjectKey::cluster(policy.name_any());
    let current = policy.status.as_ref();
    match writer
        .publish_status::<InjectionPolicy, _>(&key, current, status)
        .await
    {
        // It was deleted meanwhile.
        Err(error) if error.is_not_found() => Ok(false),
        published => published,
    }
}

impl Part for LockPart {
    const NAME: &'static str = "lock";

    const TOPICS: &'static [Topic] = &[
        Topic::InjectionPolicies,
        Topic::RegistryRoutes,
        Topic::RegistryMirrors,
        Topic::Registries,
        Topic::Namespaces,
        Topic::Lock,
    ];

    async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
        let input = self.observe();
        let decision = decide(&input);
        let applied = self.apply(&decision, now).await;
        let failure = applied.as_ref().err().map(ToString::to_string);
        let failure = failure.or_else(|| input.unreadable.clone());
        let published = self.publish(&decision, failure.as_deref(), now).await;
        applied.and(published)?;
        let ends = self.leaving.values().filter(|end| **end < Timestamp::MAX);
        Ok(Wake::at(ends.min().copied()))
    }
}
