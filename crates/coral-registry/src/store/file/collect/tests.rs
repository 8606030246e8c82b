//! Collections that run beside pushes, mounts, lookups, moving tags, and deletions.

mod untagged;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coral_image::{Digest, Manifest, RepositoryPath, Tag, Version};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::store::file::publish::Content;
use crate::store::file::{Files, open};
use crate::store::{Collected, CollectionRules, Mounted, Pace, PutManifestError, StoreError};

const GRACE: Duration = Duration::from_millis(500);
const WORKERS: usize = 4;
const ROUNDS: usize = 60;
const BLOBS: usize = 5;

fn rules() -> CollectionRules {
    CollectionRules {
        grace: GRACE,
        untagged: None,
        dry_run: false,
        pace: Pace::Beside,
    }
}

fn store() -> (TempDir, Files) {
    let folder = TempDir::new().unwrap();
    let files = open::open(&folder.path().join("store")).unwrap();
    (folder, files)
}

fn collect(files: &Files, rules: &CollectionRules) -> Collected {
    let collected = files.collect(rules, &CancellationToken::new()).unwrap();
    assert!(collected.is_complete);
    collected
}

fn repository(name: &str) -> RepositoryPath {
    RepositoryPath::parse(name).unwrap()
}

fn push(folder: &Path, files: &Files, repository: &RepositoryPath, content: &[u8]) -> Digest {
    let digest = Digest::sha256(content);
    let source = folder.join(format!("source-{}", repository.as_str()));
    std::fs::write(&source, content).unwrap();
    let _hold = files.leases.hold(&digest);
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

fn manifest(layers: &[&[u8]], subject: Option<&Manifest>) -> Manifest {
    let descriptor = |content: &&[u8]| serde_json::json!({"mediaType": "a/b", "digest": Digest::sha256(content), "size": content.len()});
    let layers: Vec<_> = layers.iter().map(descriptor).collect();
    let mut json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": coral_image::media_type::OCI_MANIFEST,
        "config": layers[0],
        "layers": layers,
    });
    if let Some(subject) = subject {
        json["subject"] = serde_json::json!(subject.descriptor());
    }
    Manifest::parse(Bytes::from(json.to_string()), None).unwrap()
}

fn index(children: &[&Manifest]) -> Manifest {
    let children: Vec<_> = children.iter().map(|it| it.descriptor()).collect();
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": coral_image::media_type::OCI_INDEX,
        "manifests": children,
    });
    Manifest::parse(Bytes::from(json.to_string()), None).unwrap()
}

fn tag(name: &str) -> Tag {
    Tag::parse(name).unwrap()
}

/// A client with its own repository, whose blobs are also in other repositories.
struct Worker<'a> {
    folder: &'a Path,
    files: &'a Files,
    repository: RepositoryPath,
    images: &'a AtomicU64,
}

impl Worker<'_> {
    fn round(&self, number: usize) {
        let contents = [number % BLOBS, (number * 7 + 1) % BLOBS].map(|it| format!("blob {it}"));
        let contents = [contents[0].as_bytes(), contents[1].as_bytes()];
        let told = Instant::now();
        for content in contents {
            self.bring(content, number);
        }
        let image = manifest(&contents, None);
        let tags = [tag("moving")];
        match self.files.put_manifest(&self.repository, &image, &tags) {
            Ok(_) => {}
            // On a slow machine, the client took longer than its leases last.
            Err(PutManifestError::MissingBlobs(_)) if told.elapsed() >= GRACE => return,
            Err(error) => panic!("{}: {error:?}", self.repository),
        }
        self.images.fetch_add(1, Ordering::Relaxed);
        self.pull(&image);
        if number.is_multiple_of(3) {
            let deleted = self
                .files
                .delete_manifest(&self.repository, &image.digest());
            assert!(deleted.unwrap().is_some());
        }
    }

    /// Sends a blob only if it neither exists nor can be mounted.
    fn bring(&self, content: &[u8], number: usize) {
        let digest = Digest::sha256(content);
        if self
            .files
            .stat_blob(&self.repository, &digest)
            .unwrap()
            .is_some()
        {
            return;
        }
        let mount = || self.files.mount(&self.repository, &digest, None).unwrap();
        if number.is_multiple_of(2) && mount() == Mounted::Here {
            return;
        }
        push(self.folder, self.files, &self.repository, content);
    }

    fn pull(&self, image: &Manifest) {
        let wanted = (self.repository.clone(), Version::Tag(tag("moving")));
        let found = self.files.manifest(&wanted).unwrap();
        assert!(found.is_some(), "{} lost its tag", self.repository);
        for named in image.blobs() {
            let blob = self.files.open_blob(&self.repository, &named.digest);
            let digest = named.digest;
            assert!(blob.unwrap().is_some(), "{} lost {digest}", self.repository);
        }
    }
}

