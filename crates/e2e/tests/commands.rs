//! The one-off commands: `coral copy`, `coral mirror plan`, `coral mirror run`, and what they say
//! to bad input.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "commands/docker.rs"]
mod docker;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use e2e::peers::skopeo_copy;
use e2e::{
    FaultServer, Finished, ImageRepository, Layout, RegistryProgram, RegistryServer, assert_same,
    coral, mirror_yaml, run, scratch, write_yaml,
};
use serde_json::{Value, json};

/// The binary with a home of its own and these words.
fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = coral();
    command.args(words).env("HOME", home);
    command
}

#[test]
#[ignore = "needs distribution; run by cargo xtask test"]
fn an_image_is_copied_between_registries_and_layouts() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let seed = json!({"path": "team/app", "tag": "1", "kind": "index", "signature": true});
    source.load(&seed);
    let target = RegistryServer::start(RegistryProgram::Distribution);
    let from = format!("{}/team/app:1", source.host());
    let to = format!("{}/elsewhere/app:1", target.host());
    let plain = [
        "--plain-http",
        source.host(),
        "--plain-http",
        &target.host(),
    ];
    let copy = |from: &str, to: &str| {
        let mut command = command(home.path(), &["copy", from, to]);
        let _ = run(command.args(plain)).succeeded();
    };
    copy(&from, &to);
    let original = ImageRepository {
        host: source.host(),
        repository: "team/app",
    };
    let there = ImageRepository {
        host: &target.host(),
        repository: "elsewhere/app",
    };
    let compared = assert_same(original, there, "1");
    let layout = format!("oci:{}:1", home.path().join("layout").display());
    copy(&to, &layout);
    copy(&layout, &format!("{}/back/app:1", target.host()));
    let back = ImageRepository {
        host: &target.host(),
        repository: "back/app",
    };
    assert_eq!(assert_same(original, back, "1"), compared);
    let blobs = Layout::open(home.path().join("layout")).blobs();
    assert!(
        compared
            .blobs
            .iter()
            .all(|digest| blobs.contains_key(digest))
    );
}

/// A file that skopeo and `coral copy` call an OCI archive.
fn archive(home: &Path, name: &str) -> String {
    format!("oci-archive:{}", home.join(name).display())
}

#[test]
#[ignore = "needs distribution, skopeo; run by cargo xtask test"]
fn an_archive_is_read_by_skopeo_and_one_of_skopeo_is_read() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1", "kind": "index"}));
    let target = RegistryServer::start(RegistryProgram::Distribution);
    let plain = [
        "--plain-http",
        source.host(),
        "--plain-http",
        &target.host(),
    ];
    let copy = |from: &str, to: &str| {
        let mut command = command(home.path(), &["copy", from, to]);
        run(command.args(plain)).succeeded()
    };
    let skopeo = |from: &str, to: &str| {
        let mut command = skopeo_copy(home.path(), from, to);
        let _ = run(command.args(["--all", "--preserve-digests"])).succeeded();
    };
    let registry = |path: &str| format!("docker://{}/{path}:1", target.host());
    let ours = archive(home.path(), "ours.tar:1");
    copy(&format!("{}/team/app:1", source.host()), &ours);
    skopeo(&ours, &registry("from/ours"));
    let theirs = archive(home.path(), "theirs.tar:1");
    skopeo(&registry("from/ours"), &theirs);
    // The archive holds one image, so no tag is needed.
    copy(
        &archive(home.path(), "theirs.tar"),
        &format!("{}/from/theirs:1", target.host()),
    );
    let original = ImageRepository {
        host: source.host(),
        repository: "team/app",
    };
    for repository in ["from/ours", "from/theirs"] {
        let host = &target.host();
        assert_same(original, ImageRepository { host, repository }, "1");
    }
    assert_eq!(files(home.path(), "ours"), ["ours.tar"]);
}

