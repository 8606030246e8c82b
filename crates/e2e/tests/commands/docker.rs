//! Archives in Docker's format, read and written by Coral, crane and skopeo.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::http::get;
use e2e::peers::{crane, skopeo_copy};
use e2e::{RegistryProgram, RegistryServer, coral, run, scratch};
use serde_json::Value;

use super::command;

/// A registry with `acme/web:1`, an image of one layer with real files.
fn registry_with_image(home: &Path) -> RegistryServer {
    let registry = RegistryServer::start(RegistryProgram::Distribution);
    fs::create_dir(home.join("files")).unwrap();
    fs::write(home.join("files/hello"), "hello, docker").unwrap();
    let layer = home.join("layer.tar");
    let mut tar = Command::new("tar");
    let _ = run(tar
        .arg("-cf")
        .arg(&layer)
        .arg("-C")
        .arg(home.join("files"))
        .arg("."))
    .succeeded();
    let mut append = crane(home);
    append.arg("append").arg("--new_layer").arg(&layer);
    append.args(["--new_tag", &format!("{}/acme/web:1", registry.host())]);
    let _ = run(&mut append).succeeded();
    registry
}

/// Of the image at a path: the digest of its configuration, and the digest and type of each layer.
fn parts(registry: &RegistryServer, path: &str) -> (String, Vec<(String, String)>) {
    let manifest = get(&format!("http://{}/v2/{path}/manifests/1", registry.host())).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| (text(&layer["digest"]), text(&layer["mediaType"])));
    (text(&manifest["config"]["digest"]), layers.collect())
}

fn digests(layers: &[(String, String)]) -> Vec<&str> {
    layers.iter().map(|(digest, _)| digest.as_str()).collect()
}

fn copy(home: &Path, from: &str, to: &str) {
    let _ = run(&mut command(home, &["copy", from, to])).succeeded();
}

#[test]
#[ignore = "needs distribution, crane, skopeo; run by cargo xtask test"]
fn what_coral_writes_is_read_by_crane_skopeo_and_coral() {
    let home = scratch();
    let registry = registry_with_image(home.path());
    let file = home.path().join("ours.tar");
    let at = |path: &str| format!("{}/{path}:1", registry.host());
    let ours = format!("docker-archive:{}", file.display());
    copy(home.path(), &at("acme/web"), &ours);
    let mut push = crane(home.path());
    let _ = run(push.arg("push").arg(&file).arg(at("from/crane"))).succeeded();
    let named = format!("{ours}:{}", at("acme/web"));
    let to = format!("docker://{}", at("from/skopeo"));
    let _ = run(&mut skopeo_copy(home.path(), &named, &to)).succeeded();
    copy(home.path(), &named, &at("from/coral"));
    let (config, layers) = parts(&registry, "acme/web");
    for reader in ["crane", "coral"] {
        let (read, found) = parts(&registry, &format!("from/{reader}"));
        assert_eq!(
            (&read, digests(&found)),
            (&config, digests(&layers)),
            "{reader}"
        );
    }
    // skopeo compresses anew; the image is the same.
    assert_eq!(parts(&registry, "from/skopeo").0, config);
}

#[test]
#[ignore = "needs distribution, crane, skopeo; run by cargo xtask test"]
fn what_crane_and_skopeo_write_is_read() {
    let home = scratch();
    let registry = registry_with_image(home.path());
    let at = |path: &str| format!("{}/{path}:1", registry.host());
    let (config, layers) = parts(&registry, "acme/web");
    let cranes = home.path().join("crane.tar");
    let mut pull = crane(home.path());
    let _ = run(pull.arg("pull").arg(at("acme/web")).arg(&cranes)).succeeded();
    copy(
        home.path(),
        &format!("docker-archive:{}", cranes.display()),
        &at("from/crane"),
    );
    let (read, found) = parts(&registry, "from/crane");
    assert_eq!((&read, digests(&found)), (&config, digests(&layers)));
    let skopeos = home.path().join("skopeo.tar");
    let name = format!("docker-archive:{}:acme/web:7", skopeos.display());
    let from = format!("docker://{}", at("acme/web"));
    let mut write = e2e::peers::skopeo(home.path());
    write.args(["copy", "--quiet", "--src-tls-verify=false", &from, &name]);
    let _ = run(&mut write).succeeded();
    // By its whole name, by its tag, and as the only one that is there.
    for (typed, path) in [("acme/web:7", "whole"), ("7", "tag"), ("", "only")] {
        let typed = format!("docker-archive:{}:{typed}", skopeos.display());
        copy(home.path(), typed.trim_end_matches(':'), &at(path));
        let (read, found) = parts(&registry, path);
        assert_eq!(read, config, "{path}");
        // skopeo's layers are not compressed, and stay so.
        assert_eq!(found.len(), layers.len(), "{path}");
        assert_eq!(
            found[0].1, "application/vnd.oci.image.layer.v1.tar",
            "{path}"
        );
    }
    let gone = format!("docker-archive:{}:acme/other:7", skopeos.display());
    let _ = run(&mut command(home.path(), &["copy", &gone, &at("gone")]))
        .exited(2)
        .saying("no image in it is named \"acme/other:7\"");
}

#[test]
#[ignore = "needs distribution, crane; run by cargo xtask test"]
fn an_archive_of_dockers_goes_through_pipes() {
    let home = scratch();
    let registry = registry_with_image(home.path());
    let at = |path: &str| format!("{}/{path}:1", registry.host());
    let coral = coral().get_program().to_str().unwrap().to_owned();
    let line = format!(
        "{coral} copy {} docker-archive:- | {coral} copy docker-archive:- {}",
        at("acme/web"),
        at("from/pipe"),
    );
    let mut shell = Command::new("sh");
    let _ = run(shell.args(["-c", &line]).env("HOME", home.path())).succeeded();
    let (config, layers) = parts(&registry, "acme/web");
    let (read, found) = parts(&registry, "from/pipe");
    assert_eq!((&read, digests(&found)), (&config, digests(&layers)));
}
