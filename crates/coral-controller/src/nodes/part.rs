//! The part: observe, decide, apply, publish.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::conditions::kind::{DEGRADED, READY};
use coral_api::image::Image;
use coral_api::names::label;
use coral_api::node_images::{
    MAX_IMAGE_LABELS, MAX_NODE_IMAGES, MAX_NODE_REGISTRIES, NodeImages, NodeImagesSpec,
};
use coral_api::registry_route::RegistryRoute;
use coral_distribution::AddressRules;
use coral_image::{Digest, ImageRef};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use tokio::sync::mpsc;

use super::agents::Silences;
use super::input::NodeView;
use super::labels::{LabelChanges, changes};
use super::lookups::{self, Lookups};
use super::observe::{NodesInput, lookup_conditions, lookup_routes, observe, remembered};
use super::placement::{Placement, place};
use super::reported::Reported;
use super::resolution::Resolutions;
use super::resolver::{LookupRoutes, Resolver};
use super::routes::{Table, for_node, table};
use super::{image_status, routes};
use crate::ObjectKey;
use crate::api::{ApiError, Writer};
use crate::changes::Topic;
use crate::context::Context;
use crate::part::{Part, PassError, Wake};

type Answer = (ImageRef, Result<Digest, String>);

/// Keeps NodeImages, node labels and the statuses of Images and routes in step.
pub(crate) struct NodesPart {
    context: Context,
    writer: Writer,
    resolutions: Resolutions,
    silences: Silences,
    /// The resolver, and its input.
    resolver: Option<(ResolverInput, Resolver)>,
    lookups: Lookups,
    /// The number of Registries without room on some node, as last logged.
    registries_left_out: usize,
    answers: (
        mpsc::UnboundedSender<Answer>,
        mpsc::UnboundedReceiver<Answer>,
    ),
}

/// The input of a resolver.
type ResolverInput = (LookupRoutes, Arc<String>, AddressRules);

/// The decisions of a pass.
struct NodesDecision {
    placement: Placement,
    table: Table,
    /// Most Registries that a node has no room for.
    registries_left_out: usize,
    /// The specs that differ from the stored ones, by node.
    specs: BTreeMap<String, NodeImagesSpec>,
    labels: BTreeMap<String, LabelChanges>,
}

impl NodesPart {
    /// A part that has not observed anything yet.
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            writer: context.writer(),
            context: context.clone(),
            resolutions: Resolutions::default(),
            silences: Silences::default(),
            resolver: None,
            lookups: Lookups::default(),
            registries_left_out: 0,
            answers: mpsc::unbounded_channel(),
        }
    }
}

impl Part for NodesPart {
    const NAME: &'static str = "nodes";
    const TOPICS: &'static [Topic] = &[
        Topic::Images,
        Topic::Nodes,
        Topic::NodeImages,
        Topic::RegistryRoutes,
        Topic::MirroredImages,
        Topic::Registries,
        Topic::RegistryAccess,
        Topic::Ca,
        Topic::Resolutions,
        Topic::LockedHosts,
        Topic::AgentPods,
    ];

    async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
        let shared = &self.context.shared;
        let (observed, ca, own) = (
            observe(&self.context),
            shared.ca.get(),
            shared.own_image.get(),
        );
        let (Some(mut observed), Some(ca), Some(own)) = (observed, ca, own) else {
            // Without this information nothing may be removed from a node, so the pass ends. Its
            // publishers wake this part.
            return Ok(Wake::OnChange);
        };
        let (nodes, agents) = (&mut observed.nodes, observed.agents.as_ref());
        let next = self.silences.record(nodes, agents, now);
        let table = table(&observed.routes, &observed.registries);
        let wake = self.resolve(&observed, &table, ca, now)?;
        // Nodes know the image by its canonical name.
        let own = ImageRef::parse(&own).ok().map(|image| image.to_string());
        let decided = decide(&observed, table, &self.resolutions, own.as_deref());
        self.warn_of_left_out(decided.registries_left_out);
        let applied = self.apply(&observed, &decided).await;
        let published = self.publish(&observed, &decided, now).await;
        applied.and(published)?;
        Ok(wake.or(Wake::at(next)))
    }
}

