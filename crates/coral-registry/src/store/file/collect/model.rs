//! Random operations, collections, restarts and crashes over a store, with the invariants checked
//! after each of them.
//!
//! `CORAL_MODEL_STEPS` is the number of operations; `CORAL_MODEL_SEED` repeats a run.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use coral_image::{Algorithm, Digest, Manifest, RepositoryPath, Tag, Version};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::store::file::durable::fuse;
use crate::store::file::lookup::names_in;
use crate::store::file::publish::Content;
use crate::store::file::{Files, open};
use crate::store::{Collected, CollectionRules, Mounted, Pace, StoreError};

const STEPS: u64 = 500;
const HOUR: Duration = Duration::from_hours(1);
const GRACE: Duration = Duration::from_hours(24);
const BLOBS: u64 = 6;
const REPOSITORIES: u64 = 3;
const TAGS: u64 = 3;

/// A small generator of pseudo-random numbers (splitmix64).
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The store, and what it acknowledged.
struct Model {
    folder: TempDir,
    files: Option<Files>,
    seed: Seed,
    now: Duration,
    manifests: HashMap<(u64, Digest), Manifest>,
    tags: HashMap<(u64, u64), Digest>,
    /// When a client was last told that a repository has a blob.
    leases: HashMap<(u64, u64), Duration>,
    crashes: u32,
    freed: u64,
}

fn repository(number: u64) -> RepositoryPath {
    RepositoryPath::parse(["a", "a/b", "c"][usize::try_from(number).unwrap()]).unwrap()
}

fn tag(number: u64) -> Tag {
    Tag::parse(&format!("v{number}")).unwrap()
}

fn blob(number: u64) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

fn digest(number: u64) -> Digest {
    Digest::sha256(&blob(number))
}

fn image(config: u64, layer: u64) -> Manifest {
    let descriptor = |number| {
        serde_json::json!({
            "mediaType": "a/b", "digest": digest(number), "size": blob(number).len(),
        })
    };
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": coral_image::media_type::OCI_MANIFEST,
        "config": descriptor(config),
        "layers": [descriptor(layer)],
    });
    Manifest::parse(Bytes::from(json.to_string()), None).unwrap()
}

impl Model {
    fn new(seed: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let mut model = Self {
            folder,
            files: None,
            seed: Seed(seed),
            now: Duration::ZERO,
            manifests: HashMap::new(),
            tags: HashMap::new(),
            leases: HashMap::new(),
            crashes: 0,
            freed: 0,
        };
        model.open();
        model
    }

