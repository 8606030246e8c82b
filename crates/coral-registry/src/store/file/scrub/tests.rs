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
use crate::store::{CollectionRules, Mounted, Pace};

const RULES: ScrubRules = ScrubRules {
    bandwidth: None,
    report_only: false,
};

/// Remembers what a scrub said, and stops it after so many bytes.
#[derive(Default)]
struct Watch {
    damages: Mutex<Vec<Damage>>,
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
            .adopt_content(&digest, &source, size, Content::Unsynced)
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
        // Kept until what replaced it was read.
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
    let rules = CollectionRules {
        grace: Duration::ZERO,
        untagged: Some(Duration::ZERO),
        dry_run: false,
        pace: Pace::Alone,
    };
    let stop = CancellationToken::new();
    let collected = scene.files.collect(&rules, &stop).unwrap();
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
    // A folder cannot be read as a file, by root neither.
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
    // Not one of them: where nothing is sound, the disk or the memory is at fault.
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
    let judged = Stamp::of(&fs::metadata(&path).unwrap());
    scene.push("a", b"layer");
    assert!(!scene.files.set_aside(&layer, judged).unwrap());
    assert!(scene.has("a", &layer));
}

#[test]
fn what_no_repository_wants_any_more_is_not_kept_aside() {
    let scene = Scene::new();
    let layer = scene.push("a", b"layer");
    scene.damage(&layer, flip);
    scene.scrub(RULES);
    assert_eq!(scene.aside().len(), 1);
    scene.files.delete_blob(&repository("a"), &layer).unwrap();
    scene.scrub(RULES);
    assert_eq!(scene.aside(), [] as [String; 0]);
}
