//! The Registry document of `coral up`: the registry does as it says, while it changes, and its
//! mirrors log in by themselves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/documents.rs"]
mod documents;
#[path = "registry/users.rs"]
mod users;

use std::fs;
use std::time::Duration;

use certificates::{Certificates, shown_by};
use documents::{Files, mirror, registry, secret, source};
use e2e::http;
use e2e::{Layout, Up, run, scratch, until};
use users::{ANNA, CI, Login};

const SOON: Duration = Duration::from_mins(2);
const OPAQUE: &str = "Opaque";

const AUTH: &str = "  auth:\n    htpasswd: {secretName: users}\n";
const RULES: &str = "    pull:\n    - users: [anna]\n      paths: [\"127.0.0.1_*/**\"]\n    \
                     push:\n    - users: [ci]\n      paths: [team/**]\n";

fn users_secret(logins: &[Login]) -> String {
    let lines: Vec<String> = logins.iter().copied().map(users::line).collect();
    secret("users", OPAQUE, &[("htpasswd", &lines.join("\n"))])
}

fn status(up: &Up, login: Option<Login>, path: &str) -> u16 {
    let url = format!("http://{}{path}", up.host());
    let login = login.map(|(user, password)| format!("{user}:{password}"));
    let mut words = vec!["--head", url.as_str()];
    if let Some(login) = &login {
        words.extend(["--user", login]);
    }
    http::request(&words).status
}

#[test]
#[ignore = "needs docker-registry, skopeo, htpasswd; run by cargo xtask test"]
fn mirrors_log_in_by_themselves_and_rights_follow_the_document() {
    let home = scratch();
    let (source, _) = source(home.path());
    let files = Files::new(home.path());
    files.write("mirror.yaml", &[&mirror(&source)]);
    files.write("users.yaml", &[&users_secret(&[ANNA, CI])]);
    files.write("registry.yaml", &[&registry(&format!("{AUTH}{RULES}"))]);
    let data = home.path().join("data");
    let mut up = Up::start(&files.0, &data, &["--plain-http", &source.host()]);
    let image = format!("/v2/{}/team/app/manifests/1", source.folder_name());
    until("the image is there for anna", SOON, || {
        (status(&up, Some(ANNA), &image) == 200).then_some(())
    });
    assert_eq!(status(&up, None, &image), 401);
    assert_eq!(status(&up, Some(CI), &image), 403);
    assert_eq!(status(&up, Some(("coral-internal", "")), &image), 401);

    // Anybody may read now.
    let open = format!("{AUTH}    pull:\n    - anonymous: true\n");
    files.write("registry.yaml", &[&registry(&open)]);
    until("everybody reads", SOON, || {
        (status(&up, None, &image) == 200).then_some(())
    });
    // A slip leaves things as they are, and is told with its line.
    files.write(
        "registry.yaml",
        &[&registry(&format!("{AUTH}    pull: []\n"))],
    );
    let line = up.process().wait_for_line("has no rule", SOON);
    assert!(
        line.contains("registry.yaml:8: Registry \"local\": spec.auth.pull"),
        "{line}"
    );
    assert_eq!(status(&up, None, &image), 200);
    assert_eq!(status(&up, Some(("anna", "wrong")), &image), 401);
    // A user that is removed from the Secret loses all rights, though a rule names her.
    files.write("users.yaml", &[&users_secret(&[CI])]);
    files.write("registry.yaml", &[&registry(&format!("{AUTH}{RULES}"))]);
    let line = up.process().wait_for_line("no user \"anna\"", SOON);
    assert!(
        line.contains("warning: ") && line.contains("spec.auth.pull[0].users"),
        "{line}"
    );
    until("anna is refused", SOON, || {
        (status(&up, Some(ANNA), &image) == 401).then_some(())
    });
    assert_eq!(status(&up, Some(CI), &image), 403);
    // Without a document what it said holds, and it says for how long.
    files.remove("registry.yaml");
    let told = "the Registry document is gone: its settings stay in effect until coral restarts";
    up.process().wait_for_line(told, SOON);
    assert_eq!(status(&up, Some(("anna", "wrong")), &image), 401);
    let shown = up.process().shown();
    for (_, password) in [ANNA, CI] {
        assert!(!shown.contains(password), "a password is in the output");
    }
    assert!(!shown.contains("$2y$"), "a hash is in the output");
}

