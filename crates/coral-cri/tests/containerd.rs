//! The client against a real containerd with its CRI plugin, which pulls from a registry on
//! loopback. Requires root, and a `containerd` on the path (or named by `CONTAINERD`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot set up its files fails, and says what it skips"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coral_cri::{Category, ConfigPath, Containerd, ImageRuntime, Marks, RuntimeImage};
use coral_testkit::{FaultRegistry, ImageBuilder};
use tempfile::TempDir;

/// A containerd that belongs to the test. It ends when this value is dropped.
struct Daemon {
    process: Child,
    folder: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    /// `None` if containerd is not installed.
    fn start() -> Option<Self> {
        let program = std::env::var("CONTAINERD").unwrap_or_else(|_| "containerd".to_owned());
        if Command::new(&program).arg("--version").output().is_err() {
            eprintln!("skipped: there is no {program}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = {:?}\n",
            at("root").display().to_string(),
            at("state").display().to_string(),
            at("sock").display().to_string(),
            at("certs.d").display().to_string()
        );
        fs::write(at("config.toml"), config).unwrap();
        let process = Command::new(program)
            .arg("--config")
            .arg(at("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        Some(Self { process, folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The client, once CRI answers.
    async fn client(&self) -> Containerd {
        let client = Containerd::new(&self.at("sock")).unwrap();
        let answered = async {
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            while client.list().await.is_err() {
                beat.tick().await;
            }
        };
        if tokio::time::timeout(Duration::from_mins(2), answered)
            .await
            .is_err()
        {
            panic!(
                "no answer:\n{}",
                fs::read_to_string(self.at("log")).unwrap()
            );
        }
        client
    }
}

/// Configures containerd to fetch images of `host` from the registry, as a node's agent would.
fn serve(certs: &Path, host: &str, registry: &FaultRegistry) {
    fs::create_dir_all(certs.join(host)).unwrap();
    let hosts = format!("server = \"http://{}\"\n\n[host]\n", registry.host());
    fs::write(certs.join(host).join("hosts.toml"), hosts).unwrap();
}

fn marks(pinned: bool, placed: &str) -> Marks {
    Marks {
        pinned,
        labels: BTreeMap::from([("image.stvz.io/placed".to_owned(), placed.to_owned())]),
    }
}

/// Lists until `wanted` is true, because CRI learns of names by events.
async fn until(client: &Containerd, wanted: impl Fn(&[RuntimeImage]) -> bool) -> Vec<RuntimeImage> {
    let seen = async {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            let images = client.list().await.unwrap();
            if wanted(&images) {
                return images;
            }
            beat.tick().await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_mins(2), seen).await;
    seen.expect("the images become as wanted")
}

fn names(images: &[RuntimeImage]) -> Vec<&str> {
    let names = images.iter().flat_map(|image| &image.names);
    names.map(|name| name.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_digest_named_pinned_and_removed() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let client = daemon.client().await;
    let certs = daemon.at("certs.d");
    assert_eq!(
        client.config_path().await.unwrap(),
        ConfigPath::One(certs.clone())
    );
    assert_eq!(client.version().await.unwrap().name, "containerd");

    let registry = FaultRegistry::start().await;
    let built = ImageBuilder::new(7).tag("1").build();
    registry.load("a/b", &built);
    serve(&certs, "reg.ns.svc:5000", &registry);
    let pulled = format!("reg.ns.svc:5000/a/b@{}", built.digest());
    let tagged = "reg.ns.svc:5000/a/b:1";

    let id = client.pull(&pulled, None).await.unwrap();
    client
        .tag(&pulled, tagged, &marks(true, "yes"))
        .await
        .unwrap();
    let images = until(&client, |images| names(images).len() == 2).await;
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].id, id);
    let tag = images[0]
        .names
        .iter()
        .find(|name| name.name == tagged)
        .unwrap();
    assert_eq!(tag.digest, built.digest().to_string());
    assert!(tag.pinned);
    assert_eq!(tag.labels["image.stvz.io/placed"], "yes");

    client.mark(tagged, &marks(false, "")).await.unwrap();
    let unpinned = |images: &[RuntimeImage]| images[0].names.iter().all(|name| !name.pinned);
    let images = until(&client, unpinned).await;
    assert!(images[0].names.iter().all(|name| name.labels.is_empty()));

    client.untag(&pulled).await.unwrap();
    until(&client, |images| names(images) == [tagged]).await;
    client.remove(tagged).await.unwrap();
    until(&client, <[_]>::is_empty).await;
    client.remove(tagged).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_refuses_has_its_category() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let client = daemon.client().await;
    let registry = FaultRegistry::start().await;
    serve(&daemon.at("certs.d"), "reg.ns.svc:5000", &registry);
    let digest = ImageBuilder::new(8).build().digest();
    let missing = format!("reg.ns.svc:5000/a/b@{digest}");
    let error = client.pull(&missing, None).await.unwrap_err();
    assert_eq!(error.category(), Category::NotFound, "{error}");
    let error = client
        .pull("reg.ns.svc:5000/A/b:1", None)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Invalid, "{error}");
}
