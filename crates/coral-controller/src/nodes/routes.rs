//! Routes and the own names of Registries: where each node's runtime finds which host.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::conditions::{self, ConditionUpdate, Truth, cut, kind};
use coral_api::image::NodeSelector;
use coral_api::names::namespace;
use coral_api::node_images::{
    MAX_NODE_REGISTRIES, NodeRegistry, NodeRegistryPolicy, NodeRegistryState,
};
use coral_api::registry_route::{RegistryRouteStatus, SourcePolicy};
use jiff::Timestamp;

use super::agents::silence;
use super::input::{AllowedHosts, NodeView, RegistryView};
use crate::ObjectKey;

const MAX_LACKING: usize = 10;
/// Most bytes of an entry of `lacking`, which the API server takes.
const MAX_LACKING_TEXT: usize = 1024;

/// A RegistryRoute object.
#[derive(Debug, Clone)]
pub(crate) struct RouteView {
    /// Its name.
    pub(crate) name: String,
    /// When it was made, in seconds: the older of two routes of one host is used.
    pub(crate) created: i64,
    /// Its generation.
    pub(crate) generation: i64,
    /// Its hosts.
    pub(crate) hosts: Vec<String>,
    /// The Registry that answers.
    pub(crate) registry: ObjectKey,
    /// Whether the hosts themselves may be asked.
    pub(crate) policy: SourcePolicy,
    /// Which nodes; an error where the selector cannot be used.
    pub(crate) selector: Result<NodeSelector, String>,
    /// Whether the selector selects every node, because it is empty.
    pub(crate) everywhere: bool,
    /// The present status.
    pub(crate) status: Option<RegistryRouteStatus>,
}

/// Which route a host belongs to, and where its requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routed {
    route: String,
    entry: NodeRegistry,
}

impl Routed {
    /// Where requests go.
    pub(crate) fn endpoint(&self) -> &str {
        &self.entry.endpoint
    }

    /// Whether the host itself is asked after a miss.
    pub(crate) fn may_ask_source(&self) -> bool {
        self.entry.policy == NodeRegistryPolicy::AllowContactingSource
    }
}

/// The routes that are in effect, by host.
pub(crate) type Table = BTreeMap<String, Routed>;

/// Decides which route each host belongs to. A route whose Registry has no address, whose policy or
/// selector cannot be used, or whose host an older route has, is left out for that host.
pub(crate) fn table(routes: &[RouteView], registries: &[RegistryView]) -> Table {
    let mut order: Vec<&RouteView> = routes.iter().collect();
    order.sort_by_key(|route| (route.created, route.name.clone()));
    let mut table = Table::new();
    for route in order {
        let Some(entry) = template(route, registries) else {
            continue;
        };
        for host in &route.hosts {
            table.entry(host.clone()).or_insert_with(|| Routed {
                route: route.name.clone(),
                entry: NodeRegistry {
                    host: host.clone(),
                    ..entry.clone()
                },
            });
        }
    }
    table
}

fn template(route: &RouteView, registries: &[RegistryView]) -> Option<NodeRegistry> {
    let policy = node_policy(route.policy)?;
    let registry = registries.iter().find(|r| r.key == route.registry)?;
    route.selector.is_ok().then_some(())?;
    Some(NodeRegistry {
        host: String::new(),
        registry: registry.host.clone(),
        endpoint: registry.endpoint.clone()?,
        policy,
    })
}

fn node_policy(policy: SourcePolicy) -> Option<NodeRegistryPolicy> {
    match policy {
        SourcePolicy::AllowContactingSource => Some(NodeRegistryPolicy::AllowContactingSource),
        SourcePolicy::NeverContactSource => Some(NodeRegistryPolicy::NeverContactSource),
        SourcePolicy::Unknown => None,
    }
}

/// The hosts that a node is pointed at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeHosts {
    /// In the order of the hosts, at most [`MAX_NODE_REGISTRIES`].
    pub(crate) entries: Vec<NodeRegistry>,
    /// The number of Registries that the node has no room for.
    pub(crate) left_out: usize,
}

