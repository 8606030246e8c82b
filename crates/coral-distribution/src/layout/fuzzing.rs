//! Properties of layouts for the fuzz targets.

use std::io::Cursor;
use std::path::Component;

use bytes::Bytes;
use coral_image::{Digest, Manifest, Tag, Version, media_type};
use serde_json::{Value, json};

use super::docker;
use super::files::blob_file;
use super::index::{Index, add_entry};
use super::tar_files::index_files;

/// Every entry that is read from an `index.json` can be found, and adding a manifest changes
/// nothing else in it.
pub(crate) fn index(bytes: &[u8]) {
    let Ok(mut index) = Index::parse(bytes) else {
        return;
    };
    for tag in index.tags() {
        // A tag that several images have is refused.
        let Ok(found) = index.find(&Version::Tag(tag.clone())) else {
            continue;
        };
        let found = found.expect("a tag that is listed is found");
        assert!(
            matches!(index.find(&Version::Digest(found.digest)), Ok(Some(_))),
            "{tag}"
        );
    }
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] });
    let manifest = Manifest::parse(Bytes::from(manifest.to_string()), None).expect("an index");
    let tag = Version::Tag(Tag::parse("fuzzed").expect("a good tag"));
    let before = index.tags();
    for version in [Version::Digest(manifest.digest()), tag] {
        add_entry(&mut index, &version, &manifest);
        let found = index.find(&version).ok().flatten();
        let found = found.expect("what was put is found");
        assert_eq!(found.digest, manifest.digest());
        let written = serde_json::to_vec(index.value()).expect("JSON that was read can be written");
        let read = Index::parse(&written).expect("what was written can be read");
        assert_eq!(whole(read.value()), whole(index.value()));
    }
    let after = index.tags();
    assert!(before.iter().all(|tag| after.contains(tag)));
}

/// Does the same without fractions, which are not read back to their last digit.
fn whole(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::Null,
        Value::Array(items) => items.iter().map(whole).collect(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), whole(value)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

/// The files of a tar have plain names and lie within the tar. The checksums of its headers are
/// corrected first, because hardly any input would pass them otherwise.
pub(crate) fn archive(bytes: &[u8]) {
    look(bytes);
    let mut mended = bytes.to_vec();
    for head in mended.chunks_exact_mut(512) {
        if head.iter().all(|&byte| byte == 0) {
            continue;
        }
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    look(&mended);
}

fn look(tar: &[u8]) {
    let Ok(mut files) = index_files(Cursor::new(tar)) else {
        return;
    };
    // The same input as an archive in Docker's format: the created files are found by their
    // digests.
    if let Ok(made) = docker::as_layout(Cursor::new(tar), &mut files) {
        for (name, bytes) in &made {
            let is_index = name.to_str() == Some("index.json");
            assert!(is_index || *name == blob_file(&Digest::sha256(bytes)));
        }
    }
    for (name, (start, size)) in files.into_found() {
        assert!(
            name.components()
                .all(|part| matches!(part, Component::Normal(_))),
            "{name:?}"
        );
        assert!(start <= tar.len() as u64, "{name:?} begins at {start}");
        assert!(
            start.checked_add(size).is_some(),
            "{name:?} has {size} bytes"
        );
    }
}
