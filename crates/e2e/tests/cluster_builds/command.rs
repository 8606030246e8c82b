//! `coral build`: a folder goes through the API server into the cluster.

use std::fs;
use std::path::Path;

use e2e::cluster::{Builds, Cluster};
use e2e::{Finished, coral, run, scratch};

fn build(builds: &Builds<'_>, folder: &Path, more: &[&str]) -> Finished {
    let tag = format!("{}/folder:1", builds.namespace());
    let mut build = coral();
    build.arg("build").arg(folder);
    build.args(["--name", "folder", "--namespace", builds.namespace()]);
    build.args(["--registry", "coral-system/reg", "--tag", &tag]);
    build.env("KUBECONFIG", builds.cluster.kubeconfig());
    run(build.args(more))
}

#[test]
#[ignore = "needs a cluster"]
fn a_folder_is_built_and_its_exit_code_is_that_of_the_build() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let folder = scratch();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let lines = "ARG WORD\nCOPY . /src/\nRUN test ! -e /src/ignored.txt && echo \"said $WORD\"\n";
    write("Dockerfile", &format!("FROM {}\n{lines}", builds.base()));
    write(".dockerignore", "ignored.txt\n");
    write("ignored.txt", "not for the build");
    write("page", "from a folder");
    let finished = build(&builds, folder.path(), &["--build-arg", "WORD=hello"]).succeeded();
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(told.contains("said hello"), "{finished}");
    builds.deploy("folder", ", command: [/bin/busybox, sleep, \"3600\"]");

    write(
        "Dockerfile",
        &format!("FROM {}\nRUN exit 7\n", builds.base()),
    );
    let finished = build(&builds, folder.path(), &[]);
    assert_eq!(finished.code, 7, "{finished}");
    let printed = build(&builds, folder.path(), &["--dry-run"]).succeeded();
    assert!(printed.stdout.contains("kind: ImageBuild"), "{printed}");
    assert!(printed.stdout.contains("stream: {}"), "{printed}");
}