/// The answer to an anonymous upload.
fn anonymous_upload(up: &Up) -> u16 {
    let url = format!("http://{}/v2/team/app/blobs/uploads/", up.host());
    http::request(&["--request", "POST", &url]).status
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn neither_other_files_nor_slips_open_a_registry_or_bring_in_users() {
    let home = scratch();
    let files = Files::new(home.path());
    let rules = registry(AUTH);
    files.write("m.yaml", &[&rules, &users_secret(&[CI])]);
    let mut up = Up::start(&files.0, &home.path().join("data"), &[]);
    assert_eq!(anonymous_upload(&up), 401);
    let holds = |up: &Up, told: &str| {
        assert_eq!(anonymous_upload(up), 401, "{told}");
        assert_eq!(status(up, Some(CI), "/v2/"), 200, "{told}");
        assert_eq!(status(up, Some(ANNA), "/v2/"), 401, "{told}");
    };
    // Another Registry, whichever file comes first.
    let open = registry("  readOnly: false\n").replace("name: local", "name: b\n  namespace: b");
    for file in ["a.yaml", "n.yaml"] {
        files.write(file, &[&open]);
        for blamed in [file, "m.yaml"] {
            let told = format!("{blamed}: its last valid content remains in effect");
            up.process().wait_for_line(&told, SOON);
            holds(&up, &told);
        }
        files.remove(file);
    }
    // The owner's file is away for a moment, and the other one is there.
    files.write("a.yaml", &[&open]);
    files.remove("m.yaml");
    let told = "the Registry document is gone, and there is one with another name";
    up.process().wait_for_line(told, SOON);
    holds(&up, told);
    files.remove("a.yaml");
    // It comes back under another name, with a slip.
    files.write(
        "q.yaml",
        &[&rules.replace("auth:", "auht:"), &users_secret(&[CI])],
    );
    let told = "q.yaml: its last valid content remains in effect";
    up.process().wait_for_line(told, SOON);
    holds(&up, told);
    files.write("q.yaml", &[&rules, &users_secret(&[CI])]);
    let told = "q.yaml is valid again";
    up.process().wait_for_line(told, SOON);
    let told = "the changed Registry document is in effect";
    up.process().wait_for_line(told, SOON);
    holds(&up, told);
    // A second Secret of the name of the first, with a user of its own.
    let theirs = users_secret(&[ANNA]).replace("name: users", "name: users\n  namespace: default");
    for file in ["c.yaml", "z.yaml"] {
        files.write(file, &[&theirs]);
        for blamed in [file, "q.yaml"] {
            let told = format!("{blamed}: its last valid content remains in effect");
            up.process().wait_for_line(&told, SOON);
            holds(&up, &told);
        }
        files.remove(file);
    }
}

#[test]
#[ignore = "needs docker-registry, skopeo; run by cargo xtask test"]
fn a_read_only_registry_is_filled_by_its_mirrors_only() {
    let home = scratch();
    let (source, digest) = source(home.path());
    let layout = Layout::open(home.path().join("base"));
    layout.tag("1", &layout.add_image("amd64", b"a base"));
    let spec = format!(
        "  readOnly: true\n  imageVolumes:\n  - repository: base/app\n    hostPath: {{path: {}}}\n",
        layout.folder().display()
    );
    let files = Files::new(home.path());
    files.write("all.yaml", &[&registry(&spec), &mirror(&source)]);
    let data = home.path().join("data");
    let mut up = Up::start(&files.0, &data, &["--plain-http", &source.host()]);
    let repository = format!("{}/team/app", source.folder_name());
    assert_eq!(up.wait_for(&repository, "1", SOON), digest);
    assert_eq!(status(&up, None, "/v2/base/app/manifests/1"), 200);
    let url = format!("http://{}/v2/{repository}/blobs/uploads/", up.host());
    let refused = http::request(&["--request", "POST", &url]);
    assert_eq!(refused.status, 405);
    assert_eq!(refused.json()["errors"][0]["code"], "UNSUPPORTED");
}

#[test]
#[ignore = "needs docker-registry, skopeo, openssl; run by cargo xtask test"]
fn a_certificate_in_a_secret_is_used_and_replaced_and_mirrors_go_on() {
    let home = scratch();
    let (source, digest) = source(home.path());
    let tls = Certificates::new(home.path());
    let files = Files::new(home.path());
    let pair = |key: &str| {
        let certificate = fs::read_to_string(tls.certificate()).unwrap();
        let values = [("tls.crt", certificate.as_str()), ("tls.key", key)];
        secret("cert", "kubernetes.io/tls", &values)
    };
    let key = || fs::read_to_string(tls.key()).unwrap();
    files.write("secret.yaml", &[&pair(&key())]);
    files.write("registry.yaml", &[&registry("  tls: {secretName: cert}\n")]);
    files.write("mirror.yaml", &[&mirror(&source)]);
    let data = home.path().join("data");
    let mut up = Up::start(&files.0, &data, &["--plain-http", &source.host()]);
    assert_eq!(up.scheme(), "https");
    let repository = format!("{}/team/app", source.folder_name());
    let url = format!("https://{}/v2/{repository}/manifests/1", up.host());
    let ca = tls.ca();
    let found = until("the image is there", SOON, || {
        let answer = http::request(&["--head", "--cacert", &ca, &url]);
        let digest = answer.header("docker-content-digest").map(str::to_owned);
        digest.filter(|_| answer.status == 200)
    });
    assert_eq!(found, digest);
    tls.expire();
    files.write("secret.yaml", &[&pair(&key())]);
    let line = up
        .process()
        .wait_for_line("the certificate expired at", SOON);
    let place = "registry.yaml:1: Registry \"local\": spec.tls.secretName: ";
    assert!(line.contains("warning: ") && line.contains(place), "{line}");
    tls.renew("first");
    files.write("secret.yaml", &[&pair(&key())]);
    until("the certificate is good again", SOON, || {
        (shown_by(up.host()) == "first").then_some(())
    });
    let old = key();
    tls.renew("second");
    files.write("secret.yaml", &[&pair(&old)]);
    let line = up.process().wait_for_line("cannot be used together", SOON);
    assert!(
        line.contains("registry.yaml:1: Registry \"local\": spec.tls.secretName"),
        "{line}"
    );
    assert_eq!(shown_by(up.host()), "first");
    files.write("secret.yaml", &[&pair(&key())]);
    until("the new certificate is shown", SOON, || {
        (shown_by(up.host()) == "second").then_some(())
    });
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn what_does_not_fit_together_is_told_with_file_and_line() {
    let home = scratch();
    let files = Files::new(home.path());
    let second = registry("  readOnly: true\n").replace("name: local", "name: other");
    let elsewhere = e2e::mirror_yaml("app", &[("127.0.0.1:1/app", "1")], "");
    let elsewhere = elsewhere.replace("name: local", "name: missing");
    let cases: [(&[&str], &str); 6] = [
        (
            &[&registry("  readOnly: true\n"), &second],
            "all.yaml:8: Registry \"other\": there is another Registry, at",
        ),
        (
            &[&registry("  readOnly: true\n"), &elsewhere],
            "there is no Registry \"missing\" in namespace \"default\"; there is \"local\"",
        ),
        (
            &[&registry("  tls: {secretName: none}\n")],
            "spec.tls.secretName: there is no Secret \"none\"",
        ),
        (
            &[
                &registry("  auth:\n    htpasswd: {secretName: users}\n"),
                &secret("users", OPAQUE, &[("other", "x")]),
            ],
            "has no key htpasswd",
        ),
        (
            &[&registry("  pullThrough: {}\n")],
            "unknown field \"pullThrough\"",
        ),
        (
            &[&registry(
                "  imageVolumes:\n  - repository: a\n    hostPath: {path: /nowhere}\n",
            )],
            "spec.imageVolumes[0].hostPath.path: cannot read /nowhere/index.json",
        ),
    ];
    for (documents, told) in cases {
        files.write("all.yaml", documents);
        let data = home.path().join("data");
        let finished = run(&mut Up::command(&files.0, &data));
        assert!(finished.stderr.contains(told), "{told}: {finished}");
        assert_eq!(finished.code, 2, "{finished}");
    }
}

/// Regression: an image that the registry had refused stayed in error for the rest of the interval.
#[test]
#[ignore = "needs docker-registry, skopeo; run by cargo xtask test"]
fn what_the_registry_refused_is_tried_again_when_its_document_changes() {
    let home = scratch();
    let (source, digest) = source(home.path());
    let files = Files::new(home.path());
    files.write("mirror.yaml", &[&mirror(&source)]);
    let limited = |size: &str| registry(&format!("  limits: {{blobSize: \"{size}\"}}\n"));
    files.write("registry.yaml", &[&limited("10")]);
    let data = home.path().join("data");
    let mut up = Up::start(&files.0, &data, &["--plain-http", &source.host()]);
    up.process()
        .wait_for_line("not retried before the next pass", SOON);
    files.write("registry.yaml", &[&limited("1Gi")]);
    let repository = format!("{}/team/app", source.folder_name());
    assert_eq!(up.wait_for(&repository, "1", SOON), digest);
}

/// The room is taken by an upload that is open, and is back once that is cancelled.
#[test]
#[ignore = "needs docker-registry, skopeo; run by cargo xtask test"]
fn a_mirror_waits_for_room_without_failing_and_goes_on_when_there_is_some() {
    const LIMIT: usize = 1 << 20;
    let home = scratch();
    let (source, digest) = source(home.path());
    let files = Files::new(home.path());
    let limit = format!("  storage: {{limit: \"{LIMIT}\", minFree: \"0\"}}\n");
    files.write("registry.yaml", &[&registry(&limit)]);
    let data = home.path().join("data");
    let mut up = Up::start(&files.0, &data, &["--plain-http", &source.host()]);
    let base = format!("http://{}", up.host());
    let uploads = format!("{base}/v2/team/other/blobs/uploads/");
    let begun = until("the registry takes an upload", SOON, || {
        let begun = http::request(&["--request", "POST", &uploads]);
        (begun.status == 202).then_some(begun)
    });
    let upload = format!("{base}{}", begun.header("location").unwrap());
    let filler = home.path().join("filler");
    fs::write(&filler, vec![7; LIMIT]).unwrap();
    let body = format!("@{}", filler.display());
    let sent = http::request(&["--request", "PATCH", "--data-binary", &body, &upload]);
    assert_eq!(sent.status, 202);

    files.write("mirror.yaml", &[&mirror(&source)]);
    let line = up.process().wait_for_line("images wait for space", SOON);
    assert!(line.contains("1.0 MiB"), "{line}");
    let status = http::get(&format!("{base}/status.json")).json();
    let waits = &status["mirrors"][0];
    assert_eq!(
        (&waits["waiting"], &waits["failed"]),
        (&1.into(), &0.into()),
        "{waits}"
    );
    let image = &waits["images"][0];
    assert_eq!(image["state"], "Waiting", "{image}");
    let message = image["message"].as_str().unwrap();
    assert!(message.contains("needed"), "{message}");

    assert_eq!(http::request(&["--request", "DELETE", &upload]).status, 204);
    let repository = format!("{}/team/app", source.folder_name());
    assert_eq!(up.wait_for(&repository, "1", SOON), digest);
    up.process()
        .wait_for_line("no image waits for space any more", SOON);
    assert!(
        !up.process().shown().contains("failed "),
        "{}",
        up.process().shown()
    );
}
