//! Real clients in front of a real registry: crane, containerd, and mirrors of `coral up`.

use std::fs;
use std::path::Path;
use std::thread;

use e2e::image::{GREETING, add_three_layers, busybox_root};
use e2e::peers::{crane, skopeo_copy};
use e2e::{
    Containerd, FaultServer, Kind, Layout, RegistryServer, Up, coral, http, mirror_yaml, run,
    scratch, until, write_yaml,
};
use tempfile::TempDir;

use crate::server::{Server, arguments};
use crate::stand::{SOON, one, stored};

/// distribution with an image of two platforms, a proxy that counts what is read there, and Coral
/// that pulls through the proxy.
struct Real {
    source: RegistryServer,
    proxy: FaultServer,
    coral: Server,
    layout: Layout,
    home: TempDir,
}

impl Real {
    fn start() -> Self {
        let home = scratch();
        let source = RegistryServer::start(Kind::Distribution);
        let layout = Layout::open(home.path().join("app"));
        add_three_layers(&layout, "three", &busybox_root(home.path()));
        let here = layout.tagged("three");
        let arm = layout.add_image("arm64", b"a layer for another platform");
        layout.tag("1", &layout.add_index(&[(here, "amd64"), (arm, "arm64")]));
        let to = format!("docker://{}/team/app:1", source.host());
        let mut push = skopeo_copy(home.path(), &layout.reference("1"), &to);
        let _ = run(push.arg("--preserve-digests")).succeeded();
        let proxy = FaultServer::proxy(&source.host());
        let coral = serve(home.path(), proxy.host());
        Self {
            source,
            proxy,
            coral,
            layout,
            home,
        }
    }

    /// The image, as clients name it at Coral.
    fn image(&self) -> String {
        let folder = self.proxy.folder_name();
        format!("{}/{folder}/team/app:1", self.coral.address)
    }

    fn wait_until_stored(&self) {
        let storage = self.home.path().join("storage");
        let repository = format!("{}/team/app", self.proxy.folder_name());
        until("the tag is stored", SOON, || {
            stored(&storage, &repository, "1").map(drop)
        });
    }

    /// Pulls by crane, and compares every blob of the layout.
    fn pull(&self, name: &str) {
        let folder = self.home.path().join(name);
        let mut crane = crane(self.home.path());
        crane.args(["pull", "--format=oci", &self.image()]);
        let _ = run(crane.arg(&folder)).succeeded();
        let pulled = Layout::open(&folder).blobs();
        for (digest, bytes) in self.layout.blobs() {
            assert!(pulled.get(&digest) == Some(&bytes), "{digest} in {name}");
        }
    }
}

fn serve(home: &Path, source: &str) -> Server {
    let mut command = coral();
    command.args(arguments(&home.join("storage")));
    Server::start_with(command.args(["--pull-through", source]))
}

#[test]
#[ignore = "needs distribution, skopeo, crane, umoci; run by cargo xtask test"]
fn eight_cranes_at_once_pull_the_same_bytes_and_each_blob_is_read_once() {
    let mut real = Real::start();
    thread::scope(|scope| {
        for number in 0..8 {
            let real = &real;
            scope.spawn(move || real.pull(&format!("pulled-{number}")));
        }
    });
    let requests = real.proxy.requests();
    let blobs = requests.iter().filter(|request| request.reads_blob());
    let mut paths: Vec<&str> = blobs.map(|request| request.path.as_str()).collect();
    let count = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), count, "each once: {requests:?}");
    // Three layers and a layer, and two configurations.
    assert_eq!(count, 6, "{paths:?}");

    real.wait_until_stored();
    real.source.process().signal("KILL");
    real.source.process().wait(SOON);
    real.proxy.kill();
    real.pull("without-source");
    real.coral.process.signal("TERM");
    real.coral.process.wait(SOON);
    real.coral = serve(real.home.path(), real.proxy.host());
    real.pull("after-restart");
}