/// Decides the hosts that a node is pointed at: the hosts of the routes that select the node, and
/// the own names of Registries as far as there is room. A host that a lock still allows stays as it
/// is until the lock has been narrowed.
pub(crate) fn for_node(
    node: &NodeView,
    table: &Table,
    routes: &[RouteView],
    registries: &[RegistryView],
    in_force: &AllowedHosts,
) -> NodeHosts {
    let mut entries: BTreeMap<String, NodeRegistry> = BTreeMap::new();
    for (host, routed) in table {
        if routes
            .iter()
            .any(|r| r.name == routed.route && r.is_for(node))
        {
            entries.insert(host.clone(), routed.entry.clone());
        }
    }
    let before = node.spec().map_or(&[][..], |spec| &spec.registries[..]);
    for entry in before {
        let weaker = entries
            .get(&entry.host)
            .is_none_or(|now| now.policy != NodeRegistryPolicy::NeverContactSource);
        let never = entry.policy == NodeRegistryPolicy::NeverContactSource;
        if never && weaker && in_force.may_allow(&entry.host) {
            entries.insert(entry.host.clone(), entry.clone());
        }
    }
    // Routed hosts are never left out in favour of Registries: pods rely on them although their
    // YAML does not show it, and a lock may allow them.
    let own = own_names(registries, &entries, before);
    let room = MAX_NODE_REGISTRIES.saturating_sub(entries.len());
    let left_out = own.len().saturating_sub(room);
    for entry in own.into_iter().take(room) {
        entries.insert(entry.host.clone(), entry);
    }
    let entries = entries.into_values().take(MAX_NODE_REGISTRIES);
    NodeHosts {
        entries: entries.collect(),
        left_out,
    }
}

/// The own names of Registries, the most important first: those that routed hosts lead to, those of
/// the administrator's namespace, those that the node has already.
fn own_names(
    registries: &[RegistryView],
    routed: &BTreeMap<String, NodeRegistry>,
    before: &[NodeRegistry],
) -> Vec<NodeRegistry> {
    let needed: BTreeSet<&str> = routed.values().map(|e| e.registry.as_str()).collect();
    let placed: BTreeSet<&str> = before.iter().map(|e| e.host.as_str()).collect();
    let own = registries.iter().filter(|r| !routed.contains_key(&r.host));
    let mut own: Vec<(&RegistryView, NodeRegistry)> = own
        .filter_map(|registry| {
            let entry = NodeRegistry {
                host: registry.host.clone(),
                registry: registry.host.clone(),
                endpoint: registry.endpoint.clone()?,
                policy: NodeRegistryPolicy::Registry,
            };
            Some((registry, entry))
        })
        .collect();
    own.sort_by_key(|(registry, entry)| {
        (
            !needed.contains(entry.host.as_str()),
            registry.key.namespace != namespace::SYSTEM,
            !placed.contains(entry.host.as_str()),
            registry.key.clone(),
        )
    });
    own.into_iter().map(|(_, entry)| entry).collect()
}

impl RouteView {
    fn is_for(&self, node: &NodeView) -> bool {
        let selector = self.selector.as_ref();
        node.linux && selector.is_ok_and(|selector| selector.matches(&node.labels))
    }
}

/// Decides the status of a route.
pub(crate) fn status(
    route: &RouteView,
    table: &Table,
    registries: &[RegistryView],
    nodes: &[NodeView],
    now: Timestamp,
) -> RegistryRouteStatus {
    let hosts: Vec<&Routed> = route
        .hosts
        .iter()
        .filter_map(|host| table.get(host))
        .filter(|routed| routed.route == route.name)
        .collect();
    let problem = problem(route, table, registries);
    let selected: Vec<&NodeView> = nodes.iter().filter(|node| route.is_for(node)).collect();
    let complete = |node: &&&NodeView| hosts.iter().all(|routed| has(node, &routed.entry));
    let done = selected.iter().filter(complete).count();
    let all_done = !selected.is_empty() && done == selected.len();
    let lacking = selected.iter().filter_map(|node| lacks(node, &hosts));
    let lacking: Vec<String> = lacking.take(MAX_LACKING).collect();
    let mut conditions = before(route).map_or_else(Vec::new, |before| before.conditions.clone());
    let counted = format!("{done} of {} nodes", selected.len());
    let (truth, reason, message) = match &problem {
        Some((reason, why)) => (Truth::False, *reason, why.clone()),
        None if all_done => (Truth::True, "Routed", format!("{counted} are routed")),
        None => {
            let first = lacking.first().map_or("", String::as_str);
            let separator = if first.is_empty() { "" } else { "; " };
            let message = format!("{counted} are routed so far{separator}{first}");
            (Truth::False, "Waiting", message)
        }
    };
    let silence = silence(selected.iter().copied());
    let said = silence.as_ref().map(|silence| silence.message.as_str());
    let message = said.map_or(message.clone(), |said| format!("{message}; {said}"));
    let (degraded, why) = match (problem, silence) {
        (Some((reason, why)), _) => ((Truth::True, reason), why),
        (None, Some(silence)) if silence.is_fault => {
            ((Truth::True, "AgentSilent"), silence.message)
        }
        (None, _) => ((Truth::False, "AsExpected"), String::new()),
    };
    let progressing = truth == Truth::False && reason == "Waiting";
    for update in [
        (kind::READY, truth, reason, message.as_str()),
        (kind::PROGRESSING, progressing.into(), reason, ""),
        (kind::DEGRADED, degraded.0, degraded.1, why.as_str()),
    ] {
        let update = ConditionUpdate {
            kind: update.0,
            truth: update.1,
            reason: update.2,
            message: update.3,
        };
        conditions::set(&mut conditions, &update, Some(route.generation), now);
    }
    RegistryRouteStatus {
        observed_generation: Some(route.generation),
        nodes: Some(format!("{done}/{}", selected.len())),
        proved_hosts: proved(route, &hosts, nodes).into_iter().collect(),
        lacking,
        conditions,
    }
}

