//! Real images through real peers: pushed by skopeo and regctl into two registries, mirrored by
//! `coral up`, pulled back by skopeo, crane and regctl byte for byte, and run by containerd.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::image::{GREETING, add_three_layers, busybox_root, debian_root};
use e2e::peers::{crane, regctl, skopeo_copy};
use e2e::{
    Containerd, ImageRepository, Layout, RegistryProgram, RegistryServer, Up, assert_same,
    mirror_yaml, run, scratch, write_yaml,
};
use tempfile::TempDir;

const LONG: Duration = Duration::from_mins(2);
const SBOM: &str = "application/vnd.example.sbom.v1";

/// A source with odd images, and a `coral up` that mirrors them.
struct Fixture {
    up: Up,
    source: RegistryServer,
    /// The index of two platforms, as it was made.
    app: Layout,
    index: String,
    home: TempDir,
}

impl Fixture {
    /// `root` makes the file system of the image's first layer.
    fn new(kind: RegistryProgram, root: fn(&Path) -> std::path::PathBuf) -> Self {
        let home = scratch();
        let source = RegistryServer::start(kind);
        let (app, index) = build(home.path(), root);
        push(&source, &app, &index, home.path());
        let host = source.host();
        let (app_name, docker) = (format!("{host}/team/app"), format!("{host}/team/docker"));
        let yaml = mirror_yaml("odd", &[(&app_name, "1"), (&docker, "1")], "");
        let yaml = write_yaml(home.path(), &yaml);
        let up = Up::start(&yaml, &home.path().join("data"), &["--plain-http", &host]);
        Self {
            up,
            source,
            app,
            index,
            home,
        }
    }

    fn mirrored(&self, path: &str) -> String {
        format!("{}/{path}", self.source.folder_name())
    }

    /// Compares one tag or digest at both sides.
    fn compare(&self, path: &str, reference: &str) -> e2e::Compared {
        let (host, repository) = (self.source.host(), self.mirrored(path));
        let original = ImageRepository {
            host: &host,
            repository: path,
        };
        let copy = ImageRepository {
            host: self.up.host(),
            repository: &repository,
        };
        assert_same(original, copy, reference)
    }

    /// A fresh folder for a peer to pull into.
    fn folder(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }
}

/// An image of three layers and one for another platform, in an index.
fn build(home: &Path, root: fn(&Path) -> std::path::PathBuf) -> (Layout, String) {
    let layout = Layout::open(home.join("app"));
    add_three_layers(&layout, "three", &root(home));
    let here = layout.tagged("three");
    let arm = layout.add_image("arm64", b"a layer for another platform");
    let index = layout.add_index(&[(here, "amd64"), (arm, "arm64")]);
    layout.tag("1", &index);
    (layout, index["digest"].as_str().unwrap().to_owned())
}

/// By skopeo: the index, a signature under cosign's tag, and the image in Docker's schema 2. By
/// regctl, since skopeo knows no referrers: a referrer.
fn push(source: &RegistryServer, app: &Layout, index: &str, home: &Path) {
    let to = |name: &str| format!("docker://{}/team/{name}", source.host());
    let copy = |from: &str, to: &str, more: &[&str]| {
        let _ = run(skopeo_copy(home, from, to).args(more)).succeeded();
    };
    copy(&app.reference("1"), &to("app:1"), &["--preserve-digests"]);
    let signatures = Layout::open(home.join("signature"));
    signatures.tag(
        "s",
        &signatures.add_image("amd64", b"{\"critical\": \"signed\"}"),
    );
    copy(
        &signatures.reference("s"),
        &to(&format!("app:{}.sig", index.replace(':', "-"))),
        &[],
    );
    copy(
        &app.reference("three"),
        &to("docker:1"),
        &["--format", "v2s2"],
    );
    let sbom = home.join("sbom.json");
    fs::write(&sbom, "{\"packages\": []}").unwrap();
    let host = source.host();
    let mut referrer = regctl(home, &[&host]);
    referrer.args(["artifact", "put", "--artifact-type", SBOM, "--subject"]);
    referrer
        .arg(format!("{host}/team/app@{index}"))
        .arg("--file")
        .arg(&sbom);
    let _ = run(&mut referrer).succeeded();
}

