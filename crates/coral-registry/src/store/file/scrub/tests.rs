//! Scrubs of stores with files that are really damaged.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use coral_image::{Manifest, RepositoryPath, Tag, Version};
use tempfile::TempDir;

use super::*;
use crate::store::file::open;
use crate::store::file::publish::Content;
use crate::store::{Collected, CollectionRules, Mounted, Pace};

const RULES: ScrubRules = ScrubRules {
    bandwidth: None,
    report_only: false,
};

/// Records what a scrub reports, and stops it after a number of bytes.
#[derive(Default)]
struct Watch {
    damages: Mutex<Vec<Damage>>,
    missing: Mutex<Vec<(Digest, Vec<RepositoryPath>)>>,
    bytes: AtomicU64,
    most: Option<u64>,
    stop: CancellationToken,
}

impl ScrubWatch for Watch {
    fn read(&self, bytes: u64) {
        let read = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.most.is_some_and(|most| read >= most) {
            self.stop.cancel();
        }
    }

    fn damaged(&self, damage: Damage) {
        self.damages.lock().unwrap().push(damage);
    }

    fn missing(&self, digest: &Digest, repositories: &[RepositoryPath]) {
        let missing = (*digest, repositories.to_vec());
        self.missing.lock().unwrap().push(missing);
    }
}

struct Scene {
    folder: TempDir,
    files: Files,
}

impl Scene {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let files = open::open(&folder.path().join("store")).unwrap();
        Self { folder, files }
    }

    fn reopened(self) -> Self {
        let Self { folder, files } = self;
        drop(files);
        let files = open::open(&folder.path().join("store")).unwrap();
        Self { folder, files }
    }

    fn push(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let source = self.folder.path().join("source");
        fs::write(&source, content).unwrap();
        let (files, size) = (&self.files, content.len() as u64);
        files
            .adopt_content(&digest, &source, size, Content::Unsynced, &mut 0)
            .unwrap();
        files.link(&repository(name), &digest).unwrap();
        digest
    }

    fn image(&self, name: &str, tag: &str, layers: &[Digest]) -> Digest {
        let layers: Vec<String> = layers.iter().map(|layer| self.described(layer)).collect();
        let configuration = self.push(name, b"{}");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            self.described(&configuration),
            layers.join(",")
        );
        let manifest = Manifest::parse(Bytes::from(text), None).unwrap();
        let tags = [Tag::parse(tag).unwrap()];
        let digest = manifest.digest();
        self.files
            .put_manifest(&repository(name), &manifest, &tags)
            .unwrap();
        digest
    }

    fn described(&self, digest: &Digest) -> String {
        let size = fs::metadata(self.files.layout.blob(digest)).unwrap().len();
        format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#)
    }

    fn damage(&self, digest: &Digest, damage: impl Fn(&Path)) {
        damage(&self.files.layout.blob(digest));
    }

    fn scrub(&self, rules: ScrubRules) -> (Scrubbed, Vec<Damage>) {
        let watch = Watch::default();
        let scrubbed = self.files.scrub(&rules, &watch.stop, &watch).unwrap();
        (scrubbed, watch.damages.into_inner().unwrap())
    }

    fn collect(&self) -> Collected {
        let rules = CollectionRules {
            grace: Duration::ZERO,
            untagged: Some(Duration::ZERO),
            dry_run: false,
            pace: Pace::Alone,
        };
        let stop = CancellationToken::new();
        self.files.collect(&rules, &stop).unwrap()
    }

    fn count(&self) {
        self.files.count(&CancellationToken::new()).unwrap();
    }

    fn has(&self, name: &str, digest: &Digest) -> bool {
        let stat = self.files.stat_blob(&repository(name), digest).unwrap();
        let opened = self.files.open_blob(&repository(name), digest).unwrap();
        assert_eq!(stat.is_some(), opened.is_some());
        stat.is_some()
    }

    fn aside(&self) -> Vec<String> {
        names_in(&self.files.layout.damaged_folder()).unwrap()
    }
}