#[test]
fn clients_lose_nothing_beside_collections_and_space_comes_back_afterwards() {
    let (folder, files) = store();
    let (images, is_over, freed) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                freed.fetch_add(collect(&files, &rules()).links, Ordering::Relaxed);
            }
        });
        let worker = |number: usize| {
            let worker = Worker {
                folder: folder.path(),
                files: &files,
                repository: repository(&format!("worker{number}")),
                images: &images,
            };
            scope.spawn(move || (0..ROUNDS).for_each(|round| worker.round(round + number)))
        };
        let workers: Vec<_> = (0..WORKERS).map(worker).collect();
        let ended: Vec<_> = workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a worker failed");
    });
    assert!(images.load(Ordering::Relaxed) > 0);
    for number in 0..WORKERS {
        let repository = repository(&format!("worker{number}"));
        let all = files
            .layout
            .manifests(&repository, coral_image::Algorithm::Sha256);
        for name in super::names_in(&all).unwrap() {
            let digest = Digest::parse(&format!("sha256:{name}")).unwrap();
            files.delete_manifest(&repository, &digest).unwrap();
        }
    }
    for _ in 0..2 {
        files.leases.advance(GRACE * 3);
        collect(&files, &rules());
    }
    let left = collect(&files, &rules());
    assert_eq!((left.kept_contents, left.kept_bytes), (0, 0));
}

#[test]
fn the_blobs_of_a_deleted_manifest_stay_for_the_grace_time_and_a_dry_run_only_counts() {
    let (folder, files) = store();
    let a = repository("a");
    push(folder.path(), &files, &a, b"layer");
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&a, &image, &[tag("v1")]).unwrap();
    files.leases.advance(GRACE * 10);
    assert_eq!(collect(&files, &rules()).kept_contents, 2);
    files.delete_manifest(&a, &image.digest()).unwrap();
    // The manifest itself is useless without its record.
    let collected = collect(&files, &rules());
    assert_eq!((collected.contents, collected.links), (1, 0));
    assert!(
        files
            .open_blob(&a, &Digest::sha256(b"layer"))
            .unwrap()
            .is_some()
    );
    files.leases.advance(GRACE * 2);
    let dry = CollectionRules {
        dry_run: true,
        ..rules()
    };
    for _ in 0..2 {
        let counted = collect(&files, &dry);
        assert_eq!((counted.contents, counted.links, counted.bytes), (1, 1, 5));
    }
    let collected = collect(&files, &rules());
    assert_eq!(
        (collected.contents, collected.links, collected.bytes),
        (1, 1, 5)
    );
    assert!(
        files
            .open_blob(&a, &Digest::sha256(b"layer"))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_blob_that_another_repository_has_stays_there() {
    let (folder, files) = store();
    let (a, b) = (repository("a"), repository("a/b"));
    let digest = push(folder.path(), &files, &a, b"layer");
    assert_eq!(files.mount(&b, &digest, Some(&a)).unwrap(), Mounted::Here);
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&b, &image, &[tag("v1")]).unwrap();
    files.leases.advance(GRACE * 2);
    let collected = collect(&files, &rules());
    assert_eq!((collected.links, collected.contents), (1, 0));
    assert!(files.open_blob(&a, &digest).unwrap().is_none());
    assert!(files.open_blob(&b, &digest).unwrap().is_some());
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_the_blobs_of_its_repository() {
    let (folder, files) = store();
    let a = repository("a");
    let digest = push(folder.path(), &files, &a, b"layer");
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&a, &image, &[tag("v1")]).unwrap();
    std::fs::write(files.layout.blob(&image.digest()), b"damaged").unwrap();
    files.leases.advance(GRACE * 10);
    let collected = collect(&files, &rules());
    assert_eq!((collected.unreadable, collected.contents), (1, 0));
    assert!(files.open_blob(&a, &digest).unwrap().is_some());
    // The system refuses to read this repository; the other one is collected.
    let record = files.layout.manifest(&a, &image.digest());
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    push(folder.path(), &files, &repository("b"), b"other");
    files.leases.advance(GRACE * 10);
    let collected = collect(&files, &rules());
    assert_eq!((collected.unreadable, collected.contents), (1, 1));
    assert!(files.open_blob(&a, &digest).unwrap().is_some());
}

