//! What the agent counts.

use coral_api::image::ImageTagState;
use coral_api::node_images::{NodeImagesStatus, NodeRegistryState};
use coral_cri::RuntimeError;
use coral_rt::register_each;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// The agent's metrics. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    images: Family<Labels, Gauge>,
    registries: Family<Labels, Gauge>,
    pulls: Family<Labels, Counter>,
    probes: Family<Labels, Counter>,
    writes: Counter,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("coral_agent");
        let gauges = [
            (
                "images",
                "Images that the node should hold, by state",
                &self.images,
            ),
            (
                "registries",
                "Registry hosts of the node, by state",
                &self.registries,
            ),
        ];
        register_each(registry, gauges);
        let counters = [
            ("pulls", "Pulls that ended, by result", &self.pulls),
            (
                "probes",
                "Probes of registry hosts that ended, by result",
                &self.probes,
            ),
        ];
        register_each(registry, counters);
        let writes = self.writes.clone();
        let help = "Writes of the status of NodeImages";
        registry.register("status_writes", help, writes);
    }

    pub(crate) fn status_written(&self) {
        self.writes.inc();
    }

    pub(crate) fn pulled<T>(&self, result: &Result<T, RuntimeError>) {
        let result = match result {
            Ok(_) => "ok",
            Err(error) => error.category().as_str(),
        };
        self.pulls.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn probed(&self, succeeded: bool) {
        let result = if succeeded { "ok" } else { "failed" };
        self.probes.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn show(&self, report: &NodeImagesStatus) {
        let states = [
            ("available", ImageTagState::Available),
            ("pending", ImageTagState::Pending),
            ("error", ImageTagState::Error),
        ];
        for (name, state) in states {
            let count = report.images.iter().filter(|image| image.state == state);
            set(&self.images, name, count.count());
        }
        let states = [
            ("ready", NodeRegistryState::Ready),
            ("pending", NodeRegistryState::Pending),
            ("error", NodeRegistryState::Error),
            ("removing", NodeRegistryState::Removing),
        ];
        for (name, state) in states {
            let count = report.registries.iter().filter(|host| host.state == state);
            set(&self.registries, name, count.count());
        }
    }
}

fn set(family: &Family<Labels, Gauge>, state: &'static str, count: usize) {
    let gauge = family.get_or_create(&[("state", state)]);
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
