//! Topics of changes, and how parts are notified of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// A change of a topic wakes the parts that read it. A topic is a kind of the API, or a value that
/// one part publishes for the others (see [`crate::shared`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// Objects of kind Image.
    Images,
    /// Objects of kind RegistryMirror.
    RegistryMirrors,
    /// Objects of kind MirroredImages.
    MirroredImages,
    /// Objects of kind Registry.
    Registries,
    /// Objects of kind ImageBuild.
    ImageBuilds,
    /// Jobs and pods of builds, and the rights to run them.
    BuildWorkloads,
    /// Objects of kind RegistryRoute.
    RegistryRoutes,
    /// Objects of kind InjectionPolicy.
    InjectionPolicies,
    /// Objects of kind NodeImages.
    NodeImages,
    /// Nodes, without their heartbeats.
    Nodes,
    /// Metadata of namespaces.
    Namespaces,
    /// Secrets that a part asked for by name.
    Secrets,
    /// What the controller made for Registries: StatefulSets, Services, ConfigMaps.
    RegistryWorkloads,
    /// The configuration of Coral's own mutating webhook.
    WebhookConfigurations,
    /// The ConfigMap that agents mount.
    AgentsConfig,
    /// The certificate authority of the installation.
    Ca,
    /// Public repositories per Registry, published by the mirror part.
    PublicPaths,
    /// How Registries are reached, published by the registry part.
    RegistryAccess,
    /// Answers of registries about tags, for the writer of NodeImages.
    Resolutions,
    /// Hosts that a lock allows now, published by the lock part.
    LockedHosts,
    /// The admission policies of the lock, as stored.
    Lock,
    /// The progress of running mirrors, and news about the visibility of their repositories.
    MirrorProgress,
    /// The pods of agents: which exist, and which are ready.
    AgentPods,
}

impl Topic {
    /// Every topic.
    pub(crate) const ALL: [Self; 23] = [
        Self::Images,
        Self::RegistryMirrors,
        Self::MirroredImages,
        Self::Registries,
        Self::ImageBuilds,
        Self::BuildWorkloads,
        Self::RegistryRoutes,
        Self::InjectionPolicies,
        Self::NodeImages,
        Self::Nodes,
        Self::Namespaces,
        Self::Secrets,
        Self::RegistryWorkloads,
        Self::WebhookConfigurations,
        Self::AgentsConfig,
        Self::Ca,
        Self::PublicPaths,
        Self::RegistryAccess,
        Self::Resolutions,
        Self::LockedHosts,
        Self::Lock,
        Self::MirrorProgress,
        Self::AgentPods,
    ];
}

/// The notifications of all topics. Cheap to clone; all clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    versions: [AtomicU64; Topic::ALL.len()],
    /// Counts every notification of any topic.
    any: watch::Sender<u64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(Inner {
            versions: std::array::from_fn(|_| AtomicU64::new(0)),
            any: watch::Sender::new(0),
        }))
    }
}

impl Changes {
    /// Wakes every subscription to the topic.
    pub(crate) fn notify(&self, topic: Topic) {
        self.0.versions[topic as usize].fetch_add(1, Ordering::AcqRel);
        self.0.any.send_modify(|count| *count += 1);
    }

    /// Subscribes to changes of these topics from now on.
    pub(crate) fn subscribe(&self, topics: &'static [Topic]) -> Subscription {
        let mut subscription = Subscription {
            changes: self.clone(),
            topics,
            seen: vec![0; topics.len()],
            any: self.0.any.subscribe(),
        };
        subscription.mark_seen();
        subscription
    }

    fn version(&self, topic: Topic) -> u64 {
        self.0.versions[topic as usize].load(Ordering::Acquire)
    }
}

/// One part's view of [`Changes`].
#[derive(Debug)]
pub(crate) struct Subscription {
    changes: Changes,
    topics: &'static [Topic],
    seen: Vec<u64>,
    any: watch::Receiver<u64>,
}

impl Subscription {
    /// Completes once a topic changed after the last [`Self::mark_seen`]. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            // Mark before reading the versions, so that a notification in between is not lost.
            self.any.mark_unchanged();
            if self.has_changed() {
                return;
            }
            if self.any.changed().await.is_err() {
                // The sender lives in `self.changes`: it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Forgets the changes so far. Call it before reading, never after: a change in between must
    /// wake the part again.
    pub(crate) fn mark_seen(&mut self) {
        for (seen, &topic) in self.seen.iter_mut().zip(self.topics) {
            *seen = self.changes.version(topic);
        }
    }

    fn has_changed(&self) -> bool {
        let mut pairs = self.seen.iter().zip(self.topics);
        pairs.any(|(&seen, &topic)| self.changes.version(topic) != seen)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn every_topic_has_a_slot_of_its_own() {
        for (slot, topic) in Topic::ALL.into_iter().enumerate() {
            assert_eq!(topic as usize, slot);
        }
    }

    #[tokio::test]
    async fn a_subscription_hears_its_own_topics_until_it_has_seen_them() {
        let changes = Changes::default();
        let mut nodes = changes.subscribe(&[Topic::Nodes, Topic::Images]);
        changes.notify(Topic::Secrets);
        assert_eq!(nodes.changed().now_or_never(), None);
        changes.notify(Topic::Images);
        assert_eq!(nodes.changed().now_or_never(), Some(()));
        assert_eq!(nodes.changed().now_or_never(), Some(()));
        nodes.mark_seen();
        assert_eq!(nodes.changed().now_or_never(), None);
    }
}
