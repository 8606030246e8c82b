//! Archives in Docker's format, as `docker save`, `podman save` and `crane pull` write them: a tar
//! whose `manifest.json` names the configuration and the layers of each image.
//!
//! When read, such an archive appears as a layout: manifests and index are created in memory, and
//! each blob is found by its digest at its position in the tar.

mod pack;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use coral_image::{Algorithm, Descriptor, Digest, media_type};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::files::blob_file;
use super::names::REF_NAME;
use super::tar_files::{TarFiles, compression, plain};
use crate::error::Problem;
use crate::transport::clean;

pub(super) use pack::pack;

/// The file that lists the images.
pub(super) const LIST: &str = "manifest.json";
/// Size of the buffer through which files are hashed.
const BUFFER: usize = 256 * 1024;
const MAX_LIST: u64 = 16 * 1024 * 1024;
/// Largest configuration in bytes; registries do not accept a larger one either.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;
const MAX_IMAGES: usize = 1000;
/// Most bytes of all manifests that are created for one archive: they are kept in memory.
const MAX_MADE: usize = 32 * 1024 * 1024;
/// Most layers of an image; Docker itself creates at most 127.
const MAX_LAYERS: usize = 1000;
const MAX_TAGS: usize = 1000;

/// An image in the list.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The part of a configuration that lists the layers.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Makes a layout of the images in a tar. Returns the files that have to be created, by their names
/// in the layout, and adds the blobs to `files` under theirs. Every layer is read once to hash it.
pub(super) fn as_layout<R: Read + Seek>(
    tar: R,
    files: &mut TarFiles,
) -> Result<HashMap<PathBuf, Bytes>, Problem> {
    let mut reader = Archive {
        tar,
        files,
        layers: HashMap::new(),
    };
    let list = reader.read(Path::new(LIST), MAX_LIST);
    let list = list.map_err(|problem| match problem {
        Problem::Missing => Problem::Broken(format!(
            "it contains no {LIST}, so it is not an archive of docker save; read an OCI archive as \
             oci-archive:FILE"
        )),
        other => other,
    })?;
    let images: Vec<Listed> = serde_json::from_slice(&list).map_err(|error| {
        let error = clean(&error.to_string());
        Problem::Broken(format!("{LIST} is not a list of images: {error}"))
    })?;
    if images.len() > MAX_IMAGES {
        return Err(Problem::Broken(format!("more than {MAX_IMAGES} images")));
    }
    let (mut made, mut entries, mut bytes) = (HashMap::new(), vec![], 0);
    for image in &images {
        let manifest = reader.manifest(image)?;
        bytes += manifest.len();
        if bytes > MAX_MADE {
            return Err(Problem::Broken(format!(
                "the manifests of its images have more than {MAX_MADE} bytes"
            )));
        }
        let digest = Digest::sha256(&manifest);
        let size = manifest.len() as u64;
        made.insert(blob_file(&digest), manifest);
        entries.extend(named(image, &digest, size)?);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
    });
    made.insert(PathBuf::from("index.json"), index.to_string().into());
    Ok(made)
}

/// The entries of an image: one for each of its names, or a single one without a name.
fn named(image: &Listed, digest: &Digest, size: u64) -> Result<Vec<Descriptor>, Problem> {
    let entry = Descriptor::new(media_type::OCI_MANIFEST, *digest, size);
    let tags = image.repo_tags.as_deref().unwrap_or_default();
    if tags.len() > MAX_TAGS {
        return Err(Problem::Broken(format!(
            "an image of {LIST} has more than {MAX_TAGS} tags"
        )));
    }
    let with_name = |tag: &String| Descriptor {
        annotations: Some(BTreeMap::from([(REF_NAME.to_owned(), tag.clone())])),
        ..entry.clone()
    };
    Ok(if tags.is_empty() {
        vec![entry]
    } else {
        tags.iter().map(with_name).collect()
    })
}

/// A tar that is being read.
struct Archive<'a, R> {
    tar: R,
    files: &'a mut TarFiles,
    /// Layers that were hashed, by their position: several images, or names, may share a layer.
    layers: HashMap<u64, Descriptor>,
}

