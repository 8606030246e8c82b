//! A git repository behind OpenSSH's server.

use e2e::cluster::{Builds, Cluster};
use e2e::{GitServer, SshServer};

use super::GIT_USER;

/// A Secret of the type `kubernetes.io/ssh-auth`.
fn secret(name: &str, key: &str, known_hosts: &str) -> String {
    let block = |text: &str| -> String {
        let lines = text.lines().map(|line| format!("    {line}\n"));
        lines.collect()
    };
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: \
         kubernetes.io/ssh-auth\nstringData:\n  ssh-privatekey: |\n{}  known_hosts: |\n{}",
        block(key),
        block(known_hosts)
    )
}

#[test]
#[ignore = "needs a cluster"]
fn a_git_repository_is_fetched_over_ssh_from_the_server_whose_key_is_known_and_from_no_other() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let git = GitServer::start(own.address(), GIT_USER);
    let script = builds.small_image();
    let commit = git.commit(&[("build.sh", script.as_bytes())]);
    let repository = git.folder().join("app.git");
    let server = SshServer::start(own.address(), &repository);
    // Another server's key, under the name of this one.
    let other = SshServer::start(own.address(), &repository);
    let (name, _) = server.known_hosts().split_once(' ').unwrap();
    let (_, key) = other.known_hosts().split_once(' ').unwrap();
    builds.apply(&secret("right", server.key(), server.known_hosts()));
    builds.apply(&secret("wrong", server.key(), &format!("{name} {key}")));
    for secret in ["right", "wrong"] {
        let source = format!(
            "{{git: {{url: \"{}\", ref: main, secretRef: {{name: {secret}}}}}}}",
            server.url()
        );
        builds.apply(&builds.yaml(secret, &source, &builds.shell(""), "", ""));
    }
    let status = builds.succeeded("right");
    assert_eq!(status["source"]["commit"], commit.as_str(), "{status:#}");
    let said = builds.failed("wrong", "FetchFailed");
    assert!(said.contains("known_hosts"), "{said}");
    assert!(said.contains("SHA256:"), "{said}");
}