fn repository(name: &str) -> RepositoryPath {
    RepositoryPath::parse(name).unwrap()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn empty(path: &Path) {
    fs::write(path, b"").unwrap();
}

#[test]
fn damaged_content_is_moved_aside_named_and_back_after_a_push() {
    for damage in [flip, cut, empty] {
        let scene = Scene::new();
        let layer = scene.push("team/app", b"a layer");
        let other = scene.push("team/app", b"another layer");
        scene.image("team/app", "v1", &[layer, other]);
        scene.image("team/app", "v2", &[other]);
        scene.damage(&layer, damage);
        let (scrubbed, damages) = scene.scrub(RULES);
        assert_eq!((scrubbed.damaged, scrubbed.unsure), (1, 0));
        assert_eq!((scrubbed.end, scrubbed.contents), (RoundEnd::Complete, 5));
        let [found] = damages.as_slice() else {
            panic!("{damages:?}");
        };
        assert!(found.is_aside);
        assert_eq!(found.digest, layer);
        assert_eq!(found.repositories, [repository("team/app")]);
        assert_eq!(found.images, ["team/app:v1"]);
        assert!(!scene.has("team/app", &layer));
        let mount = scene.files.mount(&repository("b"), &layer, None).unwrap();
        assert_eq!(mount, Mounted::Nowhere);
        assert_eq!(scene.files.scrub_state().unwrap().missing, 1);
        assert_eq!(scene.aside(), [format!("sha256-{}", layer.hex())]);
        // The copy is kept until the replacement was read.
        scene.push("team/app", b"a layer");
        assert!(scene.has("team/app", &layer));
        assert_eq!(scene.files.scrub_state().unwrap().missing, 0);
        assert_eq!(scene.aside().len(), 1);
        let (scrubbed, _) = scene.scrub(RULES);
        assert_eq!((scrubbed.damaged, scrubbed.contents), (0, 5));
        assert_eq!(scene.aside(), [] as [String; 0]);
    }
}

#[test]
fn a_damaged_manifest_is_not_answered_from_memory_either() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    let image = scene.image("a", "v1", &[layer]);
    let wanted = (repository("a"), Version::Tag(Tag::parse("v1").unwrap()));
    assert!(scene.files.manifest(&wanted).unwrap().is_some());
    scene.damage(&image, flip);
    let (_, damages) = scene.scrub(RULES);
    assert_eq!(damages[0].images, ["a:v1"]);
    assert!(scene.files.remembered_manifest(&wanted).is_none());
    assert!(scene.files.resolve(&wanted).unwrap().is_none());
    assert!(scene.files.manifest(&wanted).unwrap().is_none());
    scene.image("a", "v1", &[layer]);
    assert!(scene.files.manifest(&wanted).unwrap().is_some());
}

#[test]
fn a_collection_keeps_the_links_of_an_image_that_waits_for_a_layer() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    scene.image("a", "v1", &[layer]);
    scene.damage(&layer, flip);
    scene.scrub(RULES);
    let collected = scene.collect();
    assert!(collected.is_nothing(), "{collected:?}");
    let link = scene.files.layout.blob_link(&repository("a"), &layer);
    assert!(link.exists());
    scene.push("b", b"layer");
    assert!(scene.has("a", &layer));
}

#[test]
fn a_scrub_that_only_reports_moves_nothing_and_writes_nothing() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    scene.damage(&layer, flip);
    let rules = ScrubRules {
        report_only: true,
        ..RULES
    };
    let (scrubbed, damages) = scene.scrub(rules);
    assert_eq!(scrubbed.damaged, 1);
    assert!(!damages[0].is_aside);
    assert!(scene.has("a", &layer));
    assert!(!scene.files.layout.damaged_folder().exists());
    assert!(!scene.files.layout.scrub_position().exists());
}

#[test]
fn what_nothing_is_known_of_stays() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    let path = scene.files.layout.blob(&layer);
    fs::remove_file(&path).unwrap();
    // A folder cannot be read as a file, not even by root.
    fs::create_dir(&path).unwrap();
    let (scrubbed, damages) = scene.scrub(RULES);
    assert_eq!((scrubbed.damaged, scrubbed.unsure), (0, 1));
    assert_eq!(damages, []);
    assert!(path.exists());
}

