//! Opening storage folders.

use std::fs;

use coral_registry::{FileStore, OpenError};
use http::StatusCode;
use tempfile::TempDir;

use crate::client::Served;

#[test]
fn a_folder_has_one_process() {
    let folder = TempDir::new().unwrap();
    let _first = FileStore::open(folder.path()).unwrap();
    let second = FileStore::open(folder.path()).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
}

#[test]
fn a_folder_of_a_newer_release_is_left_alone() {
    let folder = TempDir::new().unwrap();
    drop(FileStore::open(folder.path()).unwrap());
    let mark = folder.path().join("coral-store.json");
    fs::write(&mark, r#"{"layoutVersion": 99}"#).unwrap();
    let refused = FileStore::open(folder.path()).unwrap_err();
    assert!(
        matches!(refused, OpenError::Newer { found: 99, .. }),
        "{refused}"
    );
    assert_eq!(
        fs::read_to_string(&mark).unwrap(),
        r#"{"layoutVersion": 99}"#
    );
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("tmp")).unwrap();
    fs::write(folder.path().join("tmp/thesis.txt"), "years of work").unwrap();
    let refused = FileStore::open(folder.path()).unwrap_err();
    assert!(matches!(refused, OpenError::NotEmpty { .. }), "{refused}");
    assert!(folder.path().join("tmp/thesis.txt").exists());
}

/// Images that were fetched with a credential must not be readable for every user of the machine.
#[test]
fn a_folder_that_is_made_is_for_its_owner_alone_and_one_that_is_there_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let new = folder.path().join("deep/store");
    drop(FileStore::open(&new).unwrap());
    assert_eq!(mode(&new), 0o700);
    let there = folder.path().join("there");
    fs::create_dir(&there).unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o750)).unwrap();
    drop(FileStore::open(&there).unwrap());
    assert_eq!(mode(&there), 0o750);
}

#[test]
fn the_root_of_a_volume_is_empty_enough() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    FileStore::open(folder.path()).unwrap();
}

#[test]
fn a_path_that_cannot_be_a_folder_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = FileStore::open(&file.join("store")).unwrap_err();
    assert!(refused.to_string().contains("file/store"), "{refused}");
}

#[tokio::test]
async fn what_an_ended_run_left_half_written_is_swept() {
    let registry = Served::new();
    registry.begin("a").await;
    let store = registry.folder.path().join("store");
    fs::write(store.join("tmp/half"), "half").unwrap();
    let never_told = store.join("uploads/5f9b2c52-6f2e-4f38-9c9a-0d9d0a0b0c0d");
    fs::create_dir(&never_told).unwrap();
    let registry = registry.restarted();
    assert!(!store.join("tmp/half").exists());
    assert!(!never_told.exists());
    assert_eq!(fs::read_dir(store.join("uploads")).unwrap().count(), 1);
    assert_eq!(registry.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn content_that_was_deleted_by_hand_is_absent_until_it_is_pushed_again() {
    let registry = Served::new();
    let digest = registry.push("a", b"hello").await;
    let hex = digest.hex();
    let stored = registry
        .folder
        .path()
        .join("store/blobs/sha256")
        .join(&hex[..2])
        .join(&hex);
    fs::remove_file(&stored).unwrap();
    let target = format!("/v2/a/blobs/{digest}");
    for method in ["GET", "HEAD"] {
        assert_eq!(
            registry.send(method, &target, b"").await.status,
            StatusCode::NOT_FOUND
        );
    }
    registry.push("a", b"hello").await;
    assert_eq!(registry.get(&target).await.body, b"hello");
}
