//! Logins, rights, read-only mode and limits, as other people's clients meet them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/server.rs"]
mod server;
#[path = "registry/users.rs"]
mod users;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::http::{self, Answer};
use e2e::peers::{crane, regctl, skopeo, skopeo_copy};
use e2e::{Containerd, Layout, coral, report, run, scratch, until};
use server::{Server, arguments};
use users::{ANNA, CI, Login};

const SOON: Duration = Duration::from_mins(2);

/// A registry with users: both read everything, `ci` writes below `team`.
fn serve(home: &Path, more: &[&str]) -> Server {
    let users = users::file(home, &[ANNA, CI]);
    let mut command = coral();
    command.args(arguments(&home.join("storage")));
    command.arg("--htpasswd").arg(users);
    command.args(["--allow-push", "ci=team/**"]).args(more);
    Server::start_with(&mut command)
}

fn image(home: &Path) -> Layout {
    let layout = Layout::open(home.join("image"));
    let image = layout.add_image("amd64", b"a layer");
    layout.tag("1", &image);
    layout
}

fn pair((name, password): Login) -> String {
    format!("{name}:{password}")
}

fn push(home: &Path, layout: &Layout, to: &str, login: Option<Login>) -> e2e::Finished {
    let mut command = skopeo_copy(home, &layout.reference("1"), to);
    command.arg("--preserve-digests");
    if let Some(login) = login {
        command.args(["--dest-creds", &pair(login)]);
    }
    run(&mut command)
}

fn ask(server: &Server, login: Option<Login>, method: &str, path: &str) -> Answer {
    let url = format!("http://{}{path}", server.address);
    let login = login.map(pair);
    let mut words = vec![url.as_str()];
    match method {
        "HEAD" => words.push("--head"),
        method => words.extend(["--request", method]),
    }
    if let Some(login) = &login {
        words.extend(["--user", login]);
    }
    http::request(&words)
}

