//! Reads a pod as raw JSON. The JSON is never decoded into a typed pod, so that fields which this
//! version does not know stay as they are.

use serde_json::{Map, Value};

use crate::injection::Annotations;

/// A place in a pod that names an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageSlot<'a> {
    /// Which list the place is in.
    pub(crate) list: ContainerList,
    /// Position in that list.
    pub(crate) index: usize,
    /// Name of the container or volume.
    pub(crate) name: &'a str,
    /// The image as written.
    pub(crate) image: &'a str,
    /// The pull policy, if any.
    pub(crate) pull_policy: Option<&'a str>,
}

/// A list in a pod's spec whose elements may name images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ContainerList {
    /// `spec.containers`.
    Containers,
    /// `spec.initContainers`.
    InitContainers,
    /// `spec.volumes`, those with an `image`.
    Volumes,
}

impl ContainerList {
    const ALL: [Self; 3] = [Self::InitContainers, Self::Containers, Self::Volumes];

    /// The name of the list in the pod's spec.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::Volumes => "volumes",
        }
    }
}

impl ImageSlot<'_> {
    /// JSON pointer to the field that names the image.
    pub(crate) fn image_path(&self) -> String {
        self.path(match self.list {
            ContainerList::Volumes => "image/reference",
            _ => "image",
        })
    }

    /// JSON pointer to the pull policy.
    pub(crate) fn pull_policy_path(&self) -> String {
        self.path(match self.list {
            ContainerList::Volumes => "image/pullPolicy",
            _ => "imagePullPolicy",
        })
    }

    fn path(&self, field: &str) -> String {
        format!("/spec/{}/{}/{field}", self.list.field(), self.index)
    }
}

/// The node that a pod will run on, as far as it is known when the pod is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement<'a> {
    /// The scheduler chooses.
    Free,
    /// This node: pods of a DaemonSet, and pods with `spec.nodeName`.
    Bound(&'a str),
    /// A DaemonSet's pod whose node could not be read.
    BoundSomewhere,
}

/// A pod under review.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a>(&'a Value);

impl<'a> Pod<'a> {
    /// The pod in this JSON object.
    pub(crate) fn new(object: &'a Value) -> Self {
        Self(object)
    }

    /// The value at a JSON pointer; null counts as absent.
    pub(crate) fn at(self, pointer: &str) -> Option<&'a Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    /// The object at a JSON pointer.
    pub(crate) fn map(self, pointer: &str) -> Option<&'a Map<String, Value>> {
        self.at(pointer)?.as_object()
    }

    /// The pod's annotations.
    pub(crate) fn annotations(self) -> Annotations<'a> {
        strings(self.map("/metadata/annotations")).collect()
    }

    /// The pod's labels.
    pub(crate) fn labels(self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        strings(self.map("/metadata/labels"))
    }

    /// Whether this pod represents a static pod of a kubelet. Such a copy in the API server has no
    /// effect on the pod that runs.
    pub(crate) fn is_mirror_pod(self) -> bool {
        let annotations = self.annotations();
        annotations.get("kubernetes.io/config.mirror").is_some()
    }

    /// Whether the pod has pull secrets, its own or those of its service account.
    pub(crate) fn has_pull_secrets(self) -> bool {
        list(self.at("/spec/imagePullSecrets")).next().is_some()
    }

    /// Every place that names an image: init containers, containers, image volumes.
    pub(crate) fn slots(self) -> Vec<ImageSlot<'a>> {
        let lists = ContainerList::ALL.into_iter();
        lists.flat_map(|list| self.slots_in(list)).collect()
    }

    fn slots_in(self, list_kind: ContainerList) -> impl Iterator<Item = ImageSlot<'a>> + use<'a> {
        let elements = list(self.at(&format!("/spec/{}", list_kind.field())));
        elements.enumerate().filter_map(move |(index, element)| {
            let (image, policy) = match list_kind {
                ContainerList::Volumes => {
                    let source = element.get("image")?;
                    (source.get("reference")?, source.get("pullPolicy"))
                }
                _ => (element.get("image")?, element.get("imagePullPolicy")),
            };
            Some(ImageSlot {
                list: list_kind,
                index,
                name: element.get("name").and_then(Value::as_str).unwrap_or(""),
                image: image.as_str().filter(|image| !image.is_empty())?,
                pull_policy: policy.and_then(Value::as_str),
            })
        })
    }

    /// Where the pod will run.
    pub(crate) fn placement(self) -> Placement<'a> {
        let named = self.at("/spec/nodeName").and_then(Value::as_str);
        if let Some(node) = named.filter(|node| !node.is_empty()) {
            return Placement::Bound(node);
        }
        match (self.node_by_affinity(), self.is_of_daemon_set()) {
            (Some(node), _) => Placement::Bound(node),
            (None, true) => Placement::BoundSomewhere,
            (None, false) => Placement::Free,
        }
    }

    /// The one node that every term of the required node affinity names. The pods of a DaemonSet
    /// are bound in this way.
    fn node_by_affinity(self) -> Option<&'a str> {
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        let mut nodes = list(self.at(terms)).map(|term| {
            let mut fields = list(term.get("matchFields"));
            fields.find_map(node_of_field)
        });
        let first = nodes.next()??;
        nodes.all(|node| node == Some(first)).then_some(first)
    }

    fn is_of_daemon_set(self) -> bool {
        list(self.at("/metadata/ownerReferences")).any(|owner| {
            owner.get("kind").and_then(Value::as_str) == Some("DaemonSet")
                && owner.get("controller").and_then(Value::as_bool) == Some(true)
        })
    }
}

