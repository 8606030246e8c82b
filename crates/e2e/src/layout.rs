//! OCI layout folders: what the tests push, and what peers pull into.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `sha256:…` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A folder in OCI layout.
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// A new one; the folder may hold a layout already (of umoci's making, say).
    pub fn open(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("scratch is writable");
        let layout = Self { folder };
        if !layout.folder.join("index.json").exists() {
            layout.write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
            layout.write("index.json", &json!({"schemaVersion": 2, "manifests": []}));
        }
        layout
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The way skopeo and Coral name an image in it.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.folder.display())
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.folder.join(name), value.to_string()).expect("scratch is writable");
    }

    fn index(&self) -> Value {
        let text = fs::read(self.folder.join("index.json")).expect("a layout has an index");
        serde_json::from_slice(&text).expect("index.json is JSON")
    }

    /// Stores bytes and describes them.
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let path = self.folder.join("blobs").join(digest.replace(':', "/"));
        fs::write(path, bytes).expect("scratch is writable");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image of one layer that holds these bytes (a tar or not: it is never unpacked).
    pub fn add_image(&self, architecture: &str, layer: &[u8]) -> Value {
        self.add_layered_image(architecture, &[layer])
    }

    /// An image of several layers, as [`Layout::add_image`].
    pub fn add_layered_image(&self, architecture: &str, layers: &[impl AsRef<[u8]>]) -> Value {
        let ids: Vec<String> = layers.iter().map(|layer| sha256(layer.as_ref())).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let layers: Vec<Value> = layers.iter().map(|l| self.add(LAYER, l.as_ref())).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.add(CONFIG, config.to_string().as_bytes()),
            "layers": layers,
        });
        self.add(MANIFEST, manifest.to_string().as_bytes())
    }

    /// An index of images, each for its platform.
    pub fn add_index(&self, images: &[(Value, &str)]) -> Value {
        let manifests: Vec<Value> = images
            .iter()
            .map(|(descriptor, architecture)| {
                let mut descriptor = descriptor.clone();
                descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
                descriptor
            })
            .collect();
        // An unknown field, and spaces that no tool writes: bytes must survive.
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
            "org.example.unknown": {"kept": true},
        });
        let text = serde_json::to_string_pretty(&index).expect("values are JSON");
        self.add(INDEX, format!("{text}\n").as_bytes())
    }

    /// Names an image.
    pub fn tag(&self, tag: &str, descriptor: &Value) {
        let mut index = self.index();
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let manifests = index["manifests"]
            .as_array_mut()
            .expect("an index has manifests");
        manifests.retain(|old| old["annotations"] != descriptor["annotations"]);
        manifests.push(descriptor);
        self.write("index.json", &index);
    }

    /// The descriptor under a tag, as another tool left it.
    pub fn tagged(&self, tag: &str) -> Value {
        let index = self.index();
        let manifests = index["manifests"]
            .as_array()
            .expect("an index has manifests");
        let name = "org.opencontainers.image.ref.name";
        let found = manifests
            .iter()
            .find(|descriptor| descriptor["annotations"][name] == tag);
        let mut found = found
            .unwrap_or_else(|| panic!("no tag {tag} in {index}"))
            .clone();
        found
            .as_object_mut()
            .expect("a descriptor is an object")
            .remove("annotations");
        found
    }

    /// Every blob, by digest.
    pub fn blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.folder.join("blobs/sha256")).expect("a layout has blobs");
        let read = entries.map(|entry| {
            let entry = entry.expect("a folder can be read");
            let bytes = fs::read(entry.path()).expect("a blob can be read");
            (
                format!("sha256:{}", entry.file_name().to_string_lossy()),
                bytes,
            )
        });
        read.collect()
    }
}