fn decide(
    observed: &NodesInput,
    table: Table,
    resolutions: &Resolutions,
    own_image: Option<&str>,
) -> NodesDecision {
    let digests = resolutions.digests();
    let mut placement = place(&observed.wishes, &observed.nodes, &digests);
    let (mut specs, mut labels) = (BTreeMap::new(), BTreeMap::new());
    let mut registries_left_out = 0;
    for node in observed.nodes.iter().filter(|node| node.linux) {
        let (routes, registries) = (&observed.routes, &observed.registries);
        let hosts = for_node(node, &table, routes, registries, &observed.in_force);
        registries_left_out = registries_left_out.max(hosts.left_out);
        let mut spec = NodeImagesSpec {
            images: placement.images.remove(&node.name).unwrap_or_default(),
            pins: own_image.iter().map(|&image| image.to_owned()).collect(),
            registries: hosts.entries,
        };
        let mut labelled = placement.labelled.remove(&node.name).unwrap_or_default();
        if let Some(before) = node.spec() {
            if !observed.has_all_images {
                keep_images(&mut spec, before);
                keep_labels(&mut labelled, node, before);
            }
            if !observed.has_all_routes {
                keep_hosts(&mut spec, before);
            }
        }
        let changes = changes(node, &labelled);
        if !changes.is_empty() {
            labels.insert(node.name.clone(), changes);
        }
        let same_owner = node
            .placed
            .as_ref()
            .is_some_and(|p| p.owner.as_ref() == Some(&node.uid));
        if node.spec() != Some(&spec) || !same_owner {
            specs.insert(node.name.clone(), spec);
        }
    }
    NodesDecision {
        placement,
        table,
        registries_left_out,
        specs,
        labels,
    }
}

/// Keeps the images of an Image that cannot be decoded: it is not known which these are.
fn keep_images(spec: &mut NodeImagesSpec, before: &NodeImagesSpec) {
    let named: BTreeSet<String> = spec.images.iter().map(|i| i.reference.clone()).collect();
    let kept = before.images.iter();
    let kept = kept.filter(|image| !named.contains(&image.reference));
    spec.images.extend(kept.cloned());
    spec.images.truncate(MAX_NODE_IMAGES);
    spec.images.sort_by(|a, b| a.reference.cmp(&b.reference));
}

/// Keeps the hosts of a route that cannot be decoded: it is not known which these are.
fn keep_hosts(spec: &mut NodeImagesSpec, before: &NodeImagesSpec) {
    let named: BTreeSet<String> = spec.registries.iter().map(|r| r.host.clone()).collect();
    let kept = before.registries.iter();
    let kept = kept.filter(|entry| !named.contains(&entry.host));
    spec.registries.extend(kept.cloned());
    spec.registries.truncate(MAX_NODE_REGISTRIES);
    spec.registries.sort_by(|a, b| a.host.cmp(&b.host));
}

/// Keeps the labels of images that stay, as far as the node has room for them.
fn keep_labels(labelled: &mut BTreeSet<String>, node: &NodeView, before: &NodeImagesSpec) {
    let references = before.images.iter().map(|image| &image.reference);
    let kept = references.filter(|r| node.labels.contains_key(&label::image(r)));
    let kept = kept.filter(|r| !labelled.contains(*r)).cloned();
    let room = MAX_IMAGE_LABELS.saturating_sub(labelled.len());
    let kept: Vec<String> = kept.take(room).collect();
    labelled.extend(kept);
}

impl NodesPart {
    /// Logs how many Registries nodes have no room for, where the number changed.
    fn warn_of_left_out(&mut self, count: usize) {
        if count > self.registries_left_out {
            tracing::warn!(
                count,
                "some Registries do not fit on nodes: a node can have at most \
                 {MAX_NODE_REGISTRIES} hosts"
            );
        }
        self.registries_left_out = count;
    }

