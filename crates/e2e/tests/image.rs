//! The container image: as the Dockerfile makes it, and as `coral image` makes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::peers::umoci;
use e2e::{RegistryProgram, RegistryServer, coral, report, run, scratch};
use serde_json::{Value, json};

/// All that is in the image, folders included.
const CONTENT: [&str; 6] = [
    "coral",
    "etc",
    "etc/ssl",
    "etc/ssl/certs",
    "etc/ssl/certs/ca-certificates.crt",
    "tmp",
];

fn dockerfile() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Dockerfile")
}

/// A buildah with a storage of its own.
fn buildah(home: &Path) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs", "--root"]);
    command.arg(home.join("storage")).arg("--runroot");
    command.arg(home.join("run")).env("HOME", home);
    command
}

/// The image that the Dockerfile's build stage starts from: a shell and the CA certificates.
fn make_base(home: &Path) -> &'static str {
    let base = home.join("base");
    let (bin, certificates) = (base.join("bin"), base.join("etc/ssl/certs"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&certificates).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in ["sh", "cp", "mkdir", "chmod"] {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    let bundle = "ca-certificates.crt";
    fs::copy(
        Path::new("/etc/ssl/certs").join(bundle),
        certificates.join(bundle),
    )
    .unwrap();
    let recipe = home.join("Base");
    fs::write(&recipe, "FROM scratch\nCOPY . /\n").unwrap();
    let name = "localhost/base:1";
    let mut build = buildah(home);
    build.args(["bud", "--isolation", "chroot", "--tag", name, "--file"]);
    let _ = run(build.arg(&recipe).arg(&base)).succeeded();
    name
}

/// Unpacks an image of a layout, and looks at what a cluster relies on.
fn assert_is_corals_image(home: &Path, layout: &Path, tag: &str) {
    let bundle = home.join("bundle");
    let image = format!("{}:{tag}", layout.display());
    let mut unpack = umoci(home);
    let _ = run(unpack.args(["unpack", "--image", &image]).arg(&bundle)).succeeded();
    let root = bundle.join("rootfs");
    let mut content = vec![];
    list(&root, &root, &mut content);
    content.sort();
    assert_eq!(content, CONTENT);
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("coral"), mode("tmp")), (0o755, 0o1777));
    let config = config_of(layout, tag);
    let config = &config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/coral"]));
    let mut start = Command::new("chroot");
    start.args(["--userspec=65532:65532"]).arg(&root);
    let version = run(start.args(["/coral", "--version"])).succeeded();
    assert!(version.text().starts_with("coral "), "{version}");
    fs::remove_dir_all(&bundle).unwrap();
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.push(name);
        if path.is_dir() {
            list(root, &path, found);
        }
    }
}

fn config_of(layout: &Path, tag: &str) -> Value {
    let image = format!("oci:{}:{tag}", layout.display());
    let config = run(Command::new("skopeo").args(["inspect", "--config", "--raw", &image]));
    serde_json::from_str(&config.succeeded().stdout).unwrap()
}

#[test]
#[ignore = "needs root, buildah, umoci and the static release binary; run by cargo xtask test"]
fn the_dockerfile_makes_an_image_of_program_and_certificates_that_runs() {
    let home = scratch();
    let base = make_base(home.path());
    let context = home.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::copy(coral().get_program(), context.join("coral")).unwrap();
    let mut build = buildah(home.path());
    build.args(["bud", "--isolation", "chroot", "--build-arg"]);
    build.arg(format!("BASE={base}"));
    build.args(["--build-arg", "BINARY=coral", "--tag", "localhost/coral:1"]);
    let _ = run(build.arg("--file").arg(dockerfile()).arg(&context)).succeeded();
    let layout = home.path().join("layout");
    let mut push = buildah(home.path());
    push.args(["push", "localhost/coral:1"]);
    let _ = run(push.arg(format!("oci:{}:1", layout.display()))).succeeded();
    assert_is_corals_image(home.path(), &layout, "1");
    let size = fs::metadata(coral().get_program()).unwrap().len();
    report!("image: the program is {} MB, static", size / 1_000_000);
}

#[test]
#[ignore = "needs root, umoci, skopeo, distribution and the static release binary; run by cargo xtask test"]
fn coral_image_makes_the_same_image_as_layout_as_archive_and_in_a_registry() {
    let home = scratch();
    let layout = home.path().join("layout");
    let archive = home.path().join("coral.tar");
    let registry = RegistryServer::start(RegistryProgram::Distribution);
    let pushed = format!("{}/coral:1", registry.host());
    let mut digests = vec![];
    for destination in [
        format!("oci:{}:1", layout.display()),
        format!("oci-archive:{}:1", archive.display()),
        pushed,
    ] {
        let mut make = coral();
        make.args(["image", &destination, "--plain-http", &registry.host()]);
        let printed = run(make.env("HOME", home.path())).succeeded();
        let (name, digest) = printed.text().split_once(' ').unwrap();
        assert_eq!(name, destination);
        digests.push(digest.to_owned());
    }
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
    assert_is_corals_image(home.path(), &layout, "1");
    let again = home.path().join("again");
    let (from, to) = (
        format!("oci-archive:{}:1", archive.display()),
        format!("oci:{}:1", again.display()),
    );
    let _ = run(Command::new("skopeo").args(["copy", "--quiet", &from, &to])).succeeded();
    assert_is_corals_image(home.path(), &again, "1");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_image_under_a_digest_is_refused() {
    let home = scratch();
    let digest = "0".repeat(64);
    let mut make = coral();
    make.args(["image", &format!("localhost:5000/coral@sha256:{digest}")]);
    let _ = run(make.env("HOME", home.path()))
        .exited(2)
        .saying("give a tag");
}
