//! An image into every node without a registry.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::node;
use super::settings::{Cluster, make_folder, write};
use crate::command::output;

/// The annotation by which containerd names what it imports.
const NAME: &str = "io.containerd.image.name";

/// Imports an OCI archive or layout under a full name, as a pull by that name would leave it.
pub(super) fn into_nodes(cluster: &Cluster, image: &Path, reference: &str) -> Result<()> {
    let folder = cluster.file("load");
    let archive = cluster.file("load.tar");
    make_folder(&folder)?;
    let packed = name_and_pack(image, reference, &folder, &archive);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    packed?;
    let import = |node: u8| {
        let mut import = node::ctr(cluster, node);
        output(import.args(["images", "import", "--local"]).arg(&archive)).map(drop)
    };
    thread::scope(|scope| {
        let started: Vec<_> = (1..=cluster.nodes)
            .map(|node| scope.spawn(move || import(node)))
            .collect();
        let mut ended = started.into_iter().map(thread::ScopedJoinHandle::join);
        ended.try_for_each(|ended| ended.expect("an import does not panic"))
    })?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

fn name_and_pack(image: &Path, reference: &str, folder: &Path, archive: &Path) -> Result<()> {
    if image.is_dir() {
        let all = image.join(".");
        output(Command::new("cp").arg("-a").arg(all).arg(folder))?;
    } else {
        output(
            Command::new("tar")
                .arg("-xf")
                .arg(image)
                .arg("-C")
                .arg(folder),
        )?;
    }
    let index = folder.join("index.json");
    let text = fs::read(&index)
        .with_context(|| format!("{} is no OCI archive or layout", image.display()))?;
    let named = named(serde_json::from_slice(&text)?, reference)
        .with_context(|| format!("{} cannot be loaded", image.display()))?;
    write(&index, &named.to_string())?;
    output(
        Command::new("tar")
            .arg("-cf")
            .arg(archive)
            .arg("-C")
            .arg(folder)
            .arg("."),
    )?;
    Ok(())
}

/// The index of a layout with its only image under a name.
fn named(mut index: Value, reference: &str) -> Result<Value> {
    let images = index["manifests"]
        .as_array_mut()
        .context("it has no images")?;
    match images.as_mut_slice() {
        [image] => image["annotations"] = json!({NAME: reference}),
        _ => bail!(
            "it has {} images, and one is loaded at a time",
            images.len()
        ),
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_image_of_a_layout_gets_the_name() {
        let index = json!({"manifests": [{"digest": "sha256:1", "annotations": {"a": "b"}}]});
        let named = named(index, "example.org/a:1").unwrap();
        assert_eq!(
            named["manifests"][0]["annotations"],
            json!({NAME: "example.org/a:1"})
        );
        assert_eq!(named["manifests"][0]["digest"], "sha256:1");
    }

    #[test]
    fn two_images_are_refused() {
        let error = named(json!({"manifests": [{}, {}]}), "a:1").unwrap_err();
        assert!(error.to_string().contains("2 images"), "{error}");
    }
}