/// The node of `{key: metadata.name, operator: In, values: [node]}`.
fn node_of_field(field: &Value) -> Option<&str> {
    let is_name = field.get("key")?.as_str()? == "metadata.name";
    let is_in = field.get("operator")?.as_str()? == "In";
    let values = field.get("values")?.as_array()?;
    match values.as_slice() {
        [node] if is_name && is_in => node.as_str(),
        _ => None,
    }
}

/// The elements of a list; none if the value is missing or not a list.
fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn strings(map: Option<&Map<String, Value>>) -> impl Iterator<Item = (&str, &str)> {
    let entries = map.into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bound_by(node: &str) -> Value {
        json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]})
    }

    fn pod_with_terms(terms: &[Value]) -> Value {
        json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }}}})
    }

    #[test]
    fn a_pod_is_bound_when_every_term_names_one_and_the_same_node() {
        let zone =
            json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]});
        let daemon = json!({"metadata": {"ownerReferences": [
            {"kind": "DaemonSet", "name": "d", "controller": true}
        ]}, "spec": {}});
        for (pod, expected) in [
            (json!({"spec": {}}), Placement::Free),
            (json!({"spec": {"nodeName": ""}}), Placement::Free),
            (json!({"spec": {"nodeName": "n1"}}), Placement::Bound("n1")),
            (pod_with_terms(&[]), Placement::Free),
            (pod_with_terms(&[bound_by("n1")]), Placement::Bound("n1")),
            (
                pod_with_terms(&[bound_by("n1"), bound_by("n1")]),
                Placement::Bound("n1"),
            ),
            (
                pod_with_terms(&[bound_by("n1"), bound_by("n2")]),
                Placement::Free,
            ),
            (pod_with_terms(&[bound_by("n1"), zone]), Placement::Free),
            (daemon, Placement::BoundSomewhere),
        ] {
            assert_eq!(Pod::new(&pod).placement(), expected, "{pod}");
        }
    }

    #[test]
    fn odd_shapes_name_no_image() {
        for pod in [
            json!(null),
            json!([]),
            json!({"spec": "x"}),
            json!({"spec": {"containers": {"image": "a"}, "initContainers": null}}),
            json!({"spec": {"containers": ["a", {"image": 5}, {"image": ""}, null]}}),
            json!({"spec": {"volumes": [{"name": "v", "image": "a"}, {"name": "w", "emptyDir": {}}]}}),
        ] {
            let pod = Pod::new(&pod);
            assert!(pod.slots().is_empty(), "{pod:?}");
            assert_eq!(pod.placement(), Placement::Free);
            assert!(!pod.is_mirror_pod() && !pod.has_pull_secrets());
        }
    }
}