#[test]
fn a_disk_on_which_all_is_bad_does_not_empty_the_store() {
    let scene = Scene::new();
    let contents: Vec<Digest> = (0..50u8).map(|n| scene.push("a", &[n, n, n])).collect();
    for digest in &contents {
        scene.damage(digest, flip);
    }
    let (scrubbed, damages) = scene.scrub(RULES);
    assert_eq!((scrubbed.end, scrubbed.damaged), (RoundEnd::Doubtful, 8));
    // None of them is moved: if nothing is sound, the disk or the memory is at fault.
    assert_eq!(scene.aside(), Vec::<String>::new());
    assert_eq!(damages.len(), 8);
    let state = scene.files.scrub_state().unwrap();
    assert!(!state.is_open && state.completed.is_none());
}

#[test]
fn a_round_that_was_stopped_goes_on_after_a_restart() {
    let mut scene = Scene::new();
    for number in 0..20u8 {
        scene.push("a", &[number; 100]);
    }
    let mut contents = 0;
    for _ in 0..3 {
        let watch = Watch {
            most: Some(500),
            ..Watch::default()
        };
        let stopped = scene.files.scrub(&RULES, &watch.stop, &watch).unwrap();
        assert_eq!(stopped.end, RoundEnd::Stopped);
        contents += stopped.contents;
        assert!(scene.files.scrub_state().unwrap().is_open);
        scene = scene.reopened();
    }
    let (rest, _) = scene.scrub(RULES);
    assert_eq!(rest.end, RoundEnd::Complete);
    assert_eq!(contents + rest.contents, 20);
    let state = scene.files.scrub_state().unwrap();
    assert!(!state.is_open && state.completed.is_some());
    assert_eq!(scene.scrub(RULES).0.contents, 20);
}

#[test]
fn what_was_pushed_anew_while_it_was_read_is_not_moved() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    scene.damage(&layer, flip);
    let path = scene.files.layout.blob(&layer);
    let judged = Stamp::from_metadata(&fs::metadata(&path).unwrap());
    scene.push("a", b"layer");
    assert!(!scene.files.set_aside(&layer, judged).unwrap());
    assert!(scene.has("a", &layer));
}

#[test]
fn a_collection_sweeps_what_was_moved_aside_and_no_repository_wants_any_more() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    let wanted = scene.push("a", b"wanted");
    scene.image("a", "v1", &[wanted]);
    for digest in [&layer, &wanted] {
        scene.damage(digest, flip);
    }
    scene.scrub(RULES);
    assert_eq!(scene.aside().len(), 2);
    scene.files.delete_blob(&repository("a"), &layer).unwrap();
    scene.collect();
    assert_eq!(scene.aside(), [format!("sha256-{}", wanted.hex())]);
}

#[test]
fn what_was_taken_for_damaged_and_is_whole_goes_back_when_the_next_round_begins() {
    let mut scene = Scene::new();
    let layer = scene.push("a", b"layer");
    let broken = scene.push("a", b"broken");
    scene.count();
    let stored = scene.files.usage.space().stored;
    for digest in [&layer, &broken] {
        scene.damage(digest, flip);
    }
    scene.scrub(RULES);
    assert!(scene.files.usage.space().stored < stored);
    // The memory was at fault, not the disk.
    flip(&scene.files.layout.damaged(&layer));
    scene = scene.reopened();
    scene.count();
    let (scrubbed, damages) = scene.scrub(RULES);
    assert_eq!((scrubbed.back, scrubbed.end), (1, RoundEnd::Complete));
    assert_eq!(damages, []);
    assert!(scene.has("a", &layer) && !scene.has("a", &broken));
    assert_eq!(scene.aside(), [format!("sha256-{}", broken.hex())]);
    let lost = b"broken".len() as u64;
    assert_eq!(scene.files.usage.space().stored, stored - lost);
    assert_eq!(scene.files.usage.space().damaged, lost);
}

