//! The first minutes of a new user, word for word as the README has them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Finished, Process, coral, run, scratch, until};

/// What the README's command does after the build; the release binary is built already.
const README_COMMAND: &str = "cargo run --release -- up examples/quickstart";

/// The image that needs no network.
const OWN_IMAGE: &str = "127.0.0.1:5000/127.0.0.1_5051/coral:latest";

const SOON: Duration = Duration::from_mins(2);

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn help_names_every_subcommand() {
    let help = run(coral().arg("--help")).succeeded();
    for word in ["up", "registry", "mirror", "copy"] {
        let listed = help
            .stdout
            .lines()
            .any(|line| line.trim_start().starts_with(word));
        assert!(listed, "no subcommand {word} in:\n{}", help.stdout);
    }
}

/// The words after `--` in the README's first command, with the examples of this checkout.
fn readme_words() -> Vec<String> {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let found = readme.lines().any(|line| line == README_COMMAND);
    assert!(
        found,
        "the README's command is not `{README_COMMAND}` any more: change this test"
    );
    let (_, words) = README_COMMAND.split_once("-- ").unwrap();
    let absolute = |word: &str| match word.strip_prefix("examples/") {
        Some(_) => checkout().join(word).display().to_string(),
        None => word.to_owned(),
    };
    words.split(' ').map(absolute).collect()
}

/// A machine whose only network is its own loopback: a network namespace that lives as long as the
/// process in it.
struct Offline {
    process: Process,
    home: tempfile::TempDir,
}

impl Offline {
    /// Runs the README's command there, in an empty folder and with an empty home.
    fn quickstart() -> Self {
        let home = scratch();
        let empty = home.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let binary = coral().get_program().to_owned();
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" \"$@\"",
        ]);
        command.arg(binary).args(readme_words()).current_dir(&empty);
        command.env("HOME", home.path());
        Self {
            process: Process::start(&mut command),
            home,
        }
    }

    /// Runs a line of shell on that machine.
    fn shell(&self, line: &str) -> Finished {
        let namespace = format!("--net=/proc/{}/ns/net", self.process.pid());
        let mut command = Command::new("nsenter");
        command.args([&namespace, "--", "sh", "-c", line]);
        run(command
            .env("HOME", self.home.path())
            .current_dir(self.home.path()))
    }
}

/// The last line that the program printed with these words in it.
fn last_line_with(text: &str, words: &[&str]) -> Option<String> {
    let mut lines = text.lines().rev();
    let line = lines.find(|line| words.iter().all(|word| line.contains(word)))?;
    Some(line.trim().to_owned())
}

#[test]
#[ignore = "needs root for a network of its own, skopeo; run by cargo xtask test"]
fn the_quickstart_works_without_network() {
    let mut offline = Offline::quickstart();
    offline
        .process
        .wait_for_line("registry listening on http://127.0.0.1:5000", SOON);
    let typed = until("a line that says what to type next", SOON, || {
        last_line_with(&offline.process.shown(), &["skopeo", OWN_IMAGE])
    });
    let _ = offline.shell(&typed).succeeded();
    unreachable_images_are_named_and_retried(&mut offline);
    offline.process.signal("INT");
    assert_eq!(offline.process.wait(SOON), 0);
}

fn unreachable_images_are_named_and_retried(offline: &mut Offline) {
    let yaml = fs::read_dir(checkout().join("examples/quickstart")).unwrap();
    let texts = yaml.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let text: String = texts.collect();
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- name: "));
    let outside: Vec<&str> = names
        .filter(|name| !name.starts_with("127.0.0.1"))
        .collect();
    assert!(
        outside.len() >= 2,
        "the quickstart mirrors a few public images: {text}"
    );
    for name in outside {
        let line = offline.process.wait_for_line(name, SOON);
        assert!(
            line.contains("retry"),
            "{name}: nothing about a retry in: {line}"
        );
    }
}
