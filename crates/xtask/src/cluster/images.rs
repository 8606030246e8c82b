//! The images that every cluster needs, and the registry on the bridge that serves them.
//!
//! They are made once, as OCI layouts in the cache; the folder's name holds what they are made of.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::processes::{spawn, succeeds, wait_for};
use super::settings::{Cluster, make_folder, write};
use crate::command::output;
use crate::tools;
use crate::tools::cluster::COREDNS;

/// Raised when the recipe of an image changes.
const RECIPE: &str = "1";
const NAMES: &[&str] = &["pause", "busybox", "coredns"];

/// Ends by a signal, and reaps what pods with a shared process namespace leave behind.
const PAUSE: &str = "#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main() {
  signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap);
  for (;;) pause();
}
";

/// Starts the registry; it is not awaited.
pub(super) fn start_registry(cluster: &Cluster) -> Result<()> {
    let configuration = format!(
        "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"{}\"}}\n",
        cluster.file("registry").display(),
        cluster.registry()
    );
    let file = cluster.file("registry.yml");
    write(&file, &configuration)?;
    let mut registry = Command::new("docker-registry");
    registry
        .arg("serve")
        .arg(&file)
        .env("OTEL_TRACES_EXPORTER", "none");
    spawn(cluster, "registry", &registry)
}

/// Pushes the images; the registry is awaited.
pub(super) fn push(cluster: &Cluster) -> Result<()> {
    let layouts = layouts(&cluster.cache)?;
    let url = format!("http://{}/v2/", cluster.registry());
    wait_for("the registry answers", Duration::from_mins(1), || {
        succeeds(Command::new("curl").args(["--silent", "--fail", &url]))
    })?;
    for name in NAMES {
        let source = format!("oci:{}:1", layouts.join(name).display());
        let destination = format!("docker://{}/{name}:1", cluster.registry());
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        output(skopeo.args([&source, &destination]))?;
    }
    Ok(())
}

/// The folder of the layouts, made if it is not there.
fn layouts(cache: &Path) -> Result<PathBuf> {
    let busybox = tools::find("busybox").context("there is no busybox")?;
    let size = fs::metadata(&busybox)?.len();
    let name = format!("cluster-{RECIPE}-{}-{size}", COREDNS.version);
    let place = cache.join("images").join(name);
    if place.is_dir() {
        return Ok(place);
    }
    let making = place.with_extension(format!("{}", std::process::id()));
    let roots = making.join("roots");
    make_folder(&roots)?;
    pause_root(&roots.join("pause"))?;
    busybox_root(&roots.join("busybox"), &busybox)?;
    make_folder(&roots.join("coredns"))?;
    let program = COREDNS.bin(cache).join("coredns");
    fs::copy(&program, roots.join("coredns/coredns"))
        .with_context(|| format!("cannot copy {}", program.display()))?;
    for (name, command) in [
        ("pause", "/pause"),
        ("busybox", "/bin/sh"),
        ("coredns", "/coredns"),
    ] {
        pack(&roots.join(name), &making.join(name), command)?;
    }
    fs::remove_dir_all(&roots)?;
    // Another cluster that comes up may have been faster.
    if fs::rename(&making, &place).is_err() {
        fs::remove_dir_all(&making)?;
    }
    Ok(place)
}

fn pause_root(root: &Path) -> Result<()> {
    make_folder(root)?;
    let source = root.with_extension("c");
    write(&source, PAUSE)?;
    let mut compiler = Command::new("gcc");
    compiler
        .args(["-Os", "-static", "-s", "-o"])
        .arg(root.join("pause"))
        .arg(source);
    output(&mut compiler).map(drop)
}

fn busybox_root(root: &Path, busybox: &Path) -> Result<()> {
    for folder in ["bin", "etc", "tmp"] {
        make_folder(&root.join(folder))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    let names = output(Command::new(busybox).arg("--list"))?;
    for name in names.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name))?;
    }
    write(&root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")
}

fn pack(root: &Path, layout: &Path, command: &str) -> Result<()> {
    let image = format!("{}:1", layout.display());
    let umoci = |arguments: &[&str]| output(Command::new("umoci").args(arguments)).map(drop);
    umoci(&["init", "--layout", &layout.display().to_string()])?;
    umoci(&["new", "--image", &image])?;
    umoci(&[
        "insert",
        "--image",
        &image,
        &root.display().to_string(),
        "/",
    ])?;
    let path = "PATH=/bin";
    umoci(&[
        "config",
        "--image",
        &image,
        "--config.cmd",
        command,
        "--config.env",
        path,
    ])?;
    umoci(&["gc", "--layout", &layout.display().to_string()])
}
