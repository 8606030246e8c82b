//! The cluster's certificates and kubeconfigs, made by openssl.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::settings::{API_PORT, Cluster, write};
use crate::command::output;

/// A year, more than any test cluster sees.
const DAYS: &str = "365";

/// Makes the authorities, the certificates of all components, and a kubeconfig for each.
pub(super) fn make(cluster: &Cluster) -> Result<()> {
    authority(cluster, "ca", "test-ca")?;
    authority(cluster, "front-proxy-ca", "front-proxy-ca")?;
    let folder = cluster.file("pki");
    let shown = |name: &str| folder.join(name).display().to_string();
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        &shown("sa.key"),
    ])?;
    openssl(&[
        "ec",
        "-in",
        &shown("sa.key"),
        "-pubout",
        "-out",
        &shown("sa.pub"),
    ])?;
    let api = format!(
        "IP:{},IP:{},IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,\
         DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local",
        cluster.host(),
        cluster.api_service()
    );
    let masters = "/O=system:masters/CN=";
    certificate(cluster, "ca", "apiserver", "/O=k8s/CN=kube-apiserver", &api)?;
    certificate(
        cluster,
        "ca",
        "kubelet-client",
        &format!("{masters}kube-apiserver"),
        "",
    )?;
    certificate(
        cluster,
        "front-proxy-ca",
        "front-proxy",
        "/CN=front-proxy-client",
        "",
    )?;
    let mut users = vec![
        ("admin".to_owned(), format!("{masters}admin"), String::new()),
        user("controller-manager"),
        user("scheduler"),
        user("proxy"),
    ];
    for node in 1..=cluster.nodes {
        let name = format!("node{node}");
        let subject = format!("/O=system:nodes/CN=system:node:{name}");
        let names = format!("DNS:{name},IP:{}", cluster.node_address(node));
        users.push((name, subject, names));
    }
    for (name, subject, names) in &users {
        certificate(cluster, "ca", name, subject, names)?;
        kubeconfig(cluster, name)?;
    }
    Ok(())
}

/// A component of the control plane, by the name that its rights are bound to.
fn user(component: &str) -> (String, String, String) {
    let subject = format!("/O=k8s/CN=system:kube-{component}");
    (component.to_owned(), subject, String::new())
}

fn authority(cluster: &Cluster, name: &str, common_name: &str) -> Result<()> {
    let folder = cluster.file("pki");
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        DAYS,
        "-subj",
        &format!("/CN={common_name}"),
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout",
        &folder.join(format!("{name}.key")).display().to_string(),
        "-out",
        &folder.join(format!("{name}.crt")).display().to_string(),
    ])
}

/// A certificate by one of the authorities, for servers and clients alike.
fn certificate(cluster: &Cluster, by: &str, name: &str, subject: &str, names: &str) -> Result<()> {
    let folder = cluster.file("pki");
    let shown = |file: String| folder.join(file).display().to_string();
    let mut extensions = String::from(
        "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n\
         extendedKeyUsage=serverAuth,clientAuth\n",
    );
    if !names.is_empty() {
        extensions = format!("{extensions}subjectAltName={names}\n");
    }
    write(&folder.join(format!("{name}.ext")), &extensions)?;
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        subject,
        "-keyout",
        &shown(format!("{name}.key")),
        "-out",
        &shown(format!("{name}.csr")),
    ])?;
    openssl(&[
        "x509",
        "-req",
        "-days",
        DAYS,
        "-CAcreateserial",
        "-in",
        &shown(format!("{name}.csr")),
        "-out",
        &shown(format!("{name}.crt")),
        "-CA",
        &shown(format!("{by}.crt")),
        "-CAkey",
        &shown(format!("{by}.key")),
        "-extfile",
        &shown(format!("{name}.ext")),
    ])
}

/// A kubeconfig with its credentials inside, so that it can be copied.
fn kubeconfig(cluster: &Cluster, name: &str) -> Result<()> {
    let encoded = |file: &str| -> Result<String> {
        let path = cluster.file("pki").join(file);
        let text = output(Command::new("base64").arg("-w0").arg(&path))?;
        Ok(text.trim().to_owned())
    };
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n\
         - {{name: cluster, cluster: {{server: \"https://{}:{API_PORT}\", \
         certificate-authority-data: {}}}}}\nusers:\n\
         - {{name: {name}, user: {{client-certificate-data: {}, client-key-data: {}}}}}\n\
         contexts:\n- {{name: {name}, context: {{cluster: cluster, user: {name}}}}}\n\
         current-context: {name}\n",
        cluster.host(),
        encoded("ca.crt")?,
        encoded(&format!("{name}.crt"))?,
        encoded(&format!("{name}.key"))?,
    );
    let file = cluster.kubeconfig(name);
    write(&file, &text)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, mode).with_context(|| format!("cannot close {}", file.display()))
}

fn openssl(arguments: &[&str]) -> Result<()> {
    output(Command::new("openssl").args(arguments)).map(drop)
}
