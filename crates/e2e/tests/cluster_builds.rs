//! Images that are built in the cluster: from every kind of source, by both builders, pushed inside
//! and outside, and run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster_builds/command.rs"]
mod command;
#[path = "cluster_builds/history.rs"]
mod history;
#[path = "cluster_builds/network.rs"]
mod network;
#[path = "cluster_builds/nodes.rs"]
mod nodes;
#[path = "cluster_builds/restricted.rs"]
mod restricted;
#[path = "cluster_builds/secrets.rs"]
mod secrets;
#[path = "cluster_builds/sources.rs"]
mod sources;
#[path = "cluster_builds/ssh.rs"]
mod ssh;

use e2e::cluster::{Builds, Cluster, PUBLISHER, Reader, example, page, pose};
use e2e::{GitServer, User, until};
use serde_json::{Value, json};

const GIT_USER: User = User {
    name: "git",
    password: "fetched by builds",
};

/// A Dockerfile in a ConfigMap.
fn dockerfile(name: &str, lines: &str) -> String {
    let lines = lines.lines().map(|line| format!("    {line}\n"));
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  Dockerfile: |\n{}",
        lines.collect::<Vec<_>>().concat()
    )
}

/// A Secret with the login of the git server.
fn git_secret(name: &str, password: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{username: \
         {}, password: {password}}}\n",
        GIT_USER.name
    )
}

/// `alsoTo` to the registry outside, and the Secret with its login.
fn published(builds: &Builds<'_>, repository: &str) -> (String, String) {
    let registry = builds.published();
    let host = registry.host();
    let login =
        json!({"auths": {host: {"username": PUBLISHER.name, "password": PUBLISHER.password}}});
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: publisher}}\ntype: \
         kubernetes.io/dockerconfigjson\nstringData: {{.dockerconfigjson: '{login}'}}\n"
    );
    let ca = std::fs::read_to_string(registry.ca().unwrap()).unwrap();
    let ca = ca.lines().map(|line| format!("          {line}\n"));
    let also_to = format!(
        "    alsoTo:\n      - repository: \"{host}/{repository}\"\n        tags: [\"3\", \
         latest]\n        secretRef: {{name: publisher}}\n        ca: |\n{}",
        ca.collect::<Vec<_>>().concat()
    );
    (also_to, secret)
}

/// What the Registry answers a reader without a credential.
fn read(builds: &Builds<'_>, path: &str) -> Value {
    let service = ["-n", "coral-system", "service", "reg"];
    let service = builds.cluster.get(&service).unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let url = format!("https://{address}:5000/v2/{}{path}", builds.namespace());
    let ca = "/etc/containerd/coral/ca.crt";
    let curl = ["curl", "--silent", "--fail", "--cacert", ca, &url];
    let answer = builds.own.exec("node1", &curl).succeeded();
    serde_json::from_str(&answer.stdout).unwrap()
}

#[test]
#[ignore = "needs a cluster"]
fn a_dockerfile_is_built_with_the_outside_cut_off_and_pushed_inside_and_outside() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let cut = own.cut();
    let lines = format!(
        "FROM {} AS wanted\nARG GREETING=none\nRUN echo \"$GREETING\" >/said && chown 5:6 /said\n\
         FROM wanted\nRUN exit 1\n",
        builds.base()
    );
    builds.apply(&dockerfile("hello", &lines));
    let container = "{args: [--build-arg, GREETING=good morning, --target, wanted]}";
    let source = "{configMap: {name: hello}}";
    builds.apply(&builds.yaml("hello", source, container, "", ""));
    let status = builds.succeeded("hello");
    let digest = status["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{status:#}");
    assert_eq!(status["outputs"][0]["state"], "Pushed", "{status:#}");
    builds.deploy("hello", ", command: [/bin/busybox, sleep, \"3600\"]");
    let said = ["-n", builds.namespace(), "exec", "deployment/hello", "--"];
    let said = cluster.kubectl(&[&said[..], &["cat", "/said"]].concat());
    assert_eq!(said.succeeded().text(), "good morning");
    let base = builds.base();
    let (host, _) = base.split_once('/').unwrap();
    assert_eq!(own.asked_of(host), 0, "the base image came from inside");
    cut.join();

    // The same once more, now outside, too.
    let (also_to, secret) = published(&builds, "acme/hello");
    builds.apply(&secret);
    builds.apply(&builds.yaml("hello", source, container, &also_to, ""));
    let status = builds.succeeded("hello");
    let digest = status["digest"].as_str().unwrap();
    for tag in ["3", "latest"] {
        assert_eq!(builds.published().digest("acme/hello", tag), digest);
    }
    let outputs = status["outputs"].as_array().unwrap();
    assert!(
        outputs.iter().all(|it| it["state"] == "Pushed"),
        "{status:#}"
    );
    what_was_built_stays_when_the_object_goes(&builds, digest);
}

fn what_was_built_stays_when_the_object_goes(builds: &Builds<'_>, digest: &str) {
    let delete = ["-n", builds.namespace(), "delete", "imagebuild", "hello"];
    let _ = builds.cluster.kubectl(&delete).succeeded();
    until("its pods gone", e2e::cluster::PATIENCE, || {
        builds.pods("hello").is_empty().then_some(())
    });
    let jobs = ["-n", builds.namespace(), "jobs"];
    let jobs = builds.cluster.get(&jobs).unwrap();
    assert_eq!(jobs["items"], json!([]));
    let manifest = read(builds, &format!("/hello/manifests/{digest}"));
    assert_eq!(manifest["schemaVersion"], 2);
}

