//! Builds a [`World`] from API objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use coral_api::injection_policy::{FeatureMode, InjectionPolicy};
use coral_api::mirrored_images::{MirroredImage, MirroredImages};
use coral_api::names::{label, registry_host};
use coral_api::{Registry, RegistryMirror, Visibility, conditions};
use coral_image::{ImageRef, Repository, destination_path};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt as _;
use kube::core::Selector;

use super::{Feature, Mirror, MirrorKey, MirroredCopy, Policy, RegistryState, World, canonical};

/// The objects that a world is built from.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) policies: Vec<Arc<InjectionPolicy>>,
    pub(crate) mirrors: Vec<Arc<RegistryMirror>>,
    pub(crate) images: Vec<Arc<MirroredImages>>,
    pub(crate) registries: Vec<Arc<Registry>>,
    pub(crate) nodes: Vec<Arc<Node>>,
}

impl World {
    /// A world of these objects.
    pub(crate) fn build(objects: &Objects) -> Self {
        let mut policies: Vec<Policy> = objects.policies.iter().map(|p| policy(p)).collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        let mirrors = objects.mirrors.iter();
        let mut world = Self {
            policies,
            mirrors: mirrors.map(|m| (mirror_key(m), mirror(m))).collect(),
            registries: registries(&objects.registries, &objects.nodes),
            available: available(&objects.nodes),
            ..Self::default()
        };
        for shard in &objects.images {
            world.add_shard(shard);
        }
        world
    }

    fn add_shard(&mut self, shard: &MirroredImages) {
        let mirror = MirrorKey {
            namespace: shard.namespace().unwrap_or_default(),
            name: shard.spec.mirror.clone(),
        };
        // Shards of a deleted mirror may still exist.
        if !self.mirrors.contains_key(&mirror) {
            return;
        }
        let images = shard.status.iter().flat_map(|status| &status.images);
        for image in images {
            let Some((source, copy)) = copy(&mirror, &shard.spec.registry, image) else {
                continue;
            };
            // A manifest that is mirrored under a tag can also be pulled by its digest.
            let by_digest = format!("{}@{}", source.repository(), copy.digest);
            let by_name = canonical(&source);
            if by_digest != by_name {
                self.add_copy(by_digest, copy.clone());
            }
            self.add_copy(by_name, copy);
        }
    }

    fn add_copy(&mut self, source: String, copy: MirroredCopy) {
        let copies = self.index.entry(source).or_default();
        if !copies.contains(&copy) {
            copies.push(copy);
        }
    }
}

/// The source and its copy, if the copy is complete and has the right name. An image with a digest
/// is complete, whatever its state: a later check may fail because the source is unreachable, but
/// the copy still exists.
fn copy(
    mirror: &MirrorKey,
    registry: &str,
    image: &MirroredImage,
) -> Option<(ImageRef, MirroredCopy)> {
    let source = ImageRef::parse(&image.reference).ok()?;
    let destination = ImageRef::parse(&image.destination).ok()?;
    let repository = destination_in(registry, source.repository())?;
    // A rewritten image keeps its host in the path: under any other path it could be another image.
    if destination.repository().to_string() != repository {
        return None;
    }
    let copy = MirroredCopy {
        mirror: mirror.clone(),
        registry: registry.to_owned(),
        repository,
        digest: image.digest.clone()?,
    };
    Some((source, copy))
}

/// The repository of a source's images in a registry.
pub(crate) fn destination_in(registry: &str, source: &Repository) -> Option<String> {
    let path = destination_path(source).ok()?;
    Some(format!("{registry}/{path}"))
}

fn mirror_key(mirror: &RegistryMirror) -> MirrorKey {
    MirrorKey {
        namespace: mirror.namespace().unwrap_or_default(),
        name: mirror.name_any(),
    }
}

fn mirror(mirror: &RegistryMirror) -> Mirror {
    let status = mirror.status.as_ref();
    let repositories = status.and_then(|status| status.repositories.as_ref());
    let public = repositories
        .into_iter()
        .flatten()
        .filter(|repository| {
            repository.visibility == Some(Visibility::Public) && repository.loaded == Some(true)
        })
        .map(|repository| repository.name.clone());
    Mirror {
        allow_from: mirror.spec.allow_from.clone(),
        public: public.collect(),
    }
}

fn policy(policy: &InjectionPolicy) -> Policy {
    let spec = &policy.spec;
    let modes = [
        (Feature::PullPolicy, spec.pull_policy),
        (Feature::Selectors, spec.selectors),
        (Feature::Registry, spec.registry),
    ];
    let is_off = |mode: Option<FeatureMode>| !matches!(mode, None | Some(FeatureMode::Allow));
    let off: BTreeSet<Feature> = modes
        .into_iter()
        .filter(|(_, mode)| is_off(*mode))
        .map(|(feature, _)| feature)
        .collect();
    let mirrors = spec.mirrors.iter().map(|mirror| MirrorKey {
        namespace: mirror.namespace.clone(),
        name: mirror.name.clone(),
    });
    Policy {
        name: policy.name_any(),
        namespaces: selector(spec.namespace_selector.as_ref()),
        pods: selector(spec.pod_selector.as_ref()),
        off,
        mirrors: mirrors.collect(),
    }
}

/// A selector that cannot be read selects everything, so that an error in a policy never lifts what
/// the policy forbids.
fn selector(selector: Option<&LabelSelector>) -> Selector {
    let parsed = selector.map(|selector| Selector::try_from(selector.clone()));
    parsed.and_then(Result::ok).unwrap_or_default()
}

fn registries(registries: &[Arc<Registry>], nodes: &[Arc<Node>]) -> HashMap<String, RegistryState> {
    let state = |registry: &Arc<Registry>| {
        let namespace = registry.namespace().unwrap_or_default();
        let host = registry_host(&namespace, &registry.name_any());
        let conditions = registry.status.as_ref();
        let conditions = conditions.and_then(|status| status.conditions.as_ref());
        let is_ready = registry.metadata.deletion_timestamp.is_none()
            && conditions.is_some_and(|all| conditions::is_true(all, conditions::kind::READY));
        let key = label::registry(&host);
        let has_label =
            |node: &Node| node.labels().get(&key).map(String::as_str) == Some(label::READY);
        let labelled = nodes.iter().filter(|node| has_label(node));
        let ready = || nodes.iter().filter(|node| is_ready_node(node));
        let state = RegistryState {
            is_ready,
            nodes: labelled.map(|node| node.name_any()).collect(),
            has_ready_node: ready().any(|node| has_label(node)),
            is_everywhere: ready().all(|node| has_label(node)),
        };
        (host, state)
    };
    registries.iter().map(state).collect()
}

fn is_ready_node(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn available(nodes: &[Arc<Node>]) -> HashSet<String> {
    let labels = nodes.iter().flat_map(|node| node.labels());
    let available = labels.filter(|(key, value)| {
        key.starts_with(label::IMAGE_PREFIX) && value.as_str() == label::AVAILABLE
    });
    available.map(|(key, _)| key.clone()).collect()
}
