use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

const SECRET: &str = "hunter2-secret";

/// A helper that is this shell script.
fn script(dir: &Path, body: &str) -> Helper {
    let path = dir.join("docker-credential-test");
    let text = dir.join("text");
    std::fs::write(&text, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A file that this process has written may still be open in a child that another test is
    // starting, and cannot be executed then.
    let copied = std::process::Command::new("cp")
        .arg(&text)
        .arg(&path)
        .status();
    assert!(copied.unwrap().success());
    let mut helper = Helper::new("test", "credsStore of config.json".to_owned()).unwrap();
    helper.program = path.display().to_string();
    helper
}

async fn ask(helper: &Helper, host: &str) -> HelperResult {
    helper.get(&Host::parse(host).unwrap()).await
}

#[tokio::test]
async fn a_helper_is_told_the_server_and_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("asked");
    let helper = script(
        dir.path(),
        &format!(
            "read server; echo \"$1 $server\" >> {}\n\
             echo '{{\"ServerURL\": \"x\", \"Username\": \"me\", \"Secret\": \"{SECRET}\"}}'",
            log.display()
        ),
    );
    let asking = (0..8).map(|_| ask(&helper, "quay.io"));
    for answer in futures::future::join_all(asking).await {
        let credential = answer.unwrap().unwrap();
        assert_eq!(
            (credential.username.as_str(), credential.kind),
            ("me", CredentialKind::Password)
        );
        assert_eq!(credential.password.expose(), SECRET);
        assert!(!format!("{credential:?}").contains(SECRET));
    }
    ask(&helper, "docker.io").await.unwrap();
    let asked = std::fs::read_to_string(log).unwrap();
    assert_eq!(asked, "get quay.io\nget https://index.docker.io/v1/\n");
}

#[tokio::test]
async fn an_identity_token_is_known_by_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let helper = script(
        dir.path(),
        r#"echo '{"Username": "<token>", "Secret": "t"}'"#,
    );
    let credential = ask(&helper, "quay.io").await.unwrap().unwrap();
    assert_eq!(credential.kind, CredentialKind::IdentityToken);
}

#[tokio::test]
async fn a_server_that_a_helper_does_not_know_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = "echo 'credentials not found in native keychain'; exit 1";
    for body in [unknown, r#"echo '{"Username": "", "Secret": ""}'"#] {
        assert_eq!(
            ask(&script(dir.path(), body), "quay.io").await,
            Ok(None),
            "{body}"
        );
    }
}

#[tokio::test]
async fn each_failure_names_helper_and_file_and_never_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (format!("echo '{SECRET}'"), "not a credential in JSON"),
        (
            format!("echo '{{\"Secret\": \"{SECRET}\"}}'; exit 3"),
            "exit status: 3",
        ),
        (
            format!("echo 'no such session: {SECRET}'; echo {SECRET} >&2; exit 1"),
            "exit status: 1; to see why, run: echo quay.io | ",
        ),
        (
            format!(r#"echo '{{"Username": "me:{SECRET}", "Secret": "x"}}'"#),
            "a user name with a colon",
        ),
        ("head -c 1000000 /dev/zero".to_owned(), "more than"),
    ];
    for (body, expected) in cases {
        let error = ask(&script(dir.path(), &body), "quay.io")
            .await
            .unwrap_err();
        assert!(error.text.contains(expected), "{error:?}");
        assert!(error.text.contains("docker-credential-test"), "{error:?}");
        assert!(
            error.text.contains("credsStore of config.json"),
            "{error:?}"
        );
        assert!(!error.text.contains(SECRET), "{error:?}");
    }
    let missing = Helper::new("no-such-helper", "a.json".to_owned()).unwrap();
    let error = ask(&missing, "quay.io").await.unwrap_err();
    assert!(error.text.contains("not on PATH"), "{error:?}");
}

#[tokio::test]
async fn a_helper_that_hangs_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut helper = script(dir.path(), "exec sleep 1000");
    helper.patience = Duration::from_millis(100);
    let error = ask(&helper, "quay.io").await.unwrap_err();
    assert!(
        error.transient && error.text.contains("no answer within 0.1 s"),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_a_helper_has_started_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("started");
    let body = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let helper = script(dir.path(), &body);
    let started = async {
        loop {
            match std::fs::read_to_string(&file) {
                Ok(id) if id.ends_with('\n') => return id,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let id = tokio::select! {
        answer = ask(&helper, "quay.io") => panic!("{answer:?}"),
        id = started => id,
    };
    let process = format!("/proc/{}/stat", id.trim());
    // A zombie has exited, too.
    let runs = || std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z "));
    let ended = async {
        while runs() {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(2), ended).await;
    ended.expect("the process has ended");
}

#[test]
fn a_name_is_a_part_of_a_programs_name_and_not_a_path() {
    for name in ["", "../../bin/sh", "a b", "x;y", "a\0"] {
        assert!(Helper::new(name, String::new()).is_none(), "{name:?}");
    }
    for name in ["ecr-login", "osxkeychain", "gcr_1.0"] {
        assert!(Helper::new(name, String::new()).is_some(), "{name:?}");
    }
}
