//! What the tests of builds begin with: Coral with a Registry, a mirrored base image, a builder on
//! the nodes, and a namespace that may build.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::{Cluster, Namespace, OutsideRegistry, OwnCluster, REGISTRY};
use crate::binary::coral;
use crate::image::{add_three_layers, busybox_root};
use crate::layout::Layout;
use crate::registry::{RegistryProgram, User};
use crate::run::{run, scratch};

/// How long a build of a few seconds may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// Phases in which a build stays.
const ENDED: [&str; 3] = ["Succeeded", "Failed", "Cancelled"];

/// Who may push to the registry outside that `alsoTo` names.
pub const PUBLISHER: User = User {
    name: "publisher",
    password: "published by builds",
};

/// The registries outside: they are there for all tests of a file.
struct OutsideRegistries {
    bases: OutsideRegistry,
    published: OutsideRegistry,
}

static OUTSIDE_REGISTRIES: OnceLock<OutsideRegistries> = OnceLock::new();

/// A namespace that may build into the Registry `reg`.
pub struct Builds<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The same, as one that can be cut off and crashed.
    pub own: &'a OwnCluster,
    namespace: Namespace<'a>,
    outside: &'static OutsideRegistries,
}

impl<'a> Builds<'a> {
    /// Installs Coral unless an earlier test has, and makes a namespace with the grant.
    pub fn set(cluster: &'a Cluster, own: &'a OwnCluster) -> Self {
        let outside = OUTSIDE_REGISTRIES.get_or_init(|| install(cluster, own));
        let namespace = cluster.namespace("builds");
        let mut grant = coral();
        let granted = run(grant.args(["grant", "--builds", namespace.name()])).succeeded();
        cluster.apply(&granted.stdout);
        let allowed = format!(
            "{{\"metadata\": {{\"labels\": {{\"kubernetes.io/metadata.name\": \"{0}\", \
             \"builds\": \"yes\"}}}}}}",
            namespace.name()
        );
        let label = ["patch", "namespace", namespace.name(), "-p", &allowed];
        let _ = cluster.kubectl(&label).succeeded();
        Self {
            cluster,
            own,
            namespace,
            outside,
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// A mirrored image of busybox, by the name that it has outside.
    pub fn base(&self) -> String {
        format!("{}/team/base:1", self.outside.bases.host())
    }

    /// The registry on HTTPS that only [`PUBLISHER`] may use.
    pub fn published(&self) -> &OutsideRegistry {
        &self.outside.published
    }

    /// The reference of what a build pushed inside.
    pub fn reference(&self, build: &str) -> String {
        format!("{REGISTRY}/{}/{build}:1", self.namespace())
    }

    /// Applies objects to the namespace.
    pub fn apply(&self, yaml: &str) {
        self.namespace.apply(yaml);
    }

    /// An `ImageBuild` whose image has the build's own name and the tag 1; `source`, `build` and
    /// `output` are YAML in braces, and `more` is lines of its spec.
    pub fn yaml(&self, name: &str, source: &str, build: &str, output: &str, more: &str) -> String {
        format!(
            "---\napiVersion: stvz.io/v1\nkind: ImageBuild\nmetadata: {{name: {name}}}\nspec:\n  \
             source: {source}\n  build: {build}\n  output:\n    registry: {{namespace: \
             coral-system, name: reg}}\n    tags: [\"{namespace}/{name}:1\"]\n{output}{more}",
            namespace = self.namespace()
        )
    }

    /// An `ImageBuild` that runs a shell script in a container of busybox.
    pub fn script(&self, name: &str, script: &str, more: &str) -> String {
        let lines = script.lines().map(|line| format!("    {line}\n"));
        let map = format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  \
             build.sh: |\n{}",
            lines.collect::<String>()
        );
        let source = format!("{{configMap: {{name: {name}}}}}");
        map + &self.yaml(name, &source, &self.shell(""), "", more)
    }

    /// The container of a script, with more fields of `spec.build`.
    pub fn shell(&self, more: &str) -> String {
        format!(
            "{{image: \"{}\", command: [sh, /coral-build/source/build.sh]{more}}}",
            self.cluster.busybox()
        )
    }

    /// A script that writes a layout of one small file.
    pub fn small_image(&self) -> String {
        let text = example("script.yaml");
        let (_, script) = text.split_once("  build.sh: |\n").expect("its script");
        let (script, _) = script.split_once("---\n").expect("its end");
        let lines = script.lines().map(|line| line.get(4..).unwrap_or_default());
        let script = lines.collect::<Vec<_>>().join("\n");
        script.replace("$CORAL_SOURCE/index.html", "$CORAL_SOURCE/build.sh")
    }

    /// An `ImageBuild` as it is now.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, name: &str) -> Value {
        let object = ["-n", self.namespace(), "imagebuild", name];
        self.cluster.get(&object).expect("the build is there")
    }

