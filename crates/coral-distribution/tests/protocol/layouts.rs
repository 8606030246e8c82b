//! OCI layout directories as source and destination.

use coral_distribution::{
    BlobPush, Category, Disposition, Endpoint, Layout, LayoutFiles, NewArchive,
};
use coral_image::{Manifest, ManifestKind, Version};
use coral_testkit::{Built, Effect, Fault, ImageBuilder, IndexBuilder};

use crate::fixture::*;

fn manifest(built: &Built, at: usize) -> Manifest {
    let manifest = &built.manifests[at];
    let parsed = Manifest::parse_pinned(
        manifest.bytes.clone(),
        Some(&manifest.media_type),
        &manifest.digest,
    );
    parsed.unwrap()
}

/// Pushes a complete image: children by digest, the root under the tag.
async fn push(to: &Endpoint, built: &Built, name: &str) {
    for (digest, bytes) in &built.blobs {
        if let BlobPush::Upload(upload) = to.begin_blob(digest, None).await.unwrap() {
            upload
                .put(bytes.len() as u64, stream_of(bytes))
                .await
                .unwrap();
        }
    }
    for at in 0..built.manifests.len() - 1 {
        let child = manifest(built, at);
        to.put_manifest(&child.digest().into(), &child)
            .await
            .unwrap();
    }
    let root = manifest(built, built.manifests.len() - 1);
    to.put_manifest(&tag(name), &root).await.unwrap();
}

fn platforms() -> Built {
    IndexBuilder::of_platforms(4, &["linux/amd64", "linux/arm64/v8"], &[5000, 700]).build()
}

#[tokio::test]
async fn an_image_comes_back_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path().join("new/layout")));
    let built = platforms();
    push(&layout, &built, "1").await;
    let root = layout.manifest(&tag("1")).await.unwrap();
    assert_eq!(root.bytes(), &built.root().bytes);
    assert_eq!(root.kind(), ManifestKind::Index);
    for child in &built.manifests {
        let version = Version::Digest(child.digest);
        assert_eq!(
            layout.manifest(&version).await.unwrap().bytes(),
            &child.bytes
        );
        let head = layout.head(&version).await.unwrap().unwrap();
        assert_eq!(
            (head.digest, head.media_type),
            (child.digest, child.media_type.clone())
        );
    }
    let (blob, bytes) = large_blob(&built);
    assert_eq!(read(layout.blob(&blob, 0).await).await.unwrap(), bytes);
    assert_eq!(
        read(layout.blob(&blob, 100).await).await.unwrap(),
        &bytes[100..]
    );
    assert_eq!(
        layout.tags().await.unwrap(),
        [coral_image::Tag::parse("1").unwrap()]
    );
}

#[tokio::test]
async fn the_index_names_roots_and_not_their_children() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let endpoint = Endpoint::from(layout.clone());
    push(&endpoint, &platforms(), "1").await;
    push(&endpoint, &platforms(), "2").await;
    push(&endpoint, &image(), "2").await;
    let entries = layout.entries().await.unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    let marker = std::fs::read_to_string(dir.path().join("oci-layout")).unwrap();
    assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(
        endpoint.head(&tag("2")).await.unwrap().unwrap().digest,
        image().digest()
    );
}

