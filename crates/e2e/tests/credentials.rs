//! Private sources: credentials from a Kubernetes Secret and from Docker's configuration.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::peers::skopeo_copy;
use e2e::{
    FaultServer, Layout, RegistryProgram, RegistryServer, Up, User, coral, mirror_yaml, run,
    scratch, write_yaml,
};
use serde_json::json;

const SOON: Duration = Duration::from_mins(2);
const USER: User = User {
    name: "reader",
    password: "correct horse",
};

/// A registry that asks for a user, with one image pushed by skopeo as that user.
fn private(kind: RegistryProgram, home: &Path) -> (RegistryServer, String) {
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

fn mirrored_with_a_secret(kind: RegistryProgram) {
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
    mirrored_with_a_secret(RegistryProgram::DockerRegistry);
}

#[test]
#[ignore = "needs distribution, htpasswd, skopeo; run by cargo xtask test"]
fn a_secret_opens_distribution() {
    mirrored_with_a_secret(RegistryProgram::Distribution);
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
    let (source, digest) = private(RegistryProgram::Distribution, home.path());
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
    let (source, _) = private(RegistryProgram::Distribution, home.path());
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

const SECRET: &str = "hunter2-secret";

/// A fault registry with one image and these arguments.
fn holding_an_image(arguments: &[&str]) -> FaultServer {
    let seed = json!({"path": "team/app", "tag": "1"}).to_string();
    FaultServer::registry(&[&["--seed-image", &seed], arguments].concat())
}

/// A folder with a credential helper `docker-credential-vault` that is this script.
fn helper(home: &Path, body: &str) -> PathBuf {
    let bin = home.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join("docker-credential-vault");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

/// `coral copy` of `team/app:1` from there into a layout, with this Docker configuration.
fn copy_with(host: &str, home: &Path, config: &serde_json::Value) -> Command {
    let file = home.join("config.json");
    fs::write(&file, config.to_string()).unwrap();
    let mut command = coral();
    let (from, to) = (
        format!("{host}/team/app:1"),
        format!("oci:{}:1", home.join("copied").display()),
    );
    command
        .args(["copy", &from, &to, "--docker-config"])
        .arg(&file);
    command.env("HOME", home).env("CORAL_LOG", "trace");
    command
}

fn path_with(bin: &Path) -> String {
    format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    )
}

/// Insists that the command works and prints no secret.
fn works_in_silence(command: &mut Command) {
    let finished = run(command).succeeded();
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!said.contains(SECRET), "the secret is in {finished}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_credential_helper_opens_it() {
    let home = scratch();
    let auth = json!({"basic": {"username": "me", "password": SECRET}}).to_string();
    let source = holding_an_image(&["--auth", &auth]);
    let answer = json!({"ServerURL": source.host(), "Username": "me", "Secret": SECRET});
    let body = format!(
        "read server; test \"$1 $server\" = 'get {}' && echo '{answer}'",
        source.host()
    );
    let bin = helper(home.path(), &body);
    let mut host = serde_json::Map::new();
    host.insert(source.host().to_owned(), "vault".into());
    for config in [json!({"credHelpers": host}), json!({"credsStore": "vault"})] {
        let mut copy = copy_with(source.host(), home.path(), &config);
        works_in_silence(
            copy.args(["--plain-http", source.host()])
                .env("PATH", path_with(&bin)),
        );
        fs::remove_dir_all(home.path().join("copied")).unwrap();
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_helper_that_is_missing_or_fails_is_named_with_its_file() {
    let home = scratch();
    let auth = json!({"basic": {"username": "me", "password": SECRET}}).to_string();
    let source = holding_an_image(&["--auth", &auth]);
    let bin = helper(
        home.path(),
        &format!("echo {SECRET} >&2; echo 'no such session: {SECRET}'; exit 1"),
    );
    for (name, said) in [("gone", "not on PATH"), ("vault", "exit status: 1")] {
        let mut copy = copy_with(source.host(), home.path(), &json!({"credsStore": name}));
        copy.args(["--plain-http", source.host()])
            .env("PATH", path_with(&bin));
        let failed = run(&mut copy).exited(1).saying(said);
        let failed = failed
            .saying(&format!("docker-credential-{name}"))
            .saying("config.json");
        assert!(!failed.stderr.contains(SECRET), "{failed}");
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn an_identity_token_is_exchanged_at_the_token_server() {
    let home = scratch();
    let auth = json!({"bearer": {"username": "x", "password": "y", "identity_token": SECRET}});
    let source = holding_an_image(&["--auth", &auth.to_string()]);
    let answer = json!({"Username": "<token>", "Secret": SECRET});
    let bin = helper(home.path(), &format!("echo '{answer}'"));
    let mut auths = serde_json::Map::new();
    auths.insert(source.host().to_owned(), json!({"identitytoken": SECRET}));
    for config in [json!({"auths": auths}), json!({"credsStore": "vault"})] {
        let mut copy = copy_with(source.host(), home.path(), &config);
        works_in_silence(
            copy.args(["--plain-http", source.host()])
                .env("PATH", path_with(&bin)),
        );
        fs::remove_dir_all(home.path().join("copied")).unwrap();
    }
    let requests = source.requests();
    let exchanges = requests
        .iter()
        .filter(|r| r.path.starts_with("/token"))
        .collect::<Vec<_>>();
    assert!(
        exchanges
            .iter()
            .all(|r| r.method == "POST" && !r.path.contains(SECRET)),
        "{exchanges:?}"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_client_certificate_opens_a_registry_that_asks_for_one() {
    let home = scratch();
    let ca = home.path().join("ca.pem").display().to_string();
    let dir = home.path().display().to_string();
    let source = holding_an_image(&["--tls", "--ca-out", &ca, "--client-auth", &dir]);
    let copy = || {
        let mut copy = copy_with(source.host(), home.path(), &json!({}));
        copy.arg("--ca").arg(format!("{}={ca}", source.host()));
        copy
    };
    let _ = run(&mut copy()).exited(1).saying(source.host());
    let pair = format!("{}={dir}/client.pem:{dir}/client.key", source.host());
    let _ = run(copy().args(["--client-cert", &pair])).succeeded();
    let wrong = format!("{}={dir}/client.pem:{dir}/missing.key", source.host());
    let _ = run(copy().args(["--client-cert", &wrong]))
        .exited(2)
        .saying("missing.key");
}

/// A registry that only a proxy leads to, the proxy, and the file with its CA.
fn behind_a_proxy(home: &Path, tls: bool) -> (FaultServer, FaultServer, String) {
    let ca = home.join("ca.pem").display().to_string();
    let over_tls = ["--tls", "--ca-out", &ca];
    let source = holding_an_image(if tls { &over_tls } else { &[] });
    let proxy = FaultServer::connect_proxy(source.host(), &format!("me:{SECRET}/@"));
    (source, proxy, ca)
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_proxy_from_the_environment_leads_to_a_registry() {
    for (variable, tls) in [
        ("HTTPS_PROXY", true),
        ("https_proxy", true),
        ("http_proxy", false),
    ] {
        let home = scratch();
        let (_source, mut proxy, ca) = behind_a_proxy(home.path(), tls);
        let mut copy = copy_with("registry.test", home.path(), &json!({}));
        if tls {
            copy.arg("--ca").arg(format!("registry.test={ca}"));
        } else {
            copy.args(["--plain-http", "registry.test"]);
        }
        let user = format!("me:{SECRET}%2F%40");
        copy.env(variable, format!("http://{user}@{}", proxy.host()));
        works_in_silence(&mut copy);
        let asked = if tls {
            "CONNECT registry.test:443"
        } else {
            "GET http://registry.test/v2/"
        };
        proxy.process().wait_for_line(asked, SOON);
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_proxy_that_refuses_or_is_not_meant_is_said_without_its_password() {
    let home = scratch();
    let (_source, mut proxy, ca) = behind_a_proxy(home.path(), true);
    let address = proxy.host().to_owned();
    let copy = |user: &str| {
        let mut copy = copy_with("registry.test", home.path(), &json!({}));
        copy.arg("--ca").arg(format!("registry.test={ca}"));
        copy.env("HTTPS_PROXY", format!("http://{user}@{address}"));
        copy
    };
    let wrong = format!("me:{SECRET}-not");
    let refused = run(&mut copy(&wrong))
        .exited(1)
        .saying(&format!("through the proxy {address}"));
    assert!(!format!("{refused}").contains(SECRET), "{refused}");
    // It was really asked, and said no.
    let no = proxy.process().wait_for_line("407", SOON);
    assert!(no.contains("CONNECT registry.test:443"), "{no}");
    let right = format!("me:{SECRET}%2F%40");
    let direct = run(copy(&right).env("NO_PROXY", "other.test,registry.test")).exited(1);
    let direct = direct.saying("registry.test").saying("does not resolve");
    assert!(!direct.stderr.contains("proxy"), "{direct}");
    let asked = proxy.process().shown();
    let through = asked
        .lines()
        .filter(|l| l.contains("asked") && !l.contains("407"))
        .count();
    assert_eq!(through, 0, "{asked}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_registry_may_have_an_ipv6_address() {
    let home = scratch();
    let source = holding_an_image(&["--listen", "[::1]:0"]);
    let target = FaultServer::registry(&["--listen", "[::1]:0"]);
    assert!(source.host().starts_with("[::1]:"));
    let mut copy = copy_with(source.host(), home.path(), &json!({}));
    let _ = run(copy.args(["--plain-http", source.host()])).succeeded();
    let mut copy = coral();
    let (from, to) = (
        format!("{}/team/app:1", source.host()),
        format!("{}/back/app:1", target.host()),
    );
    copy.args([
        "copy",
        &from,
        &to,
        "--plain-http",
        source.host(),
        "--plain-http",
        target.host(),
    ]);
    let _ = run(copy.env("HOME", home.path())).succeeded();
}
