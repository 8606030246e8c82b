//! `coral up` over hours: ports that are in use, files that cannot be read, logins that come late.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{FaultServer, Up, coral, mirror_yaml, run, scratch, until};
use serde_json::json;
use tempfile::TempDir;

const AUTH: &str = r#"{"basic": {"username": "me", "password": "late-secret"}}"#;
const SOON: Duration = Duration::from_mins(2);

/// A folder with one mirror of tag 1 of each repository.
fn mirrors(home: &Path, names: &[(&str, &str)]) -> PathBuf {
    let folder = home.join("mirrors");
    fs::create_dir_all(&folder).unwrap();
    for (name, repository) in names {
        let yaml = mirror_yaml(name, &[(repository, "1")], "");
        fs::write(folder.join(format!("{name}.yaml")), yaml).unwrap();
    }
    folder
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_busy_port_for_the_own_image_holds_nothing_else_up_and_is_tried_again() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = squatter.local_addr().unwrap().to_string();
    let folder = mirrors(
        home.path(),
        &[("other", &format!("{}/team/app", source.host()))],
    );
    let yaml = mirror_yaml("own", &[(&format!("{own}/coral"), "latest")], "");
    fs::write(folder.join("own.yaml"), yaml).unwrap();
    let flags = ["--plain-http", source.host(), "--self", &own];
    let mut up = Up::start(&folder, &home.path().join("data"), &flags);
    up.process()
        .wait_for_line("is in use by another program", SOON);
    up.wait_for(&format!("{}/team/app", source.folder_name()), "1", SOON);
    drop(squatter);
    up.wait_for(&format!("{}/coral", own.replace(':', "_")), "latest", SOON);
}

/// A `coral up` whose one mirror has copied `team/app:1`.
struct Mirrored {
    /// Stopped before its source and its folder go.
    up: Up,
    source: FaultServer,
    folder: PathBuf,
    home: TempDir,
}

fn mirrored() -> Mirrored {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let image = format!("{}/team/app", source.host());
    let folder = mirrors(home.path(), &[("one", &image)]);
    let mut up = Up::start(&folder, &home.path().join("data"), &[]);
    up.wait_for(&format!("{}/team/app", source.folder_name()), "1", SOON);
    Mirrored {
        up,
        source,
        folder,
        home,
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn the_status_is_told_in_the_terminal_and_by_the_exit_code() {
    let Mirrored {
        home,
        source,
        folder,
        up,
    } = mirrored();
    let name = |path: &str| format!("{}/{path}", source.host());
    let host = up.host().to_owned();
    let status = || run(coral().args(["status", &host]));
    until("the mirror has made its pass", SOON, || {
        let told = status().stdout;
        told.contains("default/one   1 of 1   0").then_some(())
    });
    let _ = status().succeeded();
    mirrors(home.path(), &[("gone", &name("team/gone"))]);
    until("the missing image is told", SOON, || {
        status().stdout.contains("default/gone: ").then_some(())
    });
    let told = status().exited(1).stdout;
    let line = told.lines().find(|line| line.starts_with("default/gone: "));
    assert!(line.unwrap().contains("team/gone:1"), "{told}");
    // The port is taken by a program that can be asked.
    let mut second = coral();
    second.arg("up").arg(&folder).args(["--listen", &host]);
    second.arg("--data").arg(home.path().join("other"));
    let refused = run(&mut second).exited(1);
    assert!(
        refused.stderr.contains("in use by a running coral"),
        "{refused}"
    );
    assert!(
        refused.stderr.contains(&format!("coral status {host}")),
        "{refused}"
    );
    drop(up);
    let refused = status().exited(1);
    assert!(refused.stderr.contains("nothing listens at"), "{refused}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn prometheus_reads_mirrors_sources_and_the_process_from_one_address() {
    let Mirrored { source, up, .. } = &mirrored();
    let url = format!("http://{}/metrics", up.host());
    let wanted = [
        r#"coral_mirror_images{namespace="default",mirror="one",state="mirrored"} 1"#.to_owned(),
        r#"coral_mirror_images{namespace="default",mirror="one",state="failed"} 0"#.to_owned(),
        format!("coral_source_requests_total{{host=\"{}\"}} ", source.host()),
        r#"coral_registry_requests_total{client="own","#.to_owned(),
        "coral_registry_storage_free_bytes ".to_owned(),
        "coral_build_info{".to_owned(),
        "process_resident_memory_bytes ".to_owned(),
    ];
    until("every metric is there", SOON, || {
        let answer = e2e::http::request(&[&url]);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let has = |start: &String| text.lines().any(|line| line.starts_with(start.as_str()));
        wanted.iter().all(has).then_some(())
    });
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_file_that_cannot_be_read_holds_no_other_up() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    for path in ["team/one", "team/two"] {
        source.load(&json!({"path": path, "tag": "1"}));
    }
    let name = |path: &str| format!("{}/{path}", source.host());
    let folder = mirrors(home.path(), &[("one", &name("team/one"))]);
    let mut up = Up::start(
        &folder,
        &home.path().join("data"),
        &["--plain-http", source.host()],
    );
    up.wait_for(&format!("{}/team/one", source.folder_name()), "1", SOON);
    fs::write(folder.join("bad.yaml"), b"\xff\xfe").unwrap();
    let line = up.process().wait_for_line("is not UTF-8 text", SOON);
    assert!(line.contains("bad.yaml"), "{line}");
    mirrors(home.path(), &[("two", &name("team/two"))]);
    up.process().wait_for_line("mirror default/two added", SOON);
    up.wait_for(&format!("{}/team/two", source.folder_name()), "1", SOON);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_login_while_it_runs_is_used_at_once() {
    let home = scratch();
    let source = FaultServer::registry(&["--auth", AUTH]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let folder = mirrors(
        home.path(),
        &[("private", &format!("{}/team/app", source.host()))],
    );
    let config = home.path().join("config.json");
    fs::write(&config, "{}").unwrap();
    let config_flag = config.display().to_string();
    let flags = [
        "--plain-http",
        source.host(),
        "--docker-config",
        &config_flag,
    ];
    let mut up = Up::start(&folder, &home.path().join("data"), &flags);
    up.process().wait_for_line("401", SOON);
    let login = json!({"username": "me", "password": "late-secret"});
    let auths = json!({"auths": {source.host(): login}});
    fs::write(&config, auths.to_string()).unwrap();
    up.wait_for(&format!("{}/team/app", source.folder_name()), "1", SOON);
    assert!(!up.process().shown().contains("late-secret"));
}
