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
                () = context.cluster.ready(P::TOPICS) => {}
            }
            run_part(part, &context.changes, &metrics, stop).await;
            P::NAME
        });
    }
}
