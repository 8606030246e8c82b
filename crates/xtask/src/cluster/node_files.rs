//! The files from which a node's programs are configured.

use std::fmt::Write as _;

use anyhow::Result;

use super::settings::{Cluster, make_folder, write};

/// Writes all of them. The folder `certs.d` is left as it is but for the cluster's own registry:
/// what agents wrote there stays when a node boots again.
pub(super) fn write_all(cluster: &Cluster, node: u8) -> Result<()> {
    let folder = cluster.node_folder(node);
    let etc = folder.join("etc");
    let trusted = etc.join("containerd/certs.d").join(cluster.registry());
    for path in [&trusted, &folder.join("cni")] {
        make_folder(path)?;
    }
    // `server`, and no entry for a host: a missing image would become an error of HTTPS.
    let registry = format!("server = \"http://{}\"\n", cluster.registry());
    write(&trusted.join("hosts.toml"), &registry)?;
    write(
        &etc.join("containerd/config.toml"),
        &containerd(cluster, node),
    )?;
    write(&etc.join("hosts"), &hosts(cluster))?;
    // A lookup by the node goes to the outside, which is cut off by `cluster cut`.
    let resolver = format!("nameserver {}\n", cluster.host());
    write(&etc.join("resolv.conf"), &resolver)?;
    write(
        &folder.join("cni/10-pods.conflist"),
        &pod_network(cluster, node),
    )?;
    write(&folder.join("kubelet.yaml"), &kubelet(cluster, node))?;
    write(&folder.join("kube-proxy.yaml"), &kube_proxy(cluster, node))
}

fn hosts(cluster: &Cluster) -> String {
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for node in 1..=cluster.nodes {
        let _ = writeln!(hosts, "{} node{node}", cluster.node_address(node));
    }
    hosts
}

/// `opt` makes folders in the machine's /opt.
fn containerd(cluster: &Cluster, node: u8) -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{cni}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{registry}/pause:1"

# One path: two of them, as by default, are taken for the name of one folder.
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
"#,
        cni = cluster.node_folder(node).join("cni").display(),
        runc = cluster.runc_program(),
        registry = cluster.registry(),
    )
}

/// Every packet of a pod is routed by its node, also one to a pod of the same node.
fn pod_network(cluster: &Cluster, node: u8) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local", "dataDir": "/run/cni/addresses",
    "routes": [{{"dst": "0.0.0.0/0"}}], "ranges": [[{{"subnet": "{}"}}]]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#,
        cluster.pods(node)
    )
}

/// The machine's disk is everybody's: the kubelet neither evicts nor collects for its sake.
fn kubelet(cluster: &Cluster, node: u8) -> String {
    let pki = cluster.file("pki");
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/node{node}.crt
tlsPrivateKeyFile: {pki}/node{node}.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /var/lib/kubelet/plugins-exec
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}/node{node}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDNS: [{dns}]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
",
        address = cluster.node_address(node),
        pki = pki.display(),
        cgroup = cluster.cgroup(),
        dns = cluster.dns_service(),
    )
}

fn kube_proxy(cluster: &Cluster, node: u8) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node{node}
clientConnection: {{kubeconfig: {kubeconfig}}}
bindAddress: {address}
clusterCIDR: {range}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
oomScoreAdj: 0
",
        kubeconfig = cluster.kubeconfig("proxy").display(),
        address = cluster.node_address(node),
        range = cluster.range(),
    )
}
