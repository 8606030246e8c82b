//! The step `fetch` with git repositories, from git's own server.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod git_server;
mod pod;
mod ssh;

use coral_build::contract::FetchReport;
use coral_build::fetch;
use serde_json::{Value, json};

use git_server::GitServer;
use pod::{NoCredential, TestPod};

fn pod(source: &Value) -> TestPod {
    TestPod::new(
        &json!({"limit": 1 << 20, "git": source}),
        &["team-a/shop:1"],
    )
}

async fn fetched(pod: &TestPod) -> Result<FetchReport, String> {
    let fetched = fetch(&pod.pod, &NoCredential, std::io::empty()).await;
    fetched.map_err(|error| coral_image::error_chain(&error))
}

/// `user:password` as the header `Authorization` has it.
fn basic(pair: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(pair);
    format!("Basic {text}")
}

#[tokio::test]
async fn the_files_of_a_branch_a_tag_and_a_commit_are_written_and_the_commit_is_recorded() {
    let server = GitServer::start();
    server.write("Dockerfile", b"FROM old");
    let old = server.commit();
    server.git(&["tag", "light"]);
    server.git(&["tag", "-a", "annotated", "-m", "text"]);
    server.git(&["branch", "feature/old"]);
    server.write("Dockerfile", b"FROM new");
    let new = server.commit();
    for (reference, commit) in [
        (None, &new),
        (Some("main"), &new),
        (Some("HEAD"), &new),
        (Some("refs/heads/main"), &new),
        (Some("feature/old"), &old),
        (Some("light"), &old),
        (Some("annotated"), &old),
        (Some("refs/tags/annotated"), &old),
        (Some(old.as_str()), &old),
    ] {
        let pod = pod(&json!({"url": server.url(), "ref": reference}));
        let report = fetched(&pod).await;
        let report = report.unwrap_or_else(|error| panic!("{reference:?}: {error}"));
        assert_eq!(report.commit.as_ref(), Some(commit), "{reference:?}");
        let content = if *commit == old {
            "FROM old"
        } else {
            "FROM new"
        };
        assert_eq!(pod.read("coral-build/source/Dockerfile"), content);
        assert!(pod.read("coral-build/record/fetch.json").contains(commit));
    }
}

#[tokio::test]
async fn history_is_not_fetched() {
    let server = GitServer::start();
    server.write("large", &coral_testkit::pseudo_random(1, 300_000));
    server.commit();
    server.write("large", b"small by now");
    server.commit();
    let pod = pod(&json!({"url": server.url()}));
    fetched(&pod).await.unwrap();
    assert!(server.sent() < 100_000, "{} bytes", server.sent());
}

#[tokio::test]
async fn executables_and_links_stay_what_they_are() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let server = GitServer::start();
    server.write("bin/run", b"#!/bin/sh");
    let run = server.work().join("bin/run");
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", server.work().join("link")).unwrap();
    server.commit();
    let pod = pod(&json!({"url": server.url(), "path": "bin"}));
    fetched(&pod).await.unwrap();
    let run = std::fs::metadata(pod.path("coral-build/source/bin/run")).unwrap();
    assert_eq!(run.permissions().mode() & 0o777, 0o755);
    let link = std::fs::read_link(pod.path("coral-build/source/link")).unwrap();
    assert_eq!(link.to_str(), Some("/etc/passwd"));
}

