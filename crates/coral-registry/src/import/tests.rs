//! Imports of folders of the distribution registry, intact and damaged ones.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use tempfile::TempDir;

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A folder of the distribution registry.
struct Theirs(TempDir);

impl Theirs {
    fn new() -> Self {
        let theirs = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(theirs.at("repositories")).unwrap();
        theirs
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join("docker/registry/v2").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn data(digest: &Digest) -> String {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        format!("blobs/{algorithm}/{}/{hex}/data", &hex[..2])
    }

    fn link(&self, repository: &str, kind: &str, digest: &Digest) {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        let name = format!("repositories/{repository}/{kind}/{algorithm}/{hex}/link");
        self.write(&name, digest.to_string().as_bytes());
    }

    fn blob(&self, repository: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::sha256(bytes);
        self.write(&Self::data(&digest), bytes);
        self.link(repository, "_layers", &digest);
        serde_json::json!({"mediaType": "a/b", "digest": digest, "size": bytes.len()})
    }

    fn manifest(&self, repository: &str, tag: &str, manifest: &serde_json::Value) -> Digest {
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        self.write(&Self::data(&digest), &bytes);
        self.link(repository, "_manifests/revisions", &digest);
        self.tag(repository, tag, &digest);
        digest
    }

    fn tag(&self, repository: &str, tag: &str, digest: &Digest) {
        let name = format!("repositories/{repository}/_manifests/tags/{tag}/current/link");
        self.write(&name, digest.to_string().as_bytes());
    }

    /// An image whose layer no other image has.
    fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> Digest {
        let config = self.blob(repository, b"{}");
        let layer = self.blob(repository, layer);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": [layer],
        });
        self.manifest(repository, tag, &manifest)
    }

    fn index(&self, repository: &str, tag: &str, children: &[Digest]) -> Digest {
        let children = children.iter().map(|child| {
            let size = fs::metadata(self.at(&Self::data(child))).unwrap().len();
            serde_json::json!({"mediaType": IMAGE, "digest": child, "size": size})
        });
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": children.collect::<Vec<_>>(),
        });
        self.manifest(repository, tag, &index)
    }
}

const RULES: ImportRules = ImportRules {
    transfer: Transfer::Copy,
    move_tags: false,
};

/// Runs an import; returns the result, and the lines about skipped items.
async fn run(theirs: &Theirs, into: ImportInto<'_>, rules: ImportRules) -> (Imported, Vec<String>) {
    let lines = RefCell::new(vec![]);
    let tell = |skipped: &Skipped| {
        let line = format!("{}: {}", skipped.what, skipped.why);
        lines.borrow_mut().push(line);
    };
    let stop = CancellationToken::new();
    let imported = import(theirs.0.path(), into, rules, tell, &stop).await;
    (imported.unwrap(), lines.into_inner())
}

fn store() -> (TempDir, FileStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).unwrap();
    (folder, store)
}

async fn tag(store: &FileStore, repository: &str, tag: &str) -> Option<Digest> {
    let repository = RepositoryPath::parse(repository).unwrap();
    let version = Version::Tag(Tag::parse(tag).unwrap());
    let there = store.resolve(&repository, &version).await.unwrap();
    there.map(|record| record.digest)
}

async fn blob(store: &FileStore, repository: &str, bytes: &[u8]) -> Option<u64> {
    let repository = RepositoryPath::parse(repository).unwrap();
    let digest = Digest::sha256(bytes);
    store.stat_blob(&repository, &digest).await.unwrap()
}

#[tokio::test]
async fn everything_comes_once_and_a_second_import_finds_nothing_to_do() {
    let theirs = Theirs::new();
    let one = theirs.image("team/app", "1", b"layer one");
    let two = theirs.image("team/app", "2", b"layer two");
    let index = theirs.index("team/app", "all", &[one, two]);
    let other = theirs.image("team/app/inner", "1", b"layer one");
    let (_folder, store) = store();
    let (planned, _) = run(&theirs, ImportInto::DryRun(Some(&store)), RULES).await;
    assert_eq!(tag(&store, "team/app", "1").await, None, "a dry run");
    let (imported, lines) = run(&theirs, ImportInto::Store(&store), RULES).await;
    assert_eq!(lines, [""; 0]);
    assert_eq!(planned, imported);
    let expected = Imported {
        repositories: 2,
        manifests: 4,
        tags: 4,
        blobs: 3,
        bytes: 20,
        unlinked: 0,
        unlinked_why: None,
        known: 0,
        skipped: 0,
        is_complete: true,
    };
    assert_eq!(imported, expected);
    assert_eq!(tag(&store, "team/app", "1").await, Some(one));
    assert_eq!(tag(&store, "team/app", "2").await, Some(two));
    assert_eq!(tag(&store, "team/app", "all").await, Some(index));
    assert_eq!(tag(&store, "team/app/inner", "1").await, Some(other));
    assert_eq!(blob(&store, "team/app/inner", b"layer one").await, Some(9));
    assert_eq!(blob(&store, "team/app/inner", b"layer two").await, None);
    let (again, _) = run(&theirs, ImportInto::Store(&store), RULES).await;
    assert_eq!(
        (again.known, again.manifests, again.tags, again.bytes),
        (4, 0, 0, 0)
    );
}

