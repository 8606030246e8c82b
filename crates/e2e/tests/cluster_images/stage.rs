//! Coral and images inside, set up once for all tests of the file, and helpers of the tests.

use std::sync::OnceLock;

use e2e::cluster::{Cluster, Namespace, Outside, OwnCluster, PATIENCE};
use e2e::{sha256, until};

/// The registries outside, for as long as the tests run.
static OUTSIDE: OnceLock<Outside> = OnceLock::new();

/// Coral installed, and images inside.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) own: &'a OwnCluster,
    outside: &'static Outside,
}

impl<'a> Stage<'a> {
    /// The stage, made by the first test that asks; no image of an earlier test is placed any more.
    pub(crate) fn set(cluster: &'a Cluster, own: &'a OwnCluster) -> Self {
        let outside = OUTSIDE.get_or_init(|| {
            cluster.install();
            let mut outside = Outside::start(own);
            outside.plain.end_with_the_tests();
            outside.private.end_with_the_tests();
            outside.bring_inside(cluster);
            outside
        });
        cluster.wait_until_installed();
        let what = "no image of an earlier test on the nodes";
        cluster.wait_until(what, &["nodeimages"], PATIENCE, |list| {
            let mut nodes = list["items"].as_array().into_iter().flatten();
            nodes.all(|node| {
                ["spec", "status"].iter().all(|part| {
                    let images = node[part]["images"].as_array();
                    images.is_none_or(Vec::is_empty)
                })
            })
        });
        Self {
            cluster,
            own,
            outside,
        }
    }

    /// An image of the registry outside on plain HTTP: `web` or `placed`.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/team/{name}:1", self.outside.plain.host())
    }

    /// An Image object that places an image of that registry; `more` is what else its spec has.
    pub(crate) fn yaml(&self, object: &str, repository: &str, more: &str) -> String {
        format!(
            "apiVersion: stvz.io/v1\nkind: Image\nmetadata: {{name: {object}}}\nspec:\n{more}  \
             repositories:\n    - {{name: \"{}/team/{repository}\", tags: [\"1\"]}}\n",
            self.outside.plain.host()
        )
    }

    /// The value of the label of an image on a node, if it is there.
    pub(crate) fn label(&self, node: &str, reference: &str) -> Option<String> {
        let node = self.cluster.get(&["node", node])?;
        let value = &node["metadata"]["labels"][label_of(reference)];
        value.as_str().map(str::to_owned)
    }

    /// Waits until the label of an image on a node has a value, or is not there.
    pub(crate) fn wait_for_label(&self, node: &str, reference: &str, expected: Option<&str>) {
        let what = format!("label of {reference} on {node}: {expected:?}");
        until(&what, PATIENCE, || {
            (self.label(node, reference).as_deref() == expected).then_some(())
        });
    }

    /// Deletes an Image object, and waits until it is gone.
    pub(crate) fn delete(&self, namespace: &Namespace<'_>, name: &str) {
        let image = format!("images.stvz.io/{name}");
        let arguments = ["-n", namespace.name(), "delete", &image, "--timeout=60s"];
        let _ = self.cluster.kubectl(&arguments).succeeded();
    }

    /// Kills the controller at once; its Deployment makes another.
    pub(crate) fn kill_the_controller(&self) {
        let selector = "app.kubernetes.io/name=coral-controller";
        let kill = ["-n", "coral-system", "delete", "pod", "-l", selector];
        let now = ["--grace-period=0", "--force", "--wait=false"];
        let _ = self
            .cluster
            .kubectl(&[&kill[..], &now[..]].concat())
            .succeeded();
    }

    /// A host that is routed to the Registry.
    pub(crate) fn routed_host(&self) -> &str {
        self.outside.plain.host()
    }

    /// The address by which the nodes reach the Registry.
    pub(crate) fn registry_address(&self) -> String {
        let service = ["-n", "coral-system", "service", "reg"];
        let service = self.cluster.get(&service).unwrap();
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        format!("https://{address}:5000")
    }

    /// The text of a node's `hosts.toml` for a host.
    pub(crate) fn hosts_file(&self, node: &str, host: &str) -> String {
        let (name, port) = host.rsplit_once(':').unwrap();
        let script = format!(
            "cat '/etc/containerd/certs.d/{name}_{port}_/hosts.toml' || \
             cat '/etc/containerd/certs.d/{host}/hosts.toml'"
        );
        let shown = self.own.exec(node, &["sh", "-c", &script]);
        shown.succeeded().stdout
    }

    /// Whether a node's container runtime has an image by this name.
    pub(crate) fn on_node(&self, node: &str, reference: &str) -> bool {
        let list = ["ctr", "-n", "k8s.io", "images", "ls", "-q"];
        let listed = self.own.exec(node, &list).succeeded();
        listed.stdout.lines().any(|line| line == reference)
    }
}

/// The label of nodes for an image.
fn label_of(reference: &str) -> String {
    let digest = sha256(reference.as_bytes());
    format!("image.stvz.io/{}", &digest["sha256:".len()..][..32])
}