fn odd_images_survive(kind: RegistryProgram) {
    let mut fixture = Fixture::new(kind, busybox_root);
    let app = fixture.mirrored("team/app");
    let signature = format!("{}.sig", fixture.index.replace(':', "-"));
    assert_eq!(fixture.up.wait_for(&app, "1", LONG), fixture.index);
    let compared = fixture.compare("team/app", "1");
    assert_eq!((compared.manifests.len(), compared.blobs.len()), (3, 6));
    fixture.up.wait_for(&app, &signature, LONG);
    fixture.compare("team/app", &signature);
    fixture
        .up
        .wait_for(&fixture.mirrored("team/docker"), "1", LONG);
    assert_eq!(fixture.compare("team/docker", "1").manifests.len(), 1);
    referrers_are_listed(&fixture);
    peers_pull_the_same_bytes(&fixture);
}

fn referrers_are_listed(fixture: &Fixture) {
    let (host, repository) = (fixture.up.host(), fixture.mirrored("team/app"));
    let url = format!("http://{host}/v2/{repository}/referrers/{}", fixture.index);
    let listed = e2e::http::get(&url).json();
    let referrers = listed["manifests"].as_array().unwrap();
    assert_eq!(referrers.len(), 1, "{listed}");
    assert_eq!(referrers[0]["artifactType"], SBOM);
    fixture.compare("team/app", referrers[0]["digest"].as_str().unwrap());
}

/// Every blob of the index as it was built is in what the peer wrote.
fn peers_pull_the_same_bytes(fixture: &Fixture) {
    let (home, host) = (fixture.home.path(), fixture.up.host());
    let image = format!("{host}/{}:1", fixture.mirrored("team/app"));
    let by_skopeo = fixture.folder("by-skopeo");
    let mut skopeo = skopeo_copy(
        home,
        &format!("docker://{image}"),
        &format!("oci:{by_skopeo}:1"),
    );
    let _ = run(skopeo.arg("--preserve-digests")).succeeded();
    let by_crane = fixture.folder("by-crane");
    let _ = run(crane(home).args(["pull", "--format=oci", &image, &by_crane])).succeeded();
    let by_regctl = fixture.folder("by-regctl");
    let mut copy = regctl(home, &[host]);
    copy.args(["image", "copy", "--referrers", "--digest-tags", &image]);
    let _ = run(copy.arg(format!("ocidir://{by_regctl}:1"))).succeeded();
    for folder in [by_skopeo, by_crane, by_regctl] {
        let pulled = Layout::open(&folder).blobs();
        for (digest, bytes) in fixture.app.blobs() {
            assert!(
                pulled.get(&digest) == Some(&bytes),
                "{digest} is not the same in {folder}"
            );
        }
    }
}

#[test]
#[ignore = "needs docker-registry, skopeo, crane, regctl, umoci; run by cargo xtask test"]
fn odd_images_survive_the_way_from_docker_registry() {
    odd_images_survive(RegistryProgram::DockerRegistry);
}

#[test]
#[ignore = "needs distribution, skopeo, crane, regctl, umoci; run by cargo xtask test"]
fn odd_images_survive_the_way_from_distribution() {
    odd_images_survive(RegistryProgram::Distribution);
}

/// With a `hosts.toml` as in the guide; the address behind Coral's answers nothing.
fn pull_by_its_own_name(fixture: &Fixture, containerd: &Containerd) {
    let source = fixture.source.host();
    let folder = fixture.home.path().join("certs.d");
    let of_host = folder.join(&source);
    fs::create_dir_all(&of_host).unwrap();
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n\n[host.\"http://{}\"]\n  capabilities = [\"pull\", \
         \"resolve\"]\n",
        fixture.up.host()
    );
    fs::write(of_host.join("hosts.toml"), text).unwrap();
    let folder = folder.display().to_string();
    let image = format!("{source}/team/app:1");
    let _ = containerd
        .ctr(&["images", "pull", "--hosts-dir", &folder, &image])
        .succeeded();
}

#[test]
#[ignore = "needs root, containerd, runc, debootstrap, umoci; run by cargo xtask test"]
fn containerd_runs_a_mirrored_debian() {
    let mut fixture = Fixture::new(RegistryProgram::Distribution, debian_root);
    let app = fixture.mirrored("team/app");
    fixture.up.wait_for(&app, "1", LONG);
    let image = format!("{}/{app}:1", fixture.up.host());
    let containerd = Containerd::start();
    let _ = containerd
        .ctr(&["images", "pull", "--plain-http", &image])
        .succeeded();
    pull_by_its_own_name(&fixture, &containerd);
    let said = containerd
        .ctr(&["run", "--rm", &image, "greeter"])
        .succeeded();
    assert_eq!(said.text(), GREETING);
    let shell = [
        "run",
        "--rm",
        &image,
        "shell",
        "sh",
        "-c",
        ". /etc/os-release; echo $ID",
    ];
    assert_eq!(containerd.ctr(&shell).succeeded().text(), "debian");
}
