//! Decides about one pod. Pure: no clock, no calls, no logs.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use coral_api::conditions::cut;
use coral_api::names::{annotation, label};
use coral_image::ImageRef;
use serde_json::Value;

use crate::injection::{Annotations, Filter, Injection, PullPolicy, Rewriting, Selectors};
use crate::original;
use crate::patch::{Operation, prefer_nodes, set_entries};
use crate::pod::{ImageSlot, Placement, Pod};
use crate::world::{Feature, Namespace, Refusal, Rules, World, canonical};

/// Most warnings of one answer.
const MAX_WARNINGS: usize = 10;
/// Longest warning in bytes. The API server cuts at 256 letters once many warnings are large.
const MAX_WARNING: usize = 250;

/// The decision about a pod, which is admitted in any case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// Changes to the pod; none is the common case.
    pub patch: Vec<Operation>,
    /// Warnings for the author of the pod; at most ten.
    pub warnings: Vec<String>,
    /// Images that should have been rewritten and were not, each with the reason.
    pub reasons: Vec<(String, Refusal)>,
}

/// Decides about a pod that is being created, given as the raw JSON of the review.
pub fn decide(pod: &Value, namespace: &Namespace, world: &World) -> Decision {
    let pod = Pod::new(pod);
    if namespace.is_excluded() || pod.is_mirror_pod() {
        return Decision::default();
    }
    let labels: BTreeMap<String, String> = pod
        .labels()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut review = Review {
        pod,
        namespace,
        world,
        rules: world.rules(namespace, &labels),
        placement: pod.placement(),
        decision: Decision::default(),
    };
    let (injection, filter) = review.read_annotations();
    if !injection.is_empty() {
        review.apply(injection, &filter);
    }
    review.finish()
}

struct Review<'a> {
    pod: Pod<'a>,
    namespace: &'a Namespace,
    world: &'a World,
    rules: Rules<'a>,
    placement: Placement<'a>,
    decision: Decision,
}

/// An image of the pod, and the decision about it.
struct ImageDecision<'a> {
    slot: ImageSlot<'a>,
    rewritten: Option<String>,
}

impl ImageDecision<'_> {
    /// The image that the pod will ask for.
    fn image(&self) -> &str {
        self.rewritten.as_deref().unwrap_or(self.slot.image)
    }
}

impl<'a> Review<'a> {
    /// The changes that the annotations ask for and no policy forbids, and the containers that they
    /// are for. Annotations of the pod replace those of the namespace: the changes and the filter
    /// each as a whole.
    fn read_annotations(&mut self) -> (Injection, Filter) {
        let own = self.pod.annotations();
        let inherited = &self.namespace.annotations;
        let inherited: Annotations<'_> = inherited
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        // The author of a pod is not warned about a namespace that belongs to others.
        let mut ignored = Vec::new();
        let heard = &mut self.decision.warnings;
        let mut injection = match (
            own.get(annotation::INJECT),
            inherited.get(annotation::INJECT),
        ) {
            (Some(value), _) => Injection::parse(value, heard),
            (None, Some(value)) => Injection::parse(value, &mut ignored),
            (None, None) => Injection::default(),
        };
        let filter = if own.has_filter() {
            let filter = Filter::read(&own, heard);
            filter.check(self.pod.slots().iter().map(|slot| slot.name), heard);
            filter
        } else {
            Filter::read(&inherited, &mut ignored)
        };
        self.forbid(&mut injection, own.get(annotation::INJECT).is_some());
        (injection, filter)
    }

    /// Drops the changes that a policy forbids.
    fn forbid(&mut self, injection: &mut Injection, is_own: bool) {
        let mut check = |is_asked_for: bool, feature: Feature| {
            let policy = self.rules.forbids(feature).filter(|_| is_asked_for);
            if let Some(policy) = policy.filter(|_| is_own) {
                let (key, word) = (annotation::INJECT, feature.word());
                self.decision.warnings.push(format!(
                    "{key}: {word} has no effect: InjectionPolicy {policy:?} sets it to Off"
                ));
            }
            policy.is_some()
        };
        if check(injection.pull_policy.is_some(), Feature::PullPolicy) {
            injection.pull_policy = None;
        }
        if check(injection.selectors.is_some(), Feature::Selectors) {
            injection.selectors = None;
        }
        if check(injection.registry.is_some(), Feature::Registry) {
            injection.registry = None;
        }
    }

    fn apply(&mut self, injection: Injection, filter: &Filter) {
        let slots = self.pod.slots().into_iter();
        let slots: Vec<ImageSlot<'a>> = slots.filter(|slot| filter.selects(slot.name)).collect();
        let mut required = BTreeSet::new();
        let choices = self.rewrite(slots, injection.registry, &mut required);
        if let Some(policy) = injection.pull_policy {
            self.set_pull_policy(&choices, policy);
        }
        let mut preferred = BTreeSet::new();
        match injection.selectors {
            None => {}
            Some(Selectors::Required) => required.extend(self.image_labels(&choices, true)),
            Some(Selectors::Preferred) => preferred.extend(self.image_labels(&choices, false)),
        }
        let preferred: Vec<_> = preferred.into_iter().collect();
        let required = set_entries(self.pod, "/spec/nodeSelector", required);
        self.decision.patch.extend(required);
        let preferred = prefer_nodes(self.pod, &preferred);
        self.decision.patch.extend(preferred);
        self.leave_marks(&choices);
    }