#[tokio::test]
async fn writers_at_once_lose_no_tag() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    let root = manifest(&image(), 0);
    let versions: Vec<_> = (0..30).map(|n| tag(&format!("v{n}"))).collect();
    let puts = versions
        .iter()
        .map(|version| layout.put_manifest(version, &root));
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(layout.tags().await.unwrap().len(), 30);
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn referrers_are_found_at_the_top_and_inside_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    let subject = image();
    push(&layout, &subject, "1").await;
    let artifact = ImageBuilder::new(9)
        .artifact("application/vnd.example.sbom")
        .subject(&subject);
    let artifact = artifact.build();
    assert!(
        layout
            .referrers(&subject.digest())
            .await
            .unwrap()
            .is_empty()
    );
    let top = manifest(&artifact, 0);
    layout
        .put_manifest(&top.digest().into(), &top)
        .await
        .unwrap();
    let found = layout.referrers(&subject.digest()).await.unwrap();
    assert_eq!(
        found.iter().map(|d| d.digest).collect::<Vec<_>>(),
        [artifact.digest()]
    );
    assert_eq!(
        found[0].artifact_type.as_deref(),
        Some("application/vnd.example.sbom")
    );
    // Once an index contains it, it is found in the index.
    let index = IndexBuilder::new()
        .image(artifact.clone(), "linux/amd64")
        .build();
    push(&layout, &index, "list").await;
    assert_eq!(layout.referrers(&subject.digest()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_there_is_none_or_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path().join("missing")));
    let (blob, _) = large_blob(&image());
    assert_eq!(layout.head(&tag("1")).await.unwrap(), None);
    assert_eq!(layout.blob_size(&blob.digest).await.unwrap(), None);
    assert!(layout.tags().await.unwrap().is_empty());
    for error in [
        layout.manifest(&tag("1")).await.unwrap_err(),
        layout.blob(&blob, 0).await.unwrap_err(),
        layout.delete(&tag("1")).await.unwrap_err(),
    ] {
        assert_eq!(error.category(), Category::NotFound, "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
    assert!(!dir.path().join("missing").exists(), "reading made nothing");
}

#[tokio::test]
async fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    let built = image();
    push(&layout, &built, "1").await;
    let (blob, mut bytes) = {
        let (blob, bytes) = large_blob(&built);
        (blob, bytes.to_vec())
    };
    let path = dir.path().join("blobs/sha256").join(blob.digest.hex());
    bytes[77] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = read(layout.blob(&blob, 0).await).await.unwrap_err();
    assert_eq!(error.category(), Category::Digest);
    std::fs::write(&path, &bytes[1..]).unwrap();
    assert_eq!(
        layout.blob(&blob, 0).await.unwrap_err().category(),
        Category::Digest
    );
    for index in ["{", "[]", "{}", r#"{"manifests": 7}"#] {
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        let error = layout.manifest(&tag("1")).await.unwrap_err();
        assert!(error.to_string().contains("index.json"), "{error}");
        // A retry would find the same file.
        assert_eq!(error.disposition(), Disposition::WaitForChange);
    }
}

/// Regression: opening a pipe in a layout's folder blocked for ever.
#[cfg(unix)]
#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    let built = image();
    push(&layout, &built, "1").await;
    let (blob, _) = large_blob(&built);
    let blob_file = dir.path().join("blobs/sha256").join(blob.digest.hex());
    let index = dir.path().join("index.json");
    for path in [&blob_file, &index] {
        std::fs::remove_file(path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }
    let soon = std::time::Duration::from_mins(2);
    let waited = "nothing is waited for";
    let read_blob = Box::pin(layout.blob(&blob, 0));
    let read_blob = tokio::time::timeout(soon, read_blob).await.expect(waited);
    let tag = tag("1");
    let read_index = Box::pin(layout.manifest(&tag));
    let read_index = tokio::time::timeout(soon, read_index).await.expect(waited);
    for error in [read_blob.unwrap_err(), read_index.unwrap_err()] {
        assert_eq!(error.category(), Category::Storage, "{error}");
        assert_eq!(error.disposition(), Disposition::WaitForChange);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_in_place_of_an_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.tar");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let soon = std::time::Duration::from_mins(2);
    let opened = tokio::time::timeout(soon, Layout::open_archive(&pipe)).await;
    // Opens the other end of the pipe, so that the test can end.
    let _other_end = std::fs::File::options().read(true).write(true).open(&pipe);
    let error = opened.expect("nothing is waited for").unwrap_err();
    assert_eq!(error.category(), Category::Storage, "{error}");
}

/// Regression: a copy that was stopped while its tar was written left a folder with the blobs
/// behind.
#[cfg(unix)]
#[tokio::test]
async fn an_archive_given_up_while_it_is_packed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("x.tar");
    let archive = NewArchive::create(&tar).unwrap();
    let layout = archive.layout();
    push(&Endpoint::from(layout.clone()), &image(), "1").await;
    // Packing blocks on this pipe until it is opened for writing. That happens after the folder is
    // gone.
    let pipe = layout.dir().join("blobs/sha256/pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("pipe");
    std::fs::hard_link(&pipe, &link).unwrap();
    let whole = layout.dir().join("whole.tar");
    let packing = tokio::spawn(archive.finish());
    let begun = async {
        while !whole.exists() {
            tokio::task::yield_now().await;
        }
    };
    let soon = std::time::Duration::from_mins(2);
    tokio::time::timeout(soon, begun).await.unwrap();
    packing.abort();
    assert!(packing.await.unwrap_err().is_cancelled());
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
    // Without this, the packing thread would never end, and neither would the test.
    let _other_end = std::fs::File::options().read(true).write(true).open(&link);
    assert!(left.is_empty(), "{left:?}");
}

/// Regression: a file in place of the folder was retried again and again.
#[tokio::test]
async fn a_file_in_place_of_the_folder_waits_for_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let layout = Endpoint::from(Layout::new(&file));
    let built = image();
    let root = manifest(&built, built.manifests.len() - 1);
    let error = layout.put_manifest(&tag("1"), &root).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::WaitForChange, "{error}");
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing_behind() {
    let (source, built) = registry_with_image().await;
    source.fault(Fault::new(Effect::FlipByte { at: 3 }).path("/blobs/"));
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    let (blob, _) = large_blob(&built);
    let BlobPush::Upload(upload) = layout.begin_blob(&blob.digest, None).await.unwrap() else {
        panic!("nothing is there yet");
    };
    let body = anonymous(&source).blob(&blob, 0).await.unwrap();
    let error = upload.put(blob.size, body).await.unwrap_err();
    assert_eq!(error.category(), Category::Digest);
    let files = std::fs::read_dir(dir.path().join("blobs/sha256"))
        .unwrap()
        .count();
    assert_eq!(files, 0);
    assert_eq!(layout.blob_size(&blob.digest).await.unwrap(), None);
}