    /// Waits until a build is as it should be; a failure shows what its pods and Coral say.
    ///
    /// # Panics
    /// If it is not in time.
    pub fn wait_for(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = crate::until_every(Duration::from_millis(250), PATIENCE, || {
            last = self.get(name);
            holds(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| {
            panic!(
                "build {name} is not {what} within {PATIENCE:?}: {last:#}\n{}",
                self.cluster.explain(self.namespace())
            )
        })
    }

    /// Waits until the run of the spec as it is now has ended.
    pub fn ended(&self, name: &str) -> Value {
        self.wait_for(name, "ended", has_ended)
    }

    /// Waits until a build has succeeded, and returns its status.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn succeeded(&self, name: &str) -> Value {
        let build = self.ended(name);
        assert_eq!(
            build["status"]["phase"],
            "Succeeded",
            "{build:#}\n{}",
            self.cluster.explain(self.namespace())
        );
        build["status"].clone()
    }

    /// Waits until a build has failed for this reason, and returns what its status says: messages
    /// of the object and of its condition.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn failed(&self, name: &str, reason: &str) -> String {
        let build = self.ended(name);
        let ready = ready(&build);
        assert_eq!(
            (&build["status"]["phase"], &ready["reason"]),
            (&Value::from("Failed"), &Value::from(reason)),
            "{build:#}"
        );
        format!("{} {}", ready["message"], build["status"]["message"])
    }

    /// The pods of a build.
    pub fn pods(&self, name: &str) -> Vec<Value> {
        let selector = format!("image.stvz.io/build={name}");
        let list = self
            .cluster
            .get(&["-n", self.namespace(), "pods", "-l", &selector]);
        let list = list.expect("a list is always there");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Runs what a build made, as a Deployment, until it is ready; `command` is YAML.
    pub fn deploy(&self, build: &str, command: &str) {
        self.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {build}}}\nspec:\n  \
             selector: {{matchLabels: {{app: {build}}}}}\n  template:\n    metadata: {{labels: \
             {{app: {build}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
             containers:\n        - {{name: main, image: \"{}\"{command}}}\n",
            self.reference(build)
        ));
        let deployment = format!("deployment/{build}");
        let status = ["rollout", "status", &deployment, "--timeout=90s"];
        let rollout = self
            .cluster
            .kubectl(&[&["-n", self.namespace()][..], &status].concat());
        let explained = || self.cluster.explain(self.namespace());
        assert_eq!(rollout.code, 0, "{rollout}\n{}", explained());
    }
}

/// An example of builds.
///
/// # Panics
/// If there is none of that name.
pub fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/builds");
    fs::read_to_string(folder.join(name)).expect("an example of the checkout")
}

/// The condition `Ready` of a build.
pub fn ready(build: &Value) -> Value {
    let conditions = build["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == "Ready");
    found.cloned().unwrap_or_default()
}

/// Whether the run of a build's spec as it is now has ended.
pub fn has_ended(build: &Value) -> bool {
    let phase = &build["status"]["phase"];
    let is_now = ready(build)["observedGeneration"] == build["metadata"]["generation"];
    is_now && ENDED.iter().any(|ended| phase == ended)
}

fn install(cluster: &Cluster, own: &OwnCluster) -> OutsideRegistries {
    // Under the name that `deploy/` gives to the controller.
    let _ = own.xtask(&["load-builder"]).succeeded();
    cluster.load_image();
    cluster.apply_deploy();
    cluster.wait_until_installed();
    let mut outside = OutsideRegistries {
        bases: OutsideRegistry::start(RegistryProgram::DockerRegistry, own),
        published: OutsideRegistry::start_private_for(
            RegistryProgram::Distribution,
            own,
            PUBLISHER,
        ),
    };
    outside.bases.end_with_the_tests();
    outside.published.end_with_the_tests();
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    add_three_layers(&layout, "base", &busybox_root(folder.path()));
    outside.bases.push(&layout, "base", "team/base:1");
    cluster.apply(&objects(outside.bases.host()));
    cluster.wait_for_ready("coral-system", "registry", "reg");
    cluster.wait_for_ready("coral-system", "registrymirror", "bases");
    outside
}

/// A Registry into which the tests' namespaces may build, and a mirror of the base image.
fn objects(bases: &str) -> String {
    format!(
        "apiVersion: stvz.io/v1\nkind: Registry\nmetadata: {{name: reg, namespace: coral-system}}\n\
         spec:\n  storage: {{size: 1Gi}}\n  builds: {{allowFrom: {{matchLabels: {{builds: \
         \"yes\"}}}}}}\n---\napiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: \
         bases, namespace: coral-system}}\nspec:\n  registry: {{name: reg}}\n  repositories:\n    \
         - {{name: \"{bases}/team/base\", tags: [\"1\"], plainHTTP: true}}\n"
    )
}
