//! A Kubernetes cluster under test: any that `KUBECONFIG` names, or the one that
//! `cargo xtask cluster` runs on this machine.
//!
//! Only the latter can be cut off, crashed and booted: [`Cluster::own`] says whether it is that.
//! Tests of one binary have the cluster one after another.

mod builds;
mod installation;
mod outside;
mod own;
mod reader;
mod supply;
mod taint;

pub use builds::{Builds, PUBLISHER, example, has_ended, ready};
pub use installation::WORKLOADS;
pub use outside::{OutsideRegistry, OutsideRequest};
pub use own::{AuditedRequest, Dropped, OwnCluster};
pub use reader::{Reader, page, pose};
pub use supply::{Outside, REGISTRY};
pub use taint::Taint;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::run::{Finished, run, scratch};
use crate::wait::until_every;

/// How long to wait for objects and pods on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(4);
/// Polling runs kubectl, which uses a processor for some 50 ms.
const PERIOD: Duration = Duration::from_millis(200);

static TURN: Mutex<()> = Mutex::new(());

/// The cluster, for the time of one test.
pub struct Cluster {
    kubeconfig: PathBuf,
    own: Option<OwnCluster>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// The cluster that `KUBECONFIG` names, once no other test of this binary has it.
    ///
    /// # Panics
    /// If `KUBECONFIG` names no file.
    pub fn connect() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let kubeconfig = env::var_os("KUBECONFIG").map(PathBuf::from);
        let kubeconfig = kubeconfig.filter(|file| file.is_file()).expect(
            "KUBECONFIG must name a file: run `cargo xtask test --only e2e:cluster`, or \
             `cargo xtask cluster up` and `eval \"$(cargo xtask cluster env)\"`",
        );
        Self {
            kubeconfig,
            own: OwnCluster::from_environment(),
            _turn: turn,
        }
    }

    /// The cluster as one that can be cut off, crashed and booted; `None`, and a line that says so,
    /// for any other.
    pub fn own(&self) -> Option<&OwnCluster> {
        if self.own.is_none() {
            println!("\nskipped: this test needs the cluster of `cargo xtask cluster up`");
        }
        self.own.as_ref()
    }

    /// A reference to an image of busybox that the nodes can pull.
    pub fn busybox(&self) -> String {
        match &self.own {
            Some(own) => own.base_image("busybox"),
            None => env::var("CORAL_TEST_BUSYBOX")
                .unwrap_or_else(|_| "docker.io/library/busybox:1".to_owned()),
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl; the caller looks at its exit code.
    pub fn kubectl(&self, arguments: &[&str]) -> Finished {
        let mut kubectl = Command::new("kubectl");
        run(kubectl.env("KUBECONFIG", &self.kubeconfig).args(arguments))
    }

    /// Applies YAML; the caller looks at its exit code.
    pub fn try_apply(&self, yaml: &str) -> Finished {
        let folder = scratch();
        let file = folder.path().join("objects.yaml");
        fs::write(&file, yaml).expect("scratch is writable");
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Applies YAML that must be accepted.
    pub fn apply(&self, yaml: &str) -> Finished {
        self.try_apply(yaml).succeeded()
    }

    /// `kubectl get … -o json`, or nothing if there is no such object.
    ///
    /// # Panics
    /// On any other error.
    pub fn get(&self, arguments: &[&str]) -> Option<Value> {
        let arguments = [&["get", "-o", "json"], arguments].concat();
        let finished = self.kubectl(&arguments);
        if finished.code != 0 && finished.stderr.contains("NotFound") {
            return None;
        }
        let finished = finished.succeeded();
        Some(serde_json::from_str(&finished.stdout).expect("kubectl prints JSON"))
    }

    /// Waits until an object or list (`kubectl get …`) is there and as it should be.
    ///
    /// # Panics
    /// If it is not in time; the message shows what it was in the end.
    pub fn wait_until(
        &self,
        what: &str,
        arguments: &[&str],
        timeout: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = String::from("nothing");
        let found = until_every(PERIOD, timeout, || {
            let value = self.get(arguments)?;
            last = format!("{value:#}");
            holds(&value).then_some(value)
        });
        found.unwrap_or_else(|| panic!("not within {timeout:?}: {what}; it was {last}"))
    }

    /// Waits until a pod of a namespace is ready.
    ///
    /// # Panics
    /// If it is not in time; the message shows the pod.
    pub fn wait_for_pod(&self, namespace: &str, name: &str) -> Value {
        let arguments = ["-n", namespace, "pod", name];
        self.wait_until(&format!("pod {name} ready"), &arguments, PATIENCE, is_ready)
    }

    /// Runs a shell command in a pod; the caller looks at its exit code.
    pub fn shell(&self, namespace: &str, pod: &str, script: &str) -> Finished {
        self.kubectl(&["-n", namespace, "exec", pod, "--", "sh", "-c", script])
    }

    /// A new namespace, deleted with the value.
    pub fn namespace(&self, prefix: &str) -> Namespace<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        let _ = self.kubectl(&["create", "namespace", &name]).succeeded();
        let account = ["-n", &name, "serviceaccount", "default"];
        self.wait_until("the default ServiceAccount", &account, PATIENCE, |_| true);
        Namespace {
            cluster: self,
            name,
        }
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        let list = self.get(&["nodes"]).expect("a list is always there");
        names_of(&list)
    }
}

/// A namespace of one test.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Namespace<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies YAML of objects of this namespace, which must be accepted.
    pub fn apply(&self, yaml: &str) {
        let folder = scratch();
        let file = folder.path().join("objects.yaml");
        fs::write(&file, yaml).expect("scratch is writable");
        let arguments = ["-n", &self.name, "apply", "-f", &file.to_string_lossy()];
        let _ = self.cluster.kubectl(&arguments).succeeded();
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let arguments = ["delete", "namespace", &self.name, "--wait=false"];
        let _ = self.cluster.kubectl(&arguments);
    }
}

/// Whether an object has the condition `Ready` with status `True`.
pub fn is_ready(object: &Value) -> bool {
    has_condition(object, "Ready", "True")
}

/// Whether an object has a condition with a status, and that is about the object as it is now.
pub fn has_condition(object: &Value, kind: &str, status: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| {
        let seen = &condition["observedGeneration"];
        let is_now = seen.is_null() || *seen == object["metadata"]["generation"];
        condition["type"] == kind && condition["status"] == status && is_now
    })
}

/// The names of a list's objects.
pub fn names_of(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|item| item["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}
