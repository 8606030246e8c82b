//! What a cluster has beside Kubernetes: a name server, and volumes on the first node.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::settings::{Cluster, make_folder};

const NAME_SERVER: &str = include_str!("coredns.yaml");
/// The node that has the volumes.
const NODE_WITH_VOLUMES: u8 = 1;
const VOLUMES: u8 = 16;

/// Applies the objects of all of them.
pub(super) fn apply(cluster: &Cluster) -> Result<()> {
    let mut objects = NAME_SERVER
        .replace("REGISTRY", &cluster.registry())
        .replace("DNS_ADDRESS", &cluster.dns_service());
    objects += "---\n";
    objects += STORAGE_CLASS;
    for volume in 1..=VOLUMES {
        objects += &VOLUME.replace("NUMBER", &volume.to_string());
    }
    let mut kubectl = cluster
        .kubectl()
        .args(["apply", "--filename=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start kubectl")?;
    if let Some(mut input) = kubectl.stdin.take() {
        input.write_all(objects.as_bytes())?;
    }
    ensure!(kubectl.wait()?.success(), "kubectl apply failed");
    Ok(())
}

/// Makes the folders of the volumes on a node that has them. Anybody may write there: a pod that
/// wants them for a group asks by `fsGroup`.
pub(super) fn make_volumes(node_folder: &Path, node: u8) -> Result<()> {
    if node != NODE_WITH_VOLUMES {
        return Ok(());
    }
    for volume in 1..=VOLUMES {
        let folder = node_folder.join(format!("lib/volumes/{volume}"));
        make_folder(&folder)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&folder, mode)?;
    }
    Ok(())
}

const STORAGE_CLASS: &str = "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local
  annotations: {storageclass.kubernetes.io/is-default-class: \"true\"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Retain
";

const VOLUME: &str = "---
apiVersion: v1
kind: PersistentVolume
metadata: {name: local-NUMBER}
spec:
  capacity: {storage: 100Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  persistentVolumeReclaimPolicy: Retain
  local: {path: /var/lib/volumes/NUMBER}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: kubernetes.io/hostname, operator: In, values: [node1]}
";
