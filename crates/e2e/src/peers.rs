//! Third-party tools, each with its own home folder so that no developer's settings matter.

use std::path::Path;
use std::process::Command;

fn tool(name: &str, home: &Path) -> Command {
    let mut command = Command::new(name);
    command
        .env("HOME", home)
        .env("DOCKER_CONFIG", home.join(".docker"));
    command
        .env("XDG_RUNTIME_DIR", home)
        .env_remove("REGISTRY_AUTH_FILE");
    command
}

/// skopeo, with Debian's or any other policy on signatures left aside.
pub fn skopeo(home: &Path) -> Command {
    let mut command = tool("skopeo", home);
    command.args(["--insecure-policy", "--command-timeout", "2m"]);
    command
}

/// `skopeo copy` of all platforms between plain-HTTP registries and folders.
pub fn skopeo_copy(home: &Path, source: &str, destination: &str) -> Command {
    let mut command = skopeo(home);
    command.args([
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    command.args(["--all", source, destination]);
    command
}

/// crane, which takes loopback for plain HTTP by itself.
pub fn crane(home: &Path) -> Command {
    let mut command = tool("crane", home);
    command.arg("--insecure");
    command
}

/// regctl, told that these hosts speak plain HTTP.
pub fn regctl(home: &Path, hosts: &[&str]) -> Command {
    let mut command = tool("regctl", home);
    for host in hosts {
        command.args(["--host", &format!("reg={host},tls=disabled")]);
    }
    command
}

/// umoci, the maker of images from folders.
pub fn umoci(home: &Path) -> Command {
    tool("umoci", home)
}
