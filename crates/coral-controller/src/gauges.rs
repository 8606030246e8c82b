//! The states of the objects as gauges, on which alerts are based.
//!
//! The values are those of the objects' statuses, so that metrics and `kubectl` never disagree. Only
//! the controller that leads has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use coral_api::conditions::kind::{DEGRADED, READY};
use coral_api::image_build::{BuildPhase, ImageBuild};
use coral_api::node_images::NodeImages;
use coral_api::{Registry, RegistryMirror};
use coral_mirror::MirrorGauges;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::ObjectKey;
use crate::builds::is_queued;
use crate::changes::Topic;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::part::{Part, PassError, Wake};
use crate::store::Snapshot;

/// Most objects of a kind that have gauges of their own: each of them adds a handful of time
/// series.
const MAX_OBJECTS: usize = 1000;

/// The values of the gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) mirrors: BTreeMap<ObjectKey, MirrorGauges>,
    /// Whether each Registry is ready.
    pub(crate) registries: BTreeMap<ObjectKey, bool>,
    /// Nodes that do not match their NodeImages object.
    pub(crate) nodes_behind: usize,
    /// Mirrors and Registries that have no gauges, since there are too many.
    pub(crate) omitted: usize,
    /// How many builds are in each phase. One without a status is Pending.
    pub(crate) builds: BTreeMap<BuildPhase, usize>,
    /// How many of them wait until another one has ended.
    pub(crate) builds_queued: usize,
}

/// Decides what the gauges show, in a controller of the namespace `own`.
pub(crate) fn decide(
    own: &str,
    mirrors: &Snapshot<RegistryMirror>,
    registries: &Snapshot<Registry>,
    nodes: &Snapshot<NodeImages>,
    builds: &Snapshot<ImageBuild>,
) -> Gauges {
    let left_out = |count: usize| count.saturating_sub(MAX_OBJECTS);
    Gauges {
        omitted: left_out(mirrors.len()) + left_out(registries.len()),
        mirrors: first(mirrors, own)
            .map(|(key, mirror)| (key.clone(), of_mirror(mirror)))
            .collect(),
        registries: first(registries, own)
            .map(|(key, registry)| {
                let status = registry.status.as_ref();
                let conditions = status.and_then(|status| status.conditions.as_deref());
                (key.clone(), is_ready(conditions.unwrap_or_default()))
            })
            .collect(),
        builds: phases(builds),
        builds_queued: builds
            .values()
            .filter(|build| is_queued(build.status.as_ref()))
            .count(),
        nodes_behind: nodes.values().filter(|node| is_behind(node)).count(),
    }
}

fn phases(builds: &Snapshot<ImageBuild>) -> BTreeMap<BuildPhase, usize> {
    let mut counts = BTreeMap::new();
    for build in builds.values() {
        let phase = build.status.as_ref().and_then(|status| status.phase);
        *counts
            .entry(phase.unwrap_or(BuildPhase::Pending))
            .or_default() += 1;
    }
    counts
}

/// The objects that get gauges. Those of Coral's own namespace come first, so that other objects
/// cannot crowd them out, however many there are.
fn first<'a, K>(
    all: &'a Snapshot<K>,
    own: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<K>)> {
    let is_own = move |key: &ObjectKey| key.namespace == own;
    let own = all.iter().filter(move |(key, _)| is_own(key));
    let others = all.iter().filter(move |(key, _)| !is_own(key));
    own.chain(others).take(MAX_OBJECTS)
}