#[test]
fn what_is_settled_is_not_looked_at_again_until_something_changes() {
    let (folder, files) = store();
    let a = repository("a");
    push(folder.path(), &files, &a, b"layer");
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&a, &image, &[tag("v1")]).unwrap();
    // Beside it is a blob that is not old enough yet.
    push(folder.path(), &files, &a, b"alone");
    assert!(collect(&files, &rules()).is_nothing());
    files.leases.advance(GRACE * 10);
    assert_eq!(collect(&files, &rules()).contents, 1);
    let kept = collect(&files, &rules());
    assert_eq!((kept.kept_contents, kept.contents), (2, 0));
    // New content did not come through the store, so it is not looked for.
    let stray = Digest::sha256(b"stray");
    let path = files.layout.blob(&stray);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"stray").unwrap();
    assert_eq!(collect(&files, &rules()), kept);
    let dry = CollectionRules {
        grace: GRACE * 2,
        dry_run: true,
        ..rules()
    };
    assert_eq!(collect(&files, &dry).contents, 1);
    assert_eq!(collect(&files, &rules()).contents, 1);
    collect(&files, &rules());
    assert!(files.delete_tag(&a, &tag("v1")).unwrap().is_some());
    assert!(
        files
            .delete_manifest(&a, &image.digest())
            .unwrap()
            .is_some()
    );
    files.leases.advance(GRACE * 10);
    assert_eq!(collect(&files, &rules()).contents, 2);
}

#[test]
fn a_tag_whose_manifest_has_lost_its_record_keeps_what_it_is_answered_with() {
    let (folder, files) = store();
    let a = repository("a");
    let digest = push(folder.path(), &files, &a, b"layer");
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&a, &image, &[tag("v1")]).unwrap();
    std::fs::remove_file(files.layout.manifest(&a, &image.digest())).unwrap();
    files.leases.advance(GRACE * 10);
    let collected = collect(&files, &rules());
    assert_eq!((collected.unreadable, collected.contents), (1, 0));
    let wanted = (a.clone(), Version::Tag(tag("v1")));
    assert!(files.manifest(&wanted).unwrap().is_some());
    assert!(files.open_blob(&a, &digest).unwrap().is_some());
    // Without its tag, requests are no longer answered.
    assert!(files.delete_tag(&a, &tag("v1")).unwrap().is_some());
    files.leases.advance(GRACE * 10);
    let collected = collect(&files, &rules());
    assert_eq!((collected.unreadable, collected.contents), (0, 2));
}

