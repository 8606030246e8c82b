//! Registries outside the cluster, on the bridge's address, that say who asked them for what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::http::{get, request};
use crate::layout::Layout;
use crate::peers::skopeo;
use crate::port::free_port;
use crate::process::Process;
use crate::registry::{RegistryProgram, User, htpasswd};
use crate::run::{run, scratch};
use crate::wait::until;

use super::{Cluster, OwnCluster};

/// Ends a registry and removes its folder as soon as the input ends, which is when the process of
/// the tests has ended.
const AFTER_THE_TESTS: &str = r#"read -r _; kill "$1"; rm -r "$2""#;

/// The name of a registry's configuration in its folder.
const CONFIGURATION: &str = "config.yml";

/// A registry outside the cluster. Anonymous clients may read and write, unless it was started for
/// a user.
pub struct OutsideRegistry {
    kind: RegistryProgram,
    process: Process,
    /// What ends it, where it is never dropped.
    end: Option<Process>,
    host: String,
    ca: Option<PathBuf>,
    user: Option<User>,
    own_address: String,
    /// What it wrote before it was started again.
    earlier: String,
    folder: TempDir,
}

/// A request from a node or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideRequest {
    /// The address it came from.
    pub from: String,
    /// `GET`, `HEAD` and so on.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The answer's status code.
    pub status: u16,
}

impl OutsideRegistry {
    /// Starts one on plain HTTP.
    pub fn start(kind: RegistryProgram, cluster: &OwnCluster) -> Self {
        Self::launch(kind, free_host(cluster), cluster, None, None)
    }

    /// Starts one on plain HTTP that only this user may read and write.
    pub fn start_for(kind: RegistryProgram, cluster: &OwnCluster, user: User) -> Self {
        crate::secrets::password(user.name, user.password);
        Self::launch(kind, free_host(cluster), cluster, None, Some(user))
    }

    /// Starts one on HTTPS, with a certificate by an authority that nothing trusts by itself.
    pub fn start_with_private_ca(kind: RegistryProgram, cluster: &OwnCluster) -> Self {
        Self::launch(kind, free_host(cluster), cluster, Some(&[]), None)
    }

    /// Starts one on HTTPS like [`Self::start_with_private_ca`] that only this user may read and write.
    pub fn start_private_for(kind: RegistryProgram, cluster: &OwnCluster, user: User) -> Self {
        crate::secrets::password(user.name, user.password);
        Self::launch(kind, free_host(cluster), cluster, Some(&[]), Some(user))
    }

    /// Starts one like [`Self::start_with_private_ca`] on port 443, whose certificate has these names.
    pub fn start_as(kind: RegistryProgram, cluster: &OwnCluster, names: &[&str]) -> Self {
        let host = format!("{}:443", cluster.address());
        Self::launch(kind, host, cluster, Some(names), None)
    }

    /// `names` is `None` for plain HTTP, `user` where everyone is let in.
    fn launch(
        kind: RegistryProgram,
        host: String,
        cluster: &OwnCluster,
        names: Option<&[&str]>,
        user: Option<User>,
    ) -> Self {
        let folder = scratch();
        let ca = names.map(|names| make_certificates(folder.path(), cluster.address(), names));
        let text = configuration(folder.path(), &host, names.is_some(), user);
        fs::write(folder.path().join(CONFIGURATION), text).expect("scratch is writable");
        let mut registry = Self {
            kind,
            process: serve(kind, folder.path()),
            end: None,
            host,
            ca,
            user,
            own_address: cluster.address().to_owned(),
            earlier: String::new(),
            folder,
        };
        registry.wait_until_it_answers();
        registry
    }

    fn wait_until_it_answers(&mut self) {
        let what = format!("{} answers", self.host);
        let expected = if self.user.is_some() { 401 } else { 200 };
        until(&what, Duration::from_mins(2), || {
            let process = &mut self.process;
            assert!(process.is_running(), "it ended:\n{}", process.shown());
            (self.get("/v2/") == expected).then_some(())
        });
    }

    /// Kills it: nothing answers on its port until [`OutsideRegistry::start_again`].
    pub fn stop(&mut self) {
        self.process.signal("KILL");
        self.process.wait(Duration::from_mins(2));
        self.earlier = self.output();
    }

    /// Starts it again on the same port, with what it stored.
    pub fn start_again(&mut self) {
        self.process = serve(self.kind, self.folder.path());
        self.wait_until_it_answers();
    }

    fn output(&self) -> String {
        let (stdout, stderr) = self.process.output();
        format!("{}{stdout}{stderr}", self.earlier)
    }