fn of_mirror(mirror: &RegistryMirror) -> MirrorGauges {
    let made = mirror.metadata.creation_timestamp.as_ref();
    let made = made.map_or(0, |made| made.0.as_second());
    let Some(status) = &mirror.status else {
        return MirrorGauges {
            suspended: mirror.spec.suspend,
            no_success_since: made,
            ..MirrorGauges::default()
        };
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let mut degraded = conditions.iter().filter(|c| c.type_ == DEGRADED);
    let failing = degraded.find(|condition| condition.status == "True");
    let failed = status.failed.unwrap_or_default();
    let failures = status.failures.as_ref().map_or(0, Vec::len);
    let last = status.last_sync.as_ref();
    MirrorGauges {
        ready: is_ready(conditions),
        suspended: mirror.spec.suspend,
        desired: status.desired.unwrap_or_default(),
        mirrored: status.mirrored.unwrap_or_default(),
        pending: status.pending.unwrap_or_default(),
        waiting: status.waiting.unwrap_or_default(),
        failed,
        source_gone: status.source_gone.unwrap_or_default(),
        prune_paused: status.pruning.is_some_and(|pruning| pruning.paused),
        copied_bytes: status.bytes_copied.unwrap_or_default(),
        next_pass: status.next_sync.as_ref().map(|next| next.0.as_second()),
        last_success: last
            .filter(|_| failed == 0 && failures == 0)
            .map(|last| last.0.as_second()),
        no_success_since: failing.map_or(made, |c| c.last_transition_time.0.as_second()),
    }
}

fn is_ready(conditions: &[Condition]) -> bool {
    let mut conditions = conditions.iter();
    conditions.any(|condition| condition.type_ == READY && condition.status == "True")
}

/// Whether the agent has not reported yet that the node is as the present spec says.
fn is_behind(node: &NodeImages) -> bool {
    let Some(status) = &node.status else {
        return true;
    };
    status.observed_generation != node.metadata.generation || !is_ready(&status.conditions)
}

/// Updates the gauges when objects change.
pub(crate) struct GaugesPart {
    context: Context,
    metrics: Metrics,
    shown: Gauges,
}

impl GaugesPart {
    pub(crate) fn new(context: &Context, metrics: &Metrics) -> Self {
        Self {
            context: context.clone(),
            metrics: metrics.clone(),
            shown: Gauges::default(),
        }
    }
}

impl Part for GaugesPart {
    const NAME: &'static str = "gauges";
    const TOPICS: &'static [Topic] = &[
        Topic::RegistryMirrors,
        Topic::Registries,
        Topic::NodeImages,
        Topic::ImageBuilds,
    ];

    /// Builds are not awaited: an installation from before that kind, or without the right to read
    /// it, keeps its other metrics.
    const AWAITED: &'static [Topic] =
        &[Topic::RegistryMirrors, Topic::Registries, Topic::NodeImages];

    async fn pass(&mut self, _: Timestamp) -> Result<Wake, PassError> {
        let cluster = &self.context.cluster;
        let gauges = decide(
            &self.context.config.namespace,
            &cluster.mirrors.snapshot(),
            &cluster.registries.snapshot(),
            &cluster.node_images.snapshot(),
            &cluster.builds.snapshot(),
        );
        self.metrics.show(&self.shown, &gauges);
        self.shown = gauges;
        Ok(Wake::OnChange)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::Store;

    pub(crate) fn mirror(status: &Value) -> RegistryMirror {
        let spec = json!({"registry": {"name": "reg"}, "repositories": []});
        let object =
            json!({"metadata": {"name": "m", "namespace": "a"}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    pub(crate) fn condition(status: &str) -> Value {
        json!({"type": "Ready", "status": status, "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn degraded() -> Value {
        json!({"type": "Degraded", "status": "True", "reason": "Failing", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn a_mirror_that_never_succeeded_has_an_age_from_the_time_it_was_made() {
        let mut made = mirror(&Value::Null);
        made.metadata.creation_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:05Z")).unwrap();
        let gauges = decided(vec![made], &[], &[]);
        let metrics = Metrics::default();
        metrics.show(&Gauges::default(), &gauges);
        let line =
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 1767225605"#;
        let shown = text(&metrics);
        assert!(shown.contains(line), "{shown}");
    }

    #[test]
    fn objects_beyond_the_most_are_counted_and_those_of_the_system_are_never_left_out() {
        let named = |namespace: &str, name: String| {
            let mut object = mirror(&Value::Null);
            object.metadata.namespace = Some(namespace.to_owned());
            object.metadata.name = Some(name);
            object
        };
        let tenants = (0..MAX_OBJECTS + 2).map(|number| named("a", format!("m{number}")));
        let own = named("coral-system", "m".to_owned());
        let gauges = decided(tenants.chain([own]).collect(), &[], &[]);
        assert_eq!((gauges.mirrors.len(), gauges.omitted), (MAX_OBJECTS, 3));
        let own = ObjectKey::new("coral-system", "m");
        assert!(gauges.mirrors.contains_key(&own));
        let metrics = Metrics::default();
        metrics.show(&Gauges::default(), &gauges);
        assert!(text(&metrics).contains("coral_objects_without_gauges 3"));
    }

    pub(crate) fn decided(
        mirrors: Vec<RegistryMirror>,
        registries: &[&str],
        nodes: &[Value],
    ) -> Gauges {
        let registries = registries.iter().map(|ready| {
            let object = json!({"metadata": {"name": "reg", "namespace": "a"}, "spec": {},
                "status": {"conditions": [condition(ready)]}});
            serde_json::from_value::<Registry>(object).unwrap()
        });
        let nodes = nodes.iter().enumerate().map(|(number, status)| {
            let object = json!({"metadata": {"name": format!("n{number}"), "generation": 2},
                "spec": {}, "status": status});
            serde_json::from_value::<NodeImages>(object).unwrap()
        });
        decide(
            "coral-system",
            &Store::from_objects(mirrors).snapshot(),
            &Store::from_objects(registries).snapshot(),
            &Store::from_objects(nodes).snapshot(),
            &Store::from_objects(builds()).snapshot(),
        )
    }

    fn builds() -> Vec<ImageBuild> {
        let build = |name: &str, status: &Value| {
            let output = json!({"registry": {"namespace": "a", "name": "reg"}, "tags": ["a/b:1"]});
            let object = json!({"metadata": {"name": name, "namespace": "a"},
                "spec": {"source": {"stream": {}}, "output": output}, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let mut queued = condition("False");
        queued["reason"] = json!("Queued");
        let queued = json!({"phase": "Pending", "conditions": [queued]});
        vec![
            build("new", &json!(null)),
            build("waits", &queued),
            build("b1", &json!({"phase": "Building"})),
            build("b2", &json!({"phase": "Building"})),
        ]
    }

    pub(crate) fn text(metrics: &Metrics) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_objects_say_is_what_the_gauges_show() {
        let well = json!({"desired": 6, "mirrored": 5, "pending": 1, "failed": 0, "sourceGone": 2,
            "bytesCopied": 70, "nextSync": "2026-01-01T01:00:10Z", "pruning": {"paused": true},
            "lastSync": "2026-01-01T00:00:10Z", "conditions": [condition("True")]});
        let node = |generation, ready| json!({"observedGeneration": generation, "conditions": [condition(ready)]});
        let nodes = [
            node(2, "True"),
            node(1, "True"),
            node(2, "False"),
            json!(null),
        ];
        let first = decided(vec![mirror(&well)], &["True"], &nodes);
        assert_eq!(first.nodes_behind, 3);
        let metrics = Metrics::default();
        metrics.show(&Gauges::default(), &first);
        let shown = text(&metrics);
        for line in [
            r#"coral_mirror_images{namespace="a",mirror="m",state="mirrored"} 5"#,
            r#"coral_mirror_images{namespace="a",mirror="m",state="desired"} 6"#,
            r#"coral_mirror_prune_paused{namespace="a",mirror="m"} 1"#,
            r#"coral_mirror_copied_bytes{namespace="a",mirror="m"} 70"#,
            r#"coral_mirror_next_pass_timestamp_seconds{namespace="a",mirror="m"} 1767229210"#,
            r#"coral_mirror_images{namespace="a",mirror="m",state="pending"} 1"#,
            r#"coral_mirror_source_gone_images{namespace="a",mirror="m"} 2"#,
            r#"coral_mirror_ready{namespace="a",mirror="m"} 1"#,
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 1767225610"#,
            r#"coral_registry_ready{namespace="a",registry="reg"} 1"#,
            "coral_nodes_behind 3",
            r#"coral_builds{phase="Building"} 2"#,
            r#"coral_builds{phase="Pending"} 2"#,
            "coral_builds_queued 1",
            r#"coral_builds{phase="Failed"} 0"#,
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        // A pass that failed leaves the time of the last one that did not.
        let failing = json!({"mirrored": 4, "pending": 0, "failed": 2,
            "lastSync": "2026-01-01T01:00:00Z", "conditions": [condition("False"), degraded()]});
        let second = decided(vec![mirror(&failing)], &["False"], &[]);
        metrics.show(&first, &second);
        let shown = text(&metrics);
        for line in [
            r#"coral_mirror_images{namespace="a",mirror="m",state="failed"} 2"#,
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 1767225610"#,
            r#"coral_registry_ready{namespace="a",registry="reg"} 0"#,
            "coral_nodes_behind 0",
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        let restarted = Metrics::default();
        restarted.show(&Gauges::default(), &second);
        let line =
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 1767225600"#;
        let shown_again = text(&restarted);
        assert!(shown_again.contains(line), "failing since: {shown_again}");
        metrics.show(&second, &Gauges::default());
        let shown = text(&metrics);
        assert!(
            !shown.contains(r#"mirror="m""#),
            "what is gone is shown: {shown}"
        );
        assert!(
            !shown.contains(r#"registry="reg""#),
            "what is gone is shown: {shown}"
        );
    }
}
