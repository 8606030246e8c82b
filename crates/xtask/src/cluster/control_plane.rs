//! etcd, the API server, the controller manager and the scheduler: processes of the host, on the
//! bridge's address.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::processes::{spawn, succeeds, wait_for};
use super::settings::{API_PORT, Cluster, write};

/// All of them, in the order in which they start; `down` ends them in the other.
pub(super) const COMPONENTS: &[&str] = &["etcd", "apiserver", "controller-manager", "scheduler"];

/// What the API server writes into its audit log, one JSON object a line: who asked for what, of
/// Coral's own parts only.
const AUDIT: &str = r"apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups:
      - system:serviceaccounts:coral-system
      - system:serviceaccounts:coral-nodes
  - level: None
";

/// Starts etcd and the API server; they are not awaited.
pub(super) fn start(cluster: &Cluster) -> Result<()> {
    write(&cluster.file("audit.yaml"), AUDIT)?;
    start_component(cluster, "etcd")?;
    wait_for("etcd answers", Duration::from_mins(1), || {
        let url = format!("{}/health", cluster.etcd(2379));
        succeeds(Command::new("curl").args(["--silent", "--fail", &url]))
    })?;
    start_component(cluster, "apiserver")
}

/// Waits for the API server, and starts what needs it.
pub(super) fn finish(cluster: &Cluster) -> Result<()> {
    wait_for("the API server is ready", Duration::from_mins(4), || {
        succeeds(cluster.kubectl().args(["get", "--raw", "/readyz"]))
    })?;
    start_component(cluster, "controller-manager")?;
    start_component(cluster, "scheduler")
}

pub(super) fn start_component(cluster: &Cluster, name: &str) -> Result<()> {
    let command = match name {
        "etcd" => etcd(cluster),
        "apiserver" => apiserver(cluster),
        "controller-manager" => controller_manager(cluster),
        _ => scheduler(cluster),
    };
    spawn(cluster, name, &command)
}

fn etcd(cluster: &Cluster) -> Command {
    let mut etcd = Command::new(cluster.etcd_program());
    let (clients, peers) = (cluster.etcd(2379), cluster.etcd(2380));
    etcd.arg("--data-dir").arg(cluster.file("etcd"));
    etcd.args([
        "--listen-client-urls",
        &clients,
        "--advertise-client-urls",
        &clients,
    ]);
    etcd.args([
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
    ]);
    etcd.args(["--initial-cluster", &format!("default={peers}")]);
    // The data is thrown away with the cluster.
    etcd.args(["--unsafe-no-fsync", "--log-level=warn"]);
    etcd
}

fn apiserver(cluster: &Cluster) -> Command {
    let host = cluster.host();
    let shown = |path: &str| cluster.file(path).display().to_string();
    let pki = |name: &str| shown(&format!("pki/{name}"));
    let mut server = Command::new(cluster.kubernetes_program("kube-apiserver"));
    let flags = [
        ("etcd-servers", cluster.etcd(2379)),
        ("bind-address", host.clone()),
        ("advertise-address", host),
        ("secure-port", API_PORT.to_string()),
        ("service-cluster-ip-range", cluster.services()),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("kubelet-client-certificate", pki("kubelet-client.crt")),
        ("kubelet-client-key", pki("kubelet-client.key")),
        ("service-account-key-file", pki("sa.pub")),
        ("service-account-signing-key-file", pki("sa.key")),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        ("proxy-client-cert-file", pki("front-proxy.crt")),
        ("proxy-client-key-file", pki("front-proxy.key")),
        ("audit-policy-file", shown("audit.yaml")),
        ("audit-log-path", cluster.audit_log().display().to_string()),
    ];
    server.args(flags.map(|(name, value)| format!("--{name}={value}")));
    server.args([
        "--service-account-issuer=https://kubernetes.default.svc",
        "--kubelet-preferred-address-types=InternalIP",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        // The host has no kube-proxy: webhooks are called at their pods' addresses.
        "--enable-aggregator-routing=true",
        "--endpoint-reconciler-type=lease",
        "--profiling=false",
        "--v=1",
    ]);
    server
}

fn controller_manager(cluster: &Cluster) -> Command {
    let pki = |name: &str| cluster.file("pki").join(name).display().to_string();
    let mut manager = Command::new(cluster.kubernetes_program("kube-controller-manager"));
    let kubeconfig = cluster.kubeconfig("controller-manager");
    let flags = [
        ("kubeconfig", kubeconfig.display().to_string()),
        ("bind-address", cluster.host()),
        ("service-account-private-key-file", pki("sa.key")),
        ("root-ca-file", pki("ca.crt")),
        ("cluster-signing-cert-file", pki("ca.crt")),
        ("cluster-signing-key-file", pki("ca.key")),
        // Its own default is a folder of the machine's /usr, which it makes.
        (
            "flex-volume-plugin-dir",
            cluster.file("plugins").display().to_string(),
        ),
    ];
    manager.args(flags.map(|(name, value)| format!("--{name}={value}")));
    manager.args([
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=20s",
        // Without these the first namespaces wait three seconds for their ServiceAccounts.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--v=1",
    ]);
    manager
}

fn scheduler(cluster: &Cluster) -> Command {
    let mut scheduler = Command::new(cluster.kubernetes_program("kube-scheduler"));
    let kubeconfig = cluster.kubeconfig("scheduler");
    scheduler.arg(format!("--kubeconfig={}", kubeconfig.display()));
    scheduler.arg(format!("--bind-address={}", cluster.host()));
    scheduler.args(["--leader-elect=false", "--v=1"]);
    scheduler
}
