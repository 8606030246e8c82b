//! The files of a pod in a temporary folder.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use coral_build::{CredentialError, CredentialFuture, CredentialSource, Pod, StepCredential};
use coral_image::Host;
use coral_testkit::Auth;
use serde_json::{Value, json};

/// A pod whose paths are in a temporary folder.
pub(crate) struct TestPod {
    pub(crate) pod: Pod,
    pub(crate) folder: tempfile::TempDir,
}

impl TestPod {
    /// A pod of a build from this source, whose registry is not reached.
    pub(crate) fn new(source: &Value, tags: &[&str]) -> Self {
        Self::at("local.coral-system.svc:5000", source, tags)
    }

    /// A pod of a build into this registry.
    pub(crate) fn at(registry: &str, source: &Value, tags: &[&str]) -> Self {
        let output = json!({"limit": 1 << 30, "registry": registry, "tags": tags});
        Self::with_output(source, &output)
    }

    /// A pod of a build with this output.
    pub(crate) fn with_output(source: &Value, output: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pod = Pod::beneath(folder.path());
        let made = Self { pod, folder };
        for path in ["source", "output", "record", "registries", "input"] {
            std::fs::create_dir_all(made.path(&format!("coral-build/{path}"))).unwrap();
        }
        let run = json!({
            "name": "shop", "namespace": "team-a", "uid": "7c9e", "run": "0123abcd",
            "source": source,
            "build": {
                "image": "builder:1", "args": ["--target", "web"],
                "env": [{"name": "NAME", "value": "kept to itself"}],
            },
            "output": output,
        });
        made.write("coral-build/registries/build.json", &run.to_string());
        made
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    /// A Docker configuration with a password for one host.
    pub(crate) fn write_docker_config(&self, folder: &str, host: &str, user: &str, pass: &str) {
        let entry = json!({"username": user, "password": pass});
        let config = json!({"auths": {host: entry}});
        self.write(&format!("{folder}/config.json"), &config.to_string());
    }
}

/// A controller that gives nothing.
pub(crate) struct NoCredential;

impl CredentialSource for NoCredential {
    fn credential(&self) -> CredentialFuture<'_> {
        Box::pin(async { Err(CredentialError("nothing is given here".into())) })
    }
}

/// A controller that always gives the same password.
pub(crate) struct Password(pub(crate) StepCredential);

impl Password {
    pub(crate) fn new(registry: &Host, password: &str) -> Self {
        Self(StepCredential::new(registry, "token", password))
    }
}

impl CredentialSource for Password {
    fn credential(&self) -> CredentialFuture<'_> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// A controller whose first answers are signed with a key that the registry does not take.
pub(crate) struct Replaced {
    registry: Host,
    first: usize,
    asked: AtomicUsize,
}

impl Replaced {
    /// So many answers are not taken; those that follow are the password `secret`.
    pub(crate) fn after(registry: &Host, first: usize) -> Self {
        Self {
            registry: registry.clone(),
            first,
            asked: AtomicUsize::new(0),
        }
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl CredentialSource for Replaced {
    fn credential(&self) -> CredentialFuture<'_> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let is_first = asked < self.first;
        let password = if is_first { "unknown" } else { "secret" };
        let credential = StepCredential::new(&self.registry, "token", password);
        Box::pin(async { Ok(credential) })
    }
}

/// A registry's demand for a user and a password.
pub(crate) fn basic(username: &str, password: &str) -> Auth {
    Auth::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}
