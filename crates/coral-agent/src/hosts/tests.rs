use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::apply::{apply, apply_with};
use super::found::{File, scan};
use super::plan::{Action, plan};
use super::*;

const CA: &[u8] = b"-----BEGIN CERTIFICATE-----\n";
/// An administrator's file: a mirror of their own, without a line break at the end.
const OLD: &[u8] = b"server = \"https://docker.io\"\n[host.\"https://mirror.example\"]";

struct Node {
    places: HostsPaths,
    _folder: TempDir,
}

impl Node {
    /// A node with files of an administrator: a host with rules, one with certificates only, an
    /// empty folder, and one that Coral has nothing to do with.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs.d");
        let node = Self {
            places: HostsPaths::beside(&certs),
            _folder: folder,
        };
        node.put("docker.io/hosts.toml", OLD);
        node.put("quay.io/ca.crt", b"theirs");
        node.put(
            "other.example/hosts.toml",
            b"server = \"https://elsewhere\"",
        );
        fs::create_dir_all(certs.join("ghcr.io")).unwrap();
        node
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.places.certs.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn actions(&self, wanted: &[&str], ca: Option<&[u8]>) -> Vec<Action> {
        plan(&files(wanted), ca, &scan(&self.places).unwrap())
    }

    fn converge(&self, wanted: &[&str]) {
        let failures = apply(&self.places, &self.actions(wanted, Some(CA)));
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(self.actions(wanted, Some(CA)), []);
    }

    /// Every file and folder, with its content.
    fn tree(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let mut tree = BTreeMap::new();
        walk(self.places.certs.parent().unwrap(), "", &mut tree);
        tree
    }

    /// The invariants after each step: every file that containerd may read is complete, and no file
    /// of an administrator is lost.
    fn check(&self, wanted: &[&str]) {
        let found = scan(&self.places).unwrap();
        let wanted = files(wanted);
        for folder in found.ours() {
            let File::Ours(content) = found.file(folder) else {
                unreachable!()
            };
            assert_eq!(content, &content_of(folder), "{folder}");
            assert_eq!(found.ca.as_deref(), Some(CA), "a file without its CA");
        }
        let kept = self.places.kept().join("docker.io").join(FILE);
        let place = self.places.certs.join("docker.io").join(FILE);
        let is_safe = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes == OLD);
        assert!(is_safe(&kept) || is_safe(&place), "the old file is lost");
        for name in ["docker.io", "quay.io", "ghcr.io", "other.example"] {
            assert!(
                found.folders.contains_key(name),
                "{name} is gone, wanted {wanted:?}"
            );
        }
    }
}

fn walk(path: &Path, name: &str, tree: &mut BTreeMap<String, Option<Vec<u8>>>) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{name}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &name, tree);
            tree.insert(name, None);
        } else {
            tree.insert(name, Some(fs::read(entry.path()).unwrap()));
        }
    }
}

fn content_of(folder: &str) -> String {
    format!("{MARKER} for {folder}\nserver = \"https://10.0.0.1:5000\"\n[host]\n")
}

fn files(wanted: &[&str]) -> BTreeMap<String, String> {
    let files = wanted.iter();
    files
        .map(|name| ((*name).to_owned(), content_of(name)))
        .collect()
}

const ALL: &[&str] = &[
    "docker.io",
    "ghcr.io",
    "new.example",
    "quay.io",
    "reg.ns.svc_5000_",
];

#[test]
fn files_come_and_go_and_what_was_there_is_byte_for_byte_what_it_was() {
    let node = Node::new();
    let before = node.tree();
    node.converge(ALL);
    let found = scan(&node.places).unwrap();
    assert!(found.ours().eq(ALL.iter()));
    assert_eq!(found.ca.as_deref(), Some(CA));
    node.converge(&["reg.ns.svc_5000_"]);
    assert_eq!(
        fs::read(node.places.certs.join("docker.io/hosts.toml")).unwrap(),
        OLD
    );
    node.converge(&[]);
    assert_eq!(node.tree(), before);
}