impl<R: Read + Seek> Archive<'_, R> {
    fn read(&mut self, name: &Path, limit: u64) -> Result<Vec<u8>, Problem> {
        let (start, size) = self.files.find(name)?.ok_or(Problem::Missing)?;
        if size > limit {
            return Err(Problem::TooLarge { limit });
        }
        self.tar
            .seek(SeekFrom::Start(start))
            .map_err(|error| unreadable(&error))?;
        let mut bytes = vec![];
        let read = self.tar.by_ref().take(size).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(&error))?;
        Ok(bytes)
    }

    /// The path and the position of a file that the list names.
    fn listed(&self, name: &str) -> Result<(PathBuf, (u64, u64)), Problem> {
        let path = plain(Path::new(name))?;
        match self.files.find(&path)? {
            Some(place) => Ok((path, place)),
            None => Err(Problem::Broken(format!(
                "{LIST} names {:?}, which is not in the archive",
                clean(name)
            ))),
        }
    }

    fn manifest(&mut self, image: &Listed) -> Result<Bytes, Problem> {
        let (path, place) = self.listed(&image.config)?;
        let bytes = self.read(&path, MAX_CONFIG)?;
        let digest = Digest::sha256(&bytes);
        if let Some(expected) = digest_in(&path).filter(|expected| *expected != digest) {
            return Err(wrong(expected, digest));
        }
        let config: Config = serde_json::from_slice(&bytes).map_err(|error| {
            let (name, error) = (clean(&image.config), clean(&error.to_string()));
            Problem::Broken(format!(
                "{name:?} is not the configuration of an image: {error}"
            ))
        })?;
        self.files.alias(blob_file(&digest), place);
        let names = image.layers.as_deref().unwrap_or_default();
        let ids = &config.rootfs.diff_ids;
        if names.len() > MAX_LAYERS || names.len() != ids.len() {
            return Err(Problem::Broken(format!(
                "{LIST} lists {} layers of the image {:?}, and its configuration has {}; at most \
                 {MAX_LAYERS} are read",
                names.len(),
                clean(&image.config),
                ids.len()
            )));
        }
        let mut layers = vec![];
        for (name, id) in names.iter().zip(ids) {
            layers.push(self.layer(name, id)?);
        }
        let config = Descriptor::new(media_type::OCI_CONFIG, digest, bytes.len() as u64);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": config, "layers": layers,
        });
        Ok(manifest.to_string().into())
    }

    /// Hashes a layer. `id` is the digest of its uncompressed content.
    fn layer(&mut self, name: &str, id: &str) -> Result<Descriptor, Problem> {
        let (_, place) = self.listed(name)?;
        let layer = match self.layers.get(&place.0) {
            Some(known) => known.clone(),
            None => self.hashed(name, place)?,
        };
        if layer.media_type == media_type::OCI_LAYER
            && let Ok(expected) = Digest::parse(id)
            && expected.algorithm() == Algorithm::Sha256
            && expected != layer.digest
        {
            return Err(wrong(expected, layer.digest));
        }
        self.files.alias(blob_file(&layer.digest), place);
        self.layers.insert(place.0, layer.clone());
        Ok(layer)
    }

    fn hashed(&mut self, name: &str, (start, size): (u64, u64)) -> Result<Descriptor, Problem> {
        self.tar
            .seek(SeekFrom::Start(start))
            .map_err(|error| unreadable(&error))?;
        let mut layer = self.tar.by_ref().take(size);
        let mut hasher = Algorithm::Sha256.hasher();
        let mut buffer = vec![0; BUFFER];
        let mut kind = None;
        let mut read = 0;
        loop {
            let length = layer
                .read(&mut buffer)
                .map_err(|error| unreadable(&error))?;
            if length == 0 {
                break;
            }
            if read == 0 {
                kind = compression(&buffer[..length]);
            }
            read += length as u64;
            hasher.update(&buffer[..length]);
        }
        if read != size {
            return Err(Problem::Length {
                expected: size,
                actual: read,
            });
        }
        let media_type = match kind {
            None => media_type::OCI_LAYER,
            Some("gzip") => media_type::OCI_LAYER_GZIP,
            Some("zstd") => media_type::OCI_LAYER_ZSTD,
            Some(kind) => {
                let name = clean(name);
                return Err(Problem::Broken(format!(
                    "the layer {name:?} is compressed with {kind}, which no registry has layers in"
                )));
            }
        };
        Ok(Descriptor::new(media_type, hasher.finish(), size))
    }
}

/// The digest in a file's name: `<hex>.json`, `sha256:<hex>` or `blobs/sha256/<hex>`.
fn digest_in(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    Digest::parse(&format!("sha256:{hex}")).ok()
}

fn wrong(expected: Digest, actual: Digest) -> Problem {
    Problem::Digest {
        expected: Box::new(expected),
        actual: Box::new(actual),
    }
}

fn unreadable(error: &std::io::Error) -> Problem {
    let text = clean(&error.to_string());
    Problem::Broken(format!("cannot be read: {text}"))
}

#[cfg(test)]
mod tests;
