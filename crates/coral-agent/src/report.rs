//! The status of the node's NodeImages. Pure, bounded in size.

use std::collections::BTreeSet;

use coral_api::conditions::kind::{DEGRADED, READY};
use coral_api::conditions::{ConditionUpdate, Truth, set};
use coral_api::image::ImageTagState;
use coral_api::names::is_of_system;
use coral_api::node_images::{
    NodeImageStatus, NodeImagesStatus, NodeRegistryPolicy, NodeRegistryState, NodeRegistryStatus,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::probe::{Host, HostState, Proofs};

/// Longest message of one host or image, in characters.
const MAX_MESSAGE: usize = 640;
/// Most images whose status has a message: thousands of long ones would not fit an object.
const MAX_MESSAGES: usize = 200;

/// The input of the report, apart from images and registries.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeInput {
    pub(crate) generation: Option<i64>,
    /// Name and version of the container runtime.
    pub(crate) runtime: Option<String>,
    /// What is wrong with the node as a whole.
    pub(crate) trouble: Vec<String>,
    /// Other problems on the node, with their reasons: less severe than a missing image.
    pub(crate) lesser: Vec<(&'static str, String)>,
    /// The conditions that were reported last.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) now: Timestamp,
}

/// The states of the registries; `leaving` are hosts whose files are still there.
pub(crate) fn registries(
    hosts: &[Host<'_>],
    proofs: &Proofs,
    hides_default: bool,
    leaving: &[NodeRegistryStatus],
) -> Vec<NodeRegistryStatus> {
    let wanted = hosts.iter().map(|host| {
        let (state, message) = match proofs.host_state(host, hosts) {
            // It is intended, but worth reporting.
            HostState::Ready
                if hides_default && host.entry.policy == NodeRegistryPolicy::NeverContactSource =>
            {
                let message = "the route hides the node's rules for every host (_default)";
                (NodeRegistryState::Ready, Some(message.to_owned()))
            }
            HostState::Ready => (NodeRegistryState::Ready, None),
            HostState::Pending(why) => (NodeRegistryState::Pending, Some(why)),
            HostState::Failed(why) => (NodeRegistryState::Error, Some(why)),
        };
        NodeRegistryStatus {
            host: host.entry.host.clone(),
            endpoint: host.entry.endpoint.clone(),
            policy: host.entry.policy,
            state,
            message: message.map(|message| cut(&message, MAX_MESSAGE)),
        }
    });
    let mut statuses: Vec<_> = wanted.chain(leaving.iter().cloned()).collect();
    // Stable: a copy of a file in another folder comes after the host itself, and the API server
    // takes one entry for each host.
    statuses.sort_by(|one, other| one.host.cmp(&other.host));
    statuses.dedup_by(|later, first| later.host == first.host);
    statuses
}

/// The whole status.
pub(crate) fn status(
    node: &NodeInput,
    mut images: Vec<NodeImageStatus>,
    pins: Vec<String>,
    registries: Vec<NodeRegistryStatus>,
) -> NodeImagesStatus {
    let mut messages = 0;
    for image in &mut images {
        let message = image.message.take().filter(|_| messages < MAX_MESSAGES);
        messages += usize::from(message.is_some());
        image.message = message.map(|message| cut(&message, MAX_MESSAGE));
    }
    let count = |state| {
        let images = images.iter().filter(|image| !image.removing);
        u32::try_from(images.filter(|image| image.state == state).count()).ok()
    };
    let ready = registries
        .iter()
        .filter(|registry| registry.state == NodeRegistryState::Ready)
        .count();
    let lesser = node.lesser.iter().map(|(_, message)| message);
    let trouble: Vec<&str> = node
        .trouble
        .iter()
        .chain(lesser)
        .map(String::as_str)
        .collect();
    let trouble = (!trouble.is_empty()).then(|| cut(&trouble.join("; "), 1000));
    let mut status = NodeImagesStatus {
        observed_generation: node.generation,
        available: count(ImageTagState::Available),
        pending: count(ImageTagState::Pending),
        error: count(ImageTagState::Error),
        registries_ready: Some(format!("{ready}/{}", registries.len())),
        message: trouble,
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        runtime: node.runtime.as_ref().map(|runtime| cut(runtime, 120)),
        images,
        pins,
        registries,
        conditions: node.conditions.clone(),
    };
    let (ready, degraded) = evaluate_conditions(node, &status);
    for (kind, said) in [(READY, ready), (DEGRADED, degraded)] {
        let saying = ConditionUpdate {
            kind,
            truth: said.truth,
            reason: said.reason,
            message: &said.message,
        };
        set(&mut status.conditions, &saying, node.generation, node.now);
    }
    status
}

/// The values of a condition.
struct ConditionValue {
    truth: Truth,
    reason: &'static str,
    message: String,
}

fn said(truth: Truth, reason: &'static str, message: impl Into<String>) -> ConditionValue {
    let message = message.into();
    ConditionValue {
        truth,
        reason,
        message,
    }
}

/// The two conditions: whether the node matches its spec, and whether something is wrong. The first
/// problem is reported, in this order: of the node, of a host that the administrator relies on, of
/// an image, of a name. Problems with a tenant's Registry, or with images from a Registry that
/// cannot be reached, do not count: that Registry is named at the end of the message of `Ready`.
fn evaluate_conditions(
    node: &NodeInput,
    status: &NodeImagesStatus,
) -> (ConditionValue, ConditionValue) {
    let (needed, others) = by_owner(&status.registries);
    let not_ready = others
        .iter()
        .filter(|r| r.state != NodeRegistryState::Ready);
    let away: Vec<&str> = not_ready.map(|registry| &*registry.host).collect();
    let wrong = wrong(node, status, &needed, &away);
    let silent = others
        .iter()
        .filter(|r| r.state == NodeRegistryState::Error);
    let silent: Vec<&str> = silent.map(|registry| &*registry.host).collect();
    let told = match silent[..] {
        [] => String::new(),
        [first, ..] => format!(
            "; not reached from this node: {first} ({} in all)",
            silent.len()
        ),
    };
    if let Some((reason, message)) = wrong {
        let ready = said(Truth::False, reason, format!("{message}{told}"));
        return (ready, said(Truth::True, reason, message));
    }
    let is_pending = |image: &&NodeImageStatus| {
        image.state == ImageTagState::Pending && !image.removing && !is_from(image, &away)
    };
    let pending = status.images.iter().filter(is_pending).count();
    let pending = u32::try_from(pending).unwrap_or(u32::MAX);
    let available = status.available.unwrap_or_default();
    let is_pending = |r: &&&NodeRegistryStatus| r.state == NodeRegistryState::Pending;
    let ready = if let Some(registry) = needed.iter().find(is_pending) {
        let message = format!(
            "waiting for the first successful probe of {}{told}",
            registry.host
        );
        said(Truth::False, "ProvingRegistries", message)
    } else if pending > 0 {
        let message = format!("{available}/{} images available{told}", available + pending);
        said(Truth::False, "Pulling", message)
    } else {
        let message = format!("{available}/{available} images available{told}");
        said(Truth::True, "AsSpecified", message)
    };
    (ready, said(Truth::False, "Healthy", ""))
}

/// Reason and message of the first problem.
fn wrong(
    node: &NodeInput,
    status: &NodeImagesStatus,
    needed: &[&NodeRegistryStatus],
    away: &[&str],
) -> Option<(&'static str, String)> {
    if !node.trouble.is_empty() {
        return Some(("NodeNotUsable", cut(&node.trouble.join("; "), 1000)));
    }
    let mut needed = needed.iter();
    if let Some(registry) = needed.find(|r| r.state == NodeRegistryState::Error) {
        let message = registry.message.as_deref().unwrap_or_default();
        return Some((
            "RegistryNotReached",
            format!("{}: {message}", registry.host),
        ));
    }
    let images = status.images.iter();
    let mut images = images.filter(|image| !image.removing && !is_from(image, away));
    if let Some(image) = images.find(|image| image.state == ImageTagState::Error) {
        let message = image.message.as_deref().unwrap_or_default();
        return Some(("PullFailed", format!("{}: {message}", image.reference)));
    }
    node.lesser.first().cloned()
}

/// Whether an image is pulled from one of these hosts.
fn is_from(image: &NodeImageStatus, hosts: &[&str]) -> bool {
    let host = image.reference.split_once('/').map(|(host, _)| host);
    host.is_some_and(|host| hosts.contains(&host))
}

/// The registries that the administrator relies on (routed hosts, those that they lead to, those of
/// Coral's own namespace), and the others.
fn by_owner(all: &[NodeRegistryStatus]) -> (Vec<&NodeRegistryStatus>, Vec<&NodeRegistryStatus>) {
    let is_routed = |r: &&NodeRegistryStatus| r.policy != NodeRegistryPolicy::Registry;
    let routed: BTreeSet<&str> = all.iter().filter(is_routed).map(|r| &*r.endpoint).collect();
    all.iter().partition(|registry| {
        let leads_there = routed.contains(registry.endpoint.as_str());
        is_routed(registry) || leads_there || is_of_system(&registry.host)
    })
}

fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(longest - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use coral_api::node_images::NodeImage;

    use super::*;

    fn image(number: usize, state: ImageTagState) -> NodeImageStatus {
        let image = NodeImage {
            reference: format!("reg/a:{number}"),
            ..NodeImage::default()
        };
        NodeImageStatus {
            reference: image.reference,
            digest: String::new(),
            observed_generation: None,
            state,
            placed: false,
            removing: false,
            size: None,
            reason: None,
            message: Some("x".repeat(5000)),
            attempts: None,
            next_attempt: None,
        }
    }

    #[test]
    fn a_host_is_reported_once_though_a_copy_of_its_file_lies_in_another_folder() {
        let entry = coral_api::node_images::NodeRegistry {
            host: "docker.io".to_owned(),
            registry: "reg.ns.svc:5000".to_owned(),
            endpoint: "https://10.0.0.1:5000".to_owned(),
            policy: NodeRegistryPolicy::NeverContactSource,
        };
        let host = Host {
            entry: &entry,
            trouble: None,
        };
        let copy = NodeRegistryStatus {
            host: "docker.io".to_owned(),
            endpoint: String::new(),
            policy: NodeRegistryPolicy::NeverContactSource,
            state: NodeRegistryState::Removing,
            message: None,
        };
        let statuses = registries(&[host], &Proofs::default(), false, &[copy]);
        let states: Vec<_> = statuses.iter().map(|status| status.state).collect();
        assert_eq!(states, [NodeRegistryState::Pending]);
    }

    #[test]
    fn a_status_of_many_long_failures_fits_an_object() {
        let images = (0..2000).map(|number| image(number, ImageTagState::Error));
        let status = status(
            &NodeInput::default(),
            images.collect(),
            Vec::new(),
            Vec::new(),
        );
        assert_eq!(status.error, Some(2000));
        let size = serde_json::to_vec(&status).unwrap().len();
        assert!(size < 1_000_000, "{size}");
    }

    fn registry(state: NodeRegistryState) -> NodeRegistryStatus {
        NodeRegistryStatus {
            host: "reg.coral-system.svc:5000".to_owned(),
            endpoint: String::new(),
            policy: NodeRegistryPolicy::Registry,
            state,
            message: Some("no answer".to_owned()),
        }
    }

    #[test]
    fn the_conditions_say_whether_the_node_is_as_its_spec_says() {
        use ImageTagState::{Available, Error, Pending};
        let ready = NodeRegistryState::Ready;
        for (trouble, states, proved, expected) in [
            (
                None,
                &[Available][..],
                ready,
                ("True", "AsSpecified", "False"),
            ),
            (
                None,
                &[Available, Pending],
                ready,
                ("False", "Pulling", "False"),
            ),
            (
                None,
                &[Available, Error],
                ready,
                ("False", "PullFailed", "True"),
            ),
            (
                None,
                &[Error],
                NodeRegistryState::Error,
                ("False", "RegistryNotReached", "True"),
            ),
            (
                None,
                &[Pending],
                NodeRegistryState::Pending,
                ("False", "ProvingRegistries", "False"),
            ),
            (
                Some("no runtime"),
                &[],
                ready,
                ("False", "NodeNotUsable", "True"),
            ),
        ] {
            let node = NodeInput {
                generation: Some(4),
                trouble: trouble.map(str::to_owned).into_iter().collect(),
                ..NodeInput::default()
            };
            let images = states.iter().enumerate();
            let images = images
                .map(|(number, state)| image(number, *state))
                .collect();
            let status = status(&node, images, Vec::new(), vec![registry(proved)]);
            let [ready, degraded] = &status.conditions[..] else {
                panic!("{:?}", status.conditions);
            };
            let seen = (&*ready.status, &*ready.reason, &*degraded.status);
            assert_eq!(seen, expected, "{}", ready.message);
            assert_eq!(ready.observed_generation, Some(4));
        }
    }

    #[test]
    fn a_registry_of_a_tenant_makes_no_node_unready_and_hides_no_image() {
        let tenants = |state| NodeRegistryStatus {
            host: "reg.team.svc:5000".to_owned(),
            endpoint: "https://10.0.0.2:5000".to_owned(),
            ..registry(state)
        };
        let told = |node: &NodeInput, images, registries| {
            let status = status(node, images, Vec::new(), registries);
            let ready = &status.conditions[0];
            format!("{} {}: {}", ready.status, ready.reason, ready.message)
        };
        let (node, error) = (NodeInput::default(), NodeRegistryState::Error);
        let first = told(&node, Vec::new(), vec![tenants(error)]);
        let expected = "True AsSpecified: 0/0 images available; not reached from this node: \
                        reg.team.svc:5000 (1 in all)";
        assert_eq!(first, expected);
        let proving = told(&node, Vec::new(), vec![tenants(NodeRegistryState::Pending)]);
        assert!(proving.starts_with("True"), "{proving}");
        let failed = vec![image(1, ImageTagState::Error)];
        let failed = told(&node, failed, vec![tenants(error)]);
        assert!(
            failed.starts_with("False PullFailed: reg/a:1: x"),
            "{failed}"
        );
        // An image from that Registry waits, or fails, together with it.
        for state in [ImageTagState::Pending, ImageTagState::Error] {
            let there = NodeImageStatus {
                reference: "reg.team.svc:5000/a:1".to_owned(),
                ..image(1, state)
            };
            let told_there = told(&node, vec![there.clone()], vec![tenants(error)]);
            assert_eq!(told_there, expected);
            let back = told(&node, vec![there], vec![tenants(NodeRegistryState::Ready)]);
            assert!(back.starts_with("False"), "{back}");
        }
        // A route of the administrator may lead to that Registry.
        let mut routed = tenants(NodeRegistryState::Ready);
        (routed.host, routed.policy) = (
            "docker.io".to_owned(),
            NodeRegistryPolicy::NeverContactSource,
        );
        let needed = told(&node, Vec::new(), vec![routed, tenants(error)]);
        assert!(needed.starts_with("False RegistryNotReached"), "{needed}");
    }

    #[test]
    fn a_name_that_cannot_be_changed_is_told_after_an_image_that_is_missing() {
        let node = NodeInput {
            lesser: vec![("NameNotChanged", "the image name a: no".to_owned())],
            ..NodeInput::default()
        };
        let reason = |images| {
            let status = status(&node, images, Vec::new(), Vec::new());
            assert_eq!(status.message.as_deref(), Some("the image name a: no"));
            status.conditions[1].reason.clone()
        };
        assert_eq!(reason(Vec::new()), "NameNotChanged");
        assert_eq!(reason(vec![image(1, ImageTagState::Error)]), "PullFailed");
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let first = status(&NodeInput::default(), Vec::new(), Vec::new(), Vec::new());
        let later = NodeInput {
            conditions: first.conditions.clone(),
            now: Timestamp::from_second(60).unwrap(),
            ..NodeInput::default()
        };
        assert_eq!(status(&later, Vec::new(), Vec::new(), Vec::new()), first);
    }

    #[test]
    fn images_are_counted_by_state_and_what_leaves_is_not_counted() {
        let mut leaving = image(3, ImageTagState::Available);
        leaving.removing = true;
        let images = vec![
            image(1, ImageTagState::Available),
            image(2, ImageTagState::Pending),
            leaving,
        ];
        let node = NodeInput {
            trouble: vec!["one".to_owned(), "two".to_owned()],
            ..NodeInput::default()
        };
        let status = status(&node, images, Vec::new(), Vec::new());
        let counts = (status.available, status.pending, status.error);
        assert_eq!(counts, (Some(1), Some(1), Some(0)));
        assert_eq!(status.message.as_deref(), Some("one; two"));
        assert_eq!(status.registries_ready.as_deref(), Some("0/0"));
    }
}
