//! Reads the stores into plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::image::{Image, NodeSelector};
use coral_api::names::registry_host;
use coral_api::node_images::NodeImages;
use coral_api::registry_route::{RegistryRoute, SourcePolicy};
use coral_image::{Digest, Host, ImageRef};
use k8s_openapi::api::core::v1::Node;

use super::agents::{AgentPods, by_node};
use super::input::{AllowedHosts, NodeImagesView, NodeView, RegistryView, WantedImage};
use super::resolution::LookupConditions;
use super::resolver::{LookupRoute, LookupRoutes, LookupTarget, targets};
use super::routes::RouteView;
use crate::ObjectKey;
use crate::context::Context;
use crate::registry::why_not_ready;
use crate::shared::RegistryAccess;

/// Everything that a pass reads.
pub(crate) struct NodesInput {
    /// Image objects, those being deleted apart.
    pub(crate) images: BTreeMap<ObjectKey, Arc<Image>>,
    /// Image objects that are being deleted and still carry the older Coral's finalizer.
    pub(crate) held: Vec<Arc<Image>>,
    /// RegistryRoute objects.
    pub(crate) route_objects: BTreeMap<ObjectKey, Arc<RegistryRoute>>,
    pub(crate) wishes: Vec<WantedImage>,
    pub(crate) routes: Vec<RouteView>,
    pub(crate) registries: Vec<RegistryView>,
    pub(crate) nodes: Vec<NodeView>,
    /// The agents' pods; `None` while they are not known.
    pub(crate) agents: Option<AgentPods>,
    pub(crate) in_force: AllowedHosts,
    /// Whether every Image could be decoded: while one cannot, no image leaves a node.
    pub(crate) has_all_images: bool,
    /// Whether every route could be decoded: while one cannot, no host leaves a node.
    pub(crate) has_all_routes: bool,
    /// References of the sources that are mirrored.
    pub(crate) mirrored: BTreeSet<String>,
    /// The repositories that each Registry serves to every client, by host and port of its address.
    pub(crate) public: BTreeMap<String, Arc<BTreeSet<String>>>,
}

/// Reads the stores; `None` while it is not known how Registries are reached.
pub(crate) fn observe(context: &Context) -> Option<NodesInput> {
    let access = context.shared.registries.get()?;
    let (cluster, shared) = (&context.cluster, &context.shared);
    let (images, held) = sort_images(cluster.images.snapshot().iter());
    let wishes = images.iter().map(|(key, image)| WantedImage {
        key: key.clone(),
        generation: image.metadata.generation.unwrap_or(0),
        created: created(image.as_ref()),
        settings: image.settings(),
    });
    let route_objects: BTreeMap<_, _> = cluster
        .routes
        .snapshot()
        .iter()
        .filter(|(_, route)| route.metadata.deletion_timestamp.is_none())
        .map(|(key, route)| (key.clone(), route.clone()))
        .collect();
    let node_images = cluster.node_images.snapshot();
    let nodes = cluster.nodes.snapshot();
    let nodes = nodes.values().map(|node| {
        let key = ObjectKey::cluster(node.metadata.name.clone().unwrap_or_default());
        node_view(node, node_images.get(&key).map(Arc::as_ref))
    });
    let nodes: Vec<NodeView> = nodes.collect();
    let mirrored = cluster.mirrored.snapshot();
    let mirrored = mirrored.values().flat_map(|shard| {
        let images = shard.status.iter().flat_map(|status| &status.images);
        // A failed later check does not remove an existing image.
        let there = images.filter(|image| image.is_held());
        there
            .map(|image| image.reference.clone())
            .collect::<Vec<_>>()
    });
    let public = access.values().filter_map(|access| {
        let address = address(&access.endpoint)?;
        Some((address.to_string(), access.loaded.clone()?))
    });
    let mut registries = registry_views(&registry_keys(context), &access, &nodes);
    for view in &mut registries {
        let object = cluster.registries.get(&view.key);
        view.problem = object.and_then(|object| why_not_ready(&object));
    }
    let in_force = shared.locked_hosts.get().map(|hosts| (*hosts).clone());
    Some(NodesInput {
        wishes: wishes.collect(),
        routes: route_objects.values().map(|r| route_view(r)).collect(),
        registries,
        nodes,
        agents: cluster.agent_pods.is_ready().then(|| {
            let pods = cluster.agent_pods.snapshot();
            by_node(pods.values().map(Arc::as_ref))
        }),
        in_force: AllowedHosts(in_force),
        has_all_images: cluster.images.broken().is_empty(),
        has_all_routes: cluster.routes.broken().is_empty(),
        mirrored: mirrored.collect(),
        public: public.collect(),
        images,
        held,
        route_objects,
    })
}