#[tokio::test]
async fn a_path_that_the_repository_does_not_have_is_an_error() {
    let server = GitServer::start();
    server.write("web/main", b"1");
    server.commit();
    for (path, problem) in [
        ("app", "no such folder"),
        ("web/main", "no such folder"),
        ("../x", "leads out"),
    ] {
        let pod = pod(&json!({"url": server.url(), "path": path}));
        let error = fetched(&pod).await.unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_token_or_a_user_with_a_password_is_sent() {
    let server = GitServer::start();
    server.write("a", b"1");
    server.commit();
    for (demanded, keys) in [
        ("x-access-token:t0ken", &[("token", "t0ken")][..]),
        ("me:word", &[("username", "me"), ("password", "word\n")]),
    ] {
        server.demand(&basic(demanded));
        let pod = pod(&json!({"url": server.url()}));
        for (key, value) in keys {
            pod.write(&format!("coral-build/git/{key}"), value);
        }
        fetched(&pod).await.unwrap();
    }
}

#[tokio::test]
async fn wrong_url_reference_and_credential_are_three_errors_without_the_credential() {
    let server = GitServer::start();
    server.write("a", b"1");
    server.commit();
    let missing = server.url().replace("shop", "none");
    let error = fetched(&pod(&json!({"url": missing}))).await.unwrap_err();
    assert!(error.contains("there is no git repository at"), "{error}");
    for reference in ["none", "refs/heads/none", &"0123".repeat(10)] {
        let asked = pod(&json!({"url": server.url(), "ref": reference}));
        let error = fetched(&asked).await.unwrap_err();
        let expected = format!("has no branch, tag or commit {reference:?}");
        assert!(error.contains(&expected), "{error}");
    }
    server.demand(&basic("me:right"));
    let none = pod(&json!({"url": server.url()}));
    let error = fetched(&none).await.unwrap_err();
    assert!(error.contains("asks for a credential"), "{error}");
    none.write("coral-build/git/token", "wrong-word");
    let error = fetched(&none).await.unwrap_err();
    assert!(error.contains("refused the credential"), "{error}");
    assert!(!error.contains("wrong-word"), "{error}");
}

/// Makes a tag `large` of which only the text is large: its files are within the limit.
fn tag_largely(server: &GitServer) {
    let text: String = coral_testkit::pseudo_random(1, 2 << 20)
        .iter()
        .map(|byte| char::from(b'!' + byte % 90))
        .collect();
    let file = server.work().join(".git/text");
    std::fs::write(&file, text).unwrap();
    server.git(&["tag", "-a", "large", "-F", ".git/text"]);
}

#[tokio::test]
async fn what_is_received_is_held_against_the_limit_while_it_comes() {
    let server = GitServer::start();
    server.write("a", b"1");
    server.commit();
    tag_largely(&server);
    let asked = pod(&json!({"url": server.url(), "ref": "large"}));
    let error = fetched(&asked).await.unwrap_err();
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn a_small_pack_with_large_files_is_held_against_the_limit_too() {
    let server = GitServer::start();
    server.write("zeros", &vec![0; 4 << 20]);
    server.commit();
    let error = fetched(&pod(&json!({"url": server.url()})))
        .await
        .unwrap_err();
    assert!(server.sent() < 1 << 20);
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn a_server_that_fails_once_is_asked_again() {
    let server = GitServer::start();
    server.write("a", b"1");
    server.commit();
    server.fail_with(&[503]);
    fetched(&pod(&json!({"url": server.url()}))).await.unwrap();
}

#[tokio::test]
async fn an_empty_repository_and_a_page_are_no_sources() {
    let server = GitServer::start();
    let error = fetched(&pod(&json!({"url": server.url()})))
        .await
        .unwrap_err();
    assert!(
        error.contains("has no branch, tag or commit \"HEAD\""),
        "{error}"
    );
    let page = coral_testkit::FaultRegistry::start().await;
    let url = format!("http://{}/v2/", page.host());
    let error = fetched(&pod(&json!({"url": url}))).await.unwrap_err();
    assert!(error.contains("there is no git repository at"), "{error}");
}

/// Commits a submodule of `shop.git` at this path.
fn add_submodule(server: &GitServer, path: &str, url: &str, commit: &str) {
    server.write(
        ".gitmodules",
        format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n").as_bytes(),
    );
    std::fs::create_dir_all(server.work().join(path)).unwrap();
    let entry = format!("160000,{commit},{path}");
    server.git(&["update-index", "--add", "--cacheinfo", &entry]);
}

#[tokio::test]
async fn submodules_are_written_at_their_recorded_commits_if_they_are_asked_for() {
    let server = GitServer::start();
    let inner = server.other("inner.git", &[("deep", b"of the inner one")]);
    let entry = format!("160000,{inner},parts/inner");
    let lib = server.other("lib.git", &[("version", b"old")]);
    let modules = b"[submodule \"i\"]\npath = parts/inner\nurl = ../inner.git\n";
    let nested = server.other_with("lib.git", &[(".gitmodules", modules)], &entry);
    server.other("lib.git", &[("version", b"newer than what is recorded")]);
    assert_ne!(lib, nested);
    add_submodule(&server, "vendor/lib", "../lib.git", &nested);
    let commit = server.commit();
    // The credential is sent to the same server for all of them.
    server.demand(&basic("x-access-token:t0ken"));
    let asked = pod(&json!({"url": server.url(), "submodules": true}));
    asked.write("coral-build/git/token", "t0ken");
    let report = fetched(&asked).await.unwrap();
    assert_eq!(report.commit, Some(commit));
    assert_eq!(asked.read("coral-build/source/vendor/lib/version"), "old");
    let deep = asked.read("coral-build/source/vendor/lib/parts/inner/deep");
    assert_eq!(deep, "of the inner one");

    let without = pod(&json!({"url": server.url()}));
    without.write("coral-build/git/token", "t0ken");
    fetched(&without).await.unwrap();
    let lib = without.path("coral-build/source/vendor/lib");
    assert_eq!(std::fs::read_dir(lib).unwrap().count(), 0);
}

#[tokio::test]
async fn a_submodule_that_cannot_be_fetched_is_named() {
    let lib = "1".repeat(40);
    for (url, problem) in [
        ("../none.git", "there is no git repository at"),
        ("http://127.0.0.1:1/lib.git", "its URL is http://"),
        ("git@git.example:acme/lib.git", "its URL is one of SSH"),
        ("../../../lib.git", "leads out of the server"),
    ] {
        let server = GitServer::start();
        add_submodule(&server, "lib", url, &lib);
        server.commit();
        let asked = pod(&json!({"url": server.url(), "submodules": true}));
        let error = fetched(&asked).await.unwrap_err();
        assert!(error.contains("submodule \"lib\": "), "{error}");
        assert!(error.contains(problem), "{error}");
    }
    let server = GitServer::start();
    add_submodule(&server, "lib", "../lib.git", &lib);
    server.write(".gitmodules", b"");
    server.commit();
    let asked = pod(&json!({"url": server.url(), "submodules": true}));
    let error = fetched(&asked).await.unwrap_err();
    assert!(error.contains("does not name its URL"), "{error}");
}

#[tokio::test]
async fn a_repository_that_is_its_own_submodule_ends() {
    let server = GitServer::start();
    server.write("a", b"1");
    let mut last = server.commit();
    for _ in 0..7 {
        add_submodule(&server, "again", "../shop.git", &last);
        last = server.commit();
    }
    let asked = pod(&json!({"url": server.url(), "submodules": true}));
    let error = fetched(&asked).await.unwrap_err();
    assert!(error.contains("nested more than 5 deep"), "{error}");
}
