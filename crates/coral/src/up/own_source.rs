//! A loopback source with one image, Coral's own, for trying things without a network.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coral_distribution::{Credentials, Endpoint, HostOptions};
use coral_image::{Host, ImageRef};
use coral_registry::{Settings, Writes};
use coral_rt::Serving;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::own_image::OwnImage;
use crate::registry;
use crate::terminal::Terminal;

/// The source, served once a mirror names it.
pub(crate) struct OwnSource {
    address: SocketAddr,
    folder: PathBuf,
    stop: CancellationToken,
    running: bool,
}

impl OwnSource {
    pub(crate) fn new(address: SocketAddr, folder: PathBuf, stop: CancellationToken) -> Self {
        Self {
            address,
            folder,
            stop,
            running: false,
        }
    }

    /// The host by which mirrors name it.
    pub(crate) fn host(&self) -> Result<Host, Failure> {
        if !self.address.ip().is_loopback() || self.address.port() == 0 {
            let problem = format!(
                "--self {}: expected a loopback address and a port",
                self.address
            );
            return Err(Failure::input(problem));
        }
        Host::parse(&self.address.to_string()).map_err(Failure::input)
    }

    /// Makes the image from the running program and serves it read-only until it is stopped.
    pub(crate) async fn ensure_running(&mut self, terminal: &Terminal) -> Result<(), Failure> {
        if self.running {
            return Ok(());
        }
        let listener = registry::listen(self.address, "--self").await?;
        let folder = self.folder.clone();
        let fresh = tokio::task::spawn_blocking(move || remove_store(&folder));
        let failed = |error: &dyn std::error::Error| {
            Failure::failed(
                format!("the folder {} cannot be emptied", self.folder.display()),
                error,
            )
        };
        fresh
            .await
            .map_err(|e| failed(&e))?
            .map_err(|e| failed(&e))?;
        let serving = Serving::default();
        let opened = registry::open(&self.folder, None, &serving).await?;
        fill(opened.router.clone(), self.host()?).await?;
        opened.registry.configure(Settings {
            writes: Writes::Refused,
            ..Settings::default()
        });
        tokio::spawn(registry::serve_until(
            listener,
            opened,
            serving,
            self.stop.clone(),
        ));
        terminal.line(&format!(
            "Coral's own image is at {}/coral:latest",
            self.address
        ));
        self.running = true;
        Ok(())
    }
}

/// Removes what an earlier start left behind. A folder that is not a store is not Coral's: it
/// stays, and opening it fails.
fn remove_store(folder: &Path) -> std::io::Result<()> {
    if coral_registry::FileStore::is_store(folder) {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// Pushes the image through a separate listener, which is closed before the first client is served.
async fn fill(router: axum::Router, host: Host) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::failed("Coral's own image could not be made", error)
    };
    let image = tokio::task::spawn_blocking(OwnImage::of_this_program);
    let image = image
        .await
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e))?;
    let door = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|e| failed(&e))?;
    let door_host = Host::parse(&registry::local_address(&door)?.to_string());
    let door_host = door_host.map_err(Failure::input)?;
    let closed = CancellationToken::new();
    let serving = tokio::spawn(coral_registry::serve(
        door,
        router,
        Serving::default(),
        closed.clone(),
    ));
    let plain = HostOptions {
        plain_http: true,
        ..HostOptions::default()
    };
    let client = crate::client::client([(door_host.clone(), plain)].into())?;
    let name = ImageRef::parse(&format!("{door_host}/coral:latest")).map_err(Failure::input)?;
    let endpoint = client.repository(name.repository(), Arc::new(Credentials::none()));
    let pushed = image.push(&Endpoint::from(endpoint), &name.version()).await;
    drop(client);
    closed.cancel();
    serving
        .await
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e))?;
    tracing::debug!(%host, "own image made");
    pushed.map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, precious) = (dir.path().join("ours"), dir.path().join("own"));
        drop(coral_registry::FileStore::open(&ours).unwrap());
        std::fs::create_dir(&precious).unwrap();
        std::fs::write(precious.join("thesis"), "years").unwrap();
        for folder in [&ours, &precious, &dir.path().join("none")] {
            remove_store(folder).unwrap();
        }
        assert!(!ours.exists());
        assert!(precious.join("thesis").exists());
    }
}