    fn storage(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn open(&mut self) {
        // The lock is released first.
        self.files = None;
        self.files = Some(open::open(&self.storage()).unwrap());
    }

    fn files(&self) -> &Files {
        self.files.as_ref().unwrap()
    }

    /// Runs one operation, during which the process may end. `false` if it did.
    fn step(&mut self) -> bool {
        let may_crash = self.seed.below(4) == 0;
        fuse::set(may_crash.then(|| u32::try_from(self.seed.below(8)).unwrap()));
        let done = match self.seed.below(12) {
            0..=2 => self.push(),
            3 => self.mount(),
            4 => self.stat(),
            5 | 6 => self.put(),
            7 => self.delete_manifest(),
            8 => self.delete_tag(),
            9 => self.wait(),
            _ => self.collect().map(|_| ()),
        };
        fuse::set(None);
        if done.is_err() {
            self.crashes += 1;
            self.open();
        }
        done.is_ok()
    }

    fn leased(&mut self, repository: u64, blob: u64) {
        self.leases.insert((repository, blob), self.now);
    }

    fn push(&mut self) -> Result<(), StoreError> {
        let (to, number) = (self.seed.below(REPOSITORIES), self.seed.below(BLOBS));
        let (content, digest) = (blob(number), digest(number));
        let source = self.folder.path().join("source");
        std::fs::write(&source, &content).unwrap();
        let files = self.files();
        let hold = files.leases.hold(&digest);
        files.adopt_content(
            &digest,
            &source,
            content.len() as u64,
            Content::Unsynced,
            &mut 0,
        )?;
        files.link(&repository(to), &digest)?;
        drop(hold);
        self.leased(to, number);
        Ok(())
    }

    fn mount(&mut self) -> Result<(), StoreError> {
        let (to, number) = (self.seed.below(REPOSITORIES), self.seed.below(BLOBS));
        let mounted = self.files().mount(&repository(to), &digest(number), None)?;
        if mounted == Mounted::Here {
            self.leased(to, number);
        }
        Ok(())
    }

    fn stat(&mut self) -> Result<(), StoreError> {
        let (of, number) = (self.seed.below(REPOSITORIES), self.seed.below(BLOBS));
        let found = self.files().stat_blob(&repository(of), &digest(number))?;
        if found.is_some() {
            self.leased(of, number);
        }
        Ok(())
    }

    fn put(&mut self) -> Result<(), StoreError> {
        let (to, name) = (self.seed.below(REPOSITORIES), self.seed.below(TAGS));
        let manifest = image(self.seed.below(BLOBS), self.seed.below(BLOBS));
        let digest = manifest.digest();
        let before = self.tags.remove(&(to, name));
        match self
            .files()
            .put_manifest(&repository(to), &manifest, &[tag(name)])
        {
            Ok(_) => {
                self.manifests.insert((to, digest), manifest);
                self.tags.insert((to, name), digest);
                Ok(())
            }
            Err(crate::store::PutManifestError::MissingBlobs(_)) => {
                self.tags.extend(before.map(|digest| ((to, name), digest)));
                Ok(())
            }
            Err(crate::store::PutManifestError::Store(error)) => Err(error),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn delete_manifest(&mut self) -> Result<(), StoreError> {
        let mut known: Vec<(u64, Digest)> = self.manifests.keys().copied().collect();
        known.sort_unstable();
        if known.is_empty() {
            return Ok(());
        }
        let at = self.seed.below(known.len() as u64);
        let (of, digest) = known[usize::try_from(at).unwrap()];
        // This is recorded whatever the result is, because the deletion was requested.
        self.manifests.remove(&(of, digest));
        self.tags.retain(|(at, _), it| *at != of || *it != digest);
        self.files()
            .delete_manifest(&repository(of), &digest)
            .map(|_| ())
    }

    fn delete_tag(&mut self) -> Result<(), StoreError> {
        let (of, name) = (self.seed.below(REPOSITORIES), self.seed.below(TAGS));
        self.tags.remove(&(of, name));
        self.files()
            .delete_tag(&repository(of), &tag(name))
            .map(|_| ())
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is one of several operations")]
    fn wait(&mut self) -> Result<(), StoreError> {
        let by = HOUR * u32::try_from(self.seed.below(40)).unwrap();
        self.files().leases.advance(by);
        self.now += by;
        Ok(())
    }

    fn collect(&mut self) -> Result<Collected, StoreError> {
        let rules = CollectionRules {
            grace: GRACE,
            untagged: None,
            dry_run: false,
            pace: Pace::Alone,
        };
        let collected = self.files().collect(&rules, &CancellationToken::new())?;
        self.freed += collected.contents;
        Ok(collected)
    }

    fn check(&self) -> Result<(), String> {
        let files = self.files();
        for ((of, name), digest) in &self.tags {
            let wanted = (repository(*of), Version::Tag(tag(*name)));
            let found = files.manifest(&wanted).unwrap();
            let found = found.ok_or(format!("tag {wanted:?} is lost"))?;
            if found.record.digest != *digest {
                return Err(format!("tag {wanted:?} moved by itself"));
            }
        }
        for ((of, digest), manifest) in &self.manifests {
            let wanted = (repository(*of), Version::Digest(*digest));
            files
                .manifest(&wanted)
                .unwrap()
                .ok_or(format!("{wanted:?} is lost"))?;
            for named in manifest.blobs() {
                self.has(*of, &named.digest, "a manifest names")?;
            }
        }
        for ((of, number), given) in &self.leases {
            if self.now <= *given + GRACE {
                self.has(*of, &digest(*number), "a client was told of")?;
            }
        }
        self.is_legal()
    }

    /// Looks without granting a lease.
    fn has(&self, of: u64, digest: &Digest, why: &str) -> Result<(), String> {
        let repository = repository(of);
        let blob = self.files().open_blob(&repository, digest).unwrap();
        blob.map(|_| ())
            .ok_or(format!("{repository} lost {digest}, which {why}"))
    }

    /// The invariant: every link has its content, whichever operation made it.
    fn is_legal(&self) -> Result<(), String> {
        let files = self.files();
        for number in 0..REPOSITORIES {
            let repository = repository(number);
            let links = files.layout.blob_links(&repository, Algorithm::Sha256);
            for name in names_in(&links).unwrap() {
                let digest = Digest::parse(&format!("sha256:{name}")).unwrap();
                self.has(number, &digest, "has a link")?;
            }
        }
        Ok(())
    }

    /// At the end, only content that a manifest needs is left.
    fn settle(&mut self) {
        for _ in 0..2 {
            self.files().leases.advance(GRACE * 2);
            self.now += GRACE * 2;
            self.collect().unwrap();
        }
        self.check().unwrap();
        let files = self.files();
        let mut needed = HashSet::new();
        for number in 0..REPOSITORIES {
            let records = files
                .layout
                .manifests(&repository(number), Algorithm::Sha256);
            for name in names_in(&records).unwrap() {
                let digest = Digest::parse(&format!("sha256:{name}")).unwrap();
                let wanted = (repository(number), Version::Digest(digest));
                let found = files.manifest(&wanted).unwrap().unwrap();
                let manifest = Manifest::parse(found.bytes, None).unwrap();
                needed.insert(digest);
                needed.extend(manifest.blobs().map(|it| it.digest));
            }
        }
        let left = self.collect().unwrap();
        assert_eq!(left.kept_contents, needed.len() as u64);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_is_done_and_wherever_it_is_cut_off_nothing_is_lost_and_space_comes_back() {
    let seed = number("CORAL_MODEL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let steps = number("CORAL_MODEL_STEPS").unwrap_or(STEPS);
    let mut model = Model::new(seed);
    for step in 0..steps {
        model.step();
        model
            .check()
            .unwrap_or_else(|fault| panic!("seed {seed}, step {step}: {fault}"));
    }
    model.settle();
    println!(
        "{steps} steps of seed {seed}: {} crashes, {} contents freed",
        model.crashes, model.freed
    );
    assert!(model.crashes > 0 && model.freed > 0, "seed {seed}");
}
