//! OCI layouts served as repositories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use coral_distribution::LayoutFiles;
use coral_image::{Digest, RepositoryPath};
use coral_registry::{LayoutError, LayoutFolder, Settings};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{INDEX, MANIFEST, Served, digest_of, image_of, request};

fn put(folder: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(digest.hex()), bytes).unwrap();
    digest
}

fn describe(manifest: &Value, kind: &str, name: Option<&str>) -> Value {
    let text = manifest.to_string();
    let mut value =
        json!({"mediaType": kind, "digest": Digest::sha256(text.as_bytes()), "size": text.len()});
    if let Some(name) = name {
        value["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    value
}

fn index(folder: &Path, manifests: &[Value]) {
    let text = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    fs::write(folder.join("index.json"), text).unwrap();
}

/// A layout with an index of one image under the tag `1`, and a referrer of that image.
fn layout(folder: &Path) -> (Value, Value) {
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    put(folder, b"{}");
    put(folder, b"layer");
    let image = image_of(b"{}", b"layer");
    put(folder, image.to_string().as_bytes());
    let list = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [describe(&image, MANIFEST, None)],
    });
    put(folder, list.to_string().as_bytes());
    let mut referrer = image_of(b"{}", b"layer");
    referrer["subject"] = describe(&image, MANIFEST, None);
    put(folder, referrer.to_string().as_bytes());
    let names = [
        describe(&list, INDEX, Some("registry.example/some/app:1")),
        describe(&referrer, MANIFEST, None),
    ];
    index(folder, &names);
    (list, image)
}

fn served(folder: &Path) -> Served {
    let served = Served::new();
    let path = RepositoryPath::parse("base/app").unwrap();
    served.registry.configure(Settings {
        read_only_sources: [LayoutFolder::open(path, LayoutFiles::new(folder))
            .unwrap()
            .into()]
        .into(),
        ..Settings::default()
    });
    served
}

#[tokio::test]
async fn everything_in_a_layout_is_served_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let (list, image) = layout(folder.path());
    let served = served(folder.path());
    let tag = served.get("/v2/base/app/manifests/1").await;
    assert_eq!(tag.body, list.to_string().as_bytes());
    assert_eq!(tag.header("content-type"), INDEX);
    let child = format!("/v2/base/app/manifests/{}", digest_of(&image));
    assert_eq!(served.get(&child).await.body, image.to_string().as_bytes());
    let blob = format!("/v2/base/app/blobs/{}", Digest::sha256(b"layer"));
    assert_eq!(served.get(&blob).await.body, b"layer");
    let range = served
        .ask(request("GET", &blob, &[("range", "bytes=1-2")], b""))
        .await;
    assert_eq!(
        (range.status, range.body.as_slice()),
        (StatusCode::PARTIAL_CONTENT, &b"ay"[..])
    );
    let head = served.send("HEAD", &blob, b"").await;
    assert_eq!(head.header("content-length"), "5");
    let tags = served.get("/v2/base/app/tags/list").await;
    assert_eq!(tags.json()["tags"], json!(["1"]));
    let referrers = format!("/v2/base/app/referrers/{}", digest_of(&image));
    let referrers = served.get(&referrers).await.json();
    assert_eq!(referrers["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_layout_is_listed_among_the_repositories_and_cannot_be_written() {
    let folder = TempDir::new().unwrap();
    layout(folder.path());
    let served = served(folder.path());
    for name in ["a", "z"] {
        served.push_image(name, "1", b"layer").await;
    }
    let all = served.get("/v2/_catalog").await.json();
    assert_eq!(all["repositories"], json!(["a", "base/app", "z"]));
    let mut seen = Vec::new();
    let mut target = "/v2/_catalog?n=1".to_owned();
    loop {
        let page = served.get(&target).await;
        seen.extend(page.json()["repositories"].as_array().unwrap().clone());
        let link = page.header("link");
        let Some(next) = link.strip_prefix('<').and_then(|l| l.split('>').next()) else {
            break;
        };
        target = next.to_owned();
    }
    assert_eq!(json!(seen), all["repositories"]);
    for (method, target) in [
        ("POST", "/v2/base/app/blobs/uploads/"),
        ("PUT", "/v2/base/app/manifests/2"),
        ("DELETE", "/v2/base/app/manifests/1"),
    ] {
        let answer = served.send(method, target, b"").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.code(), "UNSUPPORTED");
    }
}

