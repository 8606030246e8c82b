//! The programs under test, found by environment variable.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The shipped binary, with nothing of the developer's own settings in its environment.
///
/// # Panics
/// If `CORAL_BIN` names no file.
pub fn coral() -> Command {
    let mut command = Command::new(named_by("CORAL_BIN", "cargo build --release --bin coral"));
    for (name, _) in env::vars_os() {
        let own = name.to_str().is_some_and(|name| name.starts_with("CORAL_"));
        if own {
            command.env_remove(name);
        }
    }
    for name in [
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// The registry with fault switches and the counting proxy, as a process of its own.
///
/// # Panics
/// If `CORAL_FAULTS_BIN` names no file.
pub fn faults() -> Command {
    Command::new(named_by(
        "CORAL_FAULTS_BIN",
        "cargo build -p coral-testkit --example faults",
    ))
}

fn named_by(variable: &str, recipe: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from).unwrap_or_default();
    assert!(
        path.is_file(),
        "{variable} must name the program under test: run `cargo xtask test`, or `{recipe}` and \
         set {variable} to what it built"
    );
    path
}