#[test]
#[ignore = "needs a cluster"]
fn a_git_repository_is_built_and_its_commit_recorded() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let server = GitServer::start(own.address(), GIT_USER);
    let lines = format!("FROM {}\nCOPY page /page\n", builds.base());
    let commit = server.commit(&[
        ("README", b"not for the build"),
        ("web/page", b"from git"),
        ("web/Dockerfile", lines.as_bytes()),
    ]);
    builds.apply(&git_secret("git", GIT_USER.password));
    let source = format!(
        "{{git: {{url: \"{}\", ref: main, path: web, secretRef: {{name: git}}}}}}",
        server.url()
    );
    builds.apply(&builds.yaml("web", &source, "{}", "", ""));
    let status = builds.succeeded("web");
    assert_eq!(status["source"]["commit"], commit.as_str(), "{status:#}");
    builds.deploy("web", ", command: [/bin/busybox, sleep, \"3600\"]");
    let logs = ["-n", builds.namespace(), "logs", "--all-containers"];
    let selector = ["-l", "image.stvz.io/build=web"];
    let logs = cluster
        .kubectl(&[&logs[..], &selector].concat())
        .succeeded();
    assert!(!logs.stdout.contains(GIT_USER.password), "{logs}");
    the_provenance_names_commit_and_builder(&builds, &status, &commit);
}

fn the_provenance_names_commit_and_builder(builds: &Builds<'_>, status: &Value, commit: &str) {
    let digest = status["digest"].as_str().unwrap();
    let referrers = read(builds, &format!("/web/referrers/{digest}"));
    let statement = referrers["manifests"][0]["digest"].as_str().unwrap();
    let manifest = read(builds, &format!("/web/manifests/{statement}"));
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let statement = read(builds, &format!("/web/blobs/{layer}"));
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let subject = statement["subject"][0]["digest"]["sha256"]
        .as_str()
        .unwrap();
    assert_eq!(format!("sha256:{subject}"), digest, "{statement:#}");
    let text = statement.to_string();
    assert!(text.contains(commit), "{statement:#}");
    assert!(text.contains("coral-builder"), "{statement:#}");
}

#[test]
#[ignore = "needs a cluster"]
fn the_example_of_a_script_builds_what_a_deployment_runs() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let example = example("script.yaml")
        .replace("docker.io/library/busybox:1.37", &cluster.busybox())
        .replace("name: local}", "name: reg}")
        .replace("team-a/", &format!("{}/", builds.namespace()));
    builds.apply(&example);
    let status = builds.succeeded("site");
    builds.deploy("site", "");
    an_image_places_what_was_built(&builds, status["digest"].as_str().unwrap());
    let page = ["-n", builds.namespace(), "exec", "deployment/site", "--"];
    let get = [
        "/bin/busybox",
        "wget",
        "-q",
        "-O",
        "-",
        "http://127.0.0.1:8080/",
    ];
    let page = || cluster.kubectl(&[&page[..], &get].concat()).stdout;
    until("the page", e2e::cluster::PATIENCE, || {
        page().contains("built by a script").then_some(())
    });
}

fn an_image_places_what_was_built(builds: &Builds<'_>, digest: &str) {
    let reference = builds.reference("site");
    let (repository, _) = reference.rsplit_once(':').unwrap();
    builds.apply(&format!(
        "apiVersion: stvz.io/v1\nkind: Image\nmetadata: {{name: site}}\nspec:\n  repositories:\n    \
         - {{name: \"{repository}\", digests: [\"{digest}\"]}}\n"
    ));
    let (cluster, namespace) = (builds.cluster, builds.namespace());
    cluster.wait_for_ready(namespace, "images.stvz.io", "site");
}

#[test]
#[ignore = "needs a cluster"]
fn a_second_build_pushes_only_the_layer_that_changed() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    builds.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: layers}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n",
    );
    let mut pushed = Vec::new();
    for version in ["one", "two"] {
        let lines = format!("FROM {}\nRUN echo {version} >/version\n", builds.base());
        builds.apply(&dockerfile("cached", &lines));
        let more = format!("  cache: {{pvc: layers}}\n  rerun: {version}\n");
        let source = "{configMap: {name: cached}}";
        builds.apply(&builds.yaml("cached", source, "{}", "", &more));
        let status = builds.succeeded("cached");
        pushed.push(status["bytes"]["pushed"].as_u64().unwrap());
    }
    assert!(pushed[1] < 64 << 10, "{pushed:?}");
    assert!(pushed[1] < pushed[0], "{pushed:?}");
}

#[test]
#[ignore = "needs a cluster"]
fn a_dockerfile_that_runs_nothing_is_built_for_several_platforms() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    builds.apply(&dockerfile("both", "FROM scratch\nCOPY Dockerfile /file\n"));
    let container = "{args: [--platform, \"linux/amd64,linux/arm64\"]}";
    builds.apply(&builds.yaml("both", "{configMap: {name: both}}", container, "", ""));
    let status = builds.succeeded("both");
    let digest = status["digest"].as_str().unwrap();
    let index = read(&builds, &format!("/both/manifests/{digest}"));
    let children = index["manifests"].as_array().unwrap();
    let platforms = children
        .iter()
        .map(|it| it["platform"]["architecture"].as_str());
    let mut platforms: Vec<_> = platforms.map(Option::unwrap).collect();
    platforms.sort_unstable();
    assert_eq!(platforms, ["amd64", "arm64"], "{index:#}");
}

#[test]
#[ignore = "needs a cluster"]
fn the_page_of_builds_works_as_it_is_written() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let outside = pose(&cluster, own);
    drop(Builds::set(&cluster, own));
    let page = page("docs/src/guide/first-build.md");
    let mut reader = Reader::new(&cluster, own, &outside);
    reader.follow(&page);
    assert!(reader.compared >= 2, "only {} outputs", reader.compared);
}