#[tokio::test]
async fn a_layout_hides_what_the_store_has_under_its_name() {
    let folder = TempDir::new().unwrap();
    layout(folder.path());
    let served = served(folder.path());
    let settings = |read_only_sources| Settings {
        read_only_sources,
        ..Settings::default()
    };
    served.registry.configure(settings([].into()));
    let hidden = served
        .push_image("base/app", "hidden", b"another layer")
        .await;
    let path = RepositoryPath::parse("base/app").unwrap();
    let files = LayoutFiles::new(folder.path());
    let layout = LayoutFolder::open(path, files).unwrap();
    served.registry.configure(settings([layout.into()].into()));
    let all = served.get("/v2/_catalog").await.json();
    assert_eq!(all["repositories"], json!(["base/app"]));
    let tags = served.get("/v2/base/app/tags/list").await.json();
    assert_eq!(tags["tags"], json!(["1"]));
    let target = format!("/v2/base/app/manifests/{hidden}");
    assert_eq!(served.get(&target).await.status, StatusCode::NOT_FOUND);
    // The store kept the image.
    served.registry.configure(settings([].into()));
    assert_eq!(served.get(&target).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_changes_in_a_layout_is_seen() {
    let folder = TempDir::new().unwrap();
    let (list, image) = layout(folder.path());
    let served = served(folder.path());
    let missing = served.get("/v2/base/app/manifests/2").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let names = [
        describe(&list, INDEX, Some("1")),
        describe(&image, MANIFEST, Some("2")),
    ];
    index(folder.path(), &names);
    let there = served.get("/v2/base/app/manifests/2").await;
    assert_eq!(there.body, image.to_string().as_bytes());
}

#[tokio::test]
async fn wrong_bytes_are_never_served_and_files_that_no_image_names_neither() {
    let folder = TempDir::new().unwrap();
    let (_, image) = layout(folder.path());
    let stray = put(folder.path(), b"stray");
    let served = served(folder.path());
    let stray = served.get(&format!("/v2/base/app/blobs/{stray}")).await;
    assert_eq!(stray.status, StatusCode::NOT_FOUND);
    let layer = Digest::sha256(b"layer");
    let blob = format!("/v2/base/app/blobs/{layer}");
    assert_eq!(served.get(&blob).await.status, StatusCode::OK);
    let file = |digest: &Digest| folder.path().join("blobs/sha256").join(digest.hex());
    fs::write(file(&layer), b"other bytes").unwrap();
    for method in ["GET", "HEAD"] {
        let answer = served.send(method, &blob, b"").await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{method}");
    }
    fs::write(file(&digest_of(&image)), b"{}").unwrap();
    let child = format!("/v2/base/app/manifests/{}", digest_of(&image));
    let answer = served.get(&child).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    fs::remove_file(file(&layer)).unwrap();
    assert_eq!(served.get(&blob).await.status, StatusCode::NOT_FOUND);
}

#[test]
fn a_folder_that_is_no_layout_is_refused() {
    let folder = TempDir::new().unwrap();
    let open = || {
        let path = RepositoryPath::parse("a").unwrap();
        LayoutFolder::open(path, LayoutFiles::new(folder.path()))
            .unwrap_err()
            .to_string()
    };
    assert!(open().contains("index.json"));
    fs::write(
        folder.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    index(folder.path(), &[]);
    assert!(open().contains("2.0.0"));
    fs::write(
        folder.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    fs::write(folder.path().join("index.json"), "[").unwrap();
    assert!(open().contains("index.json"));
}

/// Opening a pipe waits for its other end: a few hundred requests would block all threads.
#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let folder = TempDir::new().unwrap();
    let (list, _) = layout(folder.path());
    let served = served(folder.path());
    let layer = Digest::sha256(b"layer");
    pipe(&folder.path().join("blobs/sha256").join(layer.hex()));
    let blob = format!("/v2/base/app/blobs/{layer}");
    assert_eq!(in_time(&served, &blob).await, 500);
    pipe(
        &folder
            .path()
            .join("blobs/sha256")
            .join(digest_of(&list).hex()),
    );
    let manifest = "/v2/base/app/manifests/1";
    assert_eq!(in_time(&served, manifest).await, 500);
    pipe(&folder.path().join("index.json"));
    assert_eq!(in_time(&served, manifest).await, 500);
}

/// Replaces a file by a pipe.
fn pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

async fn in_time(served: &Served, target: &str) -> StatusCode {
    let answer = tokio::time::timeout(Duration::from_mins(1), served.get(target));
    answer.await.expect("there is an answer").status
}

/// An untrusted folder could name any file of the machine, and have it read or served.
#[tokio::test]
async fn no_link_inside_a_layout_is_followed() {
    let folder = TempDir::new().unwrap();
    layout(folder.path());
    let served = served(folder.path());
    let outside = TempDir::new().unwrap();
    let layer = Digest::sha256(b"layer");
    let elsewhere = outside.path().join("layer");
    let file = folder.path().join("blobs/sha256").join(layer.hex());
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let blob = format!("/v2/base/app/blobs/{layer}");
    assert_eq!(served.get(&blob).await.status, 500);
    fs::rename(&elsewhere, &file).unwrap();
    assert_eq!(served.get(&blob).await.status, 200);
    let blobs = folder.path().join("blobs");
    let moved = outside.path().join("blobs");
    fs::rename(&blobs, &moved).unwrap();
    symlink(&moved, &blobs).unwrap();
    assert_eq!(served.get(&blob).await.status, 500);
    let index = folder.path().join("index.json");
    fs::remove_file(&index).unwrap();
    let secret = outside.path().join("config.json");
    fs::write(&secret, r#"{"manifests": ["c2VjcmV0"]}"#).unwrap();
    symlink(&secret, &index).unwrap();
    let path = RepositoryPath::parse("a").unwrap();
    let refused = LayoutFolder::open(path, LayoutFiles::new(folder.path())).unwrap_err();
    let LayoutError::Read { path, source } = refused else {
        panic!("{refused}");
    };
    assert_eq!(path, index);
    assert!(
        source.to_string().contains("is a symbolic link"),
        "{source}"
    );
}

/// This includes a link that stays inside: its target may be changed to lead out between two
/// requests.
#[tokio::test]
async fn links_of_every_kind_are_refused_and_a_hard_link_is_a_file() {
    let layer = Digest::sha256(b"layer");
    let name = Path::new("blobs/sha256").join(layer.hex());
    let blob = format!("/v2/base/app/blobs/{layer}");
    for (link, moved_to, target) in [
        ("blobs/sha256", "kept", "../kept"),
        ("blobs", "kept", "kept"),
        (name.to_str().unwrap(), "kept", "../../kept"),
        (name.to_str().unwrap(), "blobs/sha256/kept", "kept"),
    ] {
        let folder = TempDir::new().unwrap();
        layout(folder.path());
        let served = served(folder.path());
        assert_eq!(served.get(&blob).await.status, 200, "{link}");
        let (link, kept) = (folder.path().join(link), folder.path().join(moved_to));
        fs::rename(&link, &kept).unwrap();
        symlink(target, &link).unwrap();
        assert!(link.exists(), "{target} is there");
        assert_eq!(served.get(&blob).await.status, 500, "{target}");
    }
    let folder = TempDir::new().unwrap();
    layout(folder.path());
    let elsewhere = folder.path().join("elsewhere");
    fs::hard_link(folder.path().join(&name), &elsewhere).unwrap();
    assert_eq!(served(folder.path()).get(&blob).await.status, 200);
}

#[test]
fn what_a_file_of_another_form_contains_is_not_told() {
    let folder = TempDir::new().unwrap();
    layout(folder.path());
    for content in [
        r#"{"manifests": ["c2VjcmV0"]}"#,
        "c2VjcmV0",
        r#""c2VjcmV0""#,
    ] {
        fs::write(folder.path().join("index.json"), content).unwrap();
        let path = RepositoryPath::parse("a").unwrap();
        let refused = LayoutFolder::open(path, LayoutFiles::new(folder.path())).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("line 1") && !said.contains("c2VjcmV0"),
            "{said}"
        );
    }
}

/// A content store of a container runtime has blobs, but no index beside them.
#[tokio::test]
async fn the_blobs_may_be_in_a_folder_that_is_named() {
    let folder = TempDir::new().unwrap();
    let (list, _) = layout(folder.path());
    let store = TempDir::new().unwrap();
    let blobs = store.path().join("blobs");
    fs::rename(folder.path().join("blobs"), &blobs).unwrap();
    // A path that the user gives may be a link.
    symlink(&blobs, store.path().join("link")).unwrap();
    let files = LayoutFiles::new(folder.path()).with_blobs(store.path().join("link"));
    let served = Served::new();
    let path = RepositoryPath::parse("base/app").unwrap();
    served.registry.configure(Settings {
        read_only_sources: [LayoutFolder::open(path, files).unwrap().into()].into(),
        ..Settings::default()
    });
    let tag = served.get("/v2/base/app/manifests/1").await;
    assert_eq!(tag.body, list.to_string().as_bytes());
    let layer = format!("/v2/base/app/blobs/{}", Digest::sha256(b"layer"));
    assert_eq!(served.get(&layer).await.body, b"layer");
}

/// Regression: the last of them was served silently.
#[tokio::test]
async fn a_tag_that_several_images_have_is_not_served() {
    let folder = TempDir::new().unwrap();
    let (list, image) = layout(folder.path());
    let names = [
        describe(&list, INDEX, Some("registry.example/some/app:1")),
        describe(&image, MANIFEST, Some("registry.example/other/app:1")),
        describe(&list, INDEX, Some("registry.example/some/app:2")),
        describe(&list, INDEX, Some("2")),
    ];
    index(folder.path(), &names);
    let served = served(folder.path());
    let tags = served.get("/v2/base/app/tags/list").await.json();
    assert_eq!(tags["tags"], json!(["2"]));
    let doubtful = served.get("/v2/base/app/manifests/1").await;
    assert_eq!(doubtful.status, StatusCode::NOT_FOUND);
    let by_digest = format!("/v2/base/app/manifests/{}", digest_of(&image));
    assert_eq!(served.get(&by_digest).await.status, StatusCode::OK);
}
