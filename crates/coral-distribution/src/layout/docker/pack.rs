//! Writes the only image of a layout in the format that `docker load` reads.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use coral_image::{Descriptor, Manifest, ManifestKind, media_type};
use serde::Deserialize as _;

use super::{LIST, Listed};
use crate::error::Problem;
use crate::layout::files::{blob_file, problem};

/// Writes the image of the layout in `folder` into a tar, under this name. Layers are kept as they
/// are, compressed or not: their first bytes show how to read them.
pub(in crate::layout) fn pack<W: Write>(
    folder: &Path,
    name: Option<&str>,
    tar: &mut tar::Builder<W>,
    append: impl Fn(&mut tar::Builder<W>, &Path, &Path) -> Result<(), Problem>,
    fail: impl Fn(std::io::Error) -> Problem,
) -> Result<(), Problem> {
    let manifest = image(folder)?;
    let body = manifest.body();
    let is_image = |config: &&Descriptor| media_type::is_image_config(&config.media_type);
    let Some(config) = body.config.as_ref().filter(is_image) else {
        return Err(Problem::Options(
            "it is not a container image, and a Docker archive holds only container images"
                .to_owned(),
        ));
    };
    let layers: Vec<(&Descriptor, PathBuf)> = body
        .layers
        .iter()
        .flatten()
        .map(|layer| (layer, PathBuf::from(layer_name(layer))))
        .collect();
    let config_name = format!("{}.json", config.digest.hex());
    let listed = [Listed {
        config: config_name.clone(),
        repo_tags: name.map(|name| vec![name.to_owned()]),
        layers: Some(
            layers
                .iter()
                .map(|(_, name)| name.display().to_string())
                .collect(),
        ),
    }];
    let list = serde_json::to_vec(&listed).expect("a list of texts is plain JSON");
    let mut header = tar::Header::new_gnu();
    header.set_size(list.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, LIST, &list[..])
        .map_err(fail)?;
    append(tar, &blob_file(&config.digest), Path::new(&config_name))?;
    let mut written = BTreeSet::new();
    for (layer, name) in &layers {
        let file = blob_file(&layer.digest);
        if !folder.join(&file).is_file() {
            return Err(Problem::Options(format!(
                "its layer {} is stored elsewhere (it is a foreign layer), but a Docker archive \
                 contains all layers",
                layer.digest
            )));
        }
        if written.insert(name) {
            append(tar, &file, name)?;
        }
    }
    Ok(())
}

/// The file name `<hex>.tar`, with the suffix of its compression.
fn layer_name(layer: &Descriptor) -> String {
    let essence = media_type::essence(&layer.media_type);
    let ending = match essence.rsplit(['+', '.']).next() {
        Some("gzip") => ".gz",
        Some("zstd") => ".zst",
        _ => "",
    };
    format!("{}.tar{ending}", layer.digest.hex())
}

/// The only image in the folder.
fn image(folder: &Path) -> Result<Manifest, Problem> {
    let index = read(folder, Path::new("index.json"))?;
    let index: serde_json::Value = serde_json::from_slice(&index)
        .map_err(|error| Problem::Broken(format!("index.json is not JSON: {error}")))?;
    let entries = index["manifests"].as_array().into_iter().flatten();
    let entries = entries.filter_map(|entry| Descriptor::deserialize(entry).ok());
    let entry = only(entries.collect())?;
    let manifest = parse(folder, &entry)?;
    if manifest.kind() != ManifestKind::Index {
        return Ok(manifest);
    }
    let children = manifest.children().iter();
    let there = children.filter(|child| folder.join(blob_file(&child.digest)).is_file());
    parse(folder, &only(there.cloned().collect())?)
}

fn only(mut found: Vec<Descriptor>) -> Result<Descriptor, Problem> {
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Problem::Missing),
        (Some(_), false) => Err(Problem::Options(
            "it has images for several platforms, but a Docker archive holds only one: choose it \
             with --platform"
                .to_owned(),
        )),
    }
}

fn parse(folder: &Path, entry: &Descriptor) -> Result<Manifest, Problem> {
    let bytes = read(folder, &blob_file(&entry.digest))?;
    let media_type = Some(entry.media_type.as_str()).filter(|it| !it.is_empty());
    Ok(Manifest::parse_pinned(
        bytes.into(),
        media_type,
        &entry.digest,
    )?)
}

/// Reads a file that this process has written.
fn read(folder: &Path, name: &Path) -> Result<Vec<u8>, Problem> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|error| problem("cannot read", &path, error))
}