    /// Records the answers that arrived, and asks for the tags that are due. Returns when more are
    /// due.
    fn resolve(
        &mut self,
        observed: &NodesInput,
        table: &Table,
        ca: Arc<String>,
        now: Timestamp,
    ) -> Result<Wake, PassError> {
        let mut wanted: BTreeMap<ImageRef, Duration> = BTreeMap::new();
        for wish in observed.wishes.iter().filter(|wish| !wish.settings.suspend) {
            for image in &wish.settings.images {
                let refresh = wanted.entry(image.clone()).or_insert(Duration::MAX);
                *refresh = wish.settings.refresh.min(*refresh);
            }
        }
        let remembered = |image: &ImageRef| remembered(&observed.images, image);
        self.resolutions.want(&wanted, remembered, now);
        while let Ok((image, answer)) = self.answers.1.try_recv() {
            self.resolutions.answer(&image, answer, now, rand::random());
        }
        let lookup_routes = lookup_routes(observed, table);
        let lookup_conditions =
            |image: &ImageRef| lookup_conditions(image, observed, &lookup_routes);
        self.resolutions.retry(lookup_conditions, now);
        // The addresses that must not be contacted become known a moment after the start, which
        // wakes this part.
        let rules = match self.context.shared.address_rules.get().as_deref() {
            None => return Ok(Wake::OnChange),
            Some(Err(why)) => {
                self.resolutions.hinder(why, now);
                return Ok(Wake::OnChange);
            }
            Some(Ok(rules)) => rules.clone(),
        };
        let due = self.resolutions.take_due(lookup_conditions, now);
        let resolver = self.resolver(lookup_routes, ca, rules)?;
        let charged = lookups::charged(&observed.wishes);
        for image in due {
            let namespace = charged.get(&image).copied().unwrap_or_default();
            let (resolver, share) = (resolver.clone(), self.lookups.share(namespace));
            let (answers, changes) = (self.answers.0.clone(), self.context.changes.clone());
            tokio::spawn(async move {
                let _slot = share.slot().await;
                let answer = resolver.resolve(&image).await;
                // The part may have ended meanwhile.
                let _ = answers.send((image, answer));
                changes.notify(Topic::Resolutions);
            });
        }
        Ok(Wake::at(self.resolutions.next_due()))
    }

    /// The current resolver, recreated when a Registry's address or the CA has changed.
    fn resolver(
        &mut self,
        lookup_routes: LookupRoutes,
        ca: Arc<String>,
        rules: AddressRules,
    ) -> Result<Resolver, PassError> {
        let input = (lookup_routes, ca, rules);
        if let Some((_, resolver)) = self.resolver.as_ref().filter(|(known, _)| *known == input) {
            return Ok(resolver.clone());
        }
        let (lookup_routes, ca, rules) = &input;
        let resolver = Resolver::new(lookup_routes.clone(), ca, rules)?;
        self.resolver = Some((input, resolver.clone()));
        Ok(resolver)
    }

    /// Writes the decisions. One object that cannot be written does not hold up the others; the
    /// first error is returned at the end, so that the pass is repeated.
    async fn apply(&self, observed: &NodesInput, decided: &NodesDecision) -> Result<(), PassError> {
        let mut first = FirstError::default();
        for image in &observed.held {
            first.record(self.release(image).await);
        }
        for node in &observed.nodes {
            if let Some(spec) = decided.specs.get(&node.name) {
                first.record(self.write_spec(node, spec).await);
            }
            if let Some(changes) = decided.labels.get(&node.name) {
                let key = ObjectKey::cluster(&node.name);
                let patch = json!({"metadata": {"labels": changes}});
                let written = self.writer.merge::<Node>(&key, &patch).await;
                first.record(written);
            }
        }
        first.into_result()
    }

    async fn write_spec(&self, node: &NodeView, spec: &NodeImagesSpec) -> Result<(), ApiError> {
        let object = json!({
            "metadata": {"ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid,
            }]},
            "spec": spec,
        });
        let key = ObjectKey::cluster(&node.name);
        self.writer
            .apply::<NodeImages>(&key, &object)
            .await
            .map(drop)
    }

    /// Removes the older Coral's finalizer from an object that is being deleted.
    async fn release(&self, image: &Image) -> Result<(), ApiError> {
        let finalizers = image.metadata.finalizers.iter().flatten();
        let rest = finalizers.filter(|name| *name != coral_api::names::FINALIZER);
        let patch = json!({"metadata": {
            "finalizers": rest.collect::<Vec<_>>(),
            // The patch carries the resource version, so a finalizer that another writer adds
            // meanwhile is not lost: the patch is refused and repeated.
            "resourceVersion": image.metadata.resource_version,
        }});
        let key = ObjectKey::from_object(image);
        let written = self.writer.merge::<Image>(&key, &patch).await;
        written.map(drop)
    }

    async fn publish(
        &self,
        observed: &NodesInput,
        decided: &NodesDecision,
        now: Timestamp,
    ) -> Result<(), PassError> {
        let mut first = FirstError::default();
        let nodes: Vec<Reported<'_>> = observed.nodes.iter().map(Reported::by).collect();
        for wish in &observed.wishes {
            let Some(image) = observed.images.get(&wish.key) else {
                continue;
            };
            let (placement, before) = (&decided.placement, image.status.as_ref());
            let resolutions = &self.resolutions;
            let status = image_status::status(wish, &nodes, resolutions, placement, before, now);
            let written = self
                .writer
                .publish_status::<Image, _>(&wish.key, before, &status)
                .await;
            if matches!(written, Ok(true)) {
                let conditions = before.map_or(&[][..], |before| &before.conditions[..]);
                self.emit_events(image.as_ref(), conditions, &status.conditions)
                    .await;
            }
            first.record(written);
        }
        for route in &observed.routes {
            let key = ObjectKey::cluster(&route.name);
            let Some(object) = observed.route_objects.get(&key) else {
                continue;
            };
            let (nodes, registries) = (&observed.nodes, &observed.registries);
            let status = routes::status(route, &decided.table, registries, nodes, now);
            let before = object.status.as_ref();
            let written = self
                .writer
                .publish_status::<RegistryRoute, _>(&key, before, &status)
                .await;
            if matches!(written, Ok(true)) {
                let conditions = before.map_or(&[][..], |before| &before.conditions[..]);
                self.emit_events(object.as_ref(), conditions, &status.conditions)
                    .await;
            }
            first.record(written);
        }
        first.into_result()
    }

    /// Publishes an event if readiness or degradation changed. Call it after the status was
    /// written: a failed write is repeated, and its event with it.
    async fn emit_events<K: kube::Resource<DynamicType = ()>>(
        &self,
        object: &K,
        before: &[Condition],
        after: &[Condition],
    ) {
        let find = |all: &[Condition], kind: &str| all.iter().find(|c| c.type_ == kind).cloned();
        let changed = |kind: &str| {
            let (before, after) = (find(before, kind), find(after, kind)?);
            let same = before.is_some_and(|b| b.status == after.status && b.reason == after.reason);
            (!same).then_some(after)
        };
        if let Some(ready) = changed(READY).filter(|c| c.status == "True") {
            let events = &self.context.events;
            events.normal(object, &ready.reason, ready.message).await;
        }
        if let Some(degraded) = changed(DEGRADED).filter(|c| c.status == "True") {
            let events = &self.context.events;
            events
                .warning(object, &degraded.reason, degraded.message)
                .await;
        }
    }
}