    /// `ADDRESS:PORT`, as in references.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The certificate of its authority, as a PEM file; none on plain HTTP.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// The status of a GET by the test itself, which is not among [`OutsideRegistry::requests`].
    pub fn get(&self, path: &str) -> u16 {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}{path}", self.host);
        match &self.ca {
            Some(ca) => request(&["--cacert", &ca.to_string_lossy(), &url]).status,
            None => request(&[&url]).status,
        }
    }

    /// A manifest or index as it is stored, read by the test itself from a registry on plain HTTP.
    ///
    /// # Panics
    /// If there is none.
    pub fn manifest(&self, path: &str, version: &str) -> String {
        let answer = get(&format!(
            "http://{}/v2/{path}/manifests/{version}",
            self.host
        ));
        assert_eq!(answer.status, 200, "{path}:{version} at {}", self.host);
        String::from_utf8(answer.body).expect("manifests are JSON")
    }

    /// The digest of a tag, read by the test itself.
    pub fn digest(&self, path: &str, tag: &str) -> String {
        let image = format!("docker://{}/{path}:{tag}", self.host);
        let mut inspect = skopeo(self.folder.path());
        inspect.args(["inspect", "--no-tags", "--tls-verify=false"]);
        if let Some(User { name, password }) = self.user {
            inspect.args(["--creds", &format!("{name}:{password}")]);
        }
        let inspected = run(inspect.args(["--format", "{{.Digest}}", &image])).succeeded();
        inspected.text().to_owned()
    }

    /// Pushes what a layout has under a tag as `repository:tag`, index and all.
    pub fn push(&self, layout: &Layout, tag: &str, destination: &str) {
        let source = layout.reference(tag);
        let destination = format!("docker://{}/{destination}", self.host);
        let arguments = ["copy", "--quiet", "--all", "--dest-tls-verify=false"];
        let mut copy = skopeo(self.folder.path());
        copy.args(arguments);
        if let Some(User { name, password }) = self.user {
            copy.args(["--dest-creds", &format!("{name}:{password}")]);
        }
        let _ = run(copy.args([source, destination])).succeeded();
    }

    /// Writes the `hosts.toml` by which the nodes' containerds pull from here: without it they take
    /// every registry for one with a certificate that the system trusts.
    ///
    /// # Panics
    /// If the cluster is not one of `cargo xtask cluster`.
    pub fn tell_nodes(&self, cluster: &Cluster) {
        let own = cluster.own().expect("a cluster of this machine");
        let folder = format!("/etc/containerd/certs.d/{}", self.host);
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let mut script = format!(
            "mkdir -p '{folder}' && echo 'server = \"{scheme}://{}\"' >'{folder}/hosts.toml'",
            self.host
        );
        if let Some(ca) = &self.ca {
            let pem = fs::read_to_string(ca).expect("the certificate can be read");
            script = format!(
                "{script} && echo 'ca = \"{folder}/ca.crt\"' >>'{folder}/hosts.toml' && \
                 echo '{pem}' >'{folder}/ca.crt'"
            );
        }
        for node in cluster.nodes() {
            let _ = own.exec(&node, &["sh", "-c", &script]).succeeded();
        }
    }

    /// Has the registry end with the process of the tests. For one that the tests of a file share:
    /// what is static is never dropped.
    pub fn end_with_the_tests(&mut self) {
        let mut end = Command::new("sh");
        end.args(["-c", AFTER_THE_TESTS, "sh", &self.process.pid().to_string()]);
        self.end = Some(Process::start_with_pipe(end.arg(self.folder.path())));
    }

    /// Every request that came from a node or a pod so far, the oldest first.
    pub fn requests(&self) -> Vec<OutsideRequest> {
        let output = self.output();
        let requests = output.lines().filter_map(request_of);
        requests.filter(|r| r.from != self.own_address).collect()
    }
}

/// The bridge's address with a port that is free.
fn free_host(cluster: &OwnCluster) -> String {
    format!("{}:{}", cluster.address(), free_port())
}

fn serve(kind: RegistryProgram, folder: &Path) -> Process {
    let mut command = Command::new(kind.program());
    command
        .arg("serve")
        .arg(folder.join(CONFIGURATION))
        .env("OTEL_TRACES_EXPORTER", "none");
    Process::start(&mut command)
}

/// A line of the access log: `ADDRESS - USER [TIME] "METHOD PATH PROTOCOL" STATUS …`.
fn request_of(line: &str) -> Option<OutsideRequest> {
    let (from, rest) = line.split_once(" - ")?;
    let mut quoted = rest.split('"').skip(1);
    let mut words = quoted.next()?.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    words.next()?.starts_with("HTTP/").then_some(())?;
    let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
    Some(OutsideRequest {
        from: from.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        status,
    })
}

fn configuration(folder: &Path, host: &str, is_private: bool, user: Option<User>) -> String {
    let shown = |name: &str| folder.join(name).display().to_string();
    let tls = if is_private {
        let (certificate, key) = (shown("server.crt"), shown("server.key"));
        format!(", tls: {{certificate: {certificate}, key: {key}}}")
    } else {
        String::new()
    };
    format!(
        "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"{host}\"{tls}}}\n{}",
        shown("data"),
        user.map(|user| htpasswd(folder, user)).unwrap_or_default()
    )
}

/// An authority and a certificate for an address and names; returns the file of the authority's
/// certificate.
fn make_certificates(folder: &Path, address: &str, names: &[&str]) -> PathBuf {
    let shown = |name: &str| folder.join(name).display().to_string();
    let names = names.iter().map(|name| format!(",DNS:{name}"));
    let names = names.collect::<Vec<_>>().concat();
    let names = format!("subjectAltName=IP:{address}{names}");
    let openssl = |more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "30"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        let _ = run(openssl.args(more)).succeeded();
    };
    let (ca, ca_key) = (shown("ca.crt"), shown("ca.key"));
    openssl(&["-subj", "/CN=outside", "-keyout", &ca_key, "-out", &ca]);
    openssl(&[
        "-subj",
        "/CN=registry",
        "-addext",
        &names,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-keyout",
        &shown("server.key"),
        "-out",
        &shown("server.crt"),
    ]);
    PathBuf::from(ca)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_access_log_is_a_request() {
        let line = "198.18.1.2 - - [26/Nov/2026:18:00:00 +0000] \
                    \"HEAD /v2/a/manifests/1?ns=b HTTP/1.1\" 404 96 \"\" \"containerd/2\"";
        let request = request_of(line).expect("it is one");
        assert_eq!(request.from, "198.18.1.2");
        assert_eq!(request.method, "HEAD");
        assert_eq!(request.path, "/v2/a/manifests/1?ns=b");
        assert_eq!(request.status, 404);
        assert_eq!(request_of("time=\"x\" level=warning msg=\"a - b\""), None);
    }
}
