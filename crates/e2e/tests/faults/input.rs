//! Wrong flags, files, references and credentials: exit code 2, one clear message, where and what.

use std::process::Command;

use e2e::{Finished, Process, coral, run};

use crate::rig::{SOON, folder_with};

/// Insists on exit code 2, and a message that holds all of these and is short.
fn refused(command: &mut Command, parts: &[&str]) -> Finished {
    let mut finished = run(command).exited(2);
    for part in parts {
        finished = finished.saying(part);
    }
    assert!(!finished.stderr.contains("panicked"), "{finished}");
    let lines = finished
        .stderr
        .lines()
        .filter(|line| !line.trim().is_empty());
    assert!(lines.count() <= 8, "more than a message: {finished}");
    assert_eq!(
        finished.stdout, "",
        "standard output is for data: {finished}"
    );
    finished
}

fn arguments(arguments: &[&str], parts: &[&str]) {
    refused(coral().args(arguments), parts);
}

/// A mirror file with this text is refused by plan, run and up alike.
fn file(text: &str, parts: &[&str]) {
    let (_folder, path) = folder_with("mirror.yaml", text);
    let data = e2e::scratch();
    for command in [
        &["mirror", "plan"][..],
        &["mirror", "run"],
        &["up", "--listen", "127.0.0.1:0"],
    ] {
        let mut coral = coral();
        coral.env("CORAL_DATA", data.path()).args(command);
        refused(coral.arg(&path), parts);
    }
}

fn mirror(spec: &str) -> String {
    format!("apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: web\nspec:\n{spec}")
}

