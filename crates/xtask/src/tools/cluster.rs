//! The programs of the cluster under test, built from pinned Go modules.
//!
//! They are not on the tests' `PATH`: Debian's containerd is what the other tests run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{output, program, run};
use crate::workspace::Workspace;

/// Programs that are built together, from one version of one module.
pub(crate) struct Programs {
    /// Name of the folder in the cache, without the version.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// The module that is required at that version.
    module: &'static str,
    /// What the linker sets: variables of packages, with `{version}` for the version.
    variables: &'static [&'static str],
    /// Whether C code may be part of them; without it they are static.
    cgo: bool,
    /// Build tags, separated by commas; empty for none.
    tags: &'static str,
    /// Each program with the package that it is built from.
    built: &'static [(&'static str, &'static str)],
}

impl Programs {
    /// The folder of the programs.
    pub(crate) fn bin(&self, cache: &Path) -> PathBuf {
        self.folder(cache).join("bin")
    }

    pub(crate) fn is_in(&self, cache: &Path) -> bool {
        let bin = self.bin(cache);
        self.built
            .iter()
            .all(|(program, _)| bin.join(program).is_file())
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {} (from {})", self.name, self.version, self.module)
    }

    fn folder(&self, cache: &Path) -> PathBuf {
        let folder = format!("{}-{}", self.name, self.version);
        cache.join("tools").join(folder)
    }
}

pub(crate) const CONTAINERD: Programs = Programs {
    name: "containerd",
    version: "v2.4.2",
    module: "github.com/containerd/containerd/v2",
    variables: &["github.com/containerd/containerd/v2/version.Version={version}"],
    cgo: false,
    tags: "",
    built: &[
        (
            "containerd",
            "github.com/containerd/containerd/v2/cmd/containerd",
        ),
        (
            "containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        ),
        ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    ],
};

pub(crate) const COREDNS: Programs = Programs {
    name: "coredns",
    version: "v1.15.0",
    module: "github.com/coredns/coredns",
    variables: &[],
    cgo: false,
    tags: "",
    built: &[("coredns", "github.com/coredns/coredns")],
};

pub(crate) const ETCD: Programs = Programs {
    name: "etcd",
    version: "v3.7.3",
    module: "go.etcd.io/etcd/server/v3",
    variables: &[],
    cgo: false,
    tags: "",
    built: &[("etcd", "go.etcd.io/etcd/server/v3")],
};

/// Without the variables every program calls itself `v0.0.0-master`, which kubectl cannot parse.
pub(crate) const KUBERNETES: Programs = Programs {
    name: "kubernetes",
    version: "v1.37.2",
    module: "k8s.io/kubernetes",
    variables: &[
        "k8s.io/component-base/version.gitVersion={version}",
        "k8s.io/component-base/version.gitMajor=1",
        "k8s.io/component-base/version.gitMinor=37",
        "k8s.io/component-base/version.gitTreeState=clean",
    ],
    cgo: true,
    tags: "",
    built: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        (
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ],
};

/// Debian's runc is older than 1.2, and a container with a user namespace of its own needs 1.2.
/// Without the tag it applies no seccomp profile, and containerd's default one is refused.
pub(crate) const RUNC: Programs = Programs {
    name: "runc",
    version: "v1.5.2",
    module: "github.com/opencontainers/runc",
    variables: &[],
    cgo: true,
    tags: "seccomp",
    built: &[("runc", "github.com/opencontainers/runc")],
};

pub(crate) const ALL: &[&Programs] = &[&CONTAINERD, &COREDNS, &ETCD, &KUBERNETES, &RUNC];

/// Builds the programs beside their place and renames them there, as the other tools.
pub(super) fn build(workspace: &Workspace, programs: &Programs) -> Result<()> {
    let place = programs.folder(&workspace.cache);
    let building = place.with_file_name(format!("{}.building", programs.name));
    super::install::remove_if_there(&building)?;
    let module = building.join("module");
    for folder in [&module, &building.join("bin")] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    prepare_module(workspace, programs, &module)?;
    for (name, package) in programs.built {
        let mut go = go(workspace, &module)?;
        go.env("CGO_ENABLED", if programs.cgo { "1" } else { "0" });
        go.args(["build", "-tags", programs.tags]);
        go.args(["-ldflags", &linker_flags(programs), "-o"]);
        run(go.arg(building.join("bin").join(name)).arg(package))?;
    }
    super::install::remove_if_there(&module)?;
    super::install::remove_if_there(&place)?;
    fs::rename(&building, &place).with_context(|| format!("cannot make {}", place.display()))
}

/// A module that requires the programs' own at the pinned version.
fn prepare_module(workspace: &Workspace, programs: &Programs, folder: &Path) -> Result<()> {
    let wanted = format!("{}@{}", programs.module, programs.version);
    run(go(workspace, folder)?.args(["mod", "init", "cluster"]))?;
    run(go(workspace, folder)?.args(["mod", "edit", "-require", &wanted]))?;
    let file = go_mod_of(workspace, folder, &wanted)?;
    for staged in staged_modules(&file) {
        // Kubernetes requires its own parts as v0.0.0, and publishes them as v0.37.2.
        let Some((_, version)) = programs.version.split_once('.') else {
            bail!("{} is no version", programs.version);
        };
        let replaced = format!("{staged}={staged}@v0.{version}");
        run(go(workspace, folder)?.args(["mod", "edit", "-replace", &replaced]))?;
    }
    let mut get = go(workspace, folder)?;
    get.args(["get", "-tool"]);
    let packages = programs.built.iter().map(|(_, package)| *package);
    if staged_modules(&file).is_empty() {
        get.args(packages.map(|package| format!("{package}@{}", programs.version)));
    } else {
        get.args(packages);
    }
    run(&mut get).map(drop)
}

fn go_mod_of(workspace: &Workspace, folder: &Path, module: &str) -> Result<String> {
    let mut download = go(workspace, folder)?;
    let answer = output(download.args(["mod", "download", "-json", module]))?;
    let answer: Value = serde_json::from_str(&answer).context("go printed no JSON")?;
    let path = answer["GoMod"].as_str().context("go names no go.mod")?;
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The modules that a `go.mod` replaces by folders of its own repository.
fn staged_modules(go_mod: &str) -> Vec<&str> {
    let replaced = go_mod.lines().filter_map(|line| line.split_once(" => "));
    replaced
        .filter(|(_, folder)| folder.starts_with("./staging/"))
        .filter_map(|(module, _)| module.split_whitespace().last())
        .collect()
}

fn linker_flags(programs: &Programs) -> String {
    let set = programs
        .variables
        .iter()
        .map(|variable| format!(" -X {}", variable.replace("{version}", programs.version)));
    format!("-s -w{}", set.collect::<String>())
}

fn go(workspace: &Workspace, folder: &Path) -> Result<Command> {
    let mut go = program(workspace, "go")?;
    go.current_dir(folder)
        .env("GOFLAGS", "-trimpath -buildvcs=false");
    Ok(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_staged_modules_of_a_go_mod_are_found() {
        let go_mod = "module k8s.io/kubernetes\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\
                      \tk8s.io/cri-api => ./staging/src/k8s.io/cri-api\n\texample.org/a => ../a\n)\n";
        assert_eq!(staged_modules(go_mod), ["k8s.io/api", "k8s.io/cri-api"]);
        assert_eq!(staged_modules("module m\n"), [""; 0]);
    }

    #[test]
    fn the_linker_sets_the_version() {
        assert_eq!(linker_flags(&ETCD), "-s -w");
        assert!(linker_flags(&KUBERNETES).contains("version.gitVersion=v1.37.2 "));
    }
}
