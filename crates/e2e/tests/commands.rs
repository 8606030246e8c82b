//! The one-off commands: `coral copy`, `coral mirror plan`, `coral mirror run`, and what they say
//! to bad input.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use e2e::{
    FaultServer, Finished, Kind, Layout, Place, RegistryServer, assert_same, coral, mirror_yaml,
    run, scratch, write_yaml,
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
    let target = RegistryServer::start(Kind::Distribution);
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
    let original = Place {
        host: source.host(),
        repository: "team/app",
    };
    let there = Place {
        host: &target.host(),
        repository: "elsewhere/app",
    };
    let compared = assert_same(original, there, "1");
    let layout = format!("oci:{}:1", home.path().join("layout").display());
    copy(&to, &layout);
    copy(&layout, &format!("{}/back/app:1", target.host()));
    let back = Place {
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
    let target = RegistryServer::start(Kind::Distribution);
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
    let original = Place {
        host: source.host(),
        repository: "team/app",
    };
    assert_same(
        original,
        Place {
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
    let original = Place {
        host: source.host(),
        repository: "team/app",
    };
    assert_same(
        original,
        Place {
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
