//! `coral build`: a folder goes through the API server into the cluster.

use std::fs;
use std::path::Path;

use std::process::Command;
use std::time::Duration;

use e2e::cluster::{Builds, Cluster, PATIENCE, ready};
use e2e::{Finished, Process, coral, report, run, scratch, until};
use tempfile::TempDir;

/// Most memory of `coral build`, in KiB, whatever the folder has.
const MAX_MEMORY: u64 = 128 << 10;

fn command(builds: &Builds<'_>, folder: &Path, more: &[&str]) -> Command {
    let tag = format!("{}/folder:1", builds.namespace());
    let mut build = coral();
    build.arg("build").arg(folder);
    build.args(["--name", "folder", "--namespace", builds.namespace()]);
    build.args(["--registry", "coral-system/reg", "--tag", &tag]);
    build.env("KUBECONFIG", builds.cluster.kubeconfig());
    build.args(more);
    build
}

fn build(builds: &Builds<'_>, folder: &Path, more: &[&str]) -> Finished {
    run(&mut command(builds, folder, more))
}

/// A folder with a Dockerfile and a file of zeros of so many bytes.
fn folder_with(builds: &Builds<'_>, bytes: u64) -> TempDir {
    let folder = scratch();
    let lines = format!("FROM {}\nCOPY Dockerfile /file\n", builds.base());
    fs::write(folder.path().join("Dockerfile"), lines).unwrap();
    let large = fs::File::create(folder.path().join("large")).unwrap();
    large.set_len(bytes).unwrap();
    folder
}

/// Runs it to its end: exit code, standard error, and the most memory that was seen, in KiB.
fn measured(command: &mut Command) -> (i32, String, u64) {
    let mut process = Process::start(command);
    let file = format!("/proc/{}/status", process.pid());
    let mut most = 0;
    until("its end", PATIENCE, || {
        let status = fs::read_to_string(&file).unwrap_or_default();
        let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|it| it.trim().split(' ').next()?.parse().ok());
        most = most.max(peak.unwrap_or_default());
        (!process.is_running()).then_some(())
    });
    let code = process.wait(Duration::from_mins(1));
    (code, process.stderr(), most)
}

#[test]
#[ignore = "needs a cluster"]
fn a_folder_of_two_gibibytes_is_refused_by_its_limit() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let folder = folder_with(&builds, 2 << 30);
    let limit = "the source is larger than 2147483648 bytes, its limit; set source.limit";
    let (code, said, memory) = measured(&mut command(&builds, folder.path(), &[]));
    assert_eq!(code, 1, "{said}");
    // In the step's log.
    assert!(said.contains(limit), "{said}");
    assert!(memory < MAX_MEMORY, "{memory} KiB");
    let object = builds.get("folder");
    assert_eq!(object["status"]["phase"], "Failed", "{object:#}");
    assert_eq!(ready(&object)["reason"], "FetchFailed", "{object:#}");
    let message = format!(
        "{}{}",
        ready(&object)["message"],
        object["status"]["message"]
    );
    assert!(message.contains(limit), "{object:#}");
    assert_eq!(builds.pods("folder").len(), 1);
}

/// `CORAL_SOURCE_MIB` is the size of the folder (64).
#[test]
#[ignore = "needs a cluster"]
fn a_folder_is_built_within_the_limit_that_is_given() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let given = std::env::var("CORAL_SOURCE_MIB").ok();
    let mib: u64 = given.map_or(64, |text| text.parse().unwrap());
    let folder = folder_with(&builds, mib << 20);
    // The Dockerfile is too much.
    let limit = ["--source-limit", &format!("{mib}Mi")];
    let (code, said, _) = measured(&mut command(&builds, folder.path(), &limit));
    let bytes = format!("larger than {} bytes", mib << 20);
    assert!(code == 1 && said.contains(&bytes), "{said}");

    let limit = ["--source-limit", &format!("{}Mi", mib * 3 / 2)];
    let (code, said, memory) = measured(&mut command(&builds, folder.path(), &limit));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("sent 2 files"), "{said}");
    assert!(memory < MAX_MEMORY, "{memory} KiB");
    let durations = &builds.get("folder")["status"]["durations"];
    report!("a folder of {mib} MiB: {durations}, {memory} KiB of memory");
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