#[tokio::test]
async fn what_coral_does_not_know_in_the_index_stays() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    push(&layout, &image(), "1").await;
    let path = dir.path().join("index.json");
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    index["x-own"] = "kept".into();
    index["manifests"][0]["x-too"] = "kept".into();
    std::fs::write(&path, index.to_string()).unwrap();
    push(&layout, &platforms(), "2").await;
    layout.delete(&tag("2")).await.unwrap();
    let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(after, index);
}

/// Regression: an `index.json` that is a link to a file with a login was opened and parsed.
#[cfg(unix)]
#[tokio::test]
async fn no_link_inside_a_layout_is_followed_to_read_or_to_write() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("config.json");
    std::fs::write(&secret, r#"{"manifests":[{"auth":"c2VjcmV0"}]}"#).unwrap();
    let built = image();
    let root = manifest(&built, built.manifests.len() - 1);
    for link in ["index.json", "blobs", "blobs/sha256", "oci-layout"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        let layout = Endpoint::from(Layout::new(dir.path()));
        let link = dir.path().join(link);
        if link.ends_with("sha256") {
            std::fs::create_dir(link.parent().unwrap()).unwrap();
        }
        let to = if link.extension().is_some() || link.ends_with("oci-layout") {
            secret.as_path()
        } else {
            outside.path()
        };
        symlink(to, &link).unwrap();
        let error = layout.put_manifest(&tag("1"), &root).await.unwrap_err();
        let said = error.to_string();
        let named = format!("{} is a symbolic link", link.display());
        assert!(said.contains(&named), "{said}");
        assert!(!said.contains("c2VjcmV0"), "{said}");
        assert_eq!(error.disposition(), Disposition::WaitForChange, "{said}");
        if !link.ends_with("oci-layout") {
            let read = layout.manifest(&Version::Digest(root.digest())).await;
            assert!(read.unwrap_err().to_string().contains(&named));
        }
        let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

/// A content store of a container runtime has blobs, but no index beside them.
#[tokio::test]
async fn the_blobs_of_a_layout_may_be_in_a_folder_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = LayoutFiles::new(dir.path().join("layout")).with_blobs(dir.path().join("store"));
    let layout = Endpoint::from(Layout::from(files));
    push(&layout, &image(), "1").await;
    assert!(dir.path().join("store/sha256").is_dir());
    assert!(!dir.path().join("layout/blobs").exists());
    layout.manifest(&tag("1")).await.unwrap();
}