type ByKey<K> = BTreeMap<ObjectKey, Arc<K>>;

fn sort_images<'a>(
    all: impl Iterator<Item = (&'a ObjectKey, &'a Arc<Image>)>,
) -> (ByKey<Image>, Vec<Arc<Image>>) {
    let (mut images, mut held) = (BTreeMap::new(), Vec::new());
    for (key, image) in all {
        let finalizers = image.metadata.finalizers.iter().flatten();
        let mut finalizers = finalizers.map(String::as_str);
        match image.metadata.deletion_timestamp {
            None => drop(images.insert(key.clone(), image.clone())),
            Some(_) if finalizers.any(|name| name == coral_api::names::FINALIZER) => {
                held.push(image.clone());
            }
            Some(_) => {}
        }
    }
    (images, held)
}

/// The Registries that exist, including those whose objects cannot be decoded.
fn registry_keys(context: &Context) -> BTreeSet<ObjectKey> {
    let store = &context.cluster.registries;
    let registries = store.snapshot();
    let living = registries
        .iter()
        .filter(|(_, registry)| registry.metadata.deletion_timestamp.is_none());
    let living = living.map(|(key, _)| key.clone());
    living.chain(store.broken().into_keys()).collect()
}

/// How Registries are reached. If the registry part does not know an address now, the nodes keep
/// the one that they have: a Registry is removed from the nodes only with its object. A Registry
/// that was never ready is not given to nodes, since each node would wait for each of its probes to
/// time out.
fn registry_views(
    keys: &BTreeSet<ObjectKey>,
    access: &BTreeMap<ObjectKey, RegistryAccess>,
    nodes: &[NodeView],
) -> Vec<RegistryView> {
    let given = |host: &str| {
        let specs = nodes.iter().filter_map(NodeView::spec);
        let mut entries = specs.flat_map(|spec| &spec.registries);
        let entry = entries.find(|entry| entry.host == host)?;
        Some(entry.endpoint.clone())
    };
    let views = keys.iter().map(|key| {
        let host = registry_host(&key.namespace, &key.name);
        let given = given(&host);
        let known = access
            .get(key)
            .filter(|access| access.ready || given.is_some());
        RegistryView {
            key: key.clone(),
            endpoint: known.map(|access| access.endpoint.clone()).or(given),
            host,
            problem: None,
        }
    });
    views.collect()
}

/// When an object was made, in seconds.
fn created<K: kube::Resource>(object: &K) -> i64 {
    let created = object.meta().creation_timestamp.as_ref();
    created.map_or(i64::MAX, |time| time.0.as_second())
}

fn route_view(route: &RegistryRoute) -> RouteView {
    let spec = &route.spec;
    RouteView {
        name: route.metadata.name.clone().unwrap_or_default(),
        created: created(route),
        generation: route.metadata.generation.unwrap_or(0),
        hosts: spec.hosts.clone(),
        registry: ObjectKey::new(&spec.registry.namespace, &spec.registry.name),
        policy: spec
            .source_policy
            .unwrap_or(SourcePolicy::AllowContactingSource),
        selector: NodeSelector::parse(&spec.node_selector)
            .map_err(|error| format!("spec.nodeS{}", &error.to_string()[1..])),
        everywhere: spec.node_selector.is_empty(),
        status: route.status.clone(),
    }
}

fn node_view(node: &Node, placed: Option<&NodeImages>) -> NodeView {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let os = labels.get("kubernetes.io/os").map(String::as_str);
    let linux = os.is_none_or(|os| os == "linux");
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut conditions = conditions.into_iter();
    NodeView {
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
        linux,
        placed: placed.map(placed_view),
        silent: None,
        labels,
    }
}

fn placed_view(object: &NodeImages) -> NodeImagesView {
    let owners = object.metadata.owner_references.iter().flatten();
    NodeImagesView {
        spec: object.spec.clone(),
        status: object.status.clone(),
        owner: owners.into_iter().next().map(|owner| owner.uid.clone()),
    }
}

