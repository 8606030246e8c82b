//! A page of the documentation, run as it is written: every command, every object, and every output
//! that the page shows.
//!
//! Only one thing is added: the registries that pose as docker.io and quay.io have a certificate by a
//! private authority, so the mirrors' repositories get a `ca`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Cluster, OutsideRegistry, OwnCluster};
use crate::binary::coral;
use crate::image::{add_three_layers, busybox_root};
use crate::layout::Layout;
use crate::peers::umoci;
use crate::registry::RegistryProgram;
use crate::run::{Finished, run, scratch};
use crate::wait::until_every;

/// How long a shown output may take to come.
const LONGEST: Duration = Duration::from_mins(2);
const NAMES: [&str; 2] = ["registry-1.docker.io", "quay.io"];

/// A fenced block of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block<'a> {
    language: &'a str,
    text: &'a str,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (language, after) = after.split_once('\n').expect("a line");
        let (text, after) = after.split_once("\n```").expect("the end of the block");
        blocks.push(Block { language, text });
        rest = after;
    }
    blocks
}

/// A reader who follows a page, in a folder that has `deploy/` like a checkout.
pub struct Reader<'a> {
    cluster: &'a Cluster,
    own: &'a OwnCluster,
    folder: tempfile::TempDir,
    ca: String,
    /// The last block of YAML, which the next command that names a file finds there.
    yaml: &'a str,
    /// The last commands, and what they printed.
    said: (&'a str, String),
    ran: usize,
    /// Outputs that the page shows, so far.
    pub compared: usize,
    /// Outputs that the page shows and that were not printed.
    differences: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader who has not begun.
    ///
    /// # Panics
    /// If there is no room for the folder.
    pub fn new(cluster: &'a Cluster, own: &'a OwnCluster, outside: &OutsideRegistry) -> Self {
        let folder = scratch();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        symlink(root.join("deploy"), folder.path().join("deploy")).expect("scratch is writable");
        fs::create_dir(folder.path().join("bin")).expect("scratch is writable");
        let program = PathBuf::from(coral().get_program());
        symlink(program, folder.path().join("bin/coral")).expect("scratch is writable");
        let ca = fs::read_to_string(outside.ca().expect("it has one"))
            .expect("a file of the test's own");
        Self {
            cluster,
            own,
            folder,
            ca,
            yaml: "",
            said: ("", String::new()),
            ran: 0,
            compared: 0,
            differences: Vec::new(),
        }
    }

    /// Follows a page.
    ///
    /// # Panics
    /// If a command fails, or an output is not as the page shows it.
    pub fn follow(&mut self, page: &'a str) {
        let pods = [
            "delete",
            "deployments,pods",
            "--all",
            "--now",
            "--ignore-not-found",
        ];
        let _ = self.cluster.kubectl(&pods);
        for block in blocks(page) {
            match block.language {
                "yaml" => self.yaml = block.text,
                "sh" => self.commands(block.text),
                "text" => self.compare(block.text),
                _ => {}
            }
        }
        assert!(self.ran >= 8, "only {} commands", self.ran);
        let differences = self.differences.join("\n\n");
        assert!(differences.is_empty(), "{differences}");
    }

    fn commands(&mut self, block: &'a str) {
        let mut said = String::new();
        for command in block.replace("\\\n", " ").lines() {
            self.ran += 1;
            let words: Vec<&str> = command.split_whitespace().collect();
            // The program was built before the test, and a node is not reached by a login.
            let finished = match words.as_slice() {
                [] => continue,
                [first, ..] if first.starts_with("RUSTFLAGS=") => continue,
                ["ctr", ..] => {
                    for node in self.cluster.nodes() {
                        self.shell_on(&node, command);
                    }
                    continue;
                }
                [program, ..] if program.ends_with("release/coral") => {
                    self.shell(&command.replacen(program, "coral", 1))
                }
                _ => self.shell(command),
            };
            print!("$ {command}\n{}", finished.stdout);
            assert_eq!(
                finished.code,
                0,
                "{finished}\n{}",
                self.cluster.explain("default")
            );
            said += &finished.stdout;
        }
        self.said = (block, said);
    }

    /// Runs a command as a person would type it; the file that it names first is the last YAML.
    fn shell(&self, command: &str) -> Finished {
        let named = command
            .split_whitespace()
            .find(|word| Path::new(word).extension().is_some_and(|it| it == "yaml"));
        if let Some(file) = named.map(|name| self.folder.path().join(name))
            && !file.exists()
        {
            fs::write(&file, self.with_authority()).expect("scratch is writable");
        }
        let path = std::env::var("PATH").expect("a PATH");
        let bin = self.folder.path().join("bin");
        let mut shell = Command::new("sh");
        shell.args(["-ec", command]).current_dir(self.folder.path());
        shell.env("PATH", format!("{}:{path}", bin.display()));
        run(shell.env("KUBECONFIG", self.cluster.kubeconfig()))
    }

    fn shell_on(&self, node: &str, command: &str) {
        let here = format!("cd '{}' && {command}", self.folder.path().display());
        let _ = self.own.exec(node, &["sh", "-ec", &here]).succeeded();
    }

    /// The YAML, with a `ca` for each repository that a mirror names.
    fn with_authority(&self) -> String {
        let ca = self.ca.lines().map(|line| format!("        {line}\n"));
        let ca = ca.collect::<Vec<_>>().concat();
        let mut is_mirror = false;
        let mut text = String::new();
        for line in self.yaml.lines() {
            if let Some(kind) = line.strip_prefix("kind: ") {
                is_mirror = kind == "RegistryMirror";
            }
            text.extend([line, "\n"]);
            if is_mirror && line.starts_with("    - name: ") {
                text.extend(["      ca: |\n", &ca]);
            }
        }
        text
    }

    /// What the page shows must be what was printed last; a question is asked again until it is.
    fn compare(&mut self, expected: &str) {
        let (commands, said) = &self.said;
        let is_question = commands
            .lines()
            .all(|line| line.starts_with("kubectl get") || line.starts_with("kubectl events"));
        let mut last = said.clone();
        let found = until_every(Duration::from_secs(1), LONGEST, || {
            if contains(&last, expected) {
                return Some(true);
            }
            if !is_question {
                return Some(false);
            }
            last = self.shell(commands).stdout;
            None
        });
        self.compared += 1;
        if found != Some(true) {
            let difference = format!("`{commands}` printed:\n{last}\nthe page shows:\n{expected}");
            self.differences.push(difference);
        }
    }
}