fn code(answer: &Answer) -> String {
    answer.json()["errors"][0]["code"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
#[ignore = "needs htpasswd and skopeo; run by cargo xtask test"]
fn skopeo_logs_in_and_rights_are_by_path() {
    let home = scratch();
    let server = serve(home.path(), &[]);
    let layout = image(home.path());
    let to = |path: &str| format!("docker://{}/{path}", server.address);
    let _ = push(home.path(), &layout, &to("team/app:1"), Some(CI)).succeeded();
    for (path, login, word) in [
        ("other/app:1", Some(CI), "denied"),
        ("team/app:2", Some(ANNA), "denied"),
        ("team/app:2", Some(("ci", "wrong")), "unauthorized"),
        ("team/app:2", None, "authentication required"),
    ] {
        let refused = push(home.path(), &layout, &to(path), login);
        assert_ne!(refused.code, 0, "{refused}");
        let told = refused.stderr.to_lowercase();
        assert!(
            told.contains(word) || told.contains("unauthorized"),
            "{refused}"
        );
    }
    let pulled = format!("oci:{}:1", home.path().join("pulled").display());
    let mut pull = skopeo_copy(home.path(), &to("team/app:1"), &pulled);
    pull.args(["--preserve-digests", "--src-creds", &pair(ANNA)]);
    let _ = run(&mut pull).succeeded();
    let pulled = Layout::open(home.path().join("pulled"));
    assert_eq!(pulled.tagged("1")["digest"], layout.tagged("1")["digest"]);
    let mut login = skopeo(home.path());
    login.args(["login", "--tls-verify=false", "--username", ANNA.0]);
    let right = login.args(["--password", ANNA.1, &server.address]);
    let _ = run(right).succeeded();
}

#[test]
#[ignore = "needs htpasswd, crane, regctl; run by cargo xtask test"]
fn crane_and_regctl_log_in_push_and_pull() {
    let home = scratch();
    let server = serve(home.path(), &[]);
    let layout = image(home.path());
    let host = server.address.as_str();
    let name = |tag: &str| format!("{host}/team/app:{tag}");
    let login = |program: &mut Command, words: &[&str], (user, password): Login| {
        program.args(words).args([host, "-u", user, "-p", password]);
        run(program)
    };
    let _ = login(&mut crane(home.path()), &["auth", "login"], CI).succeeded();
    let mut push = crane(home.path());
    push.arg("push").arg(layout.folder()).arg(name("crane"));
    let _ = run(&mut push).succeeded();
    let stranger = scratch();
    let refused = run(crane(stranger.path()).args(["digest", &name("crane")]));
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stderr.contains("UNAUTHORIZED"), "{refused}");
    let _ = login(
        &mut regctl(home.path(), &[host]),
        &["registry", "login"],
        CI,
    )
    .succeeded();
    let mut copy = regctl(home.path(), &[host]);
    copy.args(["image", "copy", &name("crane"), &name("regctl")]);
    let _ = run(&mut copy).succeeded();
    let digest = run(crane(home.path()).args(["digest", &name("regctl")])).succeeded();
    assert_eq!(digest.text(), layout.tagged("1")["digest"]);
}

#[test]
#[ignore = "needs htpasswd, skopeo, containerd and root; run by cargo xtask test"]
fn containerd_pulls_with_a_login_and_not_without() {
    let home = scratch();
    let server = serve(home.path(), &[]);
    let layout = image(home.path());
    let name = format!("{}/team/app:1", server.address);
    let to = format!("docker://{name}");
    let _ = push(home.path(), &layout, &to, Some(CI)).succeeded();
    let containerd = Containerd::start();
    let content = ["content", "fetch", "--plain-http"];
    let refused = containerd.ctr(&[&content[..], &[&name]].concat());
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stderr.contains("401"), "{refused}");
    let wrong = containerd.ctr(&[&content[..], &["--user", "anna:wrong", &name]].concat());
    assert_ne!(wrong.code, 0, "{wrong}");
    let user = pair(ANNA);
    let _ = containerd
        .ctr(&[&content[..], &["--user", &user, &name]].concat())
        .succeeded();
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn answers_are_in_the_form_that_clients_expect() {
    let home = scratch();
    let server = serve(home.path(), &["--anonymous-read=public/**"]);
    let missing = "/v2/team/app/manifests/1";
    for (login, method, path, status, expected) in [
        (None, "GET", missing, 401, "UNAUTHORIZED"),
        (Some(("anna", "wrong")), "GET", missing, 401, "UNAUTHORIZED"),
        (Some(("unknown", "x")), "GET", missing, 401, "UNAUTHORIZED"),
        (Some(ANNA), "GET", missing, 404, "MANIFEST_UNKNOWN"),
        (Some(ANNA), "DELETE", missing, 403, "DENIED"),
        (Some(CI), "DELETE", missing, 404, "MANIFEST_UNKNOWN"),
        (
            None,
            "GET",
            "/v2/public/app/manifests/1",
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            None,
            "POST",
            "/v2/public/app/blobs/uploads/",
            401,
            "UNAUTHORIZED",
        ),
    ] {
        let answer = ask(&server, login, method, path);
        assert_eq!(answer.status, status, "{login:?} {method} {path}");
        assert_eq!(code(&answer), expected, "{login:?} {method} {path}");
        let invitation = answer.header("www-authenticate");
        let wanted = (status == 401).then_some("Basic realm=\"coral\"");
        assert_eq!(invitation, wanted, "{login:?} {method} {path}");
    }
}

#[test]
#[ignore = "needs htpasswd, skopeo, crane; run by cargo xtask test"]
fn with_anonymous_reading_everybody_pulls_and_users_still_push() {
    let home = scratch();
    let server = serve(home.path(), &["--anonymous-read"]);
    let layout = image(home.path());
    let name = format!("{}/team/app:1", server.address);
    let to = format!("docker://{name}");
    let _ = push(home.path(), &layout, &to, Some(CI)).succeeded();
    assert_ne!(push(home.path(), &layout, &to, None).code, 0);
    let stranger = scratch();
    let digest = run(crane(stranger.path()).args(["digest", &name])).succeeded();
    assert_eq!(digest.text(), layout.tagged("1")["digest"]);
    let pulled = format!("oci:{}:1", stranger.path().join("pulled").display());
    let _ = run(&mut skopeo_copy(stranger.path(), &to, &pulled)).succeeded();
    let mut login = crane(home.path());
    login.args(["auth", "login", &server.address, "-u", CI.0, "-p", CI.1]);
    let _ = run(&mut login).succeeded();
    let mut push = crane(home.path());
    push.arg("push").arg(layout.folder());
    let _ = run(push.arg(format!("{}/team/crane:1", server.address))).succeeded();
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn a_changed_file_of_users_is_read_again_and_an_odd_line_gives_no_login() {
    let home = scratch();
    let mut server = serve(home.path(), &[]);
    let file = home.path().join("htpasswd");
    assert_eq!(ask(&server, Some(ANNA), "GET", "/v2/").status, 200);
    let new: Login = ("anna", "another one");
    users::write(&file, &[new, CI]);
    until("the new password is known", SOON, || {
        (ask(&server, Some(new), "GET", "/v2/").status == 200).then_some(())
    });
    assert_eq!(ask(&server, Some(ANNA), "GET", "/v2/").status, 401);
    // The only remaining line gives no login: that does not keep a removed user valid.
    std::fs::write(&file, "anna:plain text\n").unwrap();
    let line = server
        .process
        .wait_for_line("warning: --htpasswd: line 1", SOON);
    assert!(line.contains("bcrypt"), "{line}");
    assert!(!line.contains("plain text"), "{line}");
    for login in [new, CI] {
        assert_eq!(ask(&server, Some(login), "GET", "/v2/").status, 401);
    }
    let shown = server.process.shown();
    for (_, password) in [ANNA, CI, new] {
        assert!(!shown.contains(password), "a password is in the output");
    }
}

fn upload(server: &Server, login: Login) -> u16 {
    ask(server, Some(login), "POST", "/v2/team/x/blobs/uploads/").status
}

/// Regression: a grant that named a removed user kept the old users in force, and the user with
/// them.
#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn a_removed_user_loses_all_rights_at_once_and_the_registry_starts_again() {
    let home = scratch();
    let server = serve(home.path(), &["--allow-pull", "ci=team/**"]);
    let file = home.path().join("htpasswd");
    assert_eq!(upload(&server, CI), 202);
    // A line of `htpasswd` without `-B` gives no login, and keeps no removed user valid.
    let changed = home.path().join("changed");
    users::write(&changed, &[ANNA]);
    let odd = std::fs::read_to_string(&changed).unwrap() + "new:$apr1$x$y\n";
    std::fs::write(&changed, odd).unwrap();
    std::fs::rename(&changed, &file).unwrap();
    until("ci is refused", SOON, || {
        (upload(&server, CI) == 401).then_some(())
    });
    assert_eq!(ask(&server, Some(CI), "GET", "/v2/").status, 401);
    assert_eq!(ask(&server, Some(ANNA), "GET", "/v2/").status, 200);
    let warning = "warning: --allow-push ci=team/** has no effect: there is no user \"ci\"";
    let mut server = server;
    server.process.wait_for_line(warning, SOON);
    // The last user, too: `htpasswd -D` leaves an empty file.
    std::fs::write(&file, "").unwrap();
    until("anna is refused", SOON, || {
        (ask(&server, Some(ANNA), "GET", "/v2/").status == 401).then_some(())
    });
    assert_eq!(ask(&server, None, "GET", "/v2/").status, 401);
    drop(server);
    users::write(&file, &[ANNA]);
    let mut command = coral();
    command.args(arguments(&home.path().join("storage")));
    command.arg("--htpasswd").arg(&file);
    let mut server = Server::start_with(command.args(["--allow-push", "ci=team/**"]));
    server.process.wait_for_line(warning, SOON);
    assert_eq!(upload(&server, CI), 401);
}

/// Regression: with the users the layouts were read again, too, and a broken one kept the old users.
#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn a_removed_user_loses_all_rights_though_a_layout_is_broken() {
    let home = scratch();
    let _ = image(home.path());
    let folder = home.path().join("image");
    let layout = format!("base={}", folder.display());
    let server = serve(home.path(), &["--layout", &layout]);
    assert_eq!(upload(&server, CI), 202);
    std::fs::remove_dir_all(&folder).unwrap();
    users::write(&home.path().join("htpasswd"), &[ANNA]);
    until("ci is refused", SOON, || {
        (upload(&server, CI) == 401).then_some(())
    });
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn guessing_passwords_does_not_keep_those_out_who_are_in() {
    let home = scratch();
    let server = serve(home.path(), &[]);
    assert_eq!(ask(&server, Some(ANNA), "GET", "/v2/").status, 200);
    let url = format!("http://{}/v2/", server.address);
    let mut limited = 0;
    for n in 0..40 {
        let guess = format!("anna:guess {n}");
        let answer = http::request(&["--user", &guess, &url]);
        limited += u32::from(answer.status == 429);
        assert!(matches!(answer.status, 401 | 429), "{}", answer.status);
        if answer.status == 429 {
            assert_eq!(code(&answer), "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").is_some());
        }
    }
    assert!(limited >= 20, "{limited} of 40 guesses were limited");
    assert_eq!(ask(&server, Some(ANNA), "GET", "/v2/").status, 200);
    report!("guessing: {limited} of 40 wrong passwords were refused without a look");
}

