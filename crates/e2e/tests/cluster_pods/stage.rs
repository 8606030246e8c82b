//! The setup that the tests of this file share: Coral installed once, and images inside.

use std::sync::OnceLock;

use e2e::cluster::{Cluster, Namespace, Outside, OwnCluster, PATIENCE, REGISTRY};
use e2e::{Finished, scratch, sha256, until};
use serde_json::{Value, json};

/// The registries outside, for as long as the tests run.
static OUTSIDE: OnceLock<Outside> = OnceLock::new();

/// A pod that runs waits in this way.
pub(crate) const WAIT: [&str; 3] = ["/bin/busybox", "sleep", "3600"];

/// Coral installed, and images inside: a Registry, a mirror that takes in the namespaces with the
/// label `tenant=true`, a route that never asks the source, and a lock.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) own: &'a OwnCluster,
    pub(crate) outside: &'static Outside,
}

impl<'a> Stage<'a> {
    /// The stage, made by the first test that asks; `None` where it cannot be made.
    pub(crate) fn set(cluster: &'a Cluster) -> Option<Self> {
        let own = cluster.own()?;
        let outside = OUTSIDE.get_or_init(|| {
            cluster.install();
            let mut outside = Outside::start(own);
            outside.plain.end_with_the_tests();
            outside.private.end_with_the_tests();
            cluster.apply(&objects(&outside));
            cluster.wait_for_ready("coral-system", "registry", "reg");
            outside
        });
        let stage = Self {
            cluster,
            own,
            outside,
        };
        stage.wait_until_ready();
        Some(stage)
    }

    /// Waits until every object says that it works, and the webhook rewrites.
    pub(crate) fn wait_until_ready(&self) {
        let cluster = self.cluster;
        cluster.wait_until_installed();
        cluster.wait_for_ready("coral-system", "registry", "reg");
        cluster.wait_for_ready("coral-system", "registrymirror", "outside");
        cluster.wait_for_ready("default", "registryroute", "outside");
        cluster.wait_for_ready("default", "injectionpolicy", "cluster");
    }

    /// A namespace that the mirror allows.
    pub(crate) fn tenant(&self, prefix: &str) -> Namespace<'a> {
        let namespace = self.cluster.namespace(prefix);
        let label = ["label", "namespace", namespace.name(), "tenant=true"];
        let _ = self.cluster.kubectl(&label).succeeded();
        self.wait_until_rewritten(&namespace);
        namespace
    }

    /// Waits until a pod of the namespace would be rewritten.
    pub(crate) fn wait_until_rewritten(&self, namespace: &Namespace<'_>) {
        let mut pod = pod("probe", &self.app());
        pod["metadata"]["annotations"] = json!({"image.stvz.io/inject": "registry"});
        until("pods are rewritten", PATIENCE, || {
            let created = self.dry_run(namespace, &pod);
            (image_of(&created.object) == inside(&self.app())).then_some(())
        });
    }

    /// An image on plain HTTP: `web` or `placed`.
    pub(crate) fn plain(&self, name: &str) -> String {
        format!("{}/team/{name}:1", self.outside.plain.host())
    }

    /// An image on HTTPS by a private authority.
    pub(crate) fn app(&self) -> String {
        format!("{}/team/app:1", self.outside.private.host())
    }

    /// Another one.
    pub(crate) fn daemon(&self) -> String {
        format!("{}/team/daemon:1", self.outside.private.host())
    }

    /// Sends an object through admission without storing it.
    pub(crate) fn dry_run(&self, namespace: &Namespace<'_>, object: &Value) -> Created {
        let more = ["--dry-run=server", "-o", "json"];
        let finished = self.create(namespace, object, &more).succeeded();
        let object = serde_json::from_str(&finished.stdout).expect("kubectl prints JSON");
        Created {
            object,
            warnings: finished.stderr,
        }
    }

    /// `kubectl create` with these flags; the caller looks at its exit code.
    pub(crate) fn create(
        &self,
        namespace: &Namespace<'_>,
        object: &Value,
        flags: &[&str],
    ) -> Finished {
        let folder = scratch();
        let file = folder.path().join("object.json");
        std::fs::write(&file, object.to_string()).expect("scratch is writable");
        let file = file.to_string_lossy();
        let create = ["-n", namespace.name(), "create", "-f", &file];
        self.cluster.kubectl(&[&create[..], flags].concat())
    }

    /// Waits until a Deployment has all its pods.
    pub(crate) fn wait_for_deployment(&self, namespace: &str, name: &str) {
        let workload = format!("deployment/{name}");
        let status = [
            "-n",
            namespace,
            "rollout",
            "status",
            &workload,
            "--timeout=90s",
        ];
        let finished = self.cluster.kubectl(&status);
        assert_eq!(
            finished.code,
            0,
            "{finished}\n{}",
            self.cluster.explain(namespace)
        );
    }

    /// An Image object that places an image on a node, or on every node.
    pub(crate) fn placed(name: &str, image: &str, node: Option<&str>) -> Value {
        let (repository, tag) = image.rsplit_once(':').expect("the image has a tag");
        let host = "kubernetes.io/hostname";
        let selector = match node {
            Some(node) => json!([{"key": host, "operator": "in", "values": [node]}]),
            None => json!([]),
        };
        json!({
            "apiVersion": "stvz.io/v1", "kind": "Image", "metadata": {"name": name},
            "spec": {
                "selector": selector,
                "repositories": [{"name": repository, "tags": [tag]}],
            },
        })
    }

    /// Whether a node has an image, as its label says.
    pub(crate) fn has_label(&self, node: &str, image: &str) -> bool {
        let node = self
            .cluster
            .get(&["node", node])
            .expect("the node is there");
        node["metadata"]["labels"][label_of(image)] == "available"
    }

    /// Waits until a node has an image, as its label says.
    pub(crate) fn wait_for_label(&self, node: &str, image: &str) {
        until(&format!("{image} on {node}"), PATIENCE, || {
            self.has_label(node, image).then_some(())
        });
    }

    /// Kills the pods with a label at once; what made them makes others.
    pub(crate) fn kill(&self, namespace: &str, selector: &str) {
        let kill = ["-n", namespace, "delete", "pod", "-l", selector];
        let now = ["--grace-period=0", "--force", "--wait=false"];
        let killed = self.cluster.kubectl(&[&kill[..], &now].concat());
        let killed = killed.succeeded();
        assert!(
            killed.stdout.contains("deleted"),
            "no pod {selector}: {killed}"
        );
    }

    /// The UIDs of the pods with a label.
    pub(crate) fn uids(&self, namespace: &str, selector: &str) -> Vec<Value> {
        let pods = self.pods(namespace, selector).into_iter();
        pods.map(|pod| pod["metadata"]["uid"].clone()).collect()
    }

    /// The pods of a namespace with a label.
    pub(crate) fn pods(&self, namespace: &str, selector: &str) -> Vec<Value> {
        let pods = ["-n", namespace, "pods", "-l", selector];
        let list = self.cluster.get(&pods).expect("a list is always there");
        list["items"].as_array().expect("a list has items").clone()
    }
}

