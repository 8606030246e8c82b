//! Tests which operations wait for each other. A missing lock shows only if two writers meet at the
//! right moment, so these tests create that moment.

use std::path::Path;
use std::sync::{MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use coral_image::{Digest, Manifest, RepositoryPath, Tag};
use tempfile::TempDir;

use super::publish::Content;
use super::{Files, open};
use crate::store::{Mounted, PutManifestError};

/// How long to wait for something that must not happen.
const EARLY: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(20);

fn store() -> (TempDir, Files, RepositoryPath) {
    let folder = TempDir::new().unwrap();
    let files = open::open(&folder.path().join("store")).unwrap();
    (folder, files, RepositoryPath::parse("a").unwrap())
}

/// Puts content into a repository.
fn push(folder: &Path, files: &Files, repository: &RepositoryPath, content: &[u8]) -> Digest {
    let (digest, source) = (Digest::sha256(content), folder.join("source"));
    std::fs::write(&source, content).unwrap();
    files
        .adopt_content(
            &digest,
            &source,
            content.len() as u64,
            Content::Unsynced,
            &mut 0,
        )
        .unwrap();
    files.link(repository, &digest).unwrap();
    digest
}

fn image(config: &[u8]) -> Manifest {
    image_with(config, config.len())
}

fn image_with(config: &[u8], size: usize) -> Manifest {
    let digest = Digest::sha256(config);
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": coral_image::media_type::OCI_MANIFEST,
        "config": {"mediaType": "a/b", "digest": digest, "size": size},
        "layers": [],
    });
    Manifest::parse(Bytes::from(json.to_string()), None).unwrap()
}

/// Checks that the work ends only after the lock is released.
fn check(turn: MutexGuard<'_, ()>, work: impl FnOnce() + Send) {
    let (ended, end) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            work();
            let _ = ended.send(());
        });
        let early = end.recv_timeout(EARLY);
        drop(turn);
        assert!(early.is_err(), "it did not wait for its turn");
        end.recv_timeout(LATE).unwrap();
    });
}

#[test]
fn two_pushes_of_one_content_take_turns() {
    let (folder, files, _) = store();
    let (digest, source) = (Digest::sha256(b"content"), folder.path().join("source"));
    std::fs::write(&source, b"content").unwrap();
    check(files.contents.lock(&digest), || {
        files
            .adopt_content(&digest, &source, 7, Content::Unsynced, &mut 0)
            .unwrap();
    });
}

#[test]
fn a_mount_waits_for_content_that_is_visible_and_not_yet_on_disk() {
    let (folder, files, from) = store();
    let digest = push(folder.path(), &files, &from, b"content");
    let to = RepositoryPath::parse("b").unwrap();
    check(files.contents.lock(&digest), || {
        let mounted = files.mount(&to, &digest, Some(&from)).unwrap();
        assert_eq!(mounted, Mounted::Here);
    });
}

#[test]
fn a_manifest_waits_for_a_blob_that_is_visible_and_not_yet_on_disk() {
    let (folder, files, repository) = store();
    let digest = push(folder.path(), &files, &repository, b"{}");
    check(files.records.lock(&(&repository, &digest)), || {
        files.put_manifest(&repository, &image(b"{}"), &[]).unwrap();
    });
}

#[test]
fn two_pushes_of_one_tag_take_turns() {
    let (folder, files, repository) = store();
    push(folder.path(), &files, &repository, b"{}");
    let tag = Tag::parse("v1").unwrap();
    check(files.records.lock(&(&repository, &tag)), || {
        let tags = [tag.clone()];
        files
            .put_manifest(&repository, &image(b"{}"), &tags)
            .unwrap();
    });
}

/// Reading a large file takes long, and a request that waited for it would block a thread.
#[test]
fn no_request_waits_for_content_that_is_held_against_its_digest() {
    let (folder, files, repository) = store();
    push(folder.path(), &files, &repository, b"{}");
    let wrong = image_with(b"{}", 3);
    let put = || files.put_manifest(&repository, &wrong, &[]).unwrap_err();
    let turn = files.verdicts.turn.lock().unwrap();
    assert!(matches!(put(), PutManifestError::Busy));
    drop(turn);
    assert!(matches!(
        put(),
        PutManifestError::WrongSize { stored: 2, .. }
    ));
    let _turn = files.verdicts.turn.lock().unwrap();
    assert!(matches!(
        put(),
        PutManifestError::WrongSize { stored: 2, .. }
    ));
}
