//! A container runtime in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use coral_cri::{
    Category, ConfigPath, Credential, ImageName, ImageRuntime, Marks, RuntimeError, RuntimeImage,
    RuntimeVersion,
};
use tokio::sync::Notify;

/// The state of the runtime, and how it misbehaves.
#[derive(Default)]
pub(super) struct State {
    /// Names; an image's ID is derived from its digest.
    pub(super) names: BTreeMap<String, ImageName>,
    /// Pulls of these names fail.
    pub(super) refused: BTreeMap<String, Category>,
    /// Pulls of these names fail after the image was stored.
    pub(super) stored_then_refused: BTreeSet<String>,
    /// Pulls of these names wait for [`FakeRuntime::release`].
    pub(super) held: BTreeSet<String>,
    /// Images cannot be given these names.
    pub(super) unnameable: BTreeMap<String, Category>,
    /// Images that cannot be removed by these names.
    pub(super) unremovable: BTreeMap<String, Category>,
    /// How long a removal takes; needs a paused clock.
    pub(super) removal_takes: Duration,
    /// Every removal that was started, in order.
    pub(super) removals: Vec<String>,
    /// Every pull that was started, in order.
    pub(super) pulls: Vec<String>,
    /// Whether every call fails.
    pub(super) is_away: bool,
}

#[derive(Default)]
pub(super) struct FakeRuntime {
    state: Mutex<State>,
    released: Notify,
    config: PathBuf,
}

impl FakeRuntime {
    pub(super) fn new(config: PathBuf) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn release(&self) {
        self.state().held.clear();
        self.released.notify_waiters();
    }

    fn here(&self) -> Result<MutexGuard<'_, State>, RuntimeError> {
        let state = self.state();
        if state.is_away {
            return Err(RuntimeError::new("ask", Category::Unavailable, "no socket"));
        }
        Ok(state)
    }
}

impl State {
    fn give(&mut self, name: &str, digest: &str, marks: &Marks) {
        let mut labels = marks.labels.clone();
        labels.retain(|_, value| !value.is_empty());
        let given = ImageName {
            name: name.to_owned(),
            digest: digest.to_owned(),
            pinned: marks.pinned,
            labels,
        };
        self.names.insert(name.to_owned(), given);
    }
}

fn missing() -> RuntimeError {
    RuntimeError::new("look up", Category::NotFound, "not found")
}

impl ImageRuntime for FakeRuntime {
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError> {
        self.here().map(|_| RuntimeVersion {
            name: "containerd".to_owned(),
            version: "v2.4.2".to_owned(),
        })
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, RuntimeError> {
        let state = self.here()?;
        let mut images: BTreeMap<&str, RuntimeImage> = BTreeMap::new();
        for name in state.names.values() {
            let image = images.entry(&name.digest).or_default();
            image.id = format!("id of {}", name.digest);
            image.names.push(name.clone());
        }
        Ok(images.into_values().collect())
    }

    async fn in_use(&self) -> Result<BTreeSet<String>, RuntimeError> {
        self.here().map(|_| BTreeSet::new())
    }

    async fn pull(&self, reference: &str, _: Option<&Credential>) -> Result<String, RuntimeError> {
        self.here()?.pulls.push(reference.to_owned());
        loop {
            let released = self.released.notified();
            if !self.state().held.contains(reference) {
                break;
            }
            released.await;
        }
        let mut state = self.here()?;
        if let Some(category) = state.refused.get(reference) {
            return Err(RuntimeError::new("pull the image", *category, "refused"));
        }
        let digest = reference
            .split_once('@')
            .map_or("sha256:tag", |(_, digest)| digest);
        state.give(reference, digest, &Marks::default());
        if state.stored_then_refused.contains(reference) {
            return Err(RuntimeError::new("pull", Category::Other, "cut off"));
        }
        Ok(format!("id of {digest}"))
    }

    async fn tag(&self, source: &str, name: &str, marks: &Marks) -> Result<(), RuntimeError> {
        let mut state = self.here()?;
        if let Some(category) = state.unnameable.get(name) {
            return Err(RuntimeError::new("name", *category, "read-only"));
        }
        let digest = state.names.get(source).ok_or_else(missing)?.digest.clone();
        state.give(name, &digest, marks);
        Ok(())
    }

    async fn mark(&self, name: &str, marks: &Marks) -> Result<(), RuntimeError> {
        let mut state = self.here()?;
        let digest = state.names.get(name).ok_or_else(missing)?.digest.clone();
        state.give(name, &digest, marks);
        Ok(())
    }

    async fn untag(&self, name: &str) -> Result<(), RuntimeError> {
        self.here()?.names.remove(name);
        Ok(())
    }

    async fn remove(&self, reference: &str) -> Result<(), RuntimeError> {
        // Other tasks continue meanwhile.
        tokio::task::yield_now().await;
        let takes = self.state().removal_takes;
        if !takes.is_zero() {
            tokio::time::advance(takes).await;
        }
        let mut state = self.here()?;
        state.removals.push(reference.to_owned());
        if let Some(category) = state.unremovable.get(reference) {
            return Err(RuntimeError::new("remove the image", *category, "no end"));
        }
        if let Some(image) = state.names.get(reference).cloned() {
            state.names.retain(|_, name| name.digest != image.digest);
        }
        Ok(())
    }

    async fn config_path(&self) -> Result<ConfigPath, RuntimeError> {
        self.here().map(|_| ConfigPath::One(self.config.clone()))
    }
}