/// Files in a folder whose names contain a part, and what Coral hides there.
fn files(folder: &Path, part: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.contains(part) || name.starts_with(".coral-"))
        .collect()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_copy_that_fails_leaves_the_archive_that_was_there() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let to = archive(home.path(), "image.tar:1");
    let from = format!("{}/team/app:1", source.host());
    let copy = |from: &str| {
        run(&mut command(
            home.path(),
            &["copy", from, &to, "--plain-http", source.host()],
        ))
    };
    let _ = copy(&from).succeeded();
    let before = std::fs::read(home.path().join("image.tar")).unwrap();
    let _ = copy(&format!("{}/team/gone:1", source.host())).exited(1);
    assert_eq!(
        std::fs::read(home.path().join("image.tar")).unwrap(),
        before
    );
    let _ = copy(&from).succeeded();
    assert_eq!(
        std::fs::read(home.path().join("image.tar")).unwrap(),
        before,
        "the same image"
    );
    assert_eq!(files(home.path(), "image"), ["image.tar"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn what_is_no_archive_is_said_to_be_none() {
    let home = scratch();
    std::fs::write(home.path().join("no.tar"), vec![7; 4096]).unwrap();
    std::fs::write(home.path().join("empty.tar"), vec![0; 1024]).unwrap();
    for (name, said) in [
        ("no.tar", "not a tar"),
        ("empty.tar", "no index.json"),
        ("gone.tar", "there is nothing under this name"),
    ] {
        let words = ["copy", &archive(home.path(), name), "oci:out:1"];
        let _ = run(&mut command(home.path(), &words))
            .exited(1)
            .saying(said)
            .saying(name);
    }
}

/// Regression: a layout with `index.json` as a link had a file with a login read.
#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_link_in_a_layout_is_not_followed() {
    let home = scratch();
    let layout = Layout::open(home.path().join("layout"));
    layout.tag("1", &layout.add_image("amd64", b"a layer"));
    let index = layout.folder().join("index.json");
    let secret = home.path().join("config.json");
    std::fs::rename(&index, &secret).unwrap();
    symlink(&secret, &index).unwrap();
    let from = layout.reference("1");
    let to = format!("oci:{}:1", home.path().join("copy").display());
    let named = format!("{} is a symbolic link", index.display());
    let _ = run(&mut command(home.path(), &["copy", &from, &to]))
        .exited(1)
        .saying(&named);
    std::fs::remove_file(&index).unwrap();
    std::fs::rename(&secret, &index).unwrap();
    let _ = run(&mut command(home.path(), &["copy", &from, &to])).succeeded();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_named_platform_is_copied_alone() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let loaded = source.load(&json!({"path": "team/app", "tag": "1", "kind": "index"}));
    let from = format!("{}/team/app:1", source.host());
    let layout = format!("oci:{}:1", home.path().join("layout").display());
    let words = [
        "copy",
        &from,
        &layout,
        "--platform",
        "linux/arm64",
        "--plain-http",
    ];
    let _ = run(command(home.path(), &words).arg(source.host())).succeeded();
    let layout = Layout::open(home.path().join("layout"));
    let top = layout.tagged("1")["digest"].as_str().unwrap().to_owned();
    assert_eq!(
        top, loaded["digest"],
        "the index stays as it is, byte for byte"
    );
    let blobs = layout.blobs();
    let top: Value = serde_json::from_slice(&blobs[&top]).unwrap();
    for child in top["manifests"].as_array().unwrap() {
        let there = blobs.contains_key(child["digest"].as_str().unwrap());
        let asked = child["platform"]["architecture"] == "arm64";
        assert_eq!(there, asked, "{child}");
    }
}

#[test]
#[ignore = "needs distribution; run by cargo xtask test"]
fn plan_says_what_run_will_do_and_then_that_nothing_is_left() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let target = RegistryServer::start(RegistryProgram::Distribution);
    let port = target.host().split_once(':').unwrap().1.to_owned();
    let yaml = mirror_yaml("web", &[(&format!("{}/team/app", source.host()), "1")], "")
        .replace("name: local", &format!("host: 127.0.0.1\n    port: {port}"));
    let yaml = write_yaml(home.path(), &yaml);
    let mirror = |verb: &str| -> Finished {
        let mut command = command(home.path(), &["mirror", verb]);
        command
            .arg(&yaml)
            .args(["--plain-http", source.host(), "--plain-http"]);
        run(command.arg(target.host())).succeeded()
    };
    let copied = format!("{}/{}/team/app:1", target.host(), source.folder_name());
    let plan = mirror("plan");
    let line = plan
        .stdout
        .lines()
        .find(|line| line.contains("team/app"))
        .unwrap();
    assert!(line.contains("copy"), "{plan}");
    let _ = mirror("run");
    let place = format!("{}/team/app", source.folder_name());
    let original = ImageRepository {
        host: source.host(),
        repository: "team/app",
    };
    assert_same(
        original,
        ImageRepository {
            host: &target.host(),
            repository: &place,
        },
        "1",
    );
    let plan = mirror("plan");
    let line = plan
        .stdout
        .lines()
        .find(|line| line.contains("team/app"))
        .unwrap();
    assert!(line.contains("skip"), "{copied}: {plan}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_pass_with_a_failure_ends_with_exit_code_1_and_copies_the_rest() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let target = FaultServer::registry(&[]);
    let (_, port) = target.host().split_once(':').unwrap();
    let name = format!("{}/team/app", source.host());
    let missing = format!("{}/team/missing", source.host());
    let yaml = mirror_yaml(
        "web",
        &[(&missing, "1"), (&name, "1")],
        "  retry:\n    limit: 1\n",
    )
    .replace("name: local", &format!("host: 127.0.0.1\n    port: {port}"));
    let yaml = write_yaml(home.path(), &yaml);
    let mut pass = command(home.path(), &["mirror", "run"]);
    pass.arg(&yaml)
        .args(["--plain-http", source.host(), "--plain-http", target.host()]);
    let _ = run(&mut pass).exited(1).saying("team/missing");
    let place = format!("{}/team/app", source.folder_name());
    let original = ImageRepository {
        host: source.host(),
        repository: "team/app",
    };
    assert_same(
        original,
        ImageRepository {
            host: target.host(),
            repository: &place,
        },
        "1",
    );
}

/// One wrong command line, and a part of what must be said.
struct Wrong {
    words: &'static [&'static str],
    said: &'static str,
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn wrong_input_gets_one_clear_message_and_exit_code_2() {
    let home = scratch();
    for wrong in [
        Wrong {
            words: &["copy", "UPPER/case:1", "oci:/tmp/x:1"],
            said: "UPPER/case",
        },
        Wrong {
            words: &["copy", "a:1", "b:1", "--platform", "linux"],
            said: "linux",
        },
        Wrong {
            words: &["mirror", "plan", "/nonexistent"],
            said: "/nonexistent",
        },
        Wrong {
            words: &["mirror", "plan", "x", "-o", "xml"],
            said: "[possible values: ",
        },
        Wrong {
            words: &["up", "/nonexistent"],
            said: "/nonexistent",
        },
        Wrong {
            words: &["up", ".", "--listen", "nowhere"],
            said: "nowhere",
        },
        Wrong {
            words: &["registry", "serve"],
            said: "--storage",
        },
        Wrong {
            words: &["copy", "a:1", "b:1", "--ca", "no-equals"],
            said: "no-equals",
        },
        Wrong {
            words: &["copy", "a:1", "b:1", "--plain-http", "a/b"],
            said: "a/b",
        },
    ] {
        let finished = run(&mut command(home.path(), wrong.words));
        let _ = finished.exited(2).saying(wrong.said);
    }
}
