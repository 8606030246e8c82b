//! HTTPS: other people's clients, and certificates that change under load.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/users.rs"]
mod users;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use certificates::{Certificates, shown_by};
use e2e::http;
use e2e::peers::{crane, skopeo};
use e2e::{
    Containerd, FaultServer, Finished, Layout, coral, report, run, scratch, until, write_yaml,
};
use serde_json::json;
use server::{Server, arguments};
use users::ANNA;

const SOON: Duration = Duration::from_mins(2);

fn serve(home: &Path, tls: &Certificates, more: &[&str]) -> Server {
    let mut command = coral();
    command.args(arguments(&home.join("storage")));
    command.args(["--tls-cert", &tls.certificate(), "--tls-key", &tls.key()]);
    let server = Server::start_with(command.args(more));
    assert_eq!(server.scheme, "https");
    server
}

#[test]
#[ignore = "needs openssl, htpasswd, skopeo, crane, containerd and root; run by cargo xtask test"]
fn skopeo_crane_and_containerd_verify_the_certificate_and_log_in() {
    let home = scratch();
    let tls = Certificates::new(home.path());
    let users = users::file(home.path(), &[ANNA]).display().to_string();
    let server = serve(home.path(), &tls, &["--htpasswd", &users]);
    let layout = Layout::open(home.path().join("image"));
    layout.tag("1", &layout.add_image("amd64", b"a layer"));
    let name = format!("{}/team/app:1", server.address);
    let login = format!("{}:{}", ANNA.0, ANNA.1);
    let mut push = skopeo(home.path());
    push.args([
        "copy",
        "--quiet",
        "--preserve-digests",
        "--dest-creds",
        &login,
    ]);
    push.args([&layout.reference("1"), &format!("docker://{name}")]);
    let refused = run(&mut push);
    assert!(refused.stderr.contains("x509"), "{refused}");
    push.env("SSL_CERT_FILE", tls.ca());
    let _ = run(&mut push).succeeded();
    let with_ca = |words: &[&str]| {
        let mut command = e2e::peers::crane(home.path());
        run(command.env("SSL_CERT_FILE", tls.ca()).args(words))
    };
    let _ = with_ca(&["auth", "login", &server.address, "-u", ANNA.0, "-p", ANNA.1]).succeeded();
    let digest = with_ca(&["digest", &name]).succeeded();
    assert_eq!(digest.text(), layout.tagged("1")["digest"]);
    assert_ne!(
        run(crane(home.path()).args(["digest", "--insecure=false", &name])).code,
        0
    );
    // containerd takes loopback for plain HTTP unless it is told.
    let hosts = home.path().join("hosts");
    let host = hosts.join(&server.address);
    fs::create_dir_all(&host).unwrap();
    let table = format!(
        "server = \"https://{}\"\nca = {:?}\n[host]\n",
        server.address,
        tls.ca()
    );
    fs::write(host.join("hosts.toml"), table).unwrap();
    let containerd = Containerd::start();
    let hosts = hosts.display().to_string();
    let fetch = [
        "content",
        "fetch",
        "--hosts-dir",
        &hosts,
        "--user",
        &login,
        &name,
    ];
    let _ = containerd.ctr(&fetch).succeeded();
}

/// A pass of a mirror without flags: `registry` and `repository` are what the YAML says of them.
fn mirrored(home: &Path, registry: &str, repository: &str) -> Finished {
    let yaml = format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: own}}\nspec:\n  \
         registry: {registry}\n  repositories:\n  - {repository}\n"
    );
    let yaml = write_yaml(home, &yaml);
    run(coral().args(["mirror", "run"]).arg(yaml).env("HOME", home))
}

