use bytes::Bytes;
use coral_image::{Manifest, Tag};
use tempfile::TempDir;

use super::*;
use crate::store::file::open;
use crate::store::file::publish::Content;
use crate::store::{Bound, MinFree};

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn found(files: &[(&str, u64)]) -> HashMap<Digest, u64> {
    files
        .iter()
        .map(|(name, size)| (digest(name), *size))
        .collect()
}

#[test]
fn what_changes_while_a_folder_is_read_counts_once_whether_it_was_seen_or_not() {
    let tally = Tally::<u8>::default();
    let before_all = tally.change(&1, &digest("begun before"), 5);
    let mut pending = None;
    tally
        .count(&1, || {
            before_all.end(7);
            tally.change(&1, &digest("new"), 0).end(10);
            tally.change(&1, &digest("seen and gone"), 20).end(0);
            drop(tally.change(&1, &digest("failed"), 3));
            pending = Some(tally.change(&1, &digest("on its way"), 0));
            Ok(found(&[
                ("begun before", 5),
                ("seen and gone", 20),
                ("failed", 3),
                ("on its way", 100),
                ("old", 1000),
            ]))
        })
        .unwrap();
    assert_eq!(tally.get(&1), 7 + 10 + 3 + 1000);
    pending.unwrap().end(100);
    assert_eq!(tally.total(), 1120);
    // Counting again corrects the error.
    tally.count(&1, || Ok(found(&[("old", 900)]))).unwrap();
    assert_eq!((tally.get(&1), tally.total()), (900, 900));
}

#[test]
fn a_folder_that_comes_behind_the_walk_is_counted_and_later_ones_are_new() {
    let tally = Tally::<u8>::default();
    tally.change(&1, &digest("a"), 0).end(10);
    assert_eq!(tally.total(), 0);
    assert!(!tally.is_counted(&1));
    assert_eq!(tally.uncounted(), [1]);
    tally.count(&1, || Ok(found(&[("a", 10)]))).unwrap();
    assert_eq!(tally.uncounted(), [0; 0]);
    tally.change(&2, &digest("b"), 0).end(5);
    assert_eq!((tally.get(&2), tally.total()), (5, 15));
    // A folder without content takes no memory.
    tally.change(&2, &digest("b"), 5).end(0);
    assert_eq!(locked(&tally.0).folders.len(), 1);
}

#[test]
fn a_folder_that_cannot_be_read_keeps_its_sum() {
    let tally = Tally::<u8>::default();
    tally.count(&1, || Ok(found(&[("a", 10)]))).unwrap();
    assert!(tally.count(&1, || Err(StoreError::Closed)).is_err());
    assert_eq!(tally.get(&1), 10);
}

struct Folder {
    files: Files,
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let files = open::open(&dir.path().join("store")).unwrap();
        Self { files, dir }
    }

    fn push(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let source = self.dir.path().join("source");
        std::fs::write(&source, content).unwrap();
        let size = content.len() as u64;
        let _hold = self.files.leases.hold(&digest);
        self.files
            .adopt_content(&digest, &source, size, Content::Unsynced, &mut 0)
            .unwrap();
        self.files.link(&path(repository), &digest).unwrap();
        digest
    }

    fn sums(&self) -> (u64, u64, u64) {
        let usage = &self.files.usage;
        let of = |name| usage.repository_bytes(&path(name));
        (usage.space().stored, of("a"), of("b/c"))
    }

    /// Counts everything, including folders that were counted.
    fn count(&self) {
        for folder in locked(&self.files.usage.contents.0).folders.values_mut() {
            folder.is_counted = false;
        }
        for folder in locked(&self.files.usage.repositories.0)
            .folders
            .values_mut()
        {
            folder.is_counted = false;
        }
        self.files.count(&CancellationToken::new()).unwrap();
    }

    fn collect(&self) {
        let rules = crate::store::CollectionRules {
            grace: Duration::from_hours(1),
            untagged: None,
            dry_run: false,
            pace: crate::store::Pace::Beside,
        };
        let collected = self.files.collect(&rules, &CancellationToken::new());
        assert!(collected.unwrap().is_complete);
    }
}

fn path(name: &str) -> RepositoryPath {
    RepositoryPath::parse(name).unwrap()
}

fn manifest(layer: &Digest, size: usize) -> Manifest {
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": coral_image::media_type::OCI_MANIFEST,
        "config": {"mediaType": "a/b", "digest": layer, "size": size},
        "layers": [],
    });
    Manifest::parse(Bytes::from(json.to_string()), None).unwrap()
}

#[test]
fn what_is_kept_up_is_what_a_count_finds() {
    let store = Folder::new();
    let old = store.push("a", &[1; 1000]);
    store.count();
    assert!(store.files.usage.space().counted);
    assert_eq!(store.sums(), (1000, 1000, 0));
    let files = &store.files;
    // The content was pushed twice, and mounted, but is on the disk once.
    store.push("a", &[1; 1000]);
    files.mount(&path("b/c"), &old, Some(&path("a"))).unwrap();
    assert_eq!(store.sums(), (1000, 1000, 1000));
    let new = store.push("b/c", &[2; 500]);
    let manifest = manifest(&new, 500);
    let tags = [Tag::parse("v1").unwrap(), Tag::parse("v2").unwrap()];
    for _ in 0..2 {
        files.put_manifest(&path("b/c"), &manifest, &tags).unwrap();
    }
    let size = manifest.size();
    let kept_up = store.sums();
    assert_eq!(kept_up, (1500 + size, 1000, 1500 + size));
    store.count();
    assert_eq!(store.sums(), kept_up);
    // A deletion counts for the repository at once, for the disk once the content is collected.
    files.delete_blob(&path("a"), &old).unwrap();
    assert!(
        files
            .delete_manifest(&path("b/c"), &manifest.digest())
            .unwrap()
            .is_some()
    );
    assert_eq!(store.sums(), (1500 + size, 0, 1500));
    let rules = crate::store::CollectionRules {
        grace: Duration::ZERO,
        untagged: None,
        dry_run: false,
        pace: crate::store::Pace::Alone,
    };
    let collected = files.collect(&rules, &CancellationToken::new()).unwrap();
    assert!(collected.is_complete);
    let after = store.sums();
    store.count();
    assert_eq!(store.sums(), after);
    assert_eq!(after.0, collected.kept_bytes);
}

