//! The programs that tests and benchmarks run beside Coral: what is needed, what is missing, and
//! how it is installed.

pub(crate) mod cluster;
mod install;
mod list;

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::command::StageReport;
use crate::workspace::Workspace;
use list::{CARGO_TOOLS, DEBIAN, GO_TOOLS, Tool};

/// The tools that are missing for a run.
#[derive(Default)]
pub(crate) struct Missing {
    /// Debian packages.
    debian: Vec<&'static str>,
    /// Tools built from a Go module or a crate.
    built: Vec<&'static Tool>,
    /// Programs of the cluster under test.
    cluster: Vec<&'static cluster::Programs>,
    /// Components of the Rust toolchain.
    components: Vec<&'static str>,
    /// What cannot be installed from here.
    by_hand: Vec<String>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.debian.is_empty()
            && self.built.is_empty()
            && self.cluster.is_empty()
            && self.components.is_empty()
            && self.by_hand.is_empty()
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.debian.is_empty() {
            lines.push(format!(
                "Debian packages (as root): {}",
                self.debian.join(" ")
            ));
        }
        for tool in &self.built {
            lines.push(format!(
                "{} {} (from {})",
                tool.name,
                tool.version,
                tool.source()
            ));
        }
        lines.extend(self.cluster.iter().map(|programs| programs.line()));
        for component in &self.components {
            lines.push(format!("component {component} of the Rust toolchain"));
        }
        lines.extend(self.by_hand.iter().cloned());
        lines
    }
}

/// Whether missing tools are installed or only listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnMissing {
    Install,
    List,
}

/// The stage `tools`: afterwards everything is there, or it fails and lists what is not.
pub(crate) fn check(workspace: &Workspace, on_missing: OnMissing) -> Result<StageReport> {
    let missing = find_missing(workspace);
    if missing.is_empty() {
        return Ok(StageReport::default());
    }
    if on_missing == OnMissing::List {
        println!("missing:");
        missing.lines().iter().for_each(|line| println!("  {line}"));
        bail!("tools are missing: `cargo xtask test --install` installs them");
    }
    println!(
        "to be installed, tools into {}:",
        workspace.cache.join("tools").display()
    );
    missing.lines().iter().for_each(|line| println!("  {line}"));
    install::install(workspace, &missing)?;
    let left = find_missing(workspace);
    if !left.is_empty() {
        bail!(
            "still missing after the installation: {}",
            left.lines().join("; ")
        );
    }
    Ok(StageReport::default())
}

/// The folders of the cached tools, for `PATH`.
pub(crate) fn bin_folders(cache: &Path) -> Vec<PathBuf> {
    GO_TOOLS
        .iter()
        .chain(CARGO_TOOLS)
        .map(|tool| tool.folder(cache).join("bin"))
        .collect()
}

fn find_missing(workspace: &Workspace) -> Missing {
    let debian = DEBIAN
        .iter()
        .filter(|(_, program)| !is_on_path(program))
        .map(|(name, _)| *name);
    let built = GO_TOOLS
        .iter()
        .chain(CARGO_TOOLS)
        .filter(|tool| !tool.is_in(&workspace.cache));
    let components = [("clippy", "cargo-clippy"), ("rustfmt", "cargo-fmt")];
    let mut missing = Missing {
        debian: debian.collect(),
        built: built.collect(),
        cluster: cluster::ALL
            .iter()
            .copied()
            .filter(|programs| !programs.is_in(&workspace.cache))
            .collect(),
        components: components
            .iter()
            .filter(|(_, p)| !is_on_path(p))
            .map(|(c, _)| *c)
            .collect(),
        by_hand: Vec::new(),
    };
    let needs_go = missing.built.iter().any(|tool| tool.is_go()) || !missing.cluster.is_empty();
    if needs_go && let Some(complaint) = install::go_complaint() {
        missing.by_hand.push(complaint);
    }
    missing
}

/// Whether a program is on `PATH` or where Debian keeps root's programs.
fn is_on_path(program: &str) -> bool {
    find(program).is_some()
}

/// The file of a program on `PATH` or where Debian keeps root's programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = env::split_paths(&path).chain(system);
    folders.find_map(|folder| {
        let file = folder.join(OsStr::new(program));
        file.is_file().then_some(file)
    })
}
