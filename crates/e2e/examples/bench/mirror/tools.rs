//! Three tools, each told in its own way to mirror the same images.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{coral, peers};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Coral,
    Skopeo,
    Regsync,
}

/// One tag at a source.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) tag: String,
}

impl Image {
    /// The folder of its host in a mirror.
    fn folder(&self) -> String {
        self.host.replace(':', "_")
    }
}

/// What is to be mirrored where.
pub(super) struct Pass<'a> {
    pub(super) home: &'a Path,
    pub(super) destination: &'a str,
    pub(super) images: &'a [Image],
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Coral => "coral",
            Self::Skopeo => "skopeo sync",
            Self::Regsync => "regsync",
        }
    }

    /// The repository at the destination.
    pub(super) fn lands_at(self, image: &Image) -> String {
        match self {
            Self::Coral | Self::Regsync => format!("{}/{}", image.folder(), image.path),
            // skopeo keeps the last part of the path only.
            Self::Skopeo => format!(
                "mirrored/{}",
                image.path.rsplit('/').next().unwrap_or_default()
            ),
        }
    }

    /// All platforms and whatever each tool can copy along, digests kept.
    pub(super) fn command(self, pass: &Pass<'_>) -> Command {
        match self {
            Self::Coral => by_coral(pass),
            Self::Skopeo => by_skopeo(pass),
            Self::Regsync => by_regsync(pass),
        }
    }
}

impl Pass<'_> {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.home.join(name), text).unwrap();
        self.home.join(name)
    }

    fn hosts(&self) -> BTreeMap<&str, Vec<&Image>> {
        let mut hosts: BTreeMap<&str, Vec<&Image>> = BTreeMap::new();
        for image in self.images {
            hosts.entry(&image.host).or_default().push(image);
        }
        hosts
    }
}

fn by_coral(pass: &Pass<'_>) -> Command {
    let (host, port) = pass.destination.split_once(':').unwrap();
    let mut yaml = format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: bench\nspec:\n  \
         registry:\n    host: {host}\n    port: {port}\n  retry: {{limit: 1}}\n  repositories:\n"
    );
    for image in pass.images {
        let Image { host, path, tag } = image;
        writeln!(yaml, "    - {{name: \"{host}/{path}\", tags: [\"{tag}\"]}}").unwrap();
    }
    let mut command = coral();
    command
        .args(["mirror", "run"])
        .arg(pass.file("coral.yaml", &yaml));
    for host in pass.hosts().keys().chain([&pass.destination]) {
        command.args(["--plain-http", host]);
    }
    command.env("HOME", pass.home);
    command
}

fn by_skopeo(pass: &Pass<'_>) -> Command {
    let mut yaml = String::new();
    for (host, images) in pass.hosts() {
        writeln!(yaml, "\"{host}\":\n  tls-verify: false\n  images:").unwrap();
        for image in images {
            writeln!(yaml, "    {}: [\"{}\"]", image.path, image.tag).unwrap();
        }
    }
    let mut command = peers::skopeo(pass.home);
    command.args(["sync", "--all", "--keep-going", "--preserve-digests"]);
    command.args(["--src", "yaml", "--dest", "docker"]);
    command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
    command.arg(pass.file("skopeo.yaml", &yaml));
    command.arg(format!("{}/mirrored", pass.destination));
    command
}

fn by_regsync(pass: &Pass<'_>) -> Command {
    let mut yaml = "version: 1\ncreds:\n".to_owned();
    for host in pass.hosts().keys().chain([&pass.destination]) {
        writeln!(yaml, "  - {{registry: \"{host}\", tls: disabled}}").unwrap();
    }
    yaml.push_str("defaults: {parallel: 4, referrers: true, digestTags: true}\nsync:\n");
    for image in pass.images {
        let Image { host, path, tag } = image;
        let target = format!(
            "{}/{}:{tag}",
            pass.destination,
            Tool::Regsync.lands_at(image)
        );
        writeln!(
            yaml,
            "  - {{source: \"{host}/{path}:{tag}\", target: \"{target}\", type: image}}"
        )
        .unwrap();
    }
    let mut command = Command::new("regsync");
    command
        .args(["once", "--config"])
        .arg(pass.file("regsync.yaml", &yaml));
    command
        .env("HOME", pass.home)
        .env("DOCKER_CONFIG", pass.home.join(".docker"));
    command
}
