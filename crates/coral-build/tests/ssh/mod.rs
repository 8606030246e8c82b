//! Repositories on a server of SSH.

mod server;

use coral_build::contract::FetchReport;
use russh::keys::PrivateKey;
use serde_json::{Value, json};

use crate::git_server::GitServer;
use crate::pod::TestPod;
use crate::{add_submodule, fetched, pod, tag_largely};
use server::{SshServer, file, fingerprint, key};

/// A repository with one file, and a server that has it.
async fn served() -> (GitServer, SshServer) {
    let repositories = GitServer::start();
    repositories.write("Dockerfile", b"FROM base");
    repositories.commit();
    let server = SshServer::start(repositories.root()).await;
    (repositories, server)
}

/// A pod whose Secret has a key and this file `known_hosts`.
fn pod_with(source: &Value, key: &PrivateKey, known_hosts: &str) -> TestPod {
    let pod = pod(source);
    pod.write("coral-build/git/ssh-privatekey", &file(key));
    pod.write("coral-build/git/known_hosts", known_hosts);
    pod
}

async fn fetched_over_ssh(server: &SshServer, source: &Value) -> Result<FetchReport, String> {
    let pod = pod_with(source, &key(1), &server.known_hosts());
    fetched(&pod).await
}

#[tokio::test]
async fn a_branch_a_tag_and_a_commit_are_fetched_in_both_versions_of_the_protocol() {
    let repositories = GitServer::start();
    repositories.write("Dockerfile", b"FROM old");
    let old = repositories.commit();
    repositories.git(&["tag", "-a", "annotated", "-m", "text"]);
    repositories.write("Dockerfile", b"FROM new");
    let new = repositories.commit();
    let root = repositories.root();
    for server in [
        SshServer::start(root).await,
        SshServer::without_variables(root).await,
    ] {
        for (reference, commit, content) in [
            (None, &new, "FROM new"),
            (Some("main"), &new, "FROM new"),
            (Some("annotated"), &old, "FROM old"),
            (Some("refs/tags/annotated"), &old, "FROM old"),
        ] {
            let source = json!({"url": server.url("shop.git"), "ref": reference});
            let pod = pod_with(&source, &key(1), &server.known_hosts());
            let report = fetched(&pod).await;
            let report = report.unwrap_or_else(|error| panic!("{reference:?}: {error}"));
            assert_eq!(report.commit.as_ref(), Some(commit), "{reference:?}");
            assert_eq!(pod.read("coral-build/source/Dockerfile"), content);
        }
        assert_eq!(server.commands()[0], "git-upload-pack '/shop.git'");
    }
    let server = SshServer::start(root).await;
    let by_name = json!({"url": server.url("shop.git"), "ref": old});
    let report = fetched_over_ssh(&server, &by_name).await.unwrap();
    assert_eq!(report.commit, Some(old));
}

#[tokio::test]
async fn a_server_whose_host_key_is_not_known_is_not_logged_in_to() {
    let (_repositories, server) = served().await;
    let source = json!({"url": server.url("shop.git")});
    let shown = format!("ssh-ed25519 {}", fingerprint(server.host_key()));
    let other_port = server.known_hosts().replace("]:", "]:1");
    for (known_hosts, said) in [
        ("# nothing\n".to_owned(), "no line of known_hosts"),
        (other_port, "no line of known_hosts"),
        (server.line(&key(3)), "it has a new key, or another server"),
        (
            format!("{0}@revoked {0}", server.known_hosts()),
            "line 2 of known_hosts marks as revoked",
        ),
    ] {
        let pod = pod_with(&source, &key(1), &known_hosts);
        let error = fetched(&pod).await.unwrap_err();
        assert!(error.contains(&shown), "{error}");
        assert!(error.contains(&server.name()), "{error}");
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(server.log_ins(), 0);
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_named_by_its_fingerprint() {
    let (_repositories, server) = served().await;
    let own = server.url("shop.git");
    let other_user = own.replace("git@", "me@");
    for (url, key, user) in [(own, key(4), "git"), (other_user, key(1), "me")] {
        let pod = pod_with(&json!({"url": url}), &key, &server.known_hosts());
        let error = fetched(&pod).await.unwrap_err();
        let said = format!("({} {})", key.algorithm(), fingerprint(&key));
        assert!(error.contains("refused the key"), "{error}");
        assert!(error.contains(&said), "{error}");
        assert!(error.contains(&format!("for the user {user:?}")), "{error}");
    }
    assert_eq!(server.commands(), [""; 0]);
}

#[tokio::test]
async fn a_secret_without_a_key_or_without_known_hosts_says_what_is_missing() {
    let (_repositories, server) = served().await;
    let source = json!({"url": server.url("shop.git")});
    for (name, said) in [
        ("ssh-privatekey", "has no key ssh-privatekey"),
        ("known_hosts", "has no key known_hosts"),
    ] {
        let pod = pod_with(&source, &key(1), &server.known_hosts());
        std::fs::remove_file(pod.path("coral-build/git").join(name)).unwrap();
        let error = fetched(&pod).await.unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    // The token is for HTTP.
    let pod = pod(&source);
    pod.write("coral-build/git/token", "t0ken");
    let error = fetched(&pod).await.unwrap_err();
    assert!(error.contains("has no key ssh-privatekey"), "{error}");
}

#[tokio::test]
async fn a_repository_a_reference_and_a_folder_that_are_not_there_are_three_errors() {
    let (_repositories, server) = served().await;
    let url = server.url("shop.git");
    for (source, said) in [
        (
            json!({"url": server.url("none.git")}),
            "does not appear to be a git repository",
        ),
        (
            json!({"url": url, "ref": "none"}),
            "has no branch, tag or commit \"none\"",
        ),
        (json!({"url": url, "path": "web"}), "no such folder"),
    ] {
        let error = fetched_over_ssh(&server, &source).await.unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn what_comes_over_ssh_is_held_against_the_limit() {
    let (repositories, server) = served().await;
    tag_largely(&repositories);
    let source = json!({"url": server.url("shop.git"), "ref": "large"});
    let error = fetched_over_ssh(&server, &source).await.unwrap_err();
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_again() {
    let repositories = GitServer::start();
    repositories.write("a", b"1");
    repositories.commit();
    let server = SshServer::refusing(repositories.root(), 1).await;
    let source = json!({"url": server.url("shop.git")});
    fetched_over_ssh(&server, &source).await.unwrap();
}

#[tokio::test]
async fn submodules_of_the_same_server_are_fetched_with_the_same_key() {
    let (repositories, server) = served().await;
    let lib = repositories.other("lib.git", &[("version", b"of the library")]);
    for url in ["../lib.git", &server.url("lib.git")] {
        add_submodule(&repositories, "lib", url, &lib);
        repositories.commit();
        let source = json!({"url": server.url("shop.git"), "submodules": true});
        let pod = pod_with(&source, &key(1), &server.known_hosts());
        fetched(&pod).await.unwrap();
        let version = pod.read("coral-build/source/lib/version");
        assert_eq!(version, "of the library");
    }
    add_submodule(&repositories, "lib", "git@git.example:acme/lib.git", &lib);
    repositories.commit();
    let source = json!({"url": server.url("shop.git"), "submodules": true});
    let error = fetched_over_ssh(&server, &source).await.unwrap_err();
    assert!(
        error.contains("submodule \"lib\": its URL is one of SSH"),
        "{error}"
    );
}