    /// Rewrites the images that can be rewritten. Node labels that the pod then requires go to
    /// `required`.
    fn rewrite(
        &mut self,
        slots: Vec<ImageSlot<'a>>,
        how: Option<Rewriting>,
        required: &mut BTreeSet<(String, String)>,
    ) -> Vec<ImageDecision<'a>> {
        let mut choices = Vec::with_capacity(slots.len());
        for slot in slots {
            let mut rewritten = None;
            match how.map(|how| self.target(slot.image, how)) {
                None => {}
                Some(Ok(target)) => {
                    let path = slot.image_path();
                    let reference = target.reference;
                    let replace = Operation::replace(path, reference.clone());
                    self.decision.patch.push(replace);
                    let label = target.required_label;
                    required.extend(label.map(|key| (key, label::READY.to_owned())));
                    rewritten = Some(reference);
                }
                Some(Err(why)) => {
                    let reason = (slot.image.to_owned(), why);
                    if !self.decision.reasons.contains(&reason) {
                        self.decision.reasons.push(reason);
                    }
                }
            }
            choices.push(ImageDecision { slot, rewritten });
        }
        choices
    }

    fn target(&self, image: &str, how: Rewriting) -> Result<crate::world::Target, Refusal> {
        let image = ImageRef::parse(image).map_err(|_| Refusal::NotFromOutside)?;
        let (namespace, rules) = (self.namespace, &self.rules);
        self.world
            .target(&image, how, namespace, rules, self.placement)
    }

    fn set_pull_policy(&mut self, choices: &[ImageDecision<'_>], policy: PullPolicy) {
        for choice in choices {
            if choice.slot.pull_policy != Some(policy.as_str()) {
                let path = choice.slot.pull_policy_path();
                let add = Operation::add(path, policy.as_str());
                self.decision.patch.push(add);
            }
        }
        if policy == PullPolicy::Never && self.pod.has_pull_secrets() {
            self.decision.warnings.push(format!(
                "{}: pull-policy=Never on a pod with imagePullSecrets: where kubelet pulled the image for another pod's secret, the container does not start; pull-policy=IfNotPresent does",
                annotation::INJECT
            ));
        }
    }

    /// The node labels of the images that the pod will ask for.
    fn image_labels(
        &mut self,
        choices: &[ImageDecision<'_>],
        is_required: bool,
    ) -> Vec<(String, String)> {
        let key = annotation::INJECT;
        if self.placement != Placement::Free {
            // The pod is bound to its node already: requiring a label that this node lacks would
            // only keep the pod from starting.
            return vec![];
        }
        let mut labels = BTreeMap::new();
        for choice in choices {
            if let Ok(image) = ImageRef::parse(choice.image()) {
                let reference = canonical(&image);
                labels.insert(label::image(&reference), reference);
            }
        }
        for (label, reference) in &labels {
            if is_required && !self.world.has_available(label) {
                self.decision.warnings.push(format!(
                    "{key}: no node is yet known to have {reference}: the pod waits until an Image \
                     object has placed it and a node has the label"
                ));
            }
        }
        let available = |(label, _)| (label, label::AVAILABLE.to_owned());
        labels.into_iter().map(available).collect()
    }

    /// Records on the pod that it was changed, if it was.
    fn leave_marks(&mut self, choices: &[ImageDecision<'_>]) {
        if self.decision.patch.is_empty() {
            return;
        }
        let rewritten: Vec<ImageSlot<'_>> = choices
            .iter()
            .filter(|choice| choice.rewritten.is_some())
            .map(|choice| choice.slot)
            .collect();
        let mut marks = vec![(annotation::INJECTED.to_owned(), "true".to_owned())];
        if !rewritten.is_empty() {
            let originals = original::annotation_value(self.pod, &rewritten, self.world);
            marks.push((annotation::ORIGINAL.to_owned(), originals));
        }
        let marks = set_entries(self.pod, "/metadata/annotations", marks);
        self.decision.patch.extend(marks);
    }

    fn finish(self) -> Decision {
        let mut decision = self.decision;
        let left_out = decision.warnings.len().saturating_sub(MAX_WARNINGS);
        if left_out > 0 {
            decision.warnings.truncate(MAX_WARNINGS - 1);
            let more = format!("image.stvz.io: {} more warnings", left_out + 1);
            decision.warnings.push(more);
        }
        for warning in &mut decision.warnings {
            *warning = cut(warning, MAX_WARNING);
        }
        decision
    }
}
