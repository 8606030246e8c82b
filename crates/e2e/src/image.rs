//! Images that run: busybox or a whole Debian below, files on top, made by umoci.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layout::Layout;
use crate::peers::umoci;
use crate::run::run;

/// What an image of three layers says when it is run.
pub const GREETING: &str = "hello from three layers";

/// Packs an image of three layers under a tag: a root file system as a tar, a greeting, and a
/// second file; its command prints the greeting.
pub fn add_three_layers(layout: &Layout, tag: &str, root: &Path) {
    let home = root.parent().expect("a file lies in a folder");
    let image = format!("{}:{tag}", layout.folder().display());
    let greeting = home.join(format!("greeting-{tag}"));
    fs::write(&greeting, format!("{GREETING}\n")).expect("scratch is writable");
    let make = |arguments: &[&str]| {
        let _ = run(umoci(home).args(arguments)).succeeded();
    };
    let greeting = greeting.to_string_lossy();
    make(&["new", "--image", &image]);
    make(&[
        "raw",
        "add-layer",
        "--image",
        &image,
        &root.to_string_lossy(),
    ]);
    make(&["insert", "--image", &image, &greeting, "/greeting"]);
    make(&["insert", "--image", &image, &greeting, "/greeting.copy"]);
    make(&[
        "config",
        "--image",
        &image,
        "--os",
        "linux",
        "--architecture",
        "amd64",
    ]);
    make(&[
        "config",
        "--image",
        &image,
        "--config.cmd",
        "/bin/cat",
        "--config.cmd",
        "/greeting",
    ]);
    make(&["gc", "--layout", &layout.folder().to_string_lossy()]);
}

/// A root file system of busybox alone, as a tar in `folder`.
pub fn busybox_root(folder: &Path) -> PathBuf {
    let bin = folder.join("busybox-root/bin");
    fs::create_dir_all(&bin).expect("scratch is writable");
    let found = ["/usr/bin/busybox", "/bin/busybox"]
        .into_iter()
        .find(|p| Path::new(p).exists());
    let busybox = found.expect("busybox is missing: `cargo xtask test --install` gets it");
    fs::copy(busybox, bin.join("busybox")).expect("scratch is writable");
    for name in ["sh", "cat", "echo", "sleep"] {
        symlink("busybox", bin.join(name)).expect("scratch is writable");
    }
    pack(&folder.join("busybox-root"), &folder.join("busybox.tar"))
}

/// A minimal Debian made by debootstrap, as a tar; kept in the cache by the release's version,
/// since it takes half a minute. Copied into `folder`.
pub fn debian_root(folder: &Path) -> PathBuf {
    let cached = cache()
        .join("rootfs")
        .join(format!("debian-{}-minbase.tar", debian_suite()));
    if !cached.is_file() {
        let tree = folder.join("debian-root");
        let mut debootstrap = Command::new("debootstrap");
        debootstrap
            .args(["--variant=minbase", debian_suite()])
            .arg(&tree);
        debootstrap.args(debian_mirror());
        let _ = run(&mut debootstrap).succeeded();
        for waste in [
            "var/cache/apt",
            "var/lib/apt/lists",
            "usr/share/doc",
            "usr/share/locale",
        ] {
            let _ = fs::remove_dir_all(tree.join(waste));
        }
        fs::create_dir_all(cached.parent().expect("it has a folder")).expect("a writable cache");
        let fresh = pack(&tree, &cached.with_extension("new"));
        fs::rename(fresh, &cached).expect("a writable cache");
    }
    let copy = folder.join("debian.tar");
    fs::copy(&cached, &copy).expect("scratch is writable");
    copy
}

fn pack(tree: &Path, archive: &Path) -> PathBuf {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--numeric-owner", "--mtime=@0", "-cf"])
        .arg(archive);
    let _ = run(tar.arg("-C").arg(tree).arg(".")).succeeded();
    archive.to_path_buf()
}

fn debian_suite() -> &'static str {
    "bookworm"
}

/// The mirror that apt is configured for; debootstrap's own default if there is none.
fn debian_mirror() -> Option<String> {
    let format = "$(REPO_URI) $(CODENAME)";
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", format])
        .output();
    let listed = String::from_utf8(targets.ok()?.stdout).ok()?;
    let mut mirrors = listed.lines().filter_map(|line| line.split_once(' '));
    mirrors
        .find(|(_, codename)| *codename == debian_suite())
        .map(|(uri, _)| uri.to_owned())
}

fn cache() -> PathBuf {
    let named = std::env::var_os("CORAL_CACHE").map(PathBuf::from);
    named
        .or_else(|| Some(std::env::home_dir()?.join(".cache/coral")))
        .expect("a home folder")
}