const REGISTRY: &str = "  registry: {name: local}\n";

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn flags_that_do_not_exist_are_named() {
    arguments(
        &["copy", "--no-such-flag", "a:1", "b:1"],
        &["--no-such-flag"],
    );
    arguments(&["no-such-command"], &["no-such-command"]);
    arguments(
        &["up", "--lisden", "127.0.0.1:0", "."],
        &["--lisden", "--listen"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn values_that_a_flag_does_not_take_are_named_with_what_it_takes() {
    arguments(
        &["registry", "serve", "--listen", "nonsense"],
        &["--listen", "nonsense"],
    );
    arguments(
        &["registry", "serve", "--listen", "127.0.0.1:99999"],
        &["--listen", "99999"],
    );
    arguments(
        &["mirror", "plan", "-o", "xml", "x.yaml"],
        &["xml", "table", "json"],
    );
    arguments(
        &["--log-format", "xml", "copy", "a:1", "b:1"],
        &["xml", "text", "json"],
    );
    arguments(
        &["copy", "a:1", "b:1", "--platform", "linux//amd64"],
        &["--platform", "linux//amd64"],
    );
    arguments(
        &["copy", "a:1", "b:1", "--plain-http", "http://a"],
        &["--plain-http", "http://a"],
    );
    arguments(
        &["copy", "a:1", "b:1", "--ca", "no-equals-sign"],
        &["--ca", "HOST=FILE"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn environment_variables_are_held_to_the_same() {
    let mut command = coral();
    command
        .args(["registry", "serve"])
        .env("CORAL_LISTEN", "nonsense");
    refused(&mut command, &["nonsense", "CORAL_LISTEN"]);
}

/// The variables that the help of a command names.
fn variables_of(words: &[&str]) -> Vec<String> {
    let help = run(coral().args(words).arg("--help")).succeeded();
    let named = help.text().split("[env: ").skip(1);
    named
        .filter_map(|rest| rest.split(['=', ']']).next().map(str::to_owned))
        .collect()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_empty_environment_variable_counts_as_unset() {
    let folder = e2e::scratch();
    let yaml = folder.path().join("m.yaml");
    std::fs::write(&yaml, "").expect("scratch is writable");
    let (yaml, data) = (
        yaml.to_str().expect("a plain path"),
        folder.path().join("d"),
    );
    let data = data.to_str().expect("a plain path");
    let storage = ["--listen", "127.0.0.1:0", "--storage", data];
    let serve = [&["registry", "serve"][..], &storage].concat();
    let up = ["up", "--listen", "127.0.0.1:0", "--data", data, yaml];
    for (words, command) in [(&["registry", "serve"][..], &serve[..]), (&["up"], &up)] {
        let variables = variables_of(words);
        assert!(variables.len() > 8, "{variables:?}");
        for variable in ["HTTPS_PROXY", "DOCKER_CONFIG"]
            .into_iter()
            .map(str::to_owned)
            .chain(variables)
        {
            let mut coral = coral();
            coral
                .env(&variable, "")
                .env("HOME", folder.path())
                .args(command);
            let mut process = Process::start(&mut coral);
            process.wait_for_line("registry listening on", SOON);
            process.signal("TERM");
            assert_eq!(process.wait(SOON), 0, "{variable}");
        }
    }
    let mut plan = coral();
    let empty = variables_of(&["mirror", "plan"])
        .into_iter()
        .map(|name| (name, ""));
    // There is no mirror in the file: that is all there is to say.
    refused(
        plan.envs(empty).args(["mirror", "plan", yaml]),
        &["no RegistryMirror"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_transport_that_is_not_supported_is_named_with_what_is() {
    let typed = [
        ("docker-daemon:debian:12", "docker-daemon:"),
        ("containers-storage:debian", "containers-storage:"),
        ("dir:/tmp/x", "dir:"),
        ("oci-archiv:./x.tar:1", "oci-archiv:"),
    ];
    for (text, name) in typed {
        let said = [
            text,
            &format!("the transport {name} is not supported"),
            "oci-archive:FILE",
        ];
        arguments(&["copy", text, "oci:out:1"], &said);
        arguments(&["copy", "oci:in:1", text], &said);
    }
    arguments(&["copy", "docker://a/b:1", "oci:out:1"], &["write a/b:1"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn references_that_are_none_are_named() {
    for bad in [
        "UPPER/case:1",
        "host/path:",
        "host/path@sha256:abc",
        "a b",
        "host:port/x:1",
        "http://host/x:1",
    ] {
        arguments(&["copy", bad, "registry.invalid/x:1"], &[bad]);
        arguments(&["copy", "registry.invalid/x:1", bad], &[bad]);
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn files_that_are_not_there_are_named() {
    arguments(
        &["mirror", "plan", "/no/such/file.yaml"],
        &["/no/such/file.yaml"],
    );
    arguments(&["up", "/no/such/folder"], &["/no/such/folder"]);
    let ca = [
        "copy",
        "a.invalid/x:1",
        "b.invalid/x:1",
        "--ca",
        "a.invalid=/no/ca.pem",
    ];
    arguments(&ca, &["/no/ca.pem"]);
    let config = [
        "copy",
        "a.invalid/x:1",
        "b.invalid/x:1",
        "--docker-config",
        "/no/config.json",
    ];
    arguments(&config, &["/no/config.json"]);
}

/// Regression: the other end of a pipe was waited for, for ever.
#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_pipe_in_place_of_a_file_is_named_and_not_waited_for() {
    let folder = e2e::scratch();
    let pipe = folder.path().join("pipe.yaml");
    let _ = run(Command::new("mkfifo").arg(&pipe)).succeeded();
    let pipe = pipe.display().to_string();
    let of_host = format!("a.invalid={pipe}");
    let pair = format!("a.invalid={pipe}:{pipe}");
    let copy = ["copy", "a.invalid/x:1", "b.invalid/x:1"];
    let serve = [
        "registry",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--storage",
        "/no/such",
    ];
    // An archive may come from a pipe: `oci-archive:<(…)`.
    let commands: [(&[&str], &[&str], i32); 8] = [
        (&["mirror", "plan"], &[&pipe], 2),
        (&["mirror", "run"], &[&pipe], 2),
        (&["up", "--listen", "127.0.0.1:0"], &[&pipe], 2),
        (&copy, &["--ca", &of_host], 2),
        (&copy, &["--client-cert", &pair], 2),
        (&copy, &["--docker-config", &pipe], 2),
        (&serve, &["--htpasswd", &pipe], 2),
        (&serve, &["--tls-cert", &pipe, "--tls-key", &pipe], 2),
    ];
    for (command, arguments, code) in commands {
        let mut process = Process::start(coral().args(command).args(arguments));
        let ended = process.wait(SOON);
        assert_eq!(ended, code, "{}", process.shown());
        let said = process.stderr();
        assert!(
            said.contains("pipe.yaml") && said.contains("regular file"),
            "{said}"
        );
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_certificate_that_is_none_is_named() {
    let (_folder, file) = folder_with("ca.pem", "not a certificate\n");
    let flag = format!("a.invalid={}", file.display());
    arguments(
        &["copy", "a.invalid/x:1", "b.invalid/x:1", "--ca", &flag],
        &["ca.pem"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn credentials_that_are_none_are_named_and_not_shown() {
    let texts = [
        ("{\"auths\": [", true),
        ("[]", true),
        // An odd entry matters once its registry asks for a credential.
        (
            "{\"auths\": {\"a.invalid\": {\"auth\": \"###secret###\"}}}",
            false,
        ),
        // "nocolonsecret" in base64: no colon between name and password.
        (
            "{\"auths\": {\"a.invalid\": {\"auth\": \"bm9jb2xvbnNlY3JldA==\"}}}",
            false,
        ),
    ];
    for (text, is_refused) in texts {
        let (_folder, file) = folder_with("config.json", text);
        let mut command = coral();
        command
            .args(["copy", "a.invalid/x:1", "b.invalid/x:1", "--docker-config"])
            .arg(&file);
        let finished = if is_refused {
            refused(&mut command, &["config.json"])
        } else {
            run(&mut command).exited(1)
        };
        for secret in ["###secret###", "bm9jb2xvbnNlY3JldA==", "nocolonsecret"] {
            assert!(!finished.stderr.contains(secret), "{finished}");
        }
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn yaml_that_is_none_is_named_with_its_line() {
    file(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\n  metadata: [\n",
        &["mirror.yaml:3"],
    );
    file("just some words\n", &["mirror.yaml"]);
    file(
        "apiVersion: stvz.io/v1\nmetadata: {name: web}\n",
        &["mirror.yaml", "kind"],
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn unknown_fields_are_named_with_their_line_and_what_was_meant() {
    let spec = format!("{REGISTRY}  repostories:\n    - name: docker.io/library/debian\n");
    file(
        &mirror(&spec),
        &["mirror.yaml:7", "repostories", "repositories"],
    );
    let spec = format!("{REGISTRY}  repositories:\n    - name: debian\n      tagz: [\"12\"]\n");
    file(&mirror(&spec), &["mirror.yaml:9", "tagz", "tags"]);
    let spec = format!("{REGISTRY}  intervall: 5m\n  repositories: []\n");
    file(&mirror(&spec), &["mirror.yaml:7", "intervall", "interval"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn values_that_a_field_does_not_take_are_named_with_their_line() {
    let repository = "  repositories:\n    - name: debian\n      tags: [\"12\"]\n";
    let with = |line: &str| mirror(&format!("{REGISTRY}{repository}{line}"));
    file(
        &with("  interval: soon\n"),
        &["mirror.yaml:10", "interval", "soon"],
    );
    file(
        &with("  schedule: \"61 * * * *\"\n"),
        &["mirror.yaml:10", "schedule", "61"],
    );
    file(
        &with("  suspend: perhaps\n"),
        &["mirror.yaml:10", "suspend"],
    );
    let name = format!("{REGISTRY}  repositories:\n    - name: UPPER/case\n      tags: [\"1\"]\n");
    file(&mirror(&name), &["mirror.yaml:8", "UPPER/case"]);
    let tag = format!("{REGISTRY}  repositories:\n    - name: debian\n      tags: [\"a b\"]\n");
    file(&mirror(&tag), &["mirror.yaml:9", "a b"]);
    let digest =
        format!("{REGISTRY}  repositories:\n    - name: debian\n      digests: [\"sha256:12\"]\n");
    file(&mirror(&digest), &["mirror.yaml:9", "sha256:12"]);
    let select =
        format!("{REGISTRY}  repositories:\n    - name: debian\n      select: {{regex: \"(\"}}\n");
    file(&mirror(&select), &["mirror.yaml:9", "regex"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn fields_that_do_not_work_yet_are_refused_by_name() {
    let repository = "  repositories:\n    - name: debian\n      tags: [\"12\"]\n";
    let text = mirror(&format!("{REGISTRY}{repository}  fromPods: {{}}\n"));
    file(&text, &["mirror.yaml:10", "fromPods", "not supported yet"]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn every_mistake_of_a_folder_is_named_at_once() {
    let (folder, _file) = folder_with("a.yaml", &mirror(&format!("{REGISTRY}  wrong: 1\n")));
    std::fs::write(folder.path().join("b.yaml"), "kind: [").expect("the file is written");
    let finished = run(coral().args(["mirror", "plan"]).arg(folder.path())).exited(2);
    let _ = finished.saying("a.yaml:7").saying("b.yaml:1");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_empty_folder_is_named() {
    let folder = e2e::scratch();
    let path = folder.path().to_str().expect("a plain path");
    arguments(&["up", path], &[path]);
    arguments(&["mirror", "run", path], &[path]);
}