#[tokio::test]
async fn what_is_damaged_or_unknown_is_named_and_the_rest_comes() {
    let theirs = Theirs::new();
    let good = theirs.image("app", "good", b"good");
    theirs.image("app", "bad", b"what was pushed");
    let spoilt = Theirs::data(&Digest::sha256(b"what was pushed"));
    theirs.write(&spoilt, b"what is on disk");
    theirs.image("app", "gone", b"gone");
    let gone = Theirs::data(&Digest::sha256(b"gone"));
    fs::remove_file(theirs.at(&gone)).unwrap();
    theirs.tag("app", "lost", &Digest::sha256(b"no manifest"));
    theirs.write("repositories/app/_manifests/tags/.bad/current/link", b"x");
    theirs.write("repositories/app/_strange/file", b"x");
    theirs.write("repositories/UPPER/_manifests/x", b"x");
    theirs.write(
        "repositories/app/_manifests/revisions/sha256/short/link",
        b"x",
    );
    // Deleted tags leave their folders.
    let deleted = "repositories/app/_manifests/tags/deleted/current";
    fs::create_dir_all(theirs.at(deleted)).unwrap();
    let (_folder, store) = store();
    let (imported, lines) = run(&theirs, ImportInto::Store(&store), RULES).await;
    assert_eq!(imported.manifests, 1, "{lines:#?}");
    assert_eq!(tag(&store, "app", "good").await, Some(good));
    for missing in ["bad", "gone", "lost", "deleted"] {
        assert_eq!(tag(&store, "app", missing).await, None, "{missing}");
    }
    assert_eq!(blob(&store, "app", b"what was pushed").await, None);
    let text = lines.join("\n");
    for part in [
        "its bytes hash to",
        "its bytes cannot be read",
        "app, tag lost: it points at",
        "app, tag .bad",
        "app/_strange: not a part of a repository",
        "UPPER",
        "sha256:short",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!((lines.len(), imported.skipped), (7, 7), "{text}");
}

#[tokio::test]
async fn no_link_is_followed_out_of_the_folder() {
    let theirs = Theirs::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    theirs.image("app", "1", b"secret");
    let data = theirs.at(&Theirs::data(&Digest::sha256(b"secret")));
    fs::remove_file(&data).unwrap();
    symlink(outside.path().join("secret"), &data).unwrap();
    symlink(outside.path(), theirs.at("repositories/linked")).unwrap();
    let (_folder, store) = store();
    let (imported, lines) = run(&theirs, ImportInto::Store(&store), RULES).await;
    assert_eq!((imported.manifests, imported.skipped), (0, 2), "{lines:#?}");
    assert!(lines[0].starts_with("linked: "), "{lines:#?}");
    assert!(lines[1].contains("is a symbolic link"), "{lines:#?}");
    assert_eq!(blob(&store, "app", b"secret").await, None);
}

#[tokio::test]
async fn a_blob_that_its_repository_does_not_have_is_not_taken_from_another_one() {
    let theirs = Theirs::new();
    theirs.image("secret", "1", b"secret");
    theirs.image("thief", "1", b"secret");
    let digest = Digest::sha256(b"secret");
    let link = format!("repositories/thief/_layers/sha256/{}/link", digest.hex());
    fs::remove_file(theirs.at(&link)).unwrap();
    let (_folder, store) = store();
    let (imported, lines) = run(&theirs, ImportInto::Store(&store), RULES).await;
    assert_eq!((imported.manifests, imported.skipped), (1, 1), "{lines:#?}");
    assert_eq!(blob(&store, "thief", b"secret").await, None);
}

#[tokio::test]
async fn a_tag_that_was_moved_in_the_store_stays_unless_it_is_asked_for() {
    let theirs = Theirs::new();
    let old = theirs.image("app", "1", b"old");
    let (_folder, store) = store();
    run(&theirs, ImportInto::Store(&store), RULES).await;
    let new = theirs.image("app", "1", b"new");
    let (imported, lines) = run(&theirs, ImportInto::Store(&store), RULES).await;
    assert_eq!((imported.manifests, imported.tags), (1, 0));
    assert!(
        lines[0].starts_with("app:1: in the store it is"),
        "{lines:#?}"
    );
    assert_eq!(tag(&store, "app", "1").await, Some(old));
    let moving = ImportRules {
        move_tags: true,
        ..RULES
    };
    let (imported, _) = run(&theirs, ImportInto::Store(&store), moving).await;
    assert_eq!((imported.tags, imported.skipped), (1, 0));
    assert_eq!(tag(&store, "app", "1").await, Some(new));
}

#[tokio::test]
async fn with_hard_links_no_byte_takes_room_twice() {
    let theirs = Theirs::new();
    theirs.image("app", "1", b"a layer");
    let (folder, store) = store();
    let rules = ImportRules {
        transfer: Transfer::HardLink,
        ..RULES
    };
    run(&theirs, ImportInto::Store(&store), rules).await;
    let digest = Digest::sha256(b"a layer");
    let hex = digest.hex();
    let own = folder
        .path()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(&hex);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&own), inode(&theirs.at(&Theirs::data(&digest))));
}

#[tokio::test]
async fn another_folder_is_refused_with_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let into = ImportInto::DryRun(None);
    let refused = import(folder.path(), into, RULES, |_| {}, &stop).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("rootdirectory"), "{said}");
}

#[test]
fn an_index_comes_after_those_that_it_lists() {
    let digest = |text: &str| Digest::sha256(text.as_bytes());
    let listed = |names: &[&str]| names.iter().map(|name| digest(name)).collect();
    let indexes = BTreeMap::from([
        (digest("outer"), listed(&["middle", "image"])),
        (digest("middle"), listed(&["inner"])),
        (digest("inner"), listed(&["image"])),
    ]);
    let sorted = inner_first(indexes);
    assert_eq!(sorted, ["inner", "middle", "outer"].map(digest));
}