#[test]
fn a_crash_at_any_step_leaves_whole_files_and_is_made_good() {
    for target in [ALL, &[]] {
        for fuse in 0.. {
            let node = Node::new();
            let before = node.tree();
            if target.is_empty() {
                node.converge(ALL);
            }
            let mut left = fuse;
            let mut step = || {
                left = usize::checked_sub(left, 1).ok_or_else(|| io::Error::other("power cut"))?;
                Ok(())
            };
            // Nothing more is done after the simulated crash, whichever folder it hit.
            let mut is_cut = false;
            for action in node.actions(target, Some(CA)) {
                is_cut = !apply_with(&node.places, &[action], &mut step).is_empty();
                if is_cut {
                    break;
                }
            }
            node.check(target);
            node.converge(target);
            node.check(target);
            node.converge(&[]);
            assert_eq!(node.tree(), before, "after {fuse} steps");
            if !is_cut {
                break;
            }
        }
    }
}

#[test]
fn without_a_ca_nothing_new_is_written_and_old_files_still_go() {
    let node = Node::new();
    assert!(node.actions(&["docker.io"], None).is_empty());
    node.converge(&["docker.io", "quay.io"]);
    assert_eq!(node.actions(&["docker.io", "quay.io"], None), []);
    let actions = node.actions(&["docker.io"], None);
    assert!(actions.contains(&Action::RemoveFile {
        folder: "quay.io".to_owned()
    }));
}

#[test]
fn a_new_ca_is_written_before_any_file_and_the_last_file_goes_before_the_ca() {
    let node = Node::new();
    let actions = node.actions(ALL, Some(CA));
    assert_eq!(actions[0], Action::WriteCa(CA.to_owned()));
    node.converge(ALL);
    let rotated = node.actions(ALL, Some(b"two"));
    assert_eq!(rotated, [Action::WriteCa(b"two".to_vec()), Action::Sweep]);
    let actions = node.actions(&[], Some(CA));
    assert_eq!(
        actions[actions.len() - 2..],
        [Action::RemoveCa, Action::Sweep]
    );
}

#[test]
fn a_file_that_an_administrator_put_over_ours_is_what_comes_back() {
    let node = Node::new();
    node.converge(ALL);
    for name in ["docker.io", "new.example"] {
        node.put(&format!("{name}/hosts.toml"), b"server = \"https://newer\"");
    }
    node.converge(ALL);
    assert!(scan(&node.places).unwrap().ours().eq(ALL.iter()));
    node.converge(&[]);
    for name in ["docker.io", "new.example"] {
        let file = node.places.certs.join(name).join(FILE);
        assert_eq!(fs::read(file).unwrap(), b"server = \"https://newer\"");
    }
}

#[test]
fn what_was_put_beside_our_file_stays() {
    let node = Node::new();
    node.converge(ALL);
    node.put("new.example/client.key", b"theirs");
    node.converge(&[]);
    let folder = node.places.certs.join("new.example");
    assert!(folder.join("client.key").exists());
    assert!(!folder.join(FILE).exists());
}

#[test]
fn our_file_that_was_edited_or_deleted_is_written_again() {
    let node = Node::new();
    node.converge(ALL);
    node.put(
        "docker.io/hosts.toml",
        format!("{MARKER}\nserver = 1").as_bytes(),
    );
    fs::remove_dir_all(node.places.certs.join("quay.io")).unwrap();
    fs::remove_file(node.places.certs.join("new.example/hosts.toml")).unwrap();
    node.converge(ALL);
    assert!(scan(&node.places).unwrap().ours().eq(ALL.iter()));
}

#[test]
fn a_folder_named_hosts_toml_and_a_dangling_link_are_left_alone() {
    let node = Node::new();
    fs::create_dir_all(node.places.certs.join("bad.example/hosts.toml")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", node.places.certs.join("dead.example")).unwrap();
    let actions = node.actions(&["bad.example", "dead.example"], Some(CA));
    assert!(
        actions.iter().all(|action| action.folder().is_none()),
        "{actions:?}"
    );
}

#[test]
fn a_failed_folder_does_not_hold_up_the_others_and_keeps_the_ca() {
    let node = Node::new();
    node.converge(ALL);
    // An unexpected file in place of the backup.
    let kept = node.places.kept().join("docker.io");
    fs::remove_file(kept.join(FILE)).unwrap();
    let actions = [
        Action::Restore {
            folder: "docker.io".to_owned(),
        },
        Action::RemoveFolder {
            folder: "new.example".to_owned(),
        },
        Action::RemoveCa,
    ];
    let failures = apply(&node.places, &actions);
    assert!(failures.keys().eq(["docker.io"]));
    assert!(!node.places.certs.join("new.example").exists());
    assert!(node.places.ca().exists());
}
