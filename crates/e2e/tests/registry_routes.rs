//! What a registry does for the nodes of a cluster: it follows a list of public paths, serves
//! images under the names of other registries, and has the reserved image for probes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/server.rs"]
mod server;
#[path = "registry/users.rs"]
mod users;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::http;
use e2e::peers::skopeo_copy;
use e2e::{Containerd, Layout, coral, run, scratch, until, write_yaml};
use server::{Server, arguments};
use users::CI;
use wire::Wire;

const SOON: Duration = Duration::from_mins(2);
/// The reserved image as nodes pull it.
const PROBE: &str =
    "coral-reserved/probe@sha256:09ade42fe3e69018a3360bb092265af902f9e7d6013146cf152c82ac3a944707";
const NGINX: &str = "docker.io/library/nginx";

/// A registry as in a cluster: one user pushes, and a file says what is public.
struct Cluster {
    server: Server,
    public: PathBuf,
}

impl Cluster {
    /// One with an image of `docker.io`. The file of public paths is not there yet.
    fn start(home: &Path) -> Self {
        let users = users::file(home, &[CI]);
        let public = home.join("public.json");
        let mut command = coral();
        command.args(arguments(&home.join("storage")));
        command.arg("--htpasswd").arg(users);
        command.args(["--allow-push", "ci=**", "--allow-pull", "ci=**"]);
        command.args(["--host", "coral.coral-system.svc:5000"]);
        let server = Server::start_with(command.arg("--public").arg(&public));
        let layout = Layout::open(home.join("image"));
        let image = layout.add_image("amd64", b"a layer");
        layout.tag("1", &image);
        let to = format!("docker://{}/{NGINX}:1", server.address);
        let mut push = skopeo_copy(home, &layout.reference("1"), &to);
        let login = format!("{}:{}", CI.0, CI.1);
        let _ = run(push.args(["--preserve-digests", "--dest-creds", &login])).succeeded();
        Self { server, public }
    }

    /// Replaces the file as a whole, as a mounted ConfigMap is.
    fn publish(&self, json: &str) {
        let new = self.public.with_extension("new");
        fs::write(&new, json).unwrap();
        fs::rename(new, &self.public).unwrap();
    }

    fn get(&self, path: &str) -> http::Answer {
        http::get(&format!("http://{}{path}", self.server.address))
    }

    fn wait_for_generation(&self, generation: u64) {
        until("the generation", SOON, || {
            let loaded = self.get("/coral/v1/public").json();
            (loaded["generation"] == generation).then_some(())
        });
    }
}

#[test]
#[ignore = "needs htpasswd, skopeo, curl; run by cargo xtask test"]
fn the_file_of_public_paths_is_followed_and_a_broken_one_leaves_things_as_they_were() {
    let home = scratch();
    let mut cluster = Cluster::start(home.path());
    let manifest = format!("/v2/{NGINX}/manifests/1");
    let warned = cluster
        .server
        .process
        .wait_for_line("no repository is public", SOON);
    assert!(warned.contains("warning: --public"), "{warned}");
    assert_eq!(cluster.get(&manifest).status, 401);
    cluster.publish(&format!("{{\"generation\": 3, \"paths\": [\"{NGINX}\"]}}"));
    cluster.wait_for_generation(3);
    assert_eq!(cluster.get(&manifest).status, 200);
    let routed = "/v2/library/nginx/manifests/1?ns=docker.io";
    assert_eq!(cluster.get(routed).status, 200);
    for broken in ["{", "{\"generation\": 4, \"paths\": [\"A B\"]}"] {
        cluster.publish(broken);
        let told = cluster
            .server
            .process
            .wait_for_line("the previous public paths stay in effect", SOON);
        assert!(told.contains("warning: --public"), "{told}");
        assert_eq!(cluster.get(&manifest).status, 200);
    }
    fs::remove_file(&cluster.public).unwrap();
    cluster.server.process.wait_for_line("No such file", SOON);
    assert_eq!(cluster.get(&manifest).status, 200);
    cluster.publish("{\"generation\": 5, \"paths\": []}");
    cluster.wait_for_generation(5);
    assert_eq!(cluster.get(&manifest).status, 401);
    let missed = cluster.get(routed);
    assert_eq!(missed.status, 404);
    assert_eq!(missed.header("www-authenticate"), None);
    assert_eq!(cluster.get("/readyz").status, 200);
}