#[test]
fn what_was_pushed_again_is_not_replaced_by_what_was_moved_aside() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    scene.damage(&layer, flip);
    scene.scrub(RULES);
    scene.push("a", b"layer");
    let aside = scene.files.layout.damaged(&layer);
    flip(&aside);
    let stamp = Stamp::from_metadata(&fs::metadata(&aside).unwrap());
    assert!(!scene.files.put_back(&layer, stamp).unwrap());
    assert!(scene.has("a", &layer));
}

#[test]
fn room_for_pushes_comes_first_but_not_before_what_the_running_round_moved() {
    let scene = Scene::new();
    let layer = scene.push("team/app", b"a layer of 24 bytes.....");
    scene.image("team/app", "v1", &[layer]);
    scene.damage(&layer, flip);
    let stamp = Stamp::from_metadata(&fs::metadata(scene.files.layout.blob(&layer)).unwrap());
    assert!(scene.files.set_aside(&layer, stamp).unwrap());
    let size = || {
        let aside = scene.files.layout.damaged(&layer);
        fs::metadata(aside).unwrap().len()
    };
    assert!(!scene.files.free_aside(10));
    assert_eq!(size(), 24);
    scene.files.round_ended();
    // Files are not emptied if that does not free enough space.
    assert!(!scene.files.free_aside(25));
    assert_eq!(size(), 24);
    assert!(scene.files.free_aside(10));
    assert_eq!((size(), scene.files.usage.space().damaged), (0, 0));
    // The content is still missing, and every round reports that until it is restored.
    for _ in 0..2 {
        let watch = Watch::default();
        scene.files.scrub(&RULES, &watch.stop, &watch).unwrap();
        let missing = watch.missing.into_inner().unwrap();
        assert_eq!(missing, [(layer, vec![repository("team/app")])]);
        assert_eq!(scene.files.scrub_state().unwrap().missing, 1);
    }
    scene.push("team/app", b"a layer of 24 bytes.....");
    scene.scrub(RULES);
    assert_eq!(scene.files.scrub_state().unwrap().missing, 0);
    assert_eq!(scene.aside(), [] as [String; 0]);
}

#[test]
fn a_folder_that_cannot_be_read_keeps_no_other_from_being_read() {
    let scene = Scene::new();
    let contents: Vec<Digest> = (0..20u8).map(|n| scene.push("a", &[n; 10])).collect();
    let first = contents.iter().min_by_key(|digest| digest.hex()).unwrap();
    let shelf = scene.files.layout.blob(first);
    let shelf = shelf.parent().unwrap();
    // A link that leads to itself cannot be listed, not even by root.
    fs::remove_dir_all(shelf).unwrap();
    std::os::unix::fs::symlink(shelf, shelf).unwrap();
    let (scrubbed, _) = scene.scrub(RULES);
    assert_eq!((scrubbed.end, scrubbed.unsure), (RoundEnd::Complete, 1));
    let others = contents
        .iter()
        .filter(|it| it.hex()[..2] != first.hex()[..2]);
    assert_eq!(scrubbed.contents, others.count() as u64);
}

#[test]
fn behind_a_row_of_bad_files_the_next_round_goes_on() {
    let scene = Scene::new();
    let mut contents: Vec<Digest> = (0..30u8).map(|n| scene.push("a", &[n; 10])).collect();
    contents.sort_by_key(Digest::hex);
    for digest in &contents[5..13] {
        scene.damage(digest, flip);
    }
    let (scrubbed, _) = scene.scrub(RULES);
    assert_eq!((scrubbed.end, scrubbed.contents), (RoundEnd::Doubtful, 13));
    let (rest, _) = scene.scrub(RULES);
    assert_eq!((rest.end, rest.contents), (RoundEnd::Complete, 17));
    assert_eq!(scene.files.scrub_state().unwrap().completed, None);
    assert_eq!(scene.scrub(RULES).0.end, RoundEnd::Doubtful);
}
