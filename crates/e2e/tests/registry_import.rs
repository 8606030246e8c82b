//! Imports the storage of distribution's registry: every tag is the same image as before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/server.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::peers::{crane, skopeo_copy};
use e2e::{Finished, Layout, RegistryProgram, RegistryServer, coral, run, scratch};
use server::Server;

const SOON: Duration = Duration::from_mins(2);
const REPOSITORIES: [&str; 3] = ["base", "team/app", "team/app/deep"];
const TAGS: [&str; 3] = ["1", "2", "all"];

/// Two images that share a layer and an index of both, in each repository; the digests of all tags.
fn fill(registry: &RegistryServer, home: &Path) -> Vec<(String, String)> {
    let mut digests = vec![];
    for (number, repository) in (0_u8..).zip(REPOSITORIES) {
        let layout = Layout::open(home.join(format!("image{number}")));
        let shared = vec![1; 100_000];
        let one = layout.add_layered_image("amd64", &[shared.clone(), vec![number; 5000]]);
        let two = layout.add_layered_image("arm64", &[shared, vec![100 + number; 5000]]);
        let index = layout.add_index(&[(one.clone(), "amd64"), (two.clone(), "arm64")]);
        for (tag, image) in TAGS.iter().zip([&one, &two, &index]) {
            layout.tag(tag, image);
            let to = format!("docker://{}/{repository}:{tag}", registry.host());
            let mut push = skopeo_copy(home, &layout.reference(tag), &to);
            let _ = run(push.arg("--preserve-digests")).succeeded();
            let digest = image["digest"].as_str().unwrap().to_owned();
            digests.push((format!("{repository}:{tag}"), digest));
        }
    }
    digests
}

fn import(from: &Path, storage: &Path, options: &[&str]) -> Finished {
    let mut command = coral();
    command.args(["registry", "import"]).arg(from);
    run(command.arg("--storage").arg(storage).args(options))
}

fn assert_pulled(home: &Path, host: &str, digests: &[(String, String)]) {
    for (number, (image, digest)) in digests.iter().enumerate() {
        let reference = format!("{host}/{image}");
        let said = run(crane(home).args(["digest", &reference])).succeeded();
        assert_eq!(said.text().trim(), digest, "{image}");
        let to = format!(
            "oci:{}",
            home.join(format!("pulled{host}{number}")).display()
        );
        let mut pull = skopeo_copy(home, &format!("docker://{reference}"), &to);
        let _ = run(pull.arg("--preserve-digests")).succeeded();
    }
}

fn comes_whole(kind: RegistryProgram, options: &[&str]) {
    let home = scratch();
    let theirs = RegistryServer::start(kind);
    let digests = fill(&theirs, home.path());
    let from = theirs.storage().join("data");
    let storage = home.path().join("storage");
    let planned = import(&from, &storage, &["--dry-run"]).succeeded();
    let _ = planned.saying("would import 9 tags and 9 manifests of 3 repositories");
    assert!(!storage.exists(), "a dry run makes nothing");
    let done = import(&from, &storage, options).succeeded();
    let _ = done.saying("imported 9 tags and 9 manifests of 3 repositories");
    let again = import(&from, &storage, options).succeeded();
    let _ = again.saying("imported 0 tags and 0 manifests of 3 repositories");
    let mut registry = Server::start(&storage);
    // The folder is in use now.
    let refused = import(&from, &storage, options).exited(1);
    let _ = refused.saying("is in use by another registry process");
    drop(theirs);
    assert_pulled(home.path(), &registry.address, &digests);
    registry.process.signal("TERM");
    registry.process.wait(SOON);
}

#[test]
#[ignore = "needs distribution, skopeo, crane; run by cargo xtask test"]
fn every_tag_of_distribution_is_the_same_image_afterwards() {
    comes_whole(RegistryProgram::Distribution, &[]);
}

#[test]
#[ignore = "needs docker-registry, skopeo, crane; run by cargo xtask test"]
fn every_tag_of_docker_registry_is_the_same_image_with_hard_links() {
    comes_whole(RegistryProgram::DockerRegistry, &["--hard-links"]);
}

/// The largest file below a folder.
fn largest(folder: &Path) -> PathBuf {
    let mut waiting = vec![folder.to_owned()];
    let mut files = vec![];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let found = entry.metadata().unwrap();
            if found.is_dir() {
                waiting.push(entry.path());
            } else {
                files.push((found.len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}

#[test]
#[ignore = "needs distribution, skopeo; run by cargo xtask test"]
fn a_damaged_layer_is_named_and_its_images_stay_behind() {
    let home = scratch();
    let theirs = RegistryServer::start(RegistryProgram::Distribution);
    fill(&theirs, home.path());
    let from = theirs.storage().join("data");
    let layer = largest(&from);
    let mut bytes = fs::read(&layer).unwrap();
    bytes[7] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let storage = home.path().join("storage");
    let done = import(&from, &storage, &[]).exited(1);
    let done = done.saying("its bytes hash to sha256:");
    // The indexes come: what they list may be elsewhere.
    let _ = done.saying("imported 3 tags and 3 manifests of 3 repositories");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_folder_without_a_registry_is_refused_with_what_to_give() {
    let home = scratch();
    let refused = import(home.path(), &home.path().join("storage"), &[]).exited(2);
    let _ = refused.saying("storage.filesystem.rootdirectory");
}
