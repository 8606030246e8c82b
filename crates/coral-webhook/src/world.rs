//! What the webhook knows about the cluster, indexed for quick answers. It is rebuilt when an
//! object changes, and every request reads one consistent version.

mod build;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use coral_api::LabelSelector;
use coral_api::names::{label, namespace};
use coral_image::{ImageRef, Version};
use kube::core::{Selector, SelectorExt as _};

pub(crate) use self::build::{Objects, destination_in};
use crate::injection::Rewriting;
use crate::pod::Placement;

/// The known state of the cluster.
#[derive(Debug, Default)]
pub struct World {
    /// By name.
    policies: Vec<Policy>,
    /// By namespace and name.
    mirrors: BTreeMap<MirrorKey, Mirror>,
    /// Copies by the canonical reference of their source.
    index: HashMap<String, Vec<MirroredCopy>>,
    /// By the host in references.
    registries: HashMap<String, RegistryState>,
    /// Labels of images that are available on a node.
    available: HashSet<String>,
}

/// Metadata of a namespace.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Namespace {
    /// Whether pods of this namespace are never changed: the cluster's own and Coral's.
    pub(crate) fn is_excluded(&self) -> bool {
        ["kube-system", namespace::SYSTEM, namespace::NODES].contains(&self.name.as_str())
    }
}

/// Namespace and name of a RegistryMirror.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct MirrorKey {
    namespace: String,
    name: String,
}

/// An InjectionPolicy.
#[derive(Debug, Clone)]
struct Policy {
    name: String,
    namespaces: Selector,
    pods: Selector,
    /// Features that annotations cannot ask for.
    off: BTreeSet<Feature>,
    mirrors: Vec<MirrorKey>,
}

/// A feature that annotations can ask for, with the name that an InjectionPolicy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Feature {
    PullPolicy,
    Selectors,
    Registry,
}

impl Feature {
    /// The word that the annotation uses.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::PullPolicy => "pull-policy",
            Self::Selectors => "selectors",
            Self::Registry => "registry",
        }
    }
}

/// A RegistryMirror.
#[derive(Debug, Clone, Default)]
struct Mirror {
    /// Namespaces, beside its own, whose pods may be pointed at its images. Read only for mirrors
    /// of coral-system.
    allow_from: Option<LabelSelector>,
    /// Source repositories that the Registry serves to anonymous clients now.
    public: HashSet<String>,
}

/// An image that a mirror holds, complete and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MirroredCopy {
    mirror: MirrorKey,
    /// Host of the Registry, as it stands in references.
    registry: String,
    /// The repository in the Registry, with the host.
    repository: String,
    /// The digest in the Registry.
    digest: String,
}

/// A Registry and the nodes that can pull from it.
#[derive(Debug, Clone, Default)]
struct RegistryState {
    is_ready: bool,
    /// Nodes with the Registry's label.
    nodes: HashSet<String>,
    /// Whether a Ready node has the label.
    has_ready_node: bool,
    /// Whether every Ready node has the label.
    is_everywhere: bool,
}

/// The policies that apply to one pod.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    policies: Vec<&'a Policy>,
}

impl Rules<'_> {
    /// The policy that forbids annotations to ask for this feature; if there are several, the first
    /// by name.
    pub(crate) fn forbids(&self, feature: Feature) -> Option<&str> {
        let mut policies = self.policies.iter();
        let policy = policies.find(|policy| policy.off.contains(&feature))?;
        Some(&policy.name)
    }

    /// The mirrors that a policy names for the pod. If several policies name mirrors, the first by
    /// name decides.
    fn mirrors(&self) -> Option<&[MirrorKey]> {
        let mut policies = self.policies.iter();
        let policy = policies.find(|policy| !policy.mirrors.is_empty())?;
        Some(&policy.mirrors)
    }
}

/// Where an image is rewritten to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The reference in the Registry.
    pub(crate) reference: String,
    /// The node label that the pod must require, because a Ready node lacks it.
    pub(crate) required_label: Option<String>,
}

/// Why an image is not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The reference cannot be parsed, or names a Registry already.
    NotFromOutside,
    /// No mirror holds the image.
    NotMirrored,
    /// Mirrors hold the image, but not for pods of this namespace.
    NotAllowed,
    /// Anonymous clients cannot read the repository in the Registry.
    NotPublic,
    /// The Registry is not ready, or the mirror's destination is not a Registry object.
    RegistryNotReady,
    /// No Ready node is known to reach the Registry.
    NoNode,
    /// The node that the pod is bound to is not known to reach the Registry.
    NotOnThisNode,
}

impl Refusal {
    /// One word, for metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NotFromOutside => "not_from_outside",
            Self::NotMirrored => "not_mirrored",
            Self::NotAllowed => "not_allowed",
            Self::NotPublic => "not_public",
            Self::RegistryNotReady => "registry_not_ready",
            Self::NoNode => "no_node",
            Self::NotOnThisNode => "not_on_this_node",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFromOutside => {
                "the image already names a Registry of this cluster, or cannot be parsed"
            }
            Self::NotMirrored => "not mirrored",
            Self::NotAllowed => "mirrored, but not for this namespace",
            Self::NotPublic => "mirrored, but not readable anonymously",
            Self::RegistryNotReady => "its Registry is not ready",
            Self::NoNode => "no node is known to reach its Registry",
            Self::NotOnThisNode => "the pod's node is not known to reach its Registry",
        })
    }
}

