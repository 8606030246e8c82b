//! Coral and a Registry, installed once for all tests of the stage, and helpers of the tests.

use std::sync::Once;

pub(crate) use e2e::cluster::PATIENCE;
use e2e::cluster::{Cluster, OutsideRegistry, OutsideRequest, OwnCluster, is_ready};
use e2e::{Layout, coral, run, scratch, sha256};
use serde_json::Value;

/// The namespace of the Registry and of most mirrors.
pub(crate) const NAMESPACE: &str = "coral-system";

/// Coral installed, with the Registry `reg`, or another one.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) own: &'a OwnCluster,
    /// Name of the Registry.
    registry: &'static str,
    /// `https://ADDRESS:5000` of the Registry's Service.
    url: String,
    /// Name and password of the user that may push.
    user: (String, String),
}

/// An answer of the Registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A RegistryMirror, deleted with the value.
pub(crate) struct Mirror<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Mirror<'_> {
    /// Leaves the object there, for [`Stage::take_over`].
    pub(crate) fn leave(mut self) -> String {
        std::mem::take(&mut self.name)
    }
}

impl Drop for Mirror<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let delete = ["-n", NAMESPACE, "delete", "registrymirror", &self.name];
            let _ = self.cluster.kubectl(&delete);
        }
    }
}

