//! The cluster as last seen: one store per kind, filled by one watch each.

use std::fmt::Debug;
use std::sync::Arc;

use coral_api::image::Image;
use coral_api::image_build::ImageBuild;
use coral_api::injection_policy::InjectionPolicy;
use coral_api::mirrored_images::MirroredImages;
use coral_api::node_images::NodeImages;
use coral_api::registry_route::RegistryRoute;
use coral_api::{Registry, RegistryMirror};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::ca::{AGENTS_CONFIG, WEBHOOK_CONFIGURATION};
use crate::changes::{Changes, Topic};
use crate::context::Context;
use crate::events::Events;
use crate::follow::Watch;
use crate::lock::LockObjects;
use crate::store::Store;

/// The stores of every kind that is watched in the whole cluster. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    /// Images, of every namespace.
    pub(crate) images: Store<Image>,
    /// MirroredImages, of every namespace.
    pub(crate) mirrored: Store<MirroredImages>,
    /// Mirrors, of every namespace.
    pub(crate) mirrors: Store<RegistryMirror>,
    /// Registries, of every namespace.
    pub(crate) registries: Store<Registry>,
    /// Builds, of every namespace.
    pub(crate) builds: Store<ImageBuild>,
    /// Routes.
    pub(crate) routes: Store<RegistryRoute>,
    /// Injection policies.
    pub(crate) policies: Store<InjectionPolicy>,
    /// NodeImages: what nodes should hold, and what they hold.
    pub(crate) node_images: Store<NodeImages>,
    /// Nodes, without what no part reads: annotations, images, volumes, addresses, heartbeats.
    pub(crate) nodes: Store<Node>,
    /// Metadata of namespaces.
    pub(crate) namespaces: Store<PartialObjectMeta<Namespace>>,
    /// The configuration of Coral's own mutating webhook, if it is there.
    pub(crate) webhooks: Store<MutatingWebhookConfiguration>,
    /// The ConfigMap that agents mount, if it is there.
    pub(crate) agents_config: Store<ConfigMap>,
    /// The agents' pods: names, nodes and readiness.
    pub(crate) agent_pods: Store<Pod>,
    /// The admission policies of the lock, as far as they exist.
    pub(crate) lock: LockObjects,
}

impl Cluster {
    /// Begins the watches; they end when the set is dropped. Each has a backoff of its own.
    pub(crate) fn follow(&self, context: &Context) -> JoinSet<()> {
        let (client, changes) = (&context.client, &context.changes);
        let mut watches = Watches {
            changes,
            events: &context.events,
            running: JoinSet::new(),
        };
        watches.begin(Watch::all(client, &self.images, Topic::Images));
        watches.begin(Watch::all(client, &self.mirrored, Topic::MirroredImages));
        watches.begin(Watch::all(client, &self.mirrors, Topic::RegistryMirrors));
        watches.begin(Watch::all(client, &self.registries, Topic::Registries));
        watches.begin(Watch::all(client, &self.builds, Topic::ImageBuilds));
        watches.begin(Watch::all(client, &self.routes, Topic::RegistryRoutes));
        watches.begin(Watch::all(client, &self.policies, Topic::InjectionPolicies));
        watches.begin(Watch::all(client, &self.node_images, Topic::NodeImages));
        let mut nodes = Watch::all(client, &self.nodes, Topic::Nodes);
        nodes.strip = strip_node;
        nodes.same = same_node;
        watches.begin(nodes);
        let mut namespaces = Watch::all(client, &self.namespaces, Topic::Namespaces);
        namespaces.same = |a, b| same_meta(&a.metadata, &b.metadata);
        watches.begin(namespaces);
        self.follow_own(context, &mut watches);
        watches.running
    }

    /// Single objects are watched by name, so the controller needs no right to read the others.
    fn follow_own(&self, context: &Context, watches: &mut Watches<'_>) {
        let topic = Topic::WebhookConfigurations;
        let mut webhooks = Watch::all(&context.client, &self.webhooks, topic);
        webhooks.config = by_name(WEBHOOK_CONFIGURATION);
        watches.begin(webhooks);
        let namespace = &context.config.nodes_namespace;
        let api = Api::namespaced(context.client.clone(), namespace);
        let mut config = Watch::new(api, &self.agents_config, Topic::AgentsConfig);
        config.config = by_name(AGENTS_CONFIG);
        watches.begin(config);
        let api = Api::namespaced(context.client.clone(), namespace);
        let mut agents = Watch::new(api, &self.agent_pods, Topic::AgentPods);
        agents.config = watcher::Config::default().labels(AGENTS);
        agents.strip = strip_pod;
        agents.same =
            |a, b| same_meta(&a.metadata, &b.metadata) && a.spec == b.spec && a.status == b.status;
        watches.begin(agents);
        let lock = &self.lock;
        lock.policies(&context.client)
            .for_each(|policy| watches.begin(policy));
        lock.bindings(&context.client)
            .for_each(|binding| watches.begin(binding));
    }

