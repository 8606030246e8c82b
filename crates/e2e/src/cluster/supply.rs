//! What the tests of the whole loop begin with: two registries outside, and Coral's objects that
//! bring their images inside.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{Cluster, OutsideRegistry, OwnCluster, PATIENCE, is_ready};
use crate::binary::coral;
use crate::image::{add_three_layers, busybox_root};
use crate::layout::Layout;
use crate::peers::umoci;
use crate::registry::RegistryProgram;
use crate::run::{run, scratch};

/// How the managed Registry of [`Outside::objects`] is named in references.
pub const REGISTRY: &str = "reg.coral-system.svc:5000";

/// Two registries outside, with images that run and whose IDs differ.
pub struct Outside {
    /// On plain HTTP: `team/web` and `team/placed`.
    pub plain: OutsideRegistry,
    /// On HTTPS by a private authority: `team/daemon` and `team/app`.
    pub private: OutsideRegistry,
}

impl Outside {
    /// Starts both and fills them: each image has the tags `1` and `2`.
    pub fn start(own: &OwnCluster) -> Self {
        let outside = Self {
            plain: OutsideRegistry::start(RegistryProgram::DockerRegistry, own),
            private: OutsideRegistry::start_with_private_ca(RegistryProgram::Distribution, own),
        };
        let folder = scratch();
        let layout = Layout::open(folder.path().join("layout"));
        let root = busybox_root(folder.path());
        for (name, at) in [
            ("web", &outside.plain),
            ("placed", &outside.plain),
            ("daemon", &outside.private),
            ("app", &outside.private),
        ] {
            for version in ["1", "2"] {
                let tag = format!("{name}-{version}");
                add_three_layers(&layout, &tag, &root);
                let image = format!("{}:{tag}", layout.folder().display());
                let unique = format!("IMAGE={tag}");
                let mut config = umoci(folder.path());
                config.args(["config", "--image", &image, "--config.env", &unique]);
                let _ = run(&mut config).succeeded();
                at.push(&layout, &tag, &format!("team/{name}:{version}"));
            }
        }
        outside
    }

    /// Every request from nodes and pods to either.
    pub fn requests(&self) -> usize {
        self.plain.requests().len() + self.private.requests().len()
    }

    /// A Registry, a mirror of every image, a route and a lock.
    ///
    /// # Panics
    /// If the certificate cannot be read.
    pub fn objects(&self) -> String {
        let ca = fs::read_to_string(self.private.ca().expect("it has one"))
            .expect("a file of the test's own");
        let ca = ca.lines().map(|line| format!("        {line}\n"));
        format!(
            r#"apiVersion: stvz.io/v1
kind: Registry
metadata: {{name: reg, namespace: coral-system}}
spec:
  storage: {{size: 1Gi}}
---
apiVersion: stvz.io/v1
kind: RegistryMirror
metadata: {{name: outside, namespace: coral-system}}
spec:
  registry: {{name: reg}}
  interval: 5s
  allowFrom: {{}}
  repositories:
    - {{name: "{plain}/team/web", tags: ["1", "2"], plainHTTP: true}}
    - {{name: "{plain}/team/placed", tags: ["1", "2"], plainHTTP: true}}
    - name: "{private}/team/daemon"
      tags: ["1", "2"]
      ca: |
{ca}    - name: "{private}/team/app"
      tags: ["1", "2"]
      ca: |
{ca}---
apiVersion: stvz.io/v1
kind: RegistryRoute
metadata: {{name: outside}}
spec:
  hosts: ["{plain}", "{private}"]
  registry: {{namespace: coral-system, name: reg}}
  sourcePolicy: NeverContactSource
---
apiVersion: stvz.io/v1
kind: InjectionPolicy
metadata: {{name: cluster}}
spec:
  mirrors: [{{namespace: coral-system, name: outside}}]
  lock:
    mode: Mirrored
    registries: ["{REGISTRY}"]
"#,
            plain = self.plain.host(),
            private = self.private.host(),
            ca = ca.collect::<String>(),
        )
    }

    /// Applies Registry, mirror, route and lock, and waits until each says that it works.
    pub fn bring_inside(&self, cluster: &Cluster) {
        cluster.apply(&self.objects());
        cluster.wait_for_ready("coral-system", "registry", "reg");
        cluster.wait_for_ready("coral-system", "registrymirror", "outside");
        cluster.wait_for_ready("default", "registryroute", "outside");
        cluster.wait_for_ready("default", "injectionpolicy", "cluster");
        let policy = ["injectionpolicy", "cluster"];
        cluster.wait_until(
            "the routed hosts in the lock",
            &policy,
            PATIENCE,
            |policy| {
                let allowed = policy["status"]["allowedHosts"].as_array();
                allowed.is_some_and(|hosts| hosts.iter().any(|host| host == self.plain.host()))
            },
        );
    }
}

impl Cluster {
    /// What a person would look at when something of Coral's does not work.
    pub fn explain(&self, namespace: &str) -> String {
        let looks: [&[&str]; 4] = [
            &["-n", namespace, "get", "pods", "-o", "wide"],
            &["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"],
            &[
                "-n",
                "coral-system",
                "logs",
                "deployment/coral-controller",
                "--tail=60",
            ],
            &[
                "-n",
                "coral-nodes",
                "logs",
                "daemonset/coral-agent",
                "--tail=40",
            ],
        ];
        looks.map(|look| self.kubectl(look).to_string()).join("\n")
    }

    /// `coral grant NAMESPACE SECRET… | kubectl apply -f -`
    pub fn grant(&self, namespace: &str, secrets: &[&str]) {
        let mut grant = coral();
        let granted = run(grant.args(["grant", namespace]).args(secrets)).succeeded();
        self.apply(&granted.stdout);
    }

    /// Waits until an object has the condition `Ready`.
    ///
    /// # Panics
    /// If it has not in time; the message shows the object, and what Coral's parts say.
    pub fn wait_for_ready(&self, namespace: &str, kind: &str, name: &str) -> Value {
        let arguments = ["-n", namespace, kind, name];
        let what = format!("{kind} {name} ready");
        self.wait_until(&what, &arguments, Duration::from_mins(2), is_ready)
    }
}