#[test]
fn a_collection_counts_what_was_changed_by_hand_also_where_nothing_else_changes() {
    let store = Folder::new();
    let blobs = [store.push("a", &[1; 1000]), store.push("a", &[2; 500])];
    let manifest = manifest(&blobs[0], 1000);
    store
        .files
        .put_manifest(&path("a"), &manifest, &[])
        .unwrap();
    store.files.delete_blob(&path("a"), &blobs[1]).unwrap();
    store.push("b/c", &[2; 500]);
    store.count();
    store.files.leases.advance(Duration::from_hours(100));
    // After these, nothing is left to do.
    store.collect();
    store.collect();
    let size = manifest.size();
    assert_eq!(store.sums(), (1000 + size, 1000 + size, 0));
    std::fs::remove_file(store.files.layout.blob(&blobs[0])).unwrap();
    store.collect();
    assert_eq!(store.sums(), (1000 + size, 1000 + size, 0));
    store.files.leases.advance(Duration::from_hours(7));
    store.collect();
    assert_eq!(store.sums(), (size, size, 0));
}

#[test]
fn a_folder_that_cannot_be_read_keeps_no_other_from_being_counted() {
    let store = Folder::new();
    store.push("a", &[1; 1000]);
    store.push("b/c", &[2; 500]);
    let stop = CancellationToken::new();
    let files = &store.files;
    let shelf = files.layout.contents(Algorithm::Sha256).join("00");
    let links = files.layout.repositories().join("a/_blobs/sha512");
    std::fs::remove_dir(&shelf).unwrap();
    // A link that leads to itself cannot be listed, not even by root.
    for broken in [&shelf, &links] {
        std::os::unix::fs::symlink(broken, broken).unwrap();
    }
    assert!(files.count(&stop).is_err());
    assert!(!files.usage.space().counted);
    assert_eq!(store.sums(), (1500, 0, 500));
    std::fs::remove_file(&shelf).unwrap();
    assert!(files.count(&stop).is_err());
    assert!(files.usage.space().counted);
    std::fs::remove_file(&links).unwrap();
    files.count(&stop).unwrap();
    assert_eq!(store.sums(), (1500, 1000, 500));
}

#[test]
fn a_look_at_the_disk_holds_for_a_moment_while_much_is_free() {
    let now = Instant::now();
    let disk = Disk {
        size: 1000,
        free: 300,
    };
    let look = DiskFigures {
        disk,
        at: now,
        taken: 50,
    };
    assert!(look.covers(49, 100, now));
    assert!(!look.covers(50, 100, now));
    assert!(look.covers(50, 0, now));
    assert!(!look.covers(1, 100, now + FIGURES_HOLD));
    // Space within the last figures is reserved without asking the disk.
    let store = Folder::new();
    let (size, free) = (1 << 20, 1 << 30);
    let disk = Disk { size, free };
    *locked(&store.files.usage.disk) = Some(DiskFigures {
        disk,
        at: Instant::now(),
        taken: 0,
    });
    store.files.take_room(10).unwrap();
    assert_eq!(store.files.usage.space().disk, Some(size));
    assert_eq!(locked(&store.files.usage.disk).unwrap().taken, 10);
    store.files.take_room(u64::MAX / 2).unwrap_err();
    assert_ne!(store.files.usage.space().disk, Some(size));
}

#[test]
fn uploads_together_stay_within_the_limit_and_a_manifest_needs_room_too() {
    let store = Folder::new();
    let blob = store.push("a", &[1; 1000]);
    store.count();
    let manifest = manifest(&blob, 1000);
    let files = &store.files;
    let bounds = |limit, min_free| {
        files.usage.set_bounds(SpaceBounds { limit, min_free });
    };
    bounds(Some(1300), MinFree::Bytes(0));
    files.take_room(200).unwrap();
    let refused = files.take_room(101).unwrap_err();
    let StoreError::NoRoom(why) = refused else {
        panic!("{refused}");
    };
    assert_eq!(why.bound, Bound::Limit(1300));
    files.take_room(100).unwrap();
    let tags = [Tag::parse("v1").unwrap()];
    let put = || files.put_manifest(&path("a"), &manifest, &tags);
    assert!(put().is_err());
    files.usage.uploads_shrank(300);
    put().unwrap();
    // Existing content may be tagged, mounted and deleted, however little space is free.
    bounds(Some(1), MinFree::Bytes(u64::MAX));
    assert!(files.check_room(0).is_err());
    put().unwrap();
    files.mount(&path("b/c"), &blob, None).unwrap();
    assert!(files.delete_tag(&path("a"), &tags[0]).unwrap().is_some());
}