#[test]
#[ignore = "needs openssl; run by cargo xtask test"]
fn a_mirror_says_itself_how_its_registries_are_reached() {
    let home = scratch();
    let tls = Certificates::new(home.path());
    let secure = serve(home.path(), &tls, &[]);
    let plain = FaultServer::registry(&[]);
    plain.load(&json!({"path": "team/app", "tag": "1"}));
    let pem = fs::read_to_string(tls.ca()).unwrap();
    let ca = json!(pem).to_string();
    let source = plain.host();
    let repository = format!("{{name: {source}/team/app, tags: ['1'], plainHTTP: true}}");
    let destination = format!("{{host: '{}', ca: {ca}}}", secure.address);
    let _ = mirrored(home.path(), &destination, &repository).succeeded();
    // The same the other way round, and once more without looking at the certificate.
    let target = FaultServer::registry(&[]);
    let destination = format!("{{host: '{}', plainHTTP: true}}", target.host());
    let copy = format!("{}/{}/team/app", secure.address, plain.folder_name());
    let own = format!("{{name: {copy}, tags: ['1'], ca: {ca}}}");
    let _ = mirrored(home.path(), &destination, &own).succeeded();
    let unverified = format!("{{name: {copy}, tags: ['1'], tlsVerify: false}}");
    let _ = mirrored(home.path(), &destination, &unverified).succeeded();
    let silent = format!("{{name: {copy}, tags: ['1']}}");
    let refused = mirrored(home.path(), &destination, &silent).exited(1);
    assert!(refused.stderr.contains("certificate"), "{refused}");
}

#[test]
#[ignore = "needs openssl and curl with HTTP/2; run by cargo xtask test"]
fn http_2_is_spoken_to_those_who_ask_for_it() {
    let home = scratch();
    let tls = Certificates::new(home.path());
    let server = serve(home.path(), &tls, &[]);
    let url = format!("https://{}/v2/", server.address);
    for (wish, line) in [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200 OK")] {
        let ca = tls.ca();
        let words = ["--silent", "--include", wish, "--cacert", &ca, &url];
        let finished = run(std::process::Command::new("curl").args(words)).succeeded();
        assert!(finished.stdout.starts_with(line), "{finished}");
    }
}

#[test]
#[ignore = "needs openssl and curl; run by cargo xtask test"]
fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let home = scratch();
    let tls = Certificates::new(home.path());
    let server = serve(home.path(), &tls, &[]);
    let (url, ca) = (format!("https://{}/v2/", server.address), tls.ca());
    let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let answer = http::request(&["--cacert", &ca, &url]);
                        assert_eq!(answer.status, 200, "after {asked:?} requests");
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for name in ["second", "third", "fourth"] {
            tls.renew(name);
            until(&format!("the {name} certificate is shown"), SOON, || {
                (shown_by(&server.address) == name).then_some(())
            });
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    let count = asked.into_inner();
    assert!(count > 20, "only {count} requests were made");
    report!("certificate replaced 3 times under load: {count} requests, none failed");
}

#[test]
#[ignore = "needs openssl and curl; run by cargo xtask test"]
fn a_broken_pair_is_told_and_the_one_before_stays() {
    let home = scratch();
    let tls = Certificates::new(home.path());
    let mut server = serve(home.path(), &tls, &[]);
    let good = fs::read(tls.key()).unwrap();
    fs::write(tls.key(), "-----BEGIN PRIVATE KEY-----\nbroken\n").unwrap();
    let line = server
        .process
        .wait_for_line("the previous certificate stays in effect", SOON);
    assert!(line.contains(&tls.key()), "{line}");
    assert_eq!(shown_by(&server.address), "first");
    fs::write(tls.key(), good).unwrap();
    tls.renew("second");
    until("the next certificate is shown", SOON, || {
        (shown_by(&server.address) == "second").then_some(())
    });
    let told = server
        .process
        .stderr()
        .matches("the previous certificate stays in effect")
        .count();
    assert_eq!(told, 1, "{}", server.process.shown());
}

#[test]
#[ignore = "needs openssl; run by cargo xtask test"]
fn a_certificate_that_is_over_is_warned_of_when_it_is_taken() {
    let home = scratch();
    let tls = Certificates::new(home.path());
    tls.expire();
    let mut server = serve(home.path(), &tls, &[]);
    let over = "clients refuse it; renew it";
    let line = server.process.wait_for_line(over, SOON);
    assert!(
        line.contains("warning: --tls-cert: the certificate expired at"),
        "{line}"
    );
    tls.renew("good");
    server
        .process
        .wait_for_line("the certificate was reloaded", SOON);
    until("the new certificate is shown", SOON, || {
        (shown_by(&server.address) == "good").then_some(())
    });
    let shown = server.process.shown();
    assert_eq!(shown.matches(over).count(), 1, "{shown}");
}