fn before(route: &RouteView) -> Option<&RegistryRouteStatus> {
    route.status.as_ref()
}

/// Hosts that a lock may allow: those of a route with `NeverContactSource` and without a node
/// selector, once every Ready Linux node has reported them. A proved host stays proved while the
/// route is in effect for it: a new node or an agent's restart does not remove it.
fn proved(route: &RouteView, hosts: &[&Routed], nodes: &[NodeView]) -> BTreeSet<String> {
    if route.policy != SourcePolicy::NeverContactSource || !route.everywhere {
        return BTreeSet::new();
    }
    let earlier =
        before(route).filter(|before| before.observed_generation == Some(route.generation));
    let earlier = earlier.map_or(&[][..], |before| &before.proved_hosts[..]);
    let ready: Vec<&NodeView> = nodes.iter().filter(|n| n.ready && n.linux).collect();
    let proved = hosts.iter().filter(|routed| {
        let everywhere = !ready.is_empty() && ready.iter().all(|node| has(node, &routed.entry));
        everywhere || earlier.contains(&routed.entry.host)
    });
    proved.map(|routed| routed.entry.host.clone()).collect()
}

/// Whether the node's agent reported this entry as it is now, after a probe.
fn has(node: &NodeView, entry: &NodeRegistry) -> bool {
    node.status().is_some_and(|status| {
        status.registries.iter().any(|reported| {
            reported.host == entry.host
                && reported.endpoint == entry.endpoint
                && reported.policy == entry.policy
                && reported.state == NodeRegistryState::Ready
        })
    })
}

fn lacks(node: &NodeView, hosts: &[&Routed]) -> Option<String> {
    let routed = hosts.iter().find(|routed| !has(node, &routed.entry))?;
    let host = &routed.entry.host;
    let reported = node.status().and_then(|status| {
        let found = status.registries.iter().find(|r| r.host == *host)?;
        found.message.clone().or_else(|| status.message.clone())
    });
    let why = reported.unwrap_or_else(|| match node.status() {
        None => "no agent has reported".to_owned(),
        Some(_) => "the agent of this node has not probed the host yet".to_owned(),
    });
    Some(cut(
        &format!("{}: {host}: {why}", node.name),
        MAX_LACKING_TEXT,
    ))
}