/// The digest that the status of some Image has for a reference.
pub(crate) fn remembered(images: &ByKey<Image>, reference: &ImageRef) -> Option<Digest> {
    let reference = reference.to_string();
    let statuses = images.values().filter_map(|image| image.status.as_ref());
    let mut entries = statuses.flat_map(|status| &status.images);
    let entry = entries.find(|entry| entry.reference == reference)?;
    Digest::parse(entry.digest.as_deref()?).ok()
}

/// How the hosts that Coral answers for are looked up. If only some nodes are routed, tags of that
/// host are resolved in the Registry.
pub(crate) fn lookup_routes(observed: &NodesInput, table: &super::routes::Table) -> LookupRoutes {
    let own = observed.registries.iter().filter_map(|registry| {
        let address = address(registry.endpoint.as_deref()?)?;
        Some((registry.host.clone(), LookupRoute::Own { address }))
    });
    let routed = table.iter().filter_map(|(host, routed)| {
        let address = address(routed.endpoint())?;
        let then_source = routed.may_ask_source();
        Some((
            host.clone(),
            LookupRoute::Routed {
                address,
                then_source,
            },
        ))
    });
    own.chain(routed).collect()
}

/// What the answer for a reference depends on beside the registry that is asked.
pub(crate) fn lookup_conditions(
    image: &ImageRef,
    observed: &NodesInput,
    lookup_routes: &LookupRoutes,
) -> LookupConditions {
    let places = targets(image, lookup_routes).unwrap_or_default();
    let public = places.iter().any(|place| match place {
        LookupTarget::Registry { address, path } => {
            let paths = observed.public.get(address.as_str());
            paths.is_some_and(|paths| paths.contains(path.as_str()))
        }
        LookupTarget::Source => false,
    });
    LookupConditions {
        mirrored: observed.mirrored.contains(&image.to_string()),
        public,
        places,
    }
}

fn address(endpoint: &str) -> Option<Host> {
    Host::parse(endpoint.strip_prefix("https://")?).ok()
}

#[cfg(test)]
mod tests {
    use coral_api::node_images::{NodeRegistryPolicy, NodeRegistryState, NodeRegistryStatus};

    use super::super::fixtures::reporting;
    use super::*;

    const HOST: &str = "reg.a.svc:5000";
    const ENDPOINT: &str = "https://10.0.0.1:5000";

    #[test]
    fn a_registry_goes_to_the_nodes_once_it_was_ready_and_stays_there_while_it_is_not() {
        let access = |ready| RegistryAccess {
            host: HOST.to_owned(),
            endpoint: ENDPOINT.to_owned(),
            ready,
            is_observed: true,
            push: None,
            loaded: None,
        };
        let key = ObjectKey::new("a", "reg");
        let keys = BTreeSet::from([key.clone()]);
        let seen = |ready, nodes: &[NodeView]| {
            let access = BTreeMap::from([(key.clone(), access(ready))]);
            registry_views(&keys, &access, nodes)[0].endpoint.clone()
        };
        assert_eq!(seen(false, &[]), None);
        assert_eq!(seen(true, &[]).as_deref(), Some(ENDPOINT));
        let reported = NodeRegistryStatus {
            host: HOST.to_owned(),
            endpoint: ENDPOINT.to_owned(),
            policy: NodeRegistryPolicy::Registry,
            state: NodeRegistryState::Ready,
            message: None,
        };
        let nodes = [reporting("n1", vec![], vec![reported])];
        assert_eq!(seen(false, &nodes).as_deref(), Some(ENDPOINT));
    }

    #[test]
    fn a_registry_whose_address_is_not_known_now_keeps_the_one_that_nodes_have() {
        let reported = NodeRegistryStatus {
            host: HOST.to_owned(),
            endpoint: ENDPOINT.to_owned(),
            policy: NodeRegistryPolicy::Registry,
            state: NodeRegistryState::Ready,
            message: None,
        };
        let nodes = [reporting("n1", vec![], vec![reported])];
        let keys = BTreeSet::from([ObjectKey::new("a", "new"), ObjectKey::new("a", "reg")]);
        let views = registry_views(&keys, &BTreeMap::new(), &nodes);
        let endpoints: Vec<_> = views.iter().map(|view| view.endpoint.as_deref()).collect();
        assert_eq!(endpoints, [None, Some(ENDPOINT)]);
        let gone = registry_views(&BTreeSet::new(), &BTreeMap::new(), &nodes);
        assert_eq!(gone, [], "a Registry goes with its object");
    }
}
