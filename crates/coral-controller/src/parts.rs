//! Which parts there are. A new part adds one line to [`begin`].

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::builds::BuildsPart;
use crate::ca::CaPart;
use crate::context::Context;
use crate::gauges::GaugesPart;
use crate::lock::LockPart;
use crate::metrics::Metrics;
use crate::mirror::MirrorPart;
use crate::nodes::NodesPart;
use crate::part::{Part, run_part};
use crate::registry::RegistryPart;

/// Begins every part; each runs until `stop`, and its task's value is its name.
pub(crate) fn begin(
    context: &Context,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> JoinSet<&'static str> {
    let mut parts = Parts {
        context,
        metrics,
        stop,
        running: JoinSet::new(),
    };
    parts.run(CaPart::new(context.clone()));
    parts.run(NodesPart::new(context));
    parts.run(MirrorPart::new(context.clone(), metrics));
    parts.run(RegistryPart::new(context.clone()));
    parts.run(LockPart::new(context));
    parts.run(BuildsPart::new(context, metrics));
    parts.run(GaugesPart::new(context, metrics));
    parts.running
}

struct Parts<'a> {
    context: &'a Context,
    metrics: &'a Metrics,
    stop: &'a CancellationToken,
    running: JoinSet<&'static str>,
}

impl Parts<'_> {
    fn run<P: Part + 'static>(&mut self, part: P) {
        let (context, metrics) = (self.context.clone(), self.metrics.clone());
        let stop = self.stop.clone();
        self.running.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => return P::NAME,
                () = context.cluster.ready(P::AWAITED) => {}
            }
            run_part(part, &context.changes, &metrics, stop).await;
            P::NAME
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::gauges::tests::{mirror, text};
    use crate::scripted;
    use crate::store::Store;

    #[tokio::test]
    async fn mirrors_have_their_gauges_where_the_kind_of_builds_is_not_installed() {
        let (mut context, _server) = scripted::context();
        context.cluster.mirrors = Store::from_objects([mirror(&Value::Null)]);
        context.cluster.registries = Store::from_objects([]);
        context.cluster.node_images = Store::from_objects([]);
        assert!(!context.cluster.builds.is_ready());
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let mut parts = Parts {
            context: &context,
            metrics: &metrics,
            stop: &stop,
            running: JoinSet::new(),
        };
        parts.run(GaugesPart::new(&context, &metrics));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let shown = text(&metrics);
        assert!(shown.contains("coral_mirror_ready{"), "{shown}");
    }
}