#[test]
fn what_a_release_without_leases_answered_meanwhile_holds_after_the_next_upgrade() {
    let (folder, files) = store();
    let root = folder.path().join("store");
    let a = repository("a");
    let digest = push(folder.path(), &files, &a, b"layer");
    files.leases.advance(GRACE * 10);
    files.leases.close().unwrap();
    let mark = files.layout.mark();
    drop(files);
    // This is what such a release writes at its start; it answered for the blob without a lease.
    std::fs::write(mark, br#"{"layoutVersion":1}"#).unwrap();
    for _ in 0..2 {
        let files = open::open(&root).unwrap();
        assert_eq!(collect(&files, &rules()).contents, 0);
        assert!(files.open_blob(&a, &digest).unwrap().is_some());
    }
}

#[test]
fn a_folder_of_repositories_that_is_not_the_stores_own_costs_no_content() {
    let (folder, files) = store();
    let (a, b) = (repository("a"), repository("b"));
    push(folder.path(), &files, &a, b"layer");
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&a, &image, &[tag("v1")]).unwrap();
    let repositories = files.layout.repositories();
    let away = folder.path().join("away");
    drop(files);
    std::fs::rename(&repositories, &away).unwrap();
    for name in [b"early", b"later"] {
        let files = open::open(&folder.path().join("store")).unwrap();
        // A blob that is in use again is treated in the same way.
        push(folder.path(), &files, &b, name);
        files.leases.advance(GRACE * 10);
        let failed = files.collect(&rules(), &CancellationToken::new());
        let Err(StoreError::Unavailable(text)) = failed else {
            panic!("{failed:?}");
        };
        assert!(text.contains("nothing is collected"), "{text}");
    }
    std::fs::remove_dir_all(&repositories).unwrap();
    std::fs::rename(&away, &repositories).unwrap();
    let files = open::open(&folder.path().join("store")).unwrap();
    let wanted = (a.clone(), Version::Tag(tag("v1")));
    assert!(files.manifest(&wanted).unwrap().is_some());
    let blob = files.open_blob(&a, &Digest::sha256(b"layer")).unwrap();
    assert!(blob.is_some());
    files.leases.advance(GRACE * 10);
    assert_eq!(collect(&files, &rules()).contents, 2);
}

#[test]
fn the_folder_of_repositories_of_an_older_release_is_believed() {
    let (folder, files) = store();
    push(folder.path(), &files, &repository("a"), b"layer");
    std::fs::remove_file(files.layout.repositories_mark()).unwrap();
    std::fs::write(files.layout.mark(), br#"{"layoutVersion":1}"#).unwrap();
    drop(files);
    let files = open::open(&folder.path().join("store")).unwrap();
    files.leases.advance(GRACE * 10);
    assert_eq!(collect(&files, &rules()).contents, 1);
}

#[test]
fn a_full_disk_stops_neither_a_start_nor_a_collection() {
    let (folder, files) = store();
    let root = folder.path().join("store");
    push(folder.path(), &files, &repository("a"), b"layer");
    // The state that an older release leaves after a clean end.
    std::fs::remove_file(files.layout.repositories_mark()).unwrap();
    std::fs::write(files.layout.mark(), br#"{"layoutVersion":1}"#).unwrap();
    files.leases.close().unwrap();
    drop(files);
    for name in ["coral-store.json.new", "coral-clock.json.new"] {
        std::os::unix::fs::symlink("/dev/full", root.join(name)).unwrap();
    }
    let files = open::open(&root).unwrap();
    files.leases.save().unwrap();
    files.leases.advance(GRACE * 10);
    assert_eq!(collect(&files, &rules()).contents, 1);
}

#[test]
fn a_file_whose_time_cannot_be_set_is_answered_for_mounted_and_tagged() {
    let (folder, files) = store();
    let (a, b) = (repository("a"), repository("b"));
    let digest = push(folder.path(), &files, &a, b"layer");
    for repository in [&a, &b] {
        let link = files.layout.blob_link(repository, &digest);
        let _ = std::fs::remove_file(&link);
        // The time of a folder cannot be set here, whichever user runs the test.
        std::fs::create_dir_all(&link).unwrap();
    }
    assert_eq!(files.stat_blob(&a, &digest).unwrap(), Some(5));
    assert_eq!(files.mount(&b, &digest, Some(&a)).unwrap(), Mounted::Here);
    let image = manifest(&[b"layer"], None);
    files.put_manifest(&b, &image, &[tag("v1")]).unwrap();
}

#[test]
fn a_collection_that_is_stopped_takes_no_content() {
    let (folder, files) = store();
    push(folder.path(), &files, &repository("a"), b"layer");
    files.leases.advance(GRACE * 10);
    let stop = CancellationToken::new();
    stop.cancel();
    let collected = files.collect(&rules(), &stop).unwrap();
    assert!(!collected.is_complete && collected.is_nothing());
}