impl<'a> Stage<'a> {
    /// Installs Coral and makes the Registry, unless an earlier test has.
    pub(crate) fn set(cluster: &'a Cluster, own: &'a OwnCluster) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            cluster.install();
            make_registry(cluster, "reg");
        });
        Self::over(cluster, own, "reg")
    }

    /// The same with a Registry of its own, which the controller may run.
    pub(crate) fn another(&self, registry: &'static str) -> Self {
        let mut grant = coral();
        let granted = run(grant.args(["grant", "--registry", NAMESPACE, registry])).succeeded();
        self.cluster.apply(&granted.stdout);
        make_registry(self.cluster, registry);
        Self::over(self.cluster, self.own, registry)
    }

    fn over(cluster: &'a Cluster, own: &'a OwnCluster, registry: &'static str) -> Self {
        let service = ["-n", NAMESPACE, "service", registry];
        let service = cluster.get(&service).unwrap();
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        Self {
            cluster,
            own,
            registry,
            url: format!("https://{address}:5000"),
            user: pusher(cluster, registry),
        }
    }

    /// Applies a mirror into the Registry. `more` is what else its spec has.
    pub(crate) fn mirror(&self, name: &str, more: &str, repositories: &[String]) -> Mirror<'a> {
        let mirror = Mirror {
            cluster: self.cluster,
            name: name.to_owned(),
        };
        let yaml = yaml(self.registry, name, more, repositories);
        self.cluster.apply(&yaml);
        mirror
    }

    /// Changes the spec of the Registry.
    pub(crate) fn patch(&self, spec: &str) {
        let patch = format!("{{\"spec\": {spec}}}");
        let object = ["-n", NAMESPACE, "patch", "registry", self.registry];
        let arguments = [&object[..], &["--type=merge", "-p", &patch]].concat();
        let _ = self.cluster.kubectl(&arguments).succeeded();
    }

    /// Waits until the Registry is as it should be.
    pub(crate) fn wait_for_registry(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let object = ["-n", NAMESPACE, "registry", self.registry];
        self.cluster.wait_until(what, &object, PATIENCE, holds)
    }

    /// A mirror that another part of the test left there.
    pub(crate) fn take_over(&self, name: String) -> Mirror<'a> {
        let cluster = self.cluster;
        Mirror { cluster, name }
    }

    /// Waits until a mirror is as it should be.
    pub(crate) fn wait_for(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let object = ["-n", NAMESPACE, "registrymirror", name];
        let what = format!("mirror {name}: {what}");
        self.cluster.wait_until(&what, &object, PATIENCE, holds)
    }

    /// Waits until a mirror holds this many images and is ready.
    pub(crate) fn wait_for_images(&self, name: &str, count: usize) -> Value {
        self.wait_for(name, &format!("ready with {count} images"), |mirror| {
            is_ready(mirror) && mirror["status"]["mirrored"] == count
        })
    }

    /// Waits until a mirror holds this many images, and the Registry serves all of them to everyone.
    pub(crate) fn wait_for_public_images(&self, name: &str, count: usize) -> Value {
        self.wait_for(name, &format!("public with {count} images"), |mirror| {
            let status = &mirror["status"];
            let all = status["repositories"].as_array().into_iter().flatten();
            let mut loaded = all.map(|repository| repository["loaded"] == true);
            is_ready(mirror) && status["mirrored"] == count && loaded.all(|loaded| loaded)
        })
    }

    /// Sets `spec.suspend`.
    pub(crate) fn suspend(&self, name: &str, suspended: bool) {
        let patch = format!("{{\"spec\": {{\"suspend\": {suspended}}}}}");
        let object = ["-n", NAMESPACE, "patch", "registrymirror", name];
        let arguments = [&object[..], &["--type=merge", "-p", &patch]].concat();
        let _ = self.cluster.kubectl(&arguments).succeeded();
    }

    /// Name and password of the user that may push.
    pub(crate) fn pusher(&self) -> (&str, &str) {
        (&self.user.0, &self.user.1)
    }

    /// The first shard of a mirror's images.
    pub(crate) fn shard(&self, mirror: &str) -> Value {
        let name = format!("{mirror}-0");
        let object = ["-n", NAMESPACE, "mirroredimages", &name];
        self.cluster.get(&object).unwrap()
    }

    /// GET of a path of the Registry, by the user that may push.
    pub(crate) fn get_inside(&self, path: &str) -> Answer {
        let user = format!("{}:{}", self.user.0, self.user.1);
        self.curl(&["--user", &user], path)
    }

    /// GET of a path of the Registry without a credential, from a node.
    pub(crate) fn get_anonymously(&self, path: &str) -> Answer {
        self.curl(&[], path)
    }

    /// Begins an upload to a repository; the status of the answer, with the credential or without.
    pub(crate) fn begin_upload(&self, repository: &str, with_credential: bool) -> u16 {
        let user = format!("{}:{}", self.user.0, self.user.1);
        let user = ["--user", &user];
        let more = if with_credential { &user[..] } else { &[] };
        let path = format!("/v2/{repository}/blobs/uploads/");
        self.curl(&[&["--request", "POST"], more].concat(), &path)
            .status
    }

    /// Pushes one blob with the credential: no mirror says that everyone may read its repository.
    pub(crate) fn push_blob(&self, repository: &str, content: &str) {
        let (user, password) = &self.user;
        let user = format!("{user}:{password}");
        let digest = sha256(content.as_bytes());
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let octets = "Content-Type: application/octet-stream";
        let more = [
            "--user",
            &user,
            "--header",
            octets,
            "--data-binary",
            content,
        ];
        let pushed = self.curl(&more, &path);
        assert_eq!(pushed.status, 201, "{pushed:?}");
    }

    fn curl(&self, more: &[&str], path: &str) -> Answer {
        let curl = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--cacert",
            "/etc/containerd/coral/ca.crt",
            "--header",
            "Accept: application/vnd.oci.image.index.v1+json, \
             application/vnd.oci.image.manifest.v1+json",
            "--write-out",
            "\\n%{http_code}",
        ];
        let url = format!("{}{path}", self.url);
        let command = [&curl[..], more, &[&url]].concat();
        let finished = self.own.exec("node1", &command).succeeded();
        let (body, status) = finished.stdout.rsplit_once('\n').unwrap();
        Answer {
            status: status.trim().parse().unwrap(),
            body: body.to_owned(),
        }
    }

    /// The tags of a mirrored repository in the Registry, in their order.
    pub(crate) fn tags(&self, source: &OutsideRegistry, path: &str) -> Vec<String> {
        let path = path_inside(source, path);
        let answer = self.get_inside(&format!("/v2/{path}/tags/list"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let list: Value = serde_json::from_str(&answer.body).unwrap();
        let tags = list["tags"].as_array().unwrap().iter();
        let mut tags: Vec<String> = tags.map(|tag| tag.as_str().unwrap().to_owned()).collect();
        tags.sort_unstable();
        tags
    }

    /// Whether a node's containerd can fetch an image from the Registry.
    pub(crate) fn can_be_fetched(&self, source: &OutsideRegistry, image: &str) -> bool {
        let path = path_inside(source, image);
        let reference = format!("reg.{NAMESPACE}.svc:5000/{path}");
        let hosts = "--hosts-dir=/etc/containerd/certs.d";
        let fetch = ["ctr", "-n", "tests", "content", "fetch", hosts, &reference];
        self.own.exec("node1", &fetch).code == 0
    }
}

/// An entry of `spec.repositories`, of a source on plain HTTP; `more` says what of it.
pub(crate) fn copy_of(source: &OutsideRegistry, path: &str, more: &str) -> String {
    format!(
        "{{name: \"{}/{path}\", plainHTTP: true, {more}}}",
        source.host()
    )
}

fn make_registry(cluster: &Cluster, name: &str) {
    cluster.apply(&format!(
        "apiVersion: stvz.io/v1\nkind: Registry\nmetadata: {{name: {name}, namespace: \
         {NAMESPACE}}}\nspec:\n  storage: {{size: 1Gi}}\n"
    ));
    cluster.wait_for_ready(NAMESPACE, "registry", name);
}

/// A RegistryMirror into a Registry.
fn yaml(registry: &str, name: &str, more: &str, repositories: &[String]) -> String {
    let repositories = repositories.iter().map(|entry| format!("    - {entry}\n"));
    format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: {name}, namespace: \
         {NAMESPACE}}}\nspec:\n  registry: {{name: {registry}}}\n  {more}\n  repositories:\n{}",
        repositories.collect::<String>()
    )
}

