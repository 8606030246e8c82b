//! Private sources: credentials from a Kubernetes Secret and from Docker's configuration.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::peers::skopeo_copy;
use e2e::{Kind, Layout, RegistryServer, Up, User, coral, mirror_yaml, run, scratch, write_yaml};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
const USER: User = User {
    name: "reader",
    password: "correct horse",
};

/// A registry that asks for a user, with one image pushed by skopeo as that user.
fn private(kind: Kind, home: &Path) -> (RegistryServer, String) {
    let source = RegistryServer::start_for(kind, USER);
    let layout = Layout::open(home.join("private"));
    let image = layout.add_image("amd64", b"a private layer");
    layout.tag("1", &image);
    let to = format!("docker://{}/team/private:1", source.host());
    let mut copy = skopeo_copy(home, &layout.reference("1"), &to);
    copy.args([
        "--preserve-digests",
        "--dest-creds",
        &format!("{}:{}", USER.name, USER.password),
    ]);
    let _ = run(&mut copy).succeeded();
    (source, image["digest"].as_str().unwrap().to_owned())
}

fn docker_config(host: &str, password: &str) -> String {
    json!({"auths": {host: {"username": USER.name, "password": password}}}).to_string()
}

fn secret_yaml(name: &str, config: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n\
         type: kubernetes.io/dockerconfigjson\nstringData:\n  .dockerconfigjson: '{config}'\n"
    )
}

fn mirror_of(source: &RegistryServer, more: &str) -> String {
    mirror_yaml(
        "private",
        &[(&format!("{}/team/private", source.host()), "1")],
        more,
    )
}

fn mirrored_with_a_secret(kind: Kind) {
    let home = scratch();
    let (source, digest) = private(kind, home.path());
    let config = docker_config(&source.host(), USER.password);
    let yaml = mirror_of(&source, "  imagePullSecrets:\n    - name: regcred\n")
        + &secret_yaml("regcred", &config);
    let yaml = write_yaml(home.path(), &yaml);
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--plain-http", &source.host()]);
    let repository = format!("{}/team/private", source.folder_name());
    assert_eq!(up.wait_for(&repository, "1", SOON), digest);
    assert!(
        !up.process().shown().contains(USER.password),
        "the password is in the output"
    );
}

#[test]
#[ignore = "needs docker-registry, htpasswd, skopeo; run by cargo xtask test"]
fn a_secret_opens_docker_registry() {
    mirrored_with_a_secret(Kind::DockerRegistry);
}

#[test]
#[ignore = "needs distribution, htpasswd, skopeo; run by cargo xtask test"]
fn a_secret_opens_distribution() {
    mirrored_with_a_secret(Kind::Distribution);
}

/// `coral copy` of the private image into a layout.
fn copy(source: &RegistryServer, home: &Path) -> (Command, PathBuf) {
    let folder = home.join("copied");
    let mut command = coral();
    command
        .arg("copy")
        .arg(format!("{}/team/private:1", source.host()));
    command.arg(format!("oci:{}:1", folder.display()));
    command
        .args(["--plain-http", &source.host()])
        .env("HOME", home);
    (command, folder)
}

#[test]
#[ignore = "needs distribution, htpasswd, skopeo; run by cargo xtask test"]
fn dockers_configuration_opens_it_by_flag_and_from_the_home_folder() {
    let home = scratch();
    let (source, digest) = private(Kind::Distribution, home.path());
    let config = docker_config(&source.host(), USER.password);
    let file = home.path().join("elsewhere.json");
    fs::write(&file, &config).unwrap();
    let (mut command, folder) = copy(&source, home.path());
    let _ = run(command.arg("--docker-config").arg(&file)).succeeded();
    assert_eq!(Layout::open(&folder).tagged("1")["digest"], digest.as_str());
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(home.path().join(".docker")).unwrap();
    fs::write(home.path().join(".docker/config.json"), &config).unwrap();
    let _ = run(&mut copy(&source, home.path()).0).succeeded();
    assert_eq!(Layout::open(&folder).tagged("1")["digest"], digest.as_str());
}

#[test]
#[ignore = "needs distribution, htpasswd, skopeo; run by cargo xtask test"]
fn a_wrong_password_is_named_without_being_shown() {
    let home = scratch();
    let (source, _) = private(Kind::Distribution, home.path());
    let file = home.path().join("wrong.json");
    e2e::password(USER.name, "wrong-password");
    fs::write(&file, docker_config(&source.host(), "wrong-password")).unwrap();
    let (mut command, _) = copy(&source, home.path());
    let failed = run(command.arg("--docker-config").arg(&file)).exited(1);
    let failed = failed.saying(&source.host()).saying("401");
    assert!(
        !failed.stderr.contains("wrong-password"),
        "the password is in {failed}"
    );
    let (mut anonymous, _) = copy(&source, home.path());
    let _ = run(&mut anonymous).exited(1).saying(&source.host());
}