fn problem(
    route: &RouteView,
    table: &Table,
    registries: &[RegistryView],
) -> Option<(&'static str, String)> {
    if let Err(why) = &route.selector {
        return Some(("InvalidSpec", why.clone()));
    }
    if route.policy == SourcePolicy::Unknown {
        let why = "spec.sourcePolicy has a value that this version does not know".to_owned();
        return Some(("InvalidSpec", why));
    }
    let ObjectKey { namespace, name } = &route.registry;
    let Some(registry) = registries.iter().find(|r| r.key == route.registry) else {
        let why = format!(
            "Registry {namespace}/{name} does not exist: create it, or correct spec.registry"
        );
        return Some(("RegistryNotFound", why));
    };
    if registry.endpoint.is_none() {
        let why = registry.problem.as_deref().unwrap_or("see its conditions");
        let why = format!("Registry {namespace}/{name} has not been ready yet: {why}");
        return Some(("RegistryNotReady", why));
    }
    let taken = route.hosts.iter().find_map(|host| {
        let owner = table
            .get(host)
            .filter(|routed| routed.route != route.name)?;
        Some((host, &owner.route))
    });
    let (host, owner) = taken?;
    let why =
        format!("{host} belongs to the older RegistryRoute {owner}: remove it from one of them");
    Some(("HostTaken", why))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{node, reporting};
    use super::*;
    use coral_api::node_images::NodeRegistryStatus;

    const ENDPOINT: &str = "https://10.0.0.1:5000";

    fn registry() -> RegistryView {
        RegistryView {
            key: ObjectKey::new("coral-system", "reg"),
            host: "reg.coral-system.svc:5000".into(),
            endpoint: Some(ENDPOINT.into()),
            problem: None,
        }
    }

    fn route(name: &str, hosts: &[&str]) -> RouteView {
        RouteView {
            name: name.into(),
            created: 1,
            generation: 1,
            hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
            registry: ObjectKey::new("coral-system", "reg"),
            policy: SourcePolicy::NeverContactSource,
            selector: Ok(NodeSelector::default()),
            everywhere: true,
            status: None,
        }
    }

    fn report(host: &str, state: NodeRegistryState) -> NodeRegistryStatus {
        NodeRegistryStatus {
            host: host.into(),
            endpoint: ENDPOINT.into(),
            policy: NodeRegistryPolicy::NeverContactSource,
            state,
            message: None,
        }
    }

    fn routed(name: &str) -> NodeView {
        reporting(
            name,
            vec![],
            vec![report("quay.io", NodeRegistryState::Ready)],
        )
    }

    fn decided(route: &RouteView, nodes: &[NodeView]) -> RegistryRouteStatus {
        let registries = [registry()];
        let table = table(std::slice::from_ref(route), &registries);
        status(route, &table, &registries, nodes, Timestamp::UNIX_EPOCH)
    }

    fn hosts_of(entries: &[NodeRegistry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.host.as_str()).collect()
    }

    #[test]
    fn a_node_gets_the_own_names_of_registries_and_the_routed_hosts() {
        let (registries, routes) = ([registry()], [route("out", &["quay.io"])]);
        let table = table(&routes, &registries);
        let none = AllowedHosts(Some(BTreeSet::new()));
        let entries = for_node(&node("n1", &[]), &table, &routes, &registries, &none).entries;
        assert_eq!(hosts_of(&entries), ["quay.io", "reg.coral-system.svc:5000"]);
        assert_eq!(entries[0].registry, "reg.coral-system.svc:5000");
    }

    #[test]
    fn a_tenants_registries_never_push_out_routed_hosts_or_the_administrators() {
        let tenants = (0..MAX_NODE_REGISTRIES).map(|n| RegistryView {
            key: ObjectKey::new("a-tenant", format!("r{n:04}")),
            host: format!("r{n:04}.a-tenant.svc:5000"),
            ..registry()
        });
        let registries: Vec<RegistryView> = tenants.chain([registry()]).collect();
        let routes = [route("out", &["quay.io"])];
        let table = table(&routes, &registries);
        let none = AllowedHosts(Some(BTreeSet::new()));
        let hosts = for_node(&node("n1", &[]), &table, &routes, &registries, &none);
        assert_eq!(hosts.entries.len(), MAX_NODE_REGISTRIES);
        assert_eq!(hosts.left_out, 2);
        let named = hosts_of(&hosts.entries);
        assert!(named.contains(&"quay.io"));
        assert!(named.contains(&"reg.coral-system.svc:5000"));
    }

    #[test]
    fn an_entry_of_lacking_fits_its_field() {
        let mut reported = report("quay.io", NodeRegistryState::Error);
        reported.message = Some("x".repeat(1024));
        let node = reporting(&"n".repeat(253), vec![], vec![reported]);
        let status = decided(&route("out", &["quay.io"]), &[node]);
        assert!(
            status.lacking[0].len() <= 1024,
            "{}",
            status.lacking[0].len()
        );
    }

    #[test]
    fn the_older_of_two_routes_of_one_host_goes_on_and_the_younger_says_so() {
        let mut young = route("a", &["quay.io"]);
        young.created = 2;
        let routes = [young, route("b", &["quay.io"])];
        let registries = [registry()];
        let table = table(&routes, &registries);
        assert_eq!(table["quay.io"].route, "b");
        let status = status(&routes[0], &table, &registries, &[], Timestamp::UNIX_EPOCH);
        let ready = &status.conditions[0];
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", "HostTaken")
        );
        assert!(ready.message.contains("RegistryRoute b"));
    }

    #[test]
    fn a_file_stays_until_the_lock_was_narrowed() {
        let registries = [registry()];
        let with_file = routed("n1");
        let allowing = AllowedHosts(Some(BTreeSet::from(["quay.io".to_owned()])));
        for (in_force, expected) in [
            (allowing, true),
            (AllowedHosts(None), true),
            (AllowedHosts(Some(BTreeSet::new())), false),
        ] {
            let hosts = for_node(&with_file, &Table::new(), &[], &registries, &in_force);
            let entries = hosts.entries;
            assert_eq!(hosts_of(&entries).contains(&"quay.io"), expected);
        }
    }

    #[test]
    fn a_host_is_proved_once_every_ready_node_reported_it_and_stays_so() {
        let route = route("out", &["quay.io"]);
        let both = [routed("n1"), routed("n2")];
        assert_eq!(decided(&route, &both).proved_hosts, ["quay.io"]);
        let one = [routed("n1"), node("n2", &[])];
        let status = decided(&route, &one);
        assert_eq!(status.proved_hosts, Vec::<String>::new());
        assert_eq!(status.lacking, ["n2: quay.io: no agent has reported"]);
        let mut later = route;
        later.status = Some(decided(&later, &both));
        let status = decided(&later, &one);
        assert_eq!(
            status.proved_hosts,
            ["quay.io"],
            "a new node does not reset it"
        );
        assert_eq!(status.nodes.as_deref(), Some("1/2"));
        later.generation = 2;
        assert_eq!(decided(&later, &one).proved_hosts, Vec::<String>::new());
    }

    #[test]
    fn hosts_that_may_be_asked_or_that_some_nodes_lack_by_choice_are_never_proved() {
        let nodes = [routed("n1")];
        let mut allowing = route("out", &["quay.io"]);
        allowing.policy = SourcePolicy::AllowContactingSource;
        assert_eq!(
            decided(&allowing, &nodes).proved_hosts,
            Vec::<String>::new()
        );
        let mut narrow = route("out", &["quay.io"]);
        narrow.everywhere = false;
        assert_eq!(decided(&narrow, &nodes).proved_hosts, Vec::<String>::new());
    }

    #[test]
    fn a_route_to_a_registry_without_an_address_says_that_it_is_not_ready() {
        let route = route("out", &["quay.io"]);
        let registries = [RegistryView {
            endpoint: None,
            problem: Some("Unschedulable: pod reg-0 finds no node".into()),
            ..registry()
        }];
        let table = table(std::slice::from_ref(&route), &registries);
        let status = status(&route, &table, &registries, &[], Timestamp::UNIX_EPOCH);
        let ready = &status.conditions[0];
        assert_eq!(ready.reason, "RegistryNotReady");
        let why = "has not been ready yet: Unschedulable: pod reg-0 finds no node";
        assert!(ready.message.ends_with(why), "{}", ready.message);
    }

    #[test]
    fn a_route_says_which_nodes_agent_has_stopped_reporting() {
        let mut nodes = [routed("n1"), routed("n2")];
        nodes[1].silent = Some("pod x is not ready".to_owned());
        let status = decided(&route("out", &["quay.io"]), &nodes);
        let ready = &status.conditions[0];
        assert_eq!(ready.status, "True", "its files are on the node");
        let expected =
            "2 of 2 nodes are routed; no agent reports from node n2 (pod x is not ready)";
        assert!(ready.message.starts_with(expected), "{}", ready.message);
        assert_eq!(status.conditions[2].reason, "AgentSilent");
        assert_eq!(status.proved_hosts, ["quay.io"]);
    }

    #[test]
    fn a_route_that_waits_for_nodes_says_what_the_first_of_them_reports() {
        let mut failed = report("quay.io", NodeRegistryState::Error);
        failed.message = Some("the probe failed: connection refused".into());
        let nodes = [routed("n1"), reporting("n2", vec![], vec![failed])];
        let status = decided(&route("out", &["quay.io"]), &nodes);
        let ready = &status.conditions[0];
        assert_eq!(
            ready.message,
            "1 of 2 nodes are routed so far; n2: quay.io: the probe failed: connection refused"
        );
    }

    #[test]
    fn a_route_to_a_registry_that_is_not_there_says_which() {
        let mut lost = route("out", &["quay.io"]);
        lost.registry.name = "other".into();
        let status = decided(&lost, &[routed("n1")]);
        assert_eq!(status.conditions[0].reason, "RegistryNotFound");
        assert!(status.conditions[0].message.contains("other"));
    }
}
