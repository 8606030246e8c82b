//! The context that every part gets.

use std::sync::Arc;

use kube::Client;

use crate::Config;
use crate::api::Writer;
use crate::changes::Changes;
use crate::cluster::Cluster;
use crate::events::Events;
use crate::results::Results;
use crate::secrets::Secrets;
use crate::shared::Shared;

/// The context that every part gets. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    /// How this controller was started.
    pub(crate) config: Arc<Config>,
    /// The client of the API server; parts mostly write through [`Context::writer`].
    pub(crate) client: Client,
    /// The stores of all kinds.
    pub(crate) cluster: Cluster,
    /// Secrets by name, where granted.
    pub(crate) secrets: Secrets,
    /// Values between parts.
    pub(crate) shared: Shared,
    /// Results that builds have reported.
    pub(crate) results: Results,
    /// Events on objects.
    pub(crate) events: Arc<Events>,
    /// Notifications.
    pub(crate) changes: Changes,
}

impl Context {
    /// A context that watches nothing yet; results of builds are accepted from now on.
    pub(crate) fn new(config: Config, client: Client, results: Results) -> Self {
        let changes = Changes::default();
        results.lead(&changes);
        Self {
            results,
            events: Arc::new(Events::new(client.clone(), &config.pod_name)),
            cluster: Cluster::default(),
            secrets: Secrets::new(client.clone(), changes.clone()),
            shared: Shared::new(&changes),
            config: Arc::new(config),
            client,
            changes,
        }
    }

    /// Writes under the controller's field manager.
    pub(crate) fn writer(&self) -> Writer {
        Writer::new(self.client.clone(), MANAGER)
    }

    /// Writes under a field manager of the part's own, for objects that another part writes too.
    pub(crate) fn writer_for(&self, part: &str) -> Writer {
        Writer::new(self.client.clone(), format!("{MANAGER}-{part}"))
    }
}

/// The field manager of the controller.
const MANAGER: &str = "coral-controller";