#[test]
#[ignore = "needs skopeo and crane; run by cargo xtask test"]
fn a_read_only_registry_refuses_every_write_and_serves_on() {
    let home = scratch();
    let storage = home.path().join("storage");
    let layout = image(home.path());
    let digest = layout.tagged("1")["digest"].as_str().unwrap().to_owned();
    {
        let server = Server::start(&storage);
        let to = format!("docker://{}/team/app:1", server.address);
        let _ = push(home.path(), &layout, &to, None).succeeded();
    }
    let mut command = coral();
    command
        .args(arguments(&storage))
        .env("CORAL_READ_ONLY", "true");
    let server = Server::start_with(&mut command);
    let blob = format!("/v2/team/app/blobs/{digest}");
    let upload = "/v2/team/app/blobs/uploads/7c1f6e3e-3f0e-4a57-9c6c-0f0f0f0f0f0f";
    for (method, path) in [
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("PATCH", upload),
        ("PUT", upload),
        ("DELETE", upload),
        ("PUT", "/v2/team/app/manifests/1"),
        ("DELETE", "/v2/team/app/manifests/1"),
        ("DELETE", blob.as_str()),
    ] {
        let answer = ask(&server, None, method, path);
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(code(&answer), "UNSUPPORTED");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    let to = format!("docker://{}/team/app:2", server.address);
    assert_ne!(push(home.path(), &layout, &to, None).code, 0);
    let name = format!("{}/team/app:1", server.address);
    let pulled = run(crane(home.path()).args(["digest", &name])).succeeded();
    assert_eq!(pulled.text(), digest);
}

#[test]
#[ignore = "needs curl; run by cargo xtask test"]
fn abandoned_uploads_go_away_and_limits_are_answered_in_form() {
    let home = scratch();
    let mut command = coral();
    command.args(arguments(&home.path().join("storage")));
    command.args(["--upload-expiry", "1s", "--max-open-uploads", "3"]);
    let server = Server::start_with(command.args(["--max-blob-size", "1Ki"]));
    let begin = || ask(&server, None, "POST", "/v2/a/blobs/uploads/");
    let first = begin();
    assert_eq!(first.status, 202);
    let location = first.header("location").unwrap().to_owned();
    let refused = until("a fourth upload is refused", SOON, || {
        Some(begin()).filter(|answer| answer.status != 202)
    });
    assert_eq!(
        (refused.status, code(&refused).as_str()),
        (429, "TOOMANYREQUESTS")
    );
    until("the abandoned upload is gone", SOON, || {
        (ask(&server, None, "GET", &location).status == 404).then_some(())
    });
    let room = until("there is space again", SOON, || {
        Some(begin()).filter(|answer| answer.status == 202)
    });
    let url = format!(
        "http://{}{}",
        server.address,
        room.header("location").unwrap()
    );
    let body = "x".repeat(1025);
    let large = http::request(&["--request", "PATCH", "--data", &body, &url]);
    assert_eq!((large.status, code(&large).as_str()), (413, "SIZE_INVALID"));
    let url = format!("http://{}/v2/", server.address);
    let long = format!("X-Long: {}", "y".repeat(60_000));
    let head = http::request(&["--header", &long, &url]);
    assert_eq!((head.status, code(&head).as_str()), (431, "SIZE_INVALID"));
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn what_cannot_work_is_refused_with_the_flag_and_exit_code_2() {
    let home = scratch();
    let users = users::file(home.path(), &[ANNA]).display().to_string();
    let bad = home.path().join("bad").display().to_string();
    std::fs::write(&bad, "anna:{SHA}abc\n").unwrap();
    for (words, told) in [
        (
            vec!["--htpasswd", "/nowhere/users"],
            "--htpasswd /nowhere/users",
        ),
        (vec!["--allow-push", "ci=a"], "--htpasswd"),
        (
            vec!["--htpasswd", &users, "--allow-pull", "anna"],
            "USER=PATTERN",
        ),
        (
            vec!["--htpasswd", &users, "--allow-pull", "anna=/x"],
            "empty component",
        ),
        (vec!["--tls-cert", &bad], "--tls-key"),
        (
            vec!["--tls-cert", &bad, "--tls-key", &bad],
            "no certificate",
        ),
        (vec!["--max-blob-size", "10GB"], "10Gi"),
    ] {
        let storage = home.path().join("storage");
        let mut command = coral();
        let finished = run(command.args(arguments(&storage)).args(words));
        assert!(finished.stderr.contains(told), "{told}: {finished}");
        assert_eq!(finished.code, 2, "{finished}");
        assert!(!finished.stderr.contains("{SHA}"), "{finished}");
    }
}

#[test]
#[ignore = "needs crane; run by cargo xtask test"]
fn a_layout_is_served_as_a_repository_and_pulled_by_crane_byte_for_byte() {
    let home = scratch();
    let layout = Layout::open(home.path().join("layout"));
    let here = layout.add_image("amd64", b"a layer");
    let there = layout.add_image("arm64", b"another layer");
    let index = layout.add_index(&[(here, "amd64"), (there, "arm64")]);
    layout.tag("1", &index);
    let before = layout.blobs();
    let mut command = coral();
    command.args(arguments(&home.path().join("storage")));
    command.arg("--layout");
    let server = Server::start_with(command.arg(format!("base/app={}", layout.folder().display())));
    let name = format!("{}/base/app:1", server.address);
    let pulled = home.path().join("pulled");
    let mut pull = crane(home.path());
    pull.args(["pull", "--format", "oci", &name]).arg(&pulled);
    let _ = run(&mut pull).succeeded();
    let pulled = Layout::open(pulled).blobs();
    assert!(before.len() >= 7, "{:?}", before.keys());
    assert_eq!(pulled, before);
    let refused = push(home.path(), &layout, &format!("docker://{name}"), None);
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(layout.blobs(), before, "a layout is never written to");
    assert_eq!(
        code(&ask(&server, None, "DELETE", "/v2/base/app/manifests/1")),
        "UNSUPPORTED"
    );
}