/// The first error of many writes: one object that cannot be written does not hold up the others.
#[derive(Default)]
struct FirstError(Option<PassError>);

impl FirstError {
    /// Records a result. An object that was deleted meanwhile needs no write.
    fn record<T>(&mut self, result: Result<T, ApiError>) {
        let error = result.err().filter(|error| !error.is_not_found());
        if let (None, Some(error)) = (&self.0, error) {
            self.0 = Some(error.into());
        }
    }

    fn into_result(self) -> Result<(), PassError> {
        self.0.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use coral_api::node_images::{NodeImage, NodeRegistry};

    use super::*;

    fn spec(images: &[&str], hosts: &[&str]) -> NodeImagesSpec {
        let image = |reference: &&str| NodeImage {
            reference: (*reference).to_owned(),
            ..NodeImage::default()
        };
        let entry = |host: &&str| NodeRegistry {
            host: (*host).to_owned(),
            registry: "reg.a.svc:5000".to_owned(),
            endpoint: "https://10.0.0.1:5000".to_owned(),
            policy: coral_api::node_images::NodeRegistryPolicy::Registry,
        };
        NodeImagesSpec {
            images: images.iter().map(image).collect(),
            registries: hosts.iter().map(entry).collect(),
            pins: Vec::new(),
        }
    }

    #[test]
    fn what_an_object_that_cannot_be_decoded_may_want_stays_on_the_node() {
        let before = spec(&["a/b:1", "a/c:1"], &["docker.io", "quay.io"]);
        let mut now = spec(&["a/b:1", "a/d:1"], &["quay.io"]);
        keep_images(&mut now, &before);
        keep_hosts(&mut now, &before);
        let expected = spec(&["a/b:1", "a/c:1", "a/d:1"], &["docker.io", "quay.io"]);
        assert_eq!(now, expected);
    }

    #[test]
    fn labels_that_stay_are_bounded_too() {
        let count = MAX_IMAGE_LABELS + 20;
        let references: Vec<String> = (0..count).map(|n| format!("a.io/b:{n}")).collect();
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let before = spec(&references, &[]);
        let labels: Vec<String> = references.iter().map(|r| label::image(r)).collect();
        let labels: Vec<(&str, &str)> = labels.iter().map(|l| (l.as_str(), "pending")).collect();
        let node = super::super::fixtures::node("n1", &labels);
        let chosen = ["a.io/new:1".to_owned(), "a.io/b:0".to_owned()];
        let mut labelled = BTreeSet::from(chosen.clone());
        keep_labels(&mut labelled, &node, &before);
        assert_eq!(labelled.len(), MAX_IMAGE_LABELS);
        assert!(chosen.iter().all(|reference| labelled.contains(reference)));
    }
}