/// Whether the words of a shown output stand in what was printed, one after another. Ages and sizes
/// differ.
fn contains(said: &str, shown: &str) -> bool {
    let said: Vec<&str> = said.split_whitespace().collect();
    let shown: Vec<&str> = shown.split_whitespace().collect();
    let same =
        |(a, b): (&&str, &&str)| a == b || (is_age(a) && is_age(b)) || (is_size(a) && is_size(b));
    said.windows(shown.len())
        .any(|words| words.iter().zip(&shown).all(same))
}

/// `0s`, `2m30s`, `3h`: what kubectl prints of times.
fn is_age(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let units = word.chars().filter(|c| "smhd".contains(*c)).count();
    digits > 0 && units > 0 && digits + units == word.len()
}

/// `187Mi`, `2Gi`: what kubectl prints of quantities.
fn is_size(word: &str) -> bool {
    let number = word
        .strip_suffix('i')
        .map(|word| &word[..word.len().saturating_sub(1)]);
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// A registry that the cluster's name server gives as docker.io and quay.io, with what the pages
/// mirror.
pub fn pose(cluster: &Cluster, own: &OwnCluster) -> OutsideRegistry {
    let outside = OutsideRegistry::start_as(RegistryProgram::Distribution, own, &NAMES);
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    let root = busybox_root(folder.path());
    for (repository, tag) in [
        ("library/busybox", "1.37"),
        ("library/debian", "bookworm-slim"),
        ("prometheus/node-exporter", "v1.7.0"),
        ("prometheus/node-exporter", "v1.8.2"),
        ("prometheus/node-exporter", "v1.9.0"),
        ("prometheus/node-exporter", "v1.9.1"),
    ] {
        add_three_layers(&layout, tag, &root);
        let image = format!("{}:{tag}", layout.folder().display());
        let mut config = umoci(folder.path());
        config.args(["config", "--image", &image, "--config.env"]);
        config.arg(format!("IMAGE={repository}-{tag}"));
        config.args(["--config.cmd", "/bin/sleep", "--config.cmd", "3600"]);
        let _ = run(&mut config).succeeded();
        outside.push(&layout, tag, &format!("{repository}:{tag}"));
    }
    name_server(cluster, own.address());
    outside
}

/// Has the cluster's name server know the names, once.
fn name_server(cluster: &Cluster, address: &str) {
    let map = cluster
        .get(&["-n", "kube-system", "configmap", "coredns"])
        .expect("every cluster has it");
    let rules = map["data"]["Corefile"].as_str().expect("its rules");
    if rules.contains(NAMES[0]) {
        return;
    }
    let names = NAMES.join(" ");
    let rules = format!("{rules}{names} {{\n    hosts {{\n        {address} {names}\n    }}\n}}\n");
    let patch = serde_json::json!({"data": {"Corefile": rules}}).to_string();
    for arguments in [
        &["patch", "configmap", "coredns", "--patch", &patch][..],
        &["rollout", "restart", "daemonset/coredns"],
        &["rollout", "status", "daemonset/coredns", "--timeout=90s"],
    ] {
        let arguments = [&["-n", "kube-system"], arguments].concat();
        let _ = cluster.kubectl(&arguments).succeeded();
    }
}

/// A page of the checkout.
///
/// # Panics
/// If there is none.
pub fn page(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).expect("a page of the checkout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_compared_word_by_word_but_for_ages() {
        let said = "NAME  READY  AGE\nreg   True   2m30s\n";
        assert!(contains(said, "NAME READY AGE\nreg True 15s"));
        assert!(!contains(said, "reg False 15s"));
        assert!(!contains(said, "reg True 2"));
        let page = "a\n\n```sh\none\ntwo\n```\n\n```text\nthree\n```\n";
        let found = blocks(page);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].language, found[0].text), ("sh", "one\ntwo"));
    }
}
