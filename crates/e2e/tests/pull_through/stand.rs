//! A source, and the registry that pulls through from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{FaultServer, coral, http, scratch, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, arguments};
use crate::wire::Wire;

/// Nothing local takes longer.
pub(crate) const SOON: Duration = Duration::from_mins(2);
/// The repository of most tests, at the source.
pub(crate) const APP: &str = "team/app";

/// An image of the source, as it was made there.
pub(crate) struct Image {
    pub(crate) digest: String,
    /// Digests of all its manifests, the root last.
    pub(crate) manifests: Vec<String>,
    /// Digests and sizes.
    pub(crate) blobs: Vec<(String, u64)>,
}

impl Image {
    /// The digest of the blob of this size.
    pub(crate) fn blob_of(&self, size: u64) -> &str {
        let mut blobs = self.blobs.iter();
        let found = blobs.find(|(_, found)| *found == size);
        &found.expect("the image has a layer of this size").0
    }
}

/// An image for one platform under a tag of [`APP`], with layers of these sizes.
pub(crate) fn one(tag: &str, seed: u64, layers: &[u64]) -> Value {
    json!({ "path": APP, "tag": tag, "seed": seed, "layers": layers })
}

/// An index of two platforms under the tag `1`.
pub(crate) fn index(layers: &[u64]) -> Value {
    json!({ "kind": "index", "path": APP, "tag": "1", "layers": layers })
}

/// A fault on GET requests whose path contains `path`.
#[allow(
    clippy::needless_pass_by_value,
    reason = "effects are written where they are passed"
)]
pub(crate) fn fault(path: &str, effect: Value) -> Value {
    json!({ "on": { "method": "GET", "path": path }, "effect": effect })
}

/// The same, only on the first such request.
pub(crate) fn once(mut fault: Value) -> Value {
    fault["times"] = json!({ "first": 1 });
    fault
}

/// A source, and Coral in front of it, which stores nothing yet.
pub(crate) struct Stand {
    pub(crate) source: FaultServer,
    pub(crate) coral: Server,
    /// What the source is called below `/v2/`.
    pub(crate) folder: String,
    storage: PathBuf,
    _home: TempDir,
}

impl Stand {
    pub(crate) fn start() -> Self {
        let home = scratch();
        let storage = home.path().join("storage");
        Self::start_over(home, storage)
    }

    /// With its storage elsewhere.
    pub(crate) fn start_over(home: TempDir, storage: PathBuf) -> Self {
        let source = FaultServer::registry(&[]);
        let coral = Server::start_with(&mut command(&storage, source.host()));
        Self {
            folder: source.folder_name(),
            source,
            coral,
            storage,
            _home: home,
        }
    }

    /// Makes an image at the source.
    pub(crate) fn load(&self, seed: &Value) -> Image {
        let made = self.source.load(seed);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = |name: &str| made[name].as_array().unwrap().clone();
        let blob = |blob: &Value| (text(&blob["digest"]), blob["size"].as_u64().unwrap());
        Image {
            digest: text(&made["digest"]),
            manifests: list("manifests")
                .iter()
                .map(|it| text(&it["digest"]))
                .collect(),
            blobs: list("blobs").iter().map(blob).collect(),
        }
    }