/// An object as it would be stored, and what its author is told.
pub(crate) struct Created {
    pub(crate) object: Value,
    pub(crate) warnings: String,
}

/// An object that is deleted with the value.
pub(crate) struct Applied<'a> {
    cluster: &'a Cluster,
    delete: [String; 3],
}

impl<'a> Applied<'a> {
    /// Applies an object; `namespace` is empty for one of the whole cluster.
    pub(crate) fn new(cluster: &'a Cluster, namespace: &str, kind: &str, object: &Value) -> Self {
        let name = object["metadata"]["name"]
            .as_str()
            .expect("the object has a name");
        let mut object = object.clone();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        cluster.apply(&object.to_string());
        let delete = [
            format!("--namespace={namespace}"),
            kind.to_owned(),
            name.to_owned(),
        ];
        Self { cluster, delete }
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        let [namespace, kind, name] = &self.delete;
        let _ = self.cluster.kubectl(&["delete", namespace, kind, name]);
    }
}

/// Where an image is in the Registry.
pub(crate) fn inside(image: &str) -> String {
    format!("{REGISTRY}/{}", image.replacen(':', "_", 1))
}

/// The label of nodes for an image.
pub(crate) fn label_of(image: &str) -> String {
    let digest = sha256(image.as_bytes());
    format!("image.stvz.io/{}", &digest["sha256:".len()..][..32])
}

/// The image of a pod's first container.
pub(crate) fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

/// A pod of one container that waits.
pub(crate) fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "main", "image": image, "command": WAIT}],
            "terminationGracePeriodSeconds": 0,
        },
    })
}

/// A Deployment of [`pod`].
pub(crate) fn deployment(name: &str, image: &str, annotations: &Value) -> Value {
    let mut template = pod(name, image);
    let labels = json!({"app": name});
    template["metadata"] = json!({"labels": labels, "annotations": annotations});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    })
}

fn objects(outside: &Outside) -> String {
    let objects = outside.objects();
    let mut changed = objects.clone();
    for (from, to) in [
        ("interval: 5s", "interval: 1h"),
        (
            "allowFrom: {}",
            "allowFrom: {matchLabels: {tenant: \"true\"}}",
        ),
        (
            "  mirrors: [{namespace: coral-system, name: outside}]\n",
            "",
        ),
    ] {
        assert!(changed.contains(from), "{from} is not in {objects}");
        changed = changed.replace(from, to);
    }
    changed
}