/// A folder for `--hosts-dir`: what is pulled from the source is asked of Coral, and of nothing
/// else.
fn hosts(home: &Path, source: &str, coral: &str) -> String {
    let folder = home.join("certs.d");
    let of_source = folder.join(source);
    fs::create_dir_all(&of_source).unwrap();
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n\n[host.\"http://{coral}\"]\n  capabilities = [\"pull\", \
         \"resolve\"]\n"
    );
    fs::write(of_source.join("hosts.toml"), text).unwrap();
    folder.display().to_string()
}

#[test]
#[ignore = "needs root, containerd, runc, distribution, umoci; run by cargo xtask test"]
fn containerd_pulls_through_under_the_name_of_the_source_and_runs_the_image() {
    let mut real = Real::start();
    let source = real.proxy.host().to_owned();
    let folder = hosts(real.home.path(), &source, &real.coral.address);
    let image = format!("{source}/team/app:1");
    let containerd = Containerd::start();
    let pull = ["images", "pull", "--hosts-dir", &folder, &image];
    let _ = containerd.ctr(&pull).succeeded();
    let said = containerd.ctr(&["run", "--rm", &image, "greeter"]);
    assert_eq!(said.succeeded().text(), GREETING);
    real.wait_until_stored();
    real.proxy.kill();
    let other = Containerd::start();
    let _ = other.ctr(&pull).succeeded();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_request_with_ns_is_answered_from_the_same_repository() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let made = source.load(&one("1", 1, &[700]));
    let coral = serve(home.path(), source.host());
    let root = made["digest"].as_str().unwrap();
    let get = |what: &str| {
        let ns = source.host();
        http::get(&format!(
            "http://{}/v2/team/app/{what}?ns={ns}",
            coral.address
        ))
    };
    let manifest = get("manifests/1");
    assert_eq!(manifest.status, 200);
    assert_eq!(e2e::sha256(&manifest.body), root);
    for blob in made["blobs"].as_array().unwrap() {
        let digest = blob["digest"].as_str().unwrap();
        assert_eq!(e2e::sha256(&get(&format!("blobs/{digest}")).body), digest);
    }
    assert_eq!(get("manifests/2").status, 404);
    let repository = format!("{}/team/app", source.folder_name());
    until("the repository is listed", SOON, || {
        let listed = http::get(&format!("http://{}/v2/_catalog", coral.address)).json();
        let names = listed["repositories"].as_array()?.clone();
        names.contains(&repository.as_str().into()).then_some(())
    });
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn coral_up_mirrors_and_pulls_through_from_the_same_source() {
    let home = scratch();
    let mut source = FaultServer::registry(&[]);
    let mirrored = source.load(&one("1", 1, &[700]));
    let mut other = one("9", 2, &[800]);
    other["path"] = "team/other".into();
    let pulled = source.load(&other);
    let name = format!("{}/team/app", source.host());
    let yaml = write_yaml(home.path(), &mirror_yaml("web", &[(&name, "1")], ""));
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--pull-through", source.host()]);
    // The mirror copies, although the registry could fetch the image itself.
    up.process().wait_for_line("mirrored ", SOON);
    let base = format!("http://{}/v2/{}", up.host(), source.folder_name());
    let get = |repository: &str, what: &str| http::get(&format!("{base}/{repository}/{what}"));
    let blobs = |made: &serde_json::Value| -> Vec<String> {
        let blobs = made["blobs"].as_array().unwrap().iter();
        blobs
            .map(|blob| blob["digest"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(get("team/other", "manifests/9").status, 200);
    for digest in blobs(&pulled) {
        assert_eq!(get("team/other", &format!("blobs/{digest}")).status, 200);
    }
    let storage = data.join("registry");
    let repository = format!("{}/team/other", source.folder_name());
    until("the tag is stored", SOON, || {
        stored(&storage, &repository, "9").map(drop)
    });
    source.kill();
    for (repository, tag, made) in [("team/app", "1", &mirrored), ("team/other", "9", &pulled)] {
        let manifest = get(repository, &format!("manifests/{tag}"));
        assert_eq!(manifest.status, 200, "{repository}");
        assert_eq!(e2e::sha256(&manifest.body), made["digest"]);
        for digest in blobs(made) {
            assert_eq!(get(repository, &format!("blobs/{digest}")).status, 200);
        }
    }
}
