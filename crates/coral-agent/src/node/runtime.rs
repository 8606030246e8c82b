//! The runtime: its name and version, and where it reads `hosts.toml`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coral_cri::{ConfigPath, ImageRuntime, RuntimeError, RuntimeVersion};
use jiff::Timestamp;

use super::{LOOK, RUNTIME_RETRY};

/// containerd's own default in its documentation, and what its packages configure.
const USUAL: &str = "/etc/containerd/certs.d";

/// The runtime and what it reported about itself.
pub(super) struct Runtime<R> {
    pub(super) client: Arc<R>,
    version: Option<RuntimeVersion>,
    config: Option<ConfigPath>,
    trouble: Option<String>,
    next: Option<Timestamp>,
}

impl<R: ImageRuntime> Runtime<R> {
    pub(super) fn new(client: Arc<R>) -> Self {
        Self {
            client,
            version: None,
            config: None,
            trouble: None,
            next: None,
        }
    }

    /// Asks the runtime again from time to time: it may have been restarted with another
    /// configuration.
    pub(super) async fn look(&mut self, now: Timestamp) {
        if self
            .next
            .is_some_and(|next| now < next && next <= now + LOOK)
        {
            return;
        }
        match self.ask().await {
            Ok((version, config)) => {
                self.version = Some(version);
                self.config = Some(config);
                self.trouble = None;
                self.next = Some(now + LOOK);
            }
            Err(error) => {
                self.failed(&error);
                self.next = Some(now + RUNTIME_RETRY);
            }
        }
    }

    async fn ask(&self) -> Result<(RuntimeVersion, ConfigPath), RuntimeError> {
        let version = self.client.version().await?;
        Ok((version, self.client.config_path().await?))
    }

    /// Records that the runtime did not answer, so that everything is asked again.
    pub(super) fn failed(&mut self, error: &RuntimeError) {
        tracing::warn!(%error, "the container runtime failed");
        self.trouble = Some(error.to_string());
        self.next = None;
    }

    /// When to ask again.
    pub(super) fn wake(&self, now: Timestamp) -> Timestamp {
        self.next.unwrap_or(now + RUNTIME_RETRY)
    }

    /// Name and version.
    pub(super) fn shown(&self) -> Option<String> {
        let version = self.version.as_ref()?;
        Some(format!("{} {}", version.name, version.version))
    }

    /// What is wrong with the runtime.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The folder of hosts' folders; `None` until the runtime has reported it.
    pub(super) fn certs_dir(&self, given: Option<&Path>) -> Option<PathBuf> {
        if let Some(given) = given {
            return Some(given.to_owned());
        }
        let config = self.config.as_ref()?;
        let first = config.first().cloned();
        Some(first.unwrap_or_else(|| PathBuf::from(USUAL)))
    }

    /// The advice if no `hosts.toml` has an effect.
    pub(super) fn advice(&self) -> Option<String> {
        let (found, folder) = match self.config.as_ref()? {
            ConfigPath::One(_) => return None,
            ConfigPath::Unset => ("reads no hosts.toml files", Path::new(USUAL)),
            ConfigPath::Several(folders) => (
                "has several folders for hosts.toml files, of which it may read none",
                folders.first().map_or(Path::new(USUAL), PathBuf::as_path),
            ),
        };
        let is_old = self
            .version
            .as_ref()
            .is_some_and(|version| version.version.trim_start_matches('v').starts_with("1."));
        let plugin = if is_old {
            "io.containerd.grpc.v1.cri"
        } else {
            "io.containerd.cri.v1.images"
        };
        Some(format!(
            "containerd {found}: set config_path = \"{}\" under \
             [plugins.\"{plugin}\".registry] in its config.toml and restart it",
            folder.display()
        ))
    }
}
