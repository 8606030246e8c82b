//! Images whose pull takes a while.

use std::process::Command;

use e2e::cluster::REGISTRY;
use e2e::image::{add_three_layers, busybox_root};
use e2e::peers::umoci;
use e2e::{Layout, run, scratch};
use serde_json::{Value, json};

use crate::stage::{Applied, Stage};

/// Size of the layer that makes an image big, which nothing compresses.
const MEGABYTES: &str = "count=64";

/// Tags of one repository outside, with a big layer each.
pub(crate) struct Big {
    repository: String,
    tags: Vec<String>,
}

impl Big {
    /// Makes the images, and pushes them to the registry outside on plain HTTP.
    pub(crate) fn push(stage: &Stage<'_>, name: &str, tags: &[&str]) -> Self {
        let folder = scratch();
        let layout = Layout::open(folder.path().join("layout"));
        let root = busybox_root(folder.path());
        let registry = &stage.outside.plain;
        for tag in tags {
            add_three_layers(&layout, tag, &root);
            let file = folder.path().join("big");
            let mut random = Command::new("dd");
            random.args(["if=/dev/urandom", "bs=1M", MEGABYTES]);
            random.arg(format!("of={}", file.display()));
            let _ = run(&mut random).succeeded();
            let image = format!("{}:{tag}", layout.folder().display());
            let mut insert = umoci(folder.path());
            insert.args(["insert", "--image", &image, &file.to_string_lossy(), "/big"]);
            let _ = run(&mut insert).succeeded();
            registry.push(&layout, tag, &format!("big/{name}:{tag}"));
        }
        Self {
            repository: format!("{}/big/{name}", registry.host()),
            tags: tags.iter().map(ToString::to_string).collect(),
        }
    }

    /// The reference of a tag.
    pub(crate) fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.repository)
    }

    /// As [`Big::mirror`], at a bandwidth that makes a pass last some seconds.
    pub(crate) fn slow_mirror<'a>(&self, stage: &Stage<'a>, name: &str) -> Applied<'a> {
        let limits = json!({"limits": {"bandwidth": "24Mi"}});
        let mirror = mirror_of(name, &self.repository, &self.tags, &limits);
        Applied::new(stage.cluster, "coral-system", "registrymirror", &mirror)
    }

    /// Mirrors them for as long as the value lives.
    pub(crate) fn mirror<'a>(&self, stage: &Stage<'a>, name: &str) -> Applied<'a> {
        let mirror = mirror_of(name, &self.repository, &self.tags, &json!({}));
        Applied::new(stage.cluster, "coral-system", "registrymirror", &mirror)
    }
}

/// A mirror of one repository on plain HTTP, for every namespace.
pub(crate) fn mirror_of(name: &str, repository: &str, tags: &[String], more: &Value) -> Value {
    let registry = REGISTRY.split_once('.').map(|(name, _)| name);
    let mut spec = json!({
        "registry": {"name": registry}, "interval": "1h", "allowFrom": {},
        "repositories": [{"name": repository, "tags": tags, "plainHTTP": true}],
    });
    let more = more.as_object().expect("an object").clone();
    spec.as_object_mut().expect("an object").extend(more);
    json!({
        "apiVersion": "stvz.io/v1", "kind": "RegistryMirror",
        "metadata": {"name": name}, "spec": spec,
    })
}
