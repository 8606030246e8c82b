//! Coral in the cluster, as a user installs it: the container image on the nodes, and
//! `kubectl apply -k deploy/`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Cluster, PATIENCE};
use crate::binary::coral;
use crate::run::{Finished, run, scratch};

/// What `deploy/` calls the image.
const IMAGE: &str = "localhost/coral:latest";

/// The parts that have to be up, as `kubectl get` is asked for them.
pub const WORKLOADS: [(&str, &str); 3] = [
    ("coral-system", "deployment/coral-controller"),
    ("coral-system", "deployment/coral-webhook"),
    ("coral-nodes", "daemonset/coral-agent"),
];

impl Cluster {
    /// Puts the image on the nodes, applies `deploy/`, and waits until every part is ready.
    ///
    /// On a cluster that is not this machine's, `CORAL_TEST_IMAGE` names the image, which its nodes
    /// can pull.
    pub fn install(&self) {
        self.load_image();
        self.apply_deploy();
        self.wait_until_installed();
    }

    /// Makes the container image of the program under test, and loads it into every node.
    pub fn load_image(&self) {
        let Some(own) = self.own.as_ref() else {
            return;
        };
        let folder = scratch();
        let archive = folder.path().join("coral.tar");
        let destination = format!("oci-archive:{}:latest", archive.display());
        let mut image = coral();
        let _ = run(image.args(["image", &destination])).succeeded();
        own.load(&archive, IMAGE);
    }

    /// `kubectl apply -k deploy/`, until the API server knows the kinds.
    pub fn apply_deploy(&self) {
        let folder = scratch();
        let base = Self::base(folder.path());
        let _ = self.kubectl(&["apply", "-k", &base]).succeeded();
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
        ];
        let part_of = ["--selector", "app.kubernetes.io/part-of=coral"];
        let _ = self
            .kubectl(&[&established[..], &part_of].concat())
            .succeeded();
    }

    /// `kubectl delete --ignore-not-found -k deploy/`: the namespaces go first, and take along what
    /// comes later in kubectl's list.
    pub fn delete_deploy(&self) -> Finished {
        let folder = scratch();
        let base = Self::base(folder.path());
        self.kubectl(&[
            "delete",
            "--ignore-not-found",
            "--timeout=120s",
            "-k",
            &base,
        ])
    }

    /// Waits until every part is ready.
    pub fn wait_until_installed(&self) {
        for (namespace, workload) in WORKLOADS {
            let arguments = ["-n", namespace, workload];
            self.wait_until(&format!("{workload} is ready"), &arguments, PATIENCE, is_up);
        }
    }

    /// `coral uninstall`, with these flags; the caller looks at its exit code.
    pub fn uninstall(&self, flags: &[&str]) -> Finished {
        let mut uninstall = coral();
        uninstall.arg("uninstall").args(flags);
        run(uninstall.env("KUBECONFIG", self.kubeconfig()))
    }

    /// The folder for `-k`: `deploy/` itself, or one over it that names another image.
    fn base(folder: &Path) -> String {
        let deploy = deploy();
        let Ok(image) = env::var("CORAL_TEST_IMAGE") else {
            return deploy.display().to_string();
        };
        let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        // kustomize takes relative paths only.
        let copy = folder.join("deploy");
        let mut copying = std::process::Command::new("cp");
        let _ = run(copying.arg("-r").arg(&deploy).arg(&copy)).succeeded();
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
             resources: [deploy]\nimages:\n- {{name: localhost/coral, newName: {name}, \
             newTag: {tag:?}}}\n"
        );
        fs::write(folder.join("kustomization.yaml"), text).expect("scratch is writable");
        folder.display().to_string()
    }
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// Whether a Deployment or `DaemonSet` has all its pods ready, and of its last version.
fn is_up(workload: &Value) -> bool {
    let status = &workload["status"];
    let seen = status["observedGeneration"] == workload["metadata"]["generation"];
    let count = |name: &str| status[name].as_u64().unwrap_or_default();
    let (wanted, ready, updated) = if workload["kind"] == "DaemonSet" {
        let names = [
            "desiredNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
        ];
        (count(names[0]), count(names[1]), count(names[2]))
    } else {
        let wanted = workload["spec"]["replicas"].as_u64().unwrap_or(1);
        (wanted, count("readyReplicas"), count("updatedReplicas"))
    };
    seen && wanted > 0 && ready == wanted && updated == wanted
}
