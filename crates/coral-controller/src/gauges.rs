//! How the objects stand, as gauges: what an alert is made of.
//!
//! The values are those of the objects' statuses, so that metrics and `kubectl` never disagree. Only
//! the controller that leads has them.

use std::collections::BTreeMap;

use coral_api::conditions::kind::READY;
use coral_api::node_images::NodeImages;
use coral_api::{Registry, RegistryMirror};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::ObjectKey;
use crate::changes::Topic;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::part::{Part, PassError, Wake};
use crate::store::Snapshot;

/// Most objects of a kind that have gauges of their own: each is a handful of time series.
const MAX_OBJECTS: usize = 1000;

/// What the gauges show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) mirrors: BTreeMap<ObjectKey, MirrorGauges>,
    /// Whether each Registry is ready.
    pub(crate) registries: BTreeMap<ObjectKey, bool>,
    /// Nodes that are not as their NodeImages object says.
    pub(crate) nodes_behind: usize,
}

/// What the gauges of a mirror show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MirrorGauges {
    pub(crate) ready: bool,
    pub(crate) mirrored: i64,
    pub(crate) pending: i64,
    pub(crate) failed: i64,
    /// Of those mirrored: their source has them no longer.
    pub(crate) source_gone: i64,
    /// End of the last look at the source, in seconds since 1970, if nothing failed in it.
    pub(crate) last_success: Option<i64>,
}

impl MirrorGauges {
    /// The numbers of images, by state.
    pub(crate) fn counts(&self) -> [(&'static str, i64); 3] {
        [
            ("mirrored", self.mirrored),
            ("pending", self.pending),
            ("failed", self.failed),
        ]
    }
}

/// Decides what the gauges show.
pub(crate) fn decide(
    mirrors: &Snapshot<RegistryMirror>,
    registries: &Snapshot<Registry>,
    nodes: &Snapshot<NodeImages>,
) -> Gauges {
    let mirrors = mirrors.iter().take(MAX_OBJECTS);
    let registries = registries.iter().take(MAX_OBJECTS);
    Gauges {
        mirrors: mirrors
            .map(|(key, mirror)| (key.clone(), of_mirror(mirror)))
            .collect(),
        registries: registries
            .map(|(key, registry)| {
                let status = registry.status.as_ref();
                let conditions = status.and_then(|status| status.conditions.as_deref());
                (key.clone(), is_ready(conditions.unwrap_or_default()))
            })
            .collect(),
        nodes_behind: nodes.values().filter(|node| is_behind(node)).count(),
    }
}

fn of_mirror(mirror: &RegistryMirror) -> MirrorGauges {
    let Some(status) = &mirror.status else {
        return MirrorGauges::default();
    };
    let failed = status.failed.unwrap_or_default();
    let failures = status.failures.as_ref().map_or(0, Vec::len);
    let last = status.last_sync.as_ref();
    MirrorGauges {
        ready: is_ready(status.conditions.as_deref().unwrap_or_default()),
        mirrored: status.mirrored.unwrap_or_default(),
        pending: status.pending.unwrap_or_default(),
        failed,
        source_gone: status.source_gone.unwrap_or_default(),
        last_success: last
            .filter(|_| failed == 0 && failures == 0)
            .map(|last| last.0.as_second()),
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

/// Keeps the gauges in step with the objects.
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
    const TOPICS: &'static [Topic] =
        &[Topic::RegistryMirrors, Topic::Registries, Topic::NodeImages];

    async fn pass(&mut self, _: Timestamp) -> Result<Wake, PassError> {
        let cluster = &self.context.cluster;
        let gauges = decide(
            &cluster.mirrors.snapshot(),
            &cluster.registries.snapshot(),
            &cluster.node_images.snapshot(),
        );
        self.metrics.show(&self.shown, &gauges);
        self.shown = gauges;
        Ok(Wake::OnChange)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::Store;

    fn mirror(status: &Value) -> RegistryMirror {
        let spec = json!({"registry": {"name": "reg"}, "repositories": []});
        let object =
            json!({"metadata": {"name": "m", "namespace": "a"}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn condition(status: &str) -> Value {
        json!({"type": "Ready", "status": status, "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn decided(mirrors: Vec<RegistryMirror>, registries: &[&str], nodes: &[Value]) -> Gauges {
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
            &Store::from_objects(mirrors).snapshot(),
            &Store::from_objects(registries).snapshot(),
            &Store::from_objects(nodes).snapshot(),
        )
    }

    fn text(metrics: &Metrics) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_objects_say_is_what_the_gauges_show() {
        let well = json!({"mirrored": 5, "pending": 1, "failed": 0, "sourceGone": 2,
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
            r#"coral_mirror_images{namespace="a",mirror="m",state="pending"} 1"#,
            r#"coral_mirror_source_gone_images{namespace="a",mirror="m"} 2"#,
            r#"coral_mirror_ready{namespace="a",mirror="m"} 1"#,
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 1767225610"#,
            r#"coral_registry_ready{namespace="a",registry="reg"} 1"#,
            "coral_nodes_behind 3",
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        // A pass that failed leaves the time of the last one that did not.
        let failing = json!({"mirrored": 4, "pending": 0, "failed": 2,
            "lastSync": "2026-01-01T01:00:00Z", "conditions": [condition("False")]});
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