    /// What of [`APP`] is asked for, such as `manifests/1`.
    pub(crate) fn target(&self, what: &str) -> String {
        format!("/v2/{}/{APP}/{what}", self.folder)
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.coral.address)
    }

    /// GET of something of [`APP`].
    pub(crate) fn get(&self, what: &str) -> http::Answer {
        http::get(&self.url(&self.target(what)))
    }

    /// GET of a manifest or blob that has to be there; its bytes have this digest.
    pub(crate) fn has(&self, what: &str, digest: &str) {
        let answer = self.get(what);
        let said = String::from_utf8_lossy(&answer.body[..answer.body.len().min(500)]);
        assert_eq!(answer.status, 200, "{what}: {said}");
        assert_eq!(e2e::sha256(&answer.body), digest, "{what}");
    }

    /// Everything of the image can be pulled by its tag.
    pub(crate) fn has_all(&self, tag: &str, image: &Image) {
        self.has(&format!("manifests/{tag}"), &image.digest);
        for digest in &image.manifests {
            self.has(&format!("manifests/{digest}"), digest);
        }
        for (digest, _) in &image.blobs {
            self.has(&format!("blobs/{digest}"), digest);
        }
    }

    /// A connection to Coral.
    pub(crate) fn wire(&self) -> Wire {
        Wire::connect(&self.coral.address).unwrap()
    }

    /// The digest under a tag of [`APP`] in the storage.
    pub(crate) fn stored(&self, tag: &str) -> Option<String> {
        stored(&self.storage, &format!("{}/{APP}", self.folder), tag)
    }

    pub(crate) fn wait_until_stored(&self, tag: &str, image: &Image) {
        let what = format!("{tag} at {} in the storage", image.digest);
        until(&what, SOON, || {
            (self.stored(tag)? == image.digest).then_some(())
        });
    }

    /// Ends Coral in an orderly way, and starts it again over what it stored.
    pub(crate) fn restart(&mut self) {
        self.end("TERM");
    }

    /// The same after a kill.
    pub(crate) fn crash(&mut self) {
        self.end("KILL");
    }

    fn end(&mut self, signal: &str) {
        self.coral.process.signal(signal);
        self.coral.process.wait(SOON);
        self.coral = Server::start_with(&mut command(&self.storage, self.source.host()));
    }

    /// How often, and how many bytes of, a blob were read at the source.
    pub(crate) fn read_at_source(&self, digest: &str) -> (usize, u64) {
        let requests = self.source.requests();
        let reads = requests
            .iter()
            .filter(|request| request.reads_blob() && request.path.contains(digest));
        let sent: Vec<u64> = reads.map(|request| request.sent).collect();
        (sent.len(), sent.iter().sum())
    }
}

/// The digest under a tag in the storage folder of a registry: a request to the registry would
/// fetch it.
pub(crate) fn stored(storage: &Path, repository: &str, tag: &str) -> Option<String> {
    let tags = storage.join("repositories").join(repository).join("_tags");
    let record = fs::read(tags.join(tag)).ok()?;
    let record: Value = serde_json::from_slice(&record).ok()?;
    record["digest"].as_str().map(str::to_owned)
}

fn command(storage: &Path, source: &str) -> Command {
    let mut command = coral();
    command.args(arguments(storage));
    command.args(["--pull-through", source]);
    command
}

/// A blob on its way from Coral.
pub(crate) struct Download {
    wire: Wire,
    /// Bytes of the body.
    pub(crate) length: u64,
    hash: aws_lc_rs::digest::Context,
    /// Bytes that have come.
    pub(crate) came: u64,
}

impl Download {
    /// Asks, and reads the head of the answer.
    pub(crate) fn open(stand: &Stand, digest: &str) -> Self {
        let mut wire = stand.wire();
        let target = stand.target(&format!("blobs/{digest}"));
        let head = wire.open(&target, &[]).unwrap();
        assert_eq!(head.status, 200, "{head:?}");
        let length = head.header("content-length").expect("a length");
        Self {
            length: length.parse().unwrap(),
            wire,
            hash: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
            came: 0,
        }
    }

    /// Reads until so many bytes of the body have come; less only if the connection ends.
    pub(crate) fn read_to(&mut self, end: u64) {
        let mut piece = vec![0; 1 << 20];
        while self.came < end.min(self.length) {
            let left = usize::try_from(end.min(self.length) - self.came).unwrap();
            let most = left.min(piece.len());
            // A connection that is reset has ended, too.
            let read = self.wire.read(&mut piece[..most]).unwrap_or(0);
            if read == 0 {
                return;
            }
            self.hash.update(&piece[..read]);
            self.came += read as u64;
        }
    }

    /// Reads everything, and returns its digest; none if the connection ends before.
    pub(crate) fn finish(mut self) -> Option<String> {
        self.read_to(u64::MAX);
        let digest = format!("sha256:{}", hex::encode(self.hash.finish()));
        (self.came == self.length).then_some(digest)
    }
}