/// The credential for pushing that the controller made.
fn pusher(cluster: &Cluster, registry: &str) -> (String, String) {
    let template = "{{index .data \".dockerconfigjson\" | base64decode}}";
    let secret = format!("{registry}-push");
    let get = ["-n", NAMESPACE, "get", "secret", &secret, "-o"];
    let printed = cluster.kubectl(&[&get[..], &["go-template", "--template", template]].concat());
    let config: Value = serde_json::from_str(&printed.succeeded().stdout).unwrap();
    let (_, entry) = config["auths"].as_object().unwrap().iter().next().unwrap();
    let text = |field: &str| entry[field].as_str().unwrap().to_owned();
    let (name, password) = (text("username"), text("password"));
    e2e::password(&name, &password);
    (name, password)
}

/// Pushes small images, each with content of its own.
pub(crate) fn fill(source: &OutsideRegistry, path: &str, tags: &[&str]) {
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    for tag in tags {
        let image = layout.add_image("amd64", format!("{path}:{tag}").as_bytes());
        layout.tag(tag, &image);
        source.push(&layout, tag, &format!("{path}:{tag}"));
    }
}

/// Where a mirror puts what it copies from a source.
pub(crate) fn path_inside(source: &OutsideRegistry, path: &str) -> String {
    format!("{}/{path}", source.host().replace(':', "_"))
}

/// How many of these requests list tags: one in each pass of a selection.
pub(crate) fn tags_of(requests: &[OutsideRequest]) -> usize {
    let lists = requests.iter().filter(|r| r.path.contains("/tags/list"));
    lists.count()
}

/// A condition of an object.
pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.cloned().unwrap_or_default()
}

/// Whether a mirror is degraded for this reason, said of its spec as it is now.
pub(crate) fn is_degraded(mirror: &Value, reason: &str) -> bool {
    let degraded = condition(mirror, "Degraded");
    degraded["status"] == "True"
        && degraded["reason"] == reason
        && degraded["observedGeneration"] == mirror["metadata"]["generation"]
}

/// What the condition `Degraded` says.
pub(crate) fn complaint(mirror: &Value) -> String {
    let degraded = condition(mirror, "Degraded");
    degraded["message"].as_str().unwrap_or_default().to_owned()
}