    /// Completes once the stores behind these topics are filled.
    pub(crate) async fn ready(&self, topics: &[Topic]) {
        for topic in topics {
            match topic {
                Topic::Images => self.images.ready().await,
                Topic::MirroredImages => self.mirrored.ready().await,
                Topic::RegistryMirrors => self.mirrors.ready().await,
                Topic::Registries => self.registries.ready().await,
                Topic::ImageBuilds => self.builds.ready().await,
                Topic::RegistryRoutes => self.routes.ready().await,
                Topic::InjectionPolicies => self.policies.ready().await,
                Topic::NodeImages => self.node_images.ready().await,
                Topic::WebhookConfigurations => self.webhooks.ready().await,
                Topic::AgentsConfig => self.agents_config.ready().await,
                Topic::Lock => self.lock.ready().await,
                Topic::Nodes => self.nodes.ready().await,
                Topic::Namespaces => self.namespaces.ready().await,
                // Published values are `Option`s whose readers handle `None`, and these objects are
                // watched by the part that asks for them, so neither has a store to wait for. The
                // agents' pods are not awaited because an older installation does not grant the
                // right to watch them.
                Topic::Secrets
                | Topic::AgentPods
                | Topic::BuildWorkloads
                | Topic::RegistryWorkloads
                | Topic::Ca
                | Topic::PublicPaths
                | Topic::RegistryAccess
                | Topic::Resolutions
                | Topic::LockedHosts
                | Topic::MirrorProgress => {}
            }
        }
    }
}

/// The pods of the DaemonSet of the agents.
const AGENTS: &str = "app.kubernetes.io/name=coral-agent";

struct Watches<'a> {
    changes: &'a Changes,
    events: &'a Arc<Events>,
    running: JoinSet<()>,
}

impl Watches<'_> {
    fn begin<K>(&mut self, mut watch: Watch<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        watch.events = Some(self.events.clone());
        self.running.spawn(watch.run(self.changes.clone(), |_| {}));
    }
}

fn by_name(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// A node's status alone is some 20 KB, most of it names of images.
fn strip_node(node: &mut Node) {
    node.metadata.annotations = None;
    let Some(status) = node.status.as_mut() else {
        return;
    };
    status.images = None;
    status.volumes_attached = None;
    status.volumes_in_use = None;
    status.config = None;
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
}

/// Keeps only what the parts read of an agent's pod: its node and whether it is ready.
fn strip_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| {
        let mut conditions = status.conditions.unwrap_or_default();
        conditions.retain(|condition| condition.type_ == "Ready");
        PodStatus {
            conditions: Some(conditions),
            ..PodStatus::default()
        }
    });
}

/// Kubelet's heartbeats wake no part.
fn same_node(a: &Node, b: &Node) -> bool {
    same_meta(&a.metadata, &b.metadata) && a.spec == b.spec && a.status == b.status
}

fn same_meta(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    let mut without_version = a.clone();
    without_version
        .resource_version
        .clone_from(&b.resource_version);
    without_version == *b
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(version: &str, heartbeat: &str, ready: &str, images: usize) -> Node {
        let mut node = serde_json::from_value(json!({
            "metadata": {"name": "n", "resourceVersion": version},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}],
                "images": vec![json!({"names": ["x"]}); images],
            },
        }))
        .unwrap();
        strip_node(&mut node);
        node
    }

    #[test]
    fn of_an_agents_pod_its_node_and_readiness_are_kept() {
        let mut pod = serde_json::from_value(json!({
            "metadata": {"name": "coral-agent-x", "annotations": {"a": "b"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "agent", "image": "coral"}]},
            "status": {"podIP": "10.0.0.1", "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"},
            ]},
        }))
        .unwrap();
        strip_pod(&mut pod);
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "coral-agent-x"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(json!(pod), kept);
    }

    #[test]
    fn a_nodes_heartbeat_wakes_no_part_and_its_readiness_does() {
        let before = node("1", "2026-01-01T00:00:00Z", "True", 3);
        let heartbeat = node("2", "2026-01-01T00:00:10Z", "True", 4);
        assert!(same_node(&before, &heartbeat));
        assert!(!same_node(
            &before,
            &node("3", "2026-01-01T00:00:20Z", "False", 4)
        ));
    }
}