/// A folder for `--hosts-dir` in which nothing but the registry stands behind each host.
fn hosts(home: &Path, address: &str, hosts: &[&str]) -> String {
    let folder = home.join("certs.d");
    for host in hosts {
        let folder = folder.join(host);
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "server = \"http://{address}\"\n\n[header]\nX-Coral-Route = \"never\"\n\n[host]\n"
        );
        fs::write(folder.join("hosts.toml"), text).unwrap();
    }
    folder.display().to_string()
}

#[test]
#[ignore = "needs htpasswd, skopeo, containerd and root; run by cargo xtask test"]
fn containerd_pulls_the_reserved_image_and_public_ones_under_every_name() {
    let home = scratch();
    let cluster = Cluster::start(home.path());
    cluster.publish(&format!("{{\"generation\": 1, \"paths\": [\"{NGINX}\"]}}"));
    cluster.wait_for_generation(1);
    let own = "coral.coral-system.svc:5000";
    let folder = hosts(
        home.path(),
        &cluster.server.address,
        &["docker.io", "quay.io", own],
    );
    let containerd = Containerd::start();
    let pull = |command: &[&str], name: &str| {
        containerd.ctr(&[command, &["--hosts-dir", &folder, name]].concat())
    };
    for host in ["docker.io", "quay.io", own] {
        let name = format!("{host}/{PROBE}");
        let _ = pull(&["images", "pull", "--snapshotter", "native"], &name).succeeded();
        let listed = containerd.ctr(&["images", "list", "-q"]);
        let listed = listed.text();
        assert!(listed.lines().any(|line| line == name), "{listed}");
        let _ = containerd.ctr(&["images", "remove", &name]).succeeded();
    }
    let fetch = ["content", "fetch"];
    for name in [format!("{NGINX}:1"), format!("{own}/{NGINX}:1")] {
        let _ = pull(&fetch, &name).succeeded();
    }
    let missed = pull(&fetch, "quay.io/library/nginx:1");
    assert_ne!(missed.code, 0, "{missed}");
    assert!(missed.stderr.contains("403 Forbidden"), "{missed}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_registry_on_loopback_answers_no_web_page_that_has_its_name_resolve_to_it() {
    let home = scratch();
    let mut command = coral();
    command.args(arguments(&home.path().join("storage")));
    let serve = Server::start_with(command.args(["--host", "registry.example"]));
    let yaml = write_yaml(home.path(), "");
    let mut command = coral();
    command.args([
        "up",
        "--listen=127.0.0.1:0",
        "--host=registry.example",
        "--data",
    ]);
    let up = Server::start_with(command.arg(home.path().join("data")).arg(yaml));
    for (server, paths) in [
        (&serve, &["/v2/_catalog", "/status.json", "/metrics"][..]),
        (&up, &["/v2/_catalog", "/status.json", "/"]),
    ] {
        let ask = |host: &[&str], path: &str| {
            let url = format!("http://{}{path}", server.address);
            let headers = host.iter().flat_map(|host| ["--header", *host]);
            http::request(&headers.chain([url.as_str()]).collect::<Vec<_>>())
        };
        for path in paths {
            let foreign = ask(&["Host: evil.test:5002"], path);
            assert_eq!(foreign.status, 421, "{path}");
            let said = String::from_utf8_lossy(&foreign.body).into_owned();
            assert!(said.contains("--host"), "{said}");
            for own in [
                "localhost:5002",
                "registry.example",
                "app.localhost",
                "[::1]",
            ] {
                let answer = ask(&[&format!("Host: {own}")], path);
                assert_eq!(answer.status, 200, "{path} {own}");
            }
            for wrong in [
                &["Host:"][..],
                &["Host: a@localhost"],
                &["Host: localhost/"],
            ] {
                assert_eq!(ask(wrong, path).status, 400, "{path} {wrong:?}");
            }
        }
        let mut wire = Wire::connect(&server.address).unwrap();
        wire.send(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")
            .unwrap();
        assert_eq!(wire.reply(false).unwrap().status, 400);
    }
}