impl World {
    /// The policies that apply to a pod.
    pub(crate) fn rules(
        &self,
        namespace: &Namespace,
        labels: &BTreeMap<String, String>,
    ) -> Rules<'_> {
        let applies = |policy: &&Policy| {
            policy.namespaces.matches(&namespace.labels) && policy.pods.matches(labels)
        };
        Rules {
            policies: self.policies.iter().filter(applies).collect(),
        }
    }

    /// Whether a node is known to have the image of this label.
    pub(crate) fn has_available(&self, label: &str) -> bool {
        self.available.contains(label)
    }

    /// Whether this host is that of a Registry.
    pub(crate) fn is_inside(&self, host: &str) -> bool {
        self.registries.contains_key(host)
    }

    /// The reference that the image is rewritten to for a pod of this namespace, or why it is not
    /// rewritten.
    pub(crate) fn target(
        &self,
        image: &ImageRef,
        how: Rewriting,
        namespace: &Namespace,
        rules: &Rules<'_>,
        placement: Placement<'_>,
    ) -> Result<Target, Refusal> {
        if self.is_inside(image.repository().host().as_str()) {
            return Err(Refusal::NotFromOutside);
        }
        let copies = self.index.get(&canonical(image));
        let copies = copies.ok_or(Refusal::NotMirrored)?;
        let repository = image.repository().to_string();
        let mut refusal = Refusal::NotAllowed;
        for copy in self.in_order(copies, namespace, rules) {
            match self.node_requirement(copy, &repository, placement) {
                Ok(required_label) => {
                    let reference = copy.reference(image, how);
                    return Ok(Target {
                        reference,
                        required_label,
                    });
                }
                Err(why) => refusal = refusal.max(why),
            }
        }
        Err(refusal)
    }

    /// The copies that the pod may be pointed at, the preferred one first.
    fn in_order<'a>(
        &self,
        copies: &'a [MirroredCopy],
        namespace: &Namespace,
        rules: &Rules<'_>,
    ) -> Vec<&'a MirroredCopy> {
        let rank = |copy: &MirroredCopy| match rules.mirrors() {
            Some(named) => named.iter().position(|mirror| *mirror == copy.mirror),
            None if copy.mirror.namespace == namespace.name => Some(0),
            // `allowFrom` is only the consent of the mirror's owner. For the pod's owner an
            // administrator consents: mirrors of coral-system are the administrator's, and any
            // other must be named by a policy.
            None if copy.mirror.namespace != namespace::SYSTEM => None,
            None => {
                let mirror = self.mirrors.get(&copy.mirror)?;
                let allowed = mirror.allow_from.as_ref()?.matches(&namespace.labels);
                allowed.then_some(1)
            }
        };
        let ranked = copies.iter().filter_map(|copy| Some((rank(copy)?, copy)));
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by(|(a, x), (b, y)| (a, &x.mirror).cmp(&(b, &y.mirror)));
        ranked.into_iter().map(|(_, copy)| copy).collect()
    }

    /// Whether a pod can pull this copy. Returns the node label that the pod must require, if any.
    fn node_requirement(
        &self,
        copy: &MirroredCopy,
        source: &str,
        placement: Placement<'_>,
    ) -> Result<Option<String>, Refusal> {
        let mirror = self.mirrors.get(&copy.mirror);
        if !mirror.is_some_and(|mirror| mirror.public.contains(source)) {
            return Err(Refusal::NotPublic);
        }
        let registry = self.registries.get(&copy.registry);
        let registry = registry.filter(|registry| registry.is_ready);
        let registry = registry.ok_or(Refusal::RegistryNotReady)?;
        if !registry.has_ready_node {
            return Err(Refusal::NoNode);
        }
        match placement {
            Placement::Free | Placement::BoundSomewhere if registry.is_everywhere => Ok(None),
            Placement::Free => Ok(Some(label::registry(&copy.registry))),
            Placement::Bound(node) if registry.nodes.contains(node) => Ok(None),
            Placement::Bound(_) | Placement::BoundSomewhere => Err(Refusal::NotOnThisNode),
        }
    }
}

impl MirroredCopy {
    /// The image's reference in the Registry. An image with a digest keeps the digest.
    fn reference(&self, image: &ImageRef, how: Rewriting) -> String {
        let repository = &self.repository;
        match (image.version(), how) {
            (Version::Digest(digest), _) => format!("{repository}@{digest}"),
            (Version::Tag(_), Rewriting::Digest) => format!("{repository}@{}", self.digest),
            (Version::Tag(tag), Rewriting::Tag) => format!("{repository}:{tag}"),
        }
    }
}

/// The canonical form of a reference, under which images are found and nodes are labelled:
/// `host/path:tag`, or `host/path@digest` if there is a digest.
pub(crate) fn canonical(image: &ImageRef) -> String {
    match image.version() {
        Version::Digest(digest) => format!("{}@{digest}", image.repository()),
        Version::Tag(tag) => format!("{}:{tag}", image.repository()),
    }
}

/// The current world, shared between the watches and the requests.
pub(crate) type SharedWorld = tokio::sync::watch::Receiver<Arc<World>>;
