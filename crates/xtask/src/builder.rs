//! The image of the builder that Coral offers, without Docker: its packages by debootstrap, its
//! script from `builder/`.
//!
//! Both steps are kept in the cache, by what they are made of.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::command::{output, say};
use crate::workspace::Workspace;

/// The release that the packages are of, which is that of `builder/Dockerfile` too.
const SUITE: &str = "bookworm";
/// Those of `builder/Dockerfile`, in one line as debootstrap takes them.
const PACKAGES: &str = "buildah,ca-certificates,git,netavark,skopeo";
/// What no build needs.
const WASTE: &[&str] = &[
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
];
/// Where the script is in the image.
const SCRIPT: &str = "/usr/local/bin/coral-builder";
/// The image's name on the nodes of test clusters.
pub(crate) const REFERENCE: &str = "localhost/coral-builder:1";

#[derive(Args)]
pub(crate) struct BuilderArguments {
    /// The OCI archive to write
    file: PathBuf,
}

/// `cargo xtask builder`: writes the image as an archive.
pub(crate) fn write(workspace: &Workspace, arguments: &BuilderArguments) -> Result<()> {
    let layout = layout(workspace)?;
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&arguments.file);
    output(tar.arg("-C").arg(layout).arg(".")).map(drop)
}

/// The folder of the image's layout, made if it is not there.
pub(crate) fn layout(workspace: &Workspace) -> Result<PathBuf> {
    let script = workspace.root.join("builder/coral-builder");
    let text = fs::read(&script).with_context(|| format!("no {}", script.display()))?;
    let images = workspace.cache.join("images");
    let place = images.join(format!("builder-{:016x}", hash(&(SUITE, PACKAGES, text))));
    fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    // Groups of tests that run side by side wait for one of them to make it.
    let lock = File::open(&images)?;
    lock.lock().context("cannot take the lock")?;
    if place.is_dir() {
        return Ok(place);
    }
    let root = root(workspace)?;
    let began = Instant::now();
    let making = place.with_extension("making");
    remove(&making)?;
    pack(&root, &script, &making)?;
    fs::rename(&making, &place).with_context(|| format!("cannot make {}", place.display()))?;
    took("the builder's image packed", began);
    Ok(place)
}

/// The packages, installed, as a tar.
fn root(workspace: &Workspace) -> Result<PathBuf> {
    let name = format!("builder-{SUITE}-{:016x}", hash(&(PACKAGES, WASTE)));
    let folder = workspace.cache.join("rootfs");
    let archive = folder.join(&name).with_extension("tar");
    if archive.is_file() {
        return Ok(archive);
    }
    let began = Instant::now();
    let tree = folder.join(&name).with_extension("making");
    remove(&tree)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]);
    debootstrap.arg(&tree).args(debian_mirror());
    output(&mut debootstrap)?;
    for waste in WASTE {
        remove(&tree.join(waste))?;
    }
    let packed = archive.with_extension("tar.making");
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--numeric-owner", "--mtime=@0", "-cf"]);
    output(tar.arg(&packed).arg("-C").arg(&tree).arg("."))?;
    remove(&tree)?;
    fs::rename(&packed, &archive).with_context(|| format!("cannot make {}", archive.display()))?;
    took("the builder's packages installed", began);
    Ok(archive)
}

/// Two layers: the packages, and the script.
fn pack(root: &Path, script: &Path, layout: &Path) -> Result<()> {
    let folder = layout.display().to_string();
    let (root, script) = (root.display().to_string(), script.display().to_string());
    let image = format!("{folder}:1");
    for arguments in [
        &["init", "--layout", &folder][..],
        &["new", "--image", &image],
        &["raw", "add-layer", "--image", &image, &root],
        &["insert", "--image", &image, &script, SCRIPT],
        &["config", "--image", &image, "--config.entrypoint", SCRIPT],
        &["gc", "--layout", &folder],
    ] {
        output(Command::new("umoci").args(arguments))?;
    }
    Ok(())
}

/// The mirror that apt is configured for; debootstrap's own default if there is none.
fn debian_mirror() -> Option<String> {
    let listed = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(CODENAME)",
    ]));
    let listed = listed.ok()?;
    let mut mirrors = listed.lines().filter_map(|line| line.split_once(' '));
    mirrors
        .find(|(_, codename)| *codename == SUITE)
        .map(|(uri, _)| uri.to_owned())
}

fn hash(parts: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn took(what: &str, began: Instant) {
    say(&format!("{:5.1} s  {what}", began.elapsed().as_secs_f32()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_installs_the_same_packages() {
        let workspace = Workspace::find().unwrap();
        let dockerfile = fs::read_to_string(workspace.root.join("builder/Dockerfile")).unwrap();
        let packages = PACKAGES.replace(',', " ");
        let line = format!("--no-install-recommends {packages} \\\n");
        assert!(dockerfile.contains(&line), "{dockerfile}");
        assert!(dockerfile.contains(&format!("debian:{SUITE}-slim")));
    }
}
