//! Installing what is missing: Debian packages as root, tools into the cache.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::list::{OLDEST_GO, Origin, Tool};
use super::{Missing, is_on_path};
use crate::command::{cargo, output, program, run};
use crate::workspace::Workspace;

pub(crate) fn install(workspace: &Workspace, missing: &Missing) -> Result<()> {
    if let Some(reason) = missing.by_hand.first() {
        bail!("{reason}");
    }
    if !missing.debian.is_empty() {
        // One broken source of the machine's own must not stop what the others have.
        if let Err(error) = run(&mut as_root(&["apt-get", "update", "--quiet=2"])?) {
            println!("going on with the package lists as they are: {error:#}");
        }
        let mut install = as_root(&["apt-get", "install", "--yes", "--quiet=2"])?;
        run(install.arg("--no-install-recommends").args(&missing.debian))?;
    }
    for component in &missing.components {
        run(program(workspace, "rustup")?.args(["component", "add", component]))?;
    }
    for tool in &missing.built {
        timed(tool.name, || build(workspace, tool))?;
    }
    for programs in &missing.cluster {
        timed(programs.name, || super::cluster::build(workspace, programs))?;
    }
    Ok(())
}

/// Says how long it took to build a tool: most of a run with an empty cache.
fn timed(name: &str, build: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    build()?;
    println!("{:5.1} s  {name}", began.elapsed().as_secs_f32());
    Ok(())
}

/// A command that changes the system: as it is for root, by sudo for others.
fn as_root(words: &[&str]) -> Result<Command> {
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !is_on_path(words[0]) {
        bail!("no {} here: install the packages by hand", words[0]);
    }
    // The setting travels as an argument, since sudo clears the environment.
    let quiet = ["env", "DEBIAN_FRONTEND=noninteractive"];
    let mut all: Vec<&str> = quiet.iter().chain(words).copied().collect();
    if !is_root {
        if !is_on_path("sudo") {
            bail!("Debian packages need root, and there is no sudo: run this recipe as root once");
        }
        all.splice(0..0, ["sudo", "--non-interactive"]);
    }
    let mut command = Command::new(all[0]);
    command.args(&all[1..]);
    Ok(command)
}

/// Builds a tool beside its place and renames it there, so that a cut build leaves nothing behind
/// that looks installed.
fn build(workspace: &Workspace, tool: &Tool) -> Result<()> {
    let place = tool.folder(&workspace.cache);
    let building = place.with_extension("building");
    remove_if_there(&building)?;
    let bin = building.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    match tool.origin {
        Origin::Go(package) => {
            let mut go = program(workspace, "go")?;
            go.args(["install", &format!("{package}@{}", tool.version)]);
            run(go
                .env("GOBIN", &bin)
                .env("CGO_ENABLED", "0")
                .env_remove("GOFLAGS"))?;
        }
        Origin::Crate(name) | Origin::BareCrate(name) => {
            let version = tool.version.trim_start_matches('v');
            let mut install = cargo(workspace, &["install", "--locked", "--quiet", name])?;
            install
                .args(["--version", version, "--root"])
                .arg(&building);
            if matches!(tool.origin, Origin::BareCrate(_)) {
                install.arg("--no-default-features");
            }
            // Beside the cache, or the tool would be built into the checkout's target folder.
            run(install.arg("--target-dir").arg(building.join("target")))?;
            remove_if_there(&building.join("target"))?;
        }
    }
    remove_if_there(&place)?;
    fs::rename(&building, &place).with_context(|| format!("cannot make {}", place.display()))
}

pub(super) fn remove_if_there(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Why the Go that is here cannot build the tools, if so.
pub(crate) fn go_complaint() -> Option<String> {
    let (major, minor) = OLDEST_GO;
    let wanted = format!("Go {major}.{minor} or newer from https://go.dev/dl/, to build the tools");
    let Ok(version) = output(Command::new("go").args(["env", "GOVERSION"])) else {
        return Some(format!(
            "{wanted} (there is no `go`; Debian's package is too old)"
        ));
    };
    let found = version.trim();
    match go_version(found) {
        Some(version) if version >= OLDEST_GO => None,
        _ => Some(format!("{wanted} (there is {found})")),
    }
}

/// `go1.26.8` → (1, 26).
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .strip_prefix("go")?
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_compare_by_number() {
        assert_eq!(go_version("go1.26.8"), Some((1, 26)));
        assert_eq!(go_version("go1.9rc1"), Some((1, 9)));
        assert!(go_version("go1.9").unwrap() < OLDEST_GO);
        assert_eq!(go_version("devel"), None);
    }
}
