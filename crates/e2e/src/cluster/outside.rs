//! Registries outside the cluster, on the bridge's address, that say who asked them for what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::http::request;
use crate::layout::Layout;
use crate::peers::skopeo;
use crate::port::free_port;
use crate::process::Process;
use crate::registry::Kind;
use crate::run::{run, scratch};
use crate::wait::until;

use super::{Cluster, OwnCluster};

/// A running registry outside the cluster. Anybody may read and write.
pub struct OutsideRegistry {
    process: Process,
    host: String,
    ca: Option<PathBuf>,
    own_address: String,
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
    pub fn start(kind: Kind, cluster: &OwnCluster) -> Self {
        let host = format!("{}:{}", cluster.address(), free_port());
        Self::launch(kind, cluster, host, None)
    }

    /// Starts one on HTTPS, with a certificate by an authority that nothing trusts by itself.
    pub fn start_with_private_ca(kind: Kind, cluster: &OwnCluster) -> Self {
        let host = format!("{}:{}", cluster.address(), free_port());
        Self::launch(kind, cluster, host, Some(&[]))
    }

    /// Starts one like [`Self::start_with_private_ca`] on port 443, whose certificate has these names.
    pub fn start_as(kind: Kind, cluster: &OwnCluster, names: &[&str]) -> Self {
        let host = format!("{}:443", cluster.address());
        Self::launch(kind, cluster, host, Some(names))
    }

    /// `names` is `None` for plain HTTP.
    fn launch(kind: Kind, cluster: &OwnCluster, host: String, names: Option<&[&str]>) -> Self {
        let folder = scratch();
        let is_private = names.is_some();
        let ca = names.map(|names| make_certificates(folder.path(), cluster.address(), names));
        let file = folder.path().join("config.yml");
        let text = configuration(folder.path(), &host, is_private);
        fs::write(&file, text).expect("scratch is writable");
        let mut command = Command::new(kind.program());
        command
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none");
        let mut registry = Self {
            process: Process::start(&mut command),
            host,
            ca,
            own_address: cluster.address().to_owned(),
            folder,
        };
        registry.wait_until_it_answers();
        registry
    }

    fn wait_until_it_answers(&mut self) {
        let what = format!("{} answers", self.host);
        until(&what, Duration::from_secs(20), || {
            let process = &mut self.process;
            assert!(process.is_running(), "it ended:\n{}", process.shown());
            (self.get("/v2/") == 200).then_some(())
        });
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

    /// Pushes what a layout has under a tag as `repository:tag`, index and all.
    pub fn push(&self, layout: &Layout, tag: &str, destination: &str) {
        let source = layout.reference(tag);
        let destination = format!("docker://{}/{destination}", self.host);
        let arguments = ["copy", "--quiet", "--all", "--dest-tls-verify=false"];
        let mut copy = skopeo(self.folder.path());
        let _ = run(copy.args(arguments).args([source, destination])).succeeded();
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

    /// Every request that came from a node or a pod so far, the oldest first.
    pub fn requests(&self) -> Vec<OutsideRequest> {
        let (stdout, stderr) = self.process.output();
        let lines = stdout.lines().chain(stderr.lines());
        let requests = lines.filter_map(request_of);
        requests.filter(|r| r.from != self.own_address).collect()
    }
}

/// A line of the access log: `ADDRESS - - [TIME] "METHOD PATH PROTOCOL" STATUS …`.
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

fn configuration(folder: &Path, host: &str, is_private: bool) -> String {
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
         http: {{addr: \"{host}\"{tls}}}\n",
        shown("data")
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
