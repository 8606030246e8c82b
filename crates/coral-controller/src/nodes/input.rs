//! The input of the decisions about nodes: plain values from the stores.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::image::ImageSettings;
use coral_api::node_images::{NodeImagesSpec, NodeImagesStatus};

use crate::ObjectKey;

/// An Image object.
#[derive(Debug, Clone)]
pub(crate) struct WantedImage {
    /// Which object.
    pub(crate) key: ObjectKey,
    /// Its generation.
    pub(crate) generation: i64,
    /// When it was made, in seconds: older objects come first where a node has too little room.
    pub(crate) created: i64,
    /// Its parsed spec.
    pub(crate) settings: ImageSettings,
}

/// A node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeView {
    /// Its name.
    pub(crate) name: String,
    /// Its uid: a node that was deleted and recreated has another one.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether kubelet says that it is Ready.
    pub(crate) ready: bool,
    /// Whether it runs Linux, the only system that has an agent.
    pub(crate) linux: bool,
    /// Its NodeImages object, if there is one.
    pub(crate) placed: Option<NodeImagesView>,
    /// Why its agent has stopped reporting, if it has.
    pub(crate) silent: Option<String>,
}

/// The NodeImages object of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeImagesView {
    /// What was asked for last.
    pub(crate) spec: NodeImagesSpec,
    /// What the agent reported last; `None` while it has not.
    pub(crate) status: Option<NodeImagesStatus>,
    /// Identity of the node that the object belongs to.
    pub(crate) owner: Option<String>,
}

impl NodeView {
    /// What the agent reported last.
    pub(crate) fn status(&self) -> Option<&NodeImagesStatus> {
        self.placed.as_ref()?.status.as_ref()
    }

    /// What was asked for last.
    pub(crate) fn spec(&self) -> Option<&NodeImagesSpec> {
        self.placed.as_ref().map(|placed| &placed.spec)
    }
}

/// A managed Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryView {
    /// Which object.
    pub(crate) key: ObjectKey,
    /// Its host as it stands in references: `reg.coral-system.svc:5000`.
    pub(crate) host: String,
    /// Where nodes reach it: `https://CLUSTER_IP:5000`. `None` before it was ready for the
    /// first time; a Registry that is down or refused keeps its own.
    pub(crate) endpoint: Option<String>,
    /// Why it is not ready, in the words of its own condition.
    pub(crate) problem: Option<String>,
}

/// Hosts that a lock allows now. While it is not known, every host counts as allowed, so that no
/// file is removed that a lock may still rely on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AllowedHosts(pub(crate) Option<BTreeSet<String>>);

impl AllowedHosts {
    /// Whether a lock may allow this host now.
    pub(crate) fn may_allow(&self, host: &str) -> bool {
        self.0.as_ref().is_none_or(|hosts| hosts.contains(host))
    }
}
