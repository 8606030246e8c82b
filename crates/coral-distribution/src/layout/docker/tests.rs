use std::path::Path;

use coral_image::{Manifest, Tag, Version};
use futures::TryStreamExt as _;
use serde_json::Value;

use super::*;
use crate::layout::{Layout, NewArchive};

const LAYER: &[u8] = b"a layer without compression";
const GZIP: &[u8] = b"\x1f\x8b\x08 not much of a layer";

/// The name and the bytes of a file.
type File<'a> = (&'a str, &'a [u8]);

/// A tar of these files.
fn tar_of(files: &[File<'_>]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file.reopen().unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // The name is written unchecked: a name that leads out of the archive is for the reader to
        // refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.finish().unwrap();
    file
}

/// The configuration of an image with these uncompressed layers.
fn config(ids: &[Digest]) -> Vec<u8> {
    let config = json!({
        "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids},
    });
    config.to_string().into_bytes()
}

fn list(images: &Value) -> Vec<u8> {
    images.to_string().into_bytes()
}

async fn read(layout: &Layout, blob: &Descriptor) -> Vec<u8> {
    let stream = layout.blob(blob, 0).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn every_image_is_found_by_its_names_with_its_layers_as_they_are() {
    let (plain, other) = (Digest::sha256(LAYER), Digest::sha256(b"other"));
    let (one, two) = (config(&[plain, other]), config(&[plain]));
    let name = format!("{}.json", Digest::sha256(&one).hex());
    let images = list(&json!([
        {"Config": name, "RepoTags": ["web:1", "quay.io/acme/web:1.0"], "Layers": ["a/layer.tar", "b"]},
        {"Config": "two.json", "RepoTags": null, "Layers": ["./a/layer.tar"]},
    ]));
    let file = tar_of(&[
        (&name, &one),
        ("a/layer.tar", LAYER),
        ("b", GZIP),
        ("two.json", &two),
        (LIST, &images),
    ]);
    let layout = Layout::open_docker_archive(file.path()).await.unwrap();
    let entries = layout.entries().await.unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[0].digest, entries[1].digest);
    let tag = Version::Tag(Tag::parse("1.0").unwrap());
    let manifest = layout.manifest(&tag).await.unwrap();
    let named = layout.named("docker.io/library/web:1").await.unwrap();
    assert_eq!(named.unwrap().digest, manifest.digest());
    let layers = manifest.body().layers.clone().unwrap();
    let types = [media_type::OCI_LAYER, media_type::OCI_LAYER_GZIP];
    let digests = [plain, Digest::sha256(GZIP)];
    for (layer, (media_type, digest)) in layers.iter().zip(types.iter().zip(digests)) {
        assert_eq!(
            (layer.media_type.as_str(), layer.digest),
            (*media_type, digest)
        );
    }
    let config = manifest.body().config.clone().unwrap();
    assert_eq!(config.digest, Digest::sha256(&one));
    for blob in layers.iter().chain([&config]) {
        assert!(blob.digest.matches(&read(&layout, blob).await), "{blob:?}");
    }
}

#[tokio::test]
async fn what_is_not_as_it_says_is_refused() {
    let good = config(&[Digest::sha256(LAYER)]);
    let image = |config: &str, layers: &[&str]| {
        list(&json!([{"Config": config, "RepoTags": ["a:1"], "Layers": layers}]))
    };
    let other = format!("{}.json", Digest::sha256(b"another").hex());
    let (usual, renamed) = (image("c", &["a"]), image(&other, &["a"]));
    let (out, fewer) = (image("c", &["../a"]), image("c", &[]));
    let cases: [(&[File<'_>], &str); 10] = [
        (&[("a", LAYER)], "contains no manifest.json"),
        (&[(LIST, b"{}")], "is not a list of images"),
        (&[(LIST, &usual), ("a", LAYER)], "names \"c\", which is not"),
        (&[(LIST, &usual), ("c", &good)], "names \"a\", which is not"),
        (&[(LIST, &out), ("c", &good)], "leads out of it"),
        (&[(LIST, &fewer), ("c", &good)], "lists 0 layers"),
        (
            &[(LIST, &usual), ("c", &good), ("a", b"changed")],
            "wrong digest",
        ),
        (
            &[(LIST, &renamed), (&other, &good), ("a", LAYER)],
            "wrong digest",
        ),
        (
            &[(LIST, &usual), ("c", &good), ("a", b"\xfd7zXZ\0")],
            "is compressed with xz",
        ),
        (
            &[(LIST, &usual), ("c", b"no JSON"), ("a", LAYER)],
            "is not the configuration",
        ),
    ];
    for (files, said) in cases {
        let file = tar_of(files);
        let refused = Layout::open_docker_archive(file.path()).await.unwrap_err();
        let refused = coral_image::error_chain(&refused);
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[tokio::test]
async fn a_link_to_a_layer_is_not_followed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file.reopen().unwrap());
    let good = config(&[Digest::sha256(LAYER)]);
    let images = list(&json!([{"Config": "c", "Layers": ["a"]}]));
    for (name, bytes) in [("c", &good), (LIST, &images)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "a", "/etc/passwd")
        .unwrap();
    builder.finish().unwrap();
    let refused = Layout::open_docker_archive(file.path()).await.unwrap_err();
    let said = coral_image::error_chain(&refused);
    assert!(said.contains("symbolic link"), "{said}");
}

/// Copies an image into the layout of a new archive.
async fn put(archive: &NewArchive, source: &Layout, tag: &str) {
    let version = Version::Tag(Tag::parse(tag).unwrap());
    let manifest = source.manifest(&version).await.unwrap();
    let (layout, folder) = (archive.layout(), archive.layout().dir().to_owned());
    for blob in manifest.blobs() {
        let path = folder.join(blob_file(&blob.digest));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, read(source, blob).await).unwrap();
    }
    layout.put_manifest(&version, &manifest).await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_read_again_with_the_same_digests() {
    let plain = Digest::sha256(LAYER);
    let config = config(&[plain, Digest::sha256(b"other"), plain]);
    let images = json!([{"Config": "c", "RepoTags": ["web:1"], "Layers": ["a", "b", "a"]}]);
    let list = list(&images);
    let file = tar_of(&[("c", &config), ("a", LAYER), ("b", GZIP), (LIST, &list)]);
    let source = Layout::open_docker_archive(file.path()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new.tar");
    let archive = NewArchive::create_docker(&target, Some("acme/web:2".to_owned())).unwrap();
    put(&archive, &source, "1").await;
    archive.finish().await.unwrap();
    let back = Layout::open_docker_archive(&target).await.unwrap();
    let (before, after) = (
        source.entries().await.unwrap(),
        back.entries().await.unwrap(),
    );
    assert_eq!(before[0].digest, after[0].digest);
    assert!(back.named("acme/web:2").await.unwrap().is_some());
    let mut tar = tar::Archive::new(std::fs::File::open(&target).unwrap());
    let entries = tar.entries().unwrap();
    let names = entries.map(|entry| entry.unwrap().path().unwrap().display().to_string());
    let (config, gzip) = (Digest::sha256(&config).hex(), Digest::sha256(GZIP).hex());
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            LIST.to_owned(),
            format!("{config}.json"),
            format!("{}.tar", plain.hex()),
            format!("{gzip}.tar.gz"),
        ]
    );
}

#[tokio::test]
async fn what_is_no_single_image_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new.tar");
    let empty = Digest::sha256(b"{}");
    let config = json!({"mediaType": media_type::OCI_EMPTY, "size": 2, "digest": empty});
    for (manifest, said) in [
        (
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []}),
            "there is nothing under this name",
        ),
        (
            json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
                "config": config,
            }),
            "not a container image",
        ),
    ] {
        let manifest = Manifest::parse(manifest.to_string().into(), None).unwrap();
        let archive = NewArchive::create_docker(&target, None).unwrap();
        let version = Version::Tag(Tag::latest());
        let put = archive.layout().put_manifest(&version, &manifest).await;
        put.unwrap();
        let refused = coral_image::error_chain(&archive.finish().await.unwrap_err());
        assert!(refused.contains(said), "{refused}");
        assert!(!Path::new(&target).exists());
    }
}

/// An image that docker pushed, with the media types of Docker's own manifests.
#[tokio::test]
async fn an_image_of_dockers_own_types_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new.tar");
    let (layer, config) = (Digest::sha256(LAYER), config(&[Digest::sha256(LAYER)]));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
        "config": {
            "mediaType": media_type::DOCKER_CONFIG, "digest": Digest::sha256(&config),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "digest": layer,
            "size": LAYER.len(),
        }],
    });
    let manifest = Manifest::parse(manifest.to_string().into(), None).unwrap();
    let archive = NewArchive::create_docker(&target, None).unwrap();
    for bytes in [LAYER, &config] {
        let path = archive
            .layout()
            .dir()
            .join(blob_file(&Digest::sha256(bytes)));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let version = Version::Tag(Tag::latest());
    let put = archive.layout().put_manifest(&version, &manifest).await;
    put.unwrap();
    archive.finish().await.unwrap();
    let back = Layout::open_docker_archive(&target).await.unwrap();
    let entries = back.entries().await.unwrap();
    assert_eq!(entries.len(), 1);
}
